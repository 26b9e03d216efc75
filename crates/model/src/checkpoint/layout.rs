//! The two layouts GPT-OSS is published in, read into one form.
//!
//! Both hold the same bytes under other names, but for one thing: `original/` keeps the rows of the query, key
//! and value products in one matrix, which is cut here without a copy. Rows of `gate_up` alternate, gate first,
//! in both.

use safetensors::Dtype;

use super::index::Tensors;
use super::weights::{Bf16Matrix, ExpertLinear, Layer, Linear, Mxfp4Matrix, Weights, widen};
use crate::config::Config;
use crate::error::Result;
use crate::mxfp4::{BLOCK, BLOCK_BYTES};

/// Whose names the tensors go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Files at the root of the Hugging Face repository.
    HuggingFace,
    /// Files in its folder `original/`.
    Original,
}

impl Layout {
    /// Which of the two these tensors are in.
    pub(crate) fn of(tensors: &Tensors) -> Self {
        if tensors.contains("embedding.weight") { Self::Original } else { Self::HuggingFace }
    }

    /// Reads every weight, checking dtype and shape of each.
    pub(crate) fn read(self, tensors: &Tensors, config: &Config) -> Result<Weights> {
        let reader = Reader { tensors, config };
        let (embedding, norm, lm_head) = match self {
            Self::HuggingFace => ("model.embed_tokens", "model.norm.weight", "lm_head"),
            Self::Original => ("embedding", "norm.scale", "unembedding"),
        };
        let (vocab, hidden) = (config.vocab_size as usize, config.hidden_size as usize);
        let layer = |index| match self {
            Self::HuggingFace => reader.hugging_face_layer(index),
            Self::Original => reader.original_layer(index),
        };
        Ok(Weights {
            embedding: reader.matrix(&format!("{embedding}.weight"), vocab, hidden)?,
            layers: (0..config.layers.len()).map(layer).collect::<Result<_>>()?,
            norm: reader.vector(norm, hidden)?,
            lm_head: reader.matrix(&format!("{lm_head}.weight"), vocab, hidden)?,
        })
    }
}

struct Reader<'a> {
    tensors: &'a Tensors,
    config: &'a Config,
}

impl Reader<'_> {
    fn hugging_face_layer(&self, index: usize) -> Result<Layer> {
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        let attention = |rest: &str| name(&format!("self_attn.{rest}"));
        let c = self.config;
        let (hidden, query, kv) = (c.hidden_size as usize, c.query_size(), c.kv_size());
        let experts = |product: &str| {
            ["blocks", "scales", "bias"].map(|part| name(&format!("mlp.experts.{product}_{part}")))
        };
        Ok(Layer {
            attention_norm: self.vector(&name("input_layernorm.weight"), hidden)?,
            query: self.linear(&attention("q_proj"), query, hidden)?,
            key: self.linear(&attention("k_proj"), kv, hidden)?,
            value: self.linear(&attention("v_proj"), kv, hidden)?,
            output: self.linear(&attention("o_proj"), hidden, query)?,
            sinks: self.vector(&attention("sinks"), c.num_heads as usize)?,
            mlp_norm: self.vector(&name("post_attention_layernorm.weight"), hidden)?,
            router: self.linear(&name("mlp.router"), c.num_experts as usize, hidden)?,
            gate_up: self.gate_up(experts("gate_up_proj"))?,
            down: self.down(experts("down_proj"))?,
        })
    }

    fn original_layer(&self, index: usize) -> Result<Layer> {
        let name = |rest: &str| format!("block.{index}.{rest}");
        let c = self.config;
        let (hidden, query, kv) = (c.hidden_size as usize, c.query_size(), c.kv_size());
        let qkv = self.linear(&name("attn.qkv"), query + 2 * kv, hidden)?;
        let experts = |product: &str| {
            ["weight.blocks", "weight.scales", "bias"]
                .map(|part| name(&format!("mlp.{product}_{part}")))
        };
        Ok(Layer {
            attention_norm: self.vector(&name("attn.norm.scale"), hidden)?,
            query: qkv.rows(0..query),
            key: qkv.rows(query..query + kv),
            value: qkv.rows(query + kv..query + 2 * kv),
            output: self.linear(&name("attn.out"), hidden, query)?,
            sinks: self.vector(&name("attn.sinks"), c.num_heads as usize)?,
            mlp_norm: self.vector(&name("mlp.norm.scale"), hidden)?,
            router: self.linear(&name("mlp.gate"), c.num_experts as usize, hidden)?,
            gate_up: self.gate_up(experts("mlp1"))?,
            down: self.down(experts("mlp2"))?,
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        Ok(widen(&self.tensors.get(name, Dtype::BF16, &[len])?))
    }

    fn matrix(&self, name: &str, num_rows: usize, num_cols: usize) -> Result<Bf16Matrix> {
        let bytes = self.tensors.get(name, Dtype::BF16, &[num_rows, num_cols])?;
        Ok(Bf16Matrix { num_rows, num_cols, bytes })
    }

    fn linear(&self, name: &str, num_rows: usize, num_cols: usize) -> Result<Linear> {
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), num_rows, num_cols)?,
            bias: self.vector(&format!("{name}.bias"), num_rows)?,
        })
    }

    fn gate_up(&self, names: [String; 3]) -> Result<ExpertLinear> {
        let c = self.config;
        self.experts(&names, 2 * c.intermediate_size as usize, c.hidden_size as usize)
    }

    fn down(&self, names: [String; 3]) -> Result<ExpertLinear> {
        let c = self.config;
        self.experts(&names, c.hidden_size as usize, c.intermediate_size as usize)
    }

    /// One product of all experts from its blocks, scales and biases.
    fn experts(
        &self,
        [blocks, scales, bias]: &[String; 3],
        num_rows: usize,
        num_cols: usize,
    ) -> Result<ExpertLinear> {
        let num_experts = self.config.num_experts as usize;
        let blocks_per_row = num_cols / BLOCK;
        let shape = [num_experts, num_rows, blocks_per_row, BLOCK_BYTES];
        let blocks = self.tensors.get(blocks, Dtype::U8, &shape)?;
        let scales = self.tensors.get(scales, Dtype::U8, &shape[..3])?;
        let blocks_of_expert = num_rows * blocks_per_row;
        let bytes_of_expert = blocks_of_expert * BLOCK_BYTES;
        let expert = |index: usize| Mxfp4Matrix {
            num_rows,
            num_cols,
            blocks: blocks
                .slice(index * bytes_of_expert..(index + 1) * bytes_of_expert)
                .expect("the shape was checked"),
            scales: scales
                .slice(index * blocks_of_expert..(index + 1) * blocks_of_expert)
                .expect("the shape was checked"),
        };
        Ok(ExpertLinear {
            experts: (0..num_experts).map(expert).collect(),
            bias: self.matrix(bias, num_experts, num_rows)?,
        })
    }
}
