//! The published shapes, and the tensors a checkpoint of some shape holds.

use std::path::Path;

use harmonium_cuda::ops::Random;
use serde_json::{Value, json};

use crate::config::Config;
use crate::error::Result;
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// Width of an attention head; the kernels know no other.
const HEAD_DIM: u64 = 64;

/// The sizes in which GPT-OSS models differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers, window and full in turn.
    pub num_layers: u64,
    /// Experts in a layer.
    pub num_experts: u64,
    /// Width of the residual stream, a multiple of 32.
    pub hidden_size: u64,
    /// Inner width of an expert, a multiple of 32.
    pub intermediate_size: u64,
    /// Query heads.
    pub num_heads: u64,
    /// Key and value heads.
    pub num_kv_heads: u64,
    /// Rows of the embedding.
    pub vocab_size: u64,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(super) shape: Vec<u64>,
    pub(crate) random: Random,
}

impl Tensor {
    pub(crate) fn num_bytes(&self) -> u64 {
        let width = if matches!(self.random, Random::Bf16 { .. }) { 2 } else { 1 };
        self.shape.iter().product::<u64>() * width
    }

    /// How safetensors calls the type.
    pub(super) fn dtype(&self) -> &'static str {
        match self.random {
            Random::Bf16 { .. } => "BF16",
            Random::Bytes | Random::Scales { .. } => "U8",
        }
    }
}

impl Shape {
    /// gpt-oss-20b.
    pub const GPT_OSS_20B: Self = Self {
        num_layers: 24,
        num_experts: 32,
        hidden_size: 2880,
        intermediate_size: 2880,
        num_heads: 64,
        num_kv_heads: 8,
        vocab_size: 201_088,
    };
    /// gpt-oss-120b.
    pub const GPT_OSS_120B: Self = Self { num_layers: 36, num_experts: 128, ..Self::GPT_OSS_20B };
    /// Two layers with every kind of tensor, a few megabytes: for comparing what runs it.
    pub const SMALL: Self = Self {
        num_layers: 2,
        num_experts: 8,
        hidden_size: 128,
        intermediate_size: 96,
        num_heads: 4,
        num_kv_heads: 2,
        vocab_size: 5000,
    };
    /// All of them, by name.
    pub const NAMED: [(&str, Self); 3] = [
        ("gpt-oss-120b", Self::GPT_OSS_120B),
        ("gpt-oss-20b", Self::GPT_OSS_20B),
        ("small", Self::SMALL),
    ];

    /// Outputs of the queries of all heads.
    pub(super) fn query_size(&self) -> u64 {
        self.num_heads * HEAD_DIM
    }

    /// Outputs of the keys, or the values, of all heads.
    pub(super) fn kv_size(&self) -> u64 {
        self.num_kv_heads * HEAD_DIM
    }

    /// Bytes of all weights.
    pub fn num_bytes(&self) -> u64 {
        self.tensors().iter().map(Tensor::num_bytes).sum()
    }

    /// What a checkpoint of this shape says of itself.
    pub fn to_config(&self) -> Result<Config> {
        Config::parse(self.config().to_string().as_bytes(), Path::new("config.json"))
    }

    /// All tensors: layer by layer, and what is not in a layer at the end.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let mut tensors: Vec<_> =
            (0..self.num_layers).flat_map(|layer| self.layer(layer)).collect();
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        tensors.push(bf16("model.embed_tokens.weight", &[vocab, hidden], 0.0, uniform(1.0)));
        tensors.push(bf16("model.norm.weight", &[hidden], 1.0, 0.1));
        tensors.push(bf16("lm_head.weight", &[vocab, hidden], 0.0, fan_in(hidden)));
        tensors
    }

    fn layer(&self, layer: u64) -> Vec<Tensor> {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        let (hidden, inner, experts) = (self.hidden_size, self.intermediate_size, self.num_experts);
        let (query, kv) = (self.query_size(), self.kv_size());
        let mut tensors = vec![
            bf16(&name("input_layernorm.weight"), &[hidden], 1.0, 0.1),
            bf16(&name("post_attention_layernorm.weight"), &[hidden], 1.0, 0.1),
            bf16(&name("self_attn.sinks"), &[self.num_heads], 0.0, 1.0),
        ];
        for (product, rows, cols) in [
            ("self_attn.q_proj", query, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, query),
            // Router logits of unit size: tokens spread over the experts.
            ("mlp.router", experts, hidden),
        ] {
            tensors.push(bf16(
                &name(&format!("{product}.weight")),
                &[rows, cols],
                0.0,
                fan_in(cols),
            ));
            tensors.push(bf16(&name(&format!("{product}.bias")), &[rows], 0.0, 0.1));
        }
        for (product, rows, cols) in
            [("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)]
        {
            let part = |part: &str| name(&format!("mlp.experts.{product}_{part}"));
            let blocks = cols / BLOCK as u64;
            let shape = vec![experts, rows, blocks, BLOCK_BYTES as u64];
            let random = Random::Scales { exponent: exponent(cols) };
            tensors.push(Tensor { name: part("scales"), shape: shape[..3].to_vec(), random });
            tensors.push(Tensor { name: part("blocks"), shape, random: Random::Bytes });
            tensors.push(bf16(&part("bias"), &[experts, rows], 0.0, 0.1));
        }
        tensors
    }

    /// The text of `config.json`, spelled as the published one.
    pub(super) fn config(&self) -> Value {
        let kinds = ["sliding_attention", "full_attention"];
        let layers = usize::try_from(self.num_layers).unwrap_or(usize::MAX);
        let layer_types: Vec<_> = kinds.iter().cycle().take(layers).collect();
        json!({
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": true,
            "experts_per_token": 4,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initial_context_length": 4096,
            "intermediate_size": self.intermediate_size,
            "layer_types": layer_types,
            "max_position_embeddings": 131_072,
            "model_type": "gpt_oss",
            "num_attention_heads": self.num_heads,
            "num_experts_per_tok": 4,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "num_local_experts": self.num_experts,
            "quantization_config": {"quant_method": "mxfp4"},
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "rope_type": "yarn",
                "truncate": false,
            },
            "rope_theta": 150_000,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": false,
            "vocab_size": self.vocab_size,
        })
    }
}

pub(super) fn bf16(name: &str, shape: &[u64], mean: f32, spread: f32) -> Tensor {
    Tensor { name: name.to_owned(), shape: shape.to_vec(), random: Random::Bf16 { mean, spread } }
}

/// Half the width of a uniform distribution of this standard deviation.
pub(super) fn uniform(deviation: f32) -> f32 {
    deviation * 3f32.sqrt()
}

/// The spread of a row of `cols` weights whose squares sum to one.
pub(super) fn fan_in(cols: u64) -> f32 {
    uniform((cols as f32).sqrt().recip())
}

/// The same for MXFP4: random nibbles have a root mean square of 2.93.
fn exponent(cols: u64) -> i32 {
    (2.93 * (cols as f32).sqrt()).recip().log2().round() as i32
}
