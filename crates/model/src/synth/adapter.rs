//! Synthetic adapters: seeded random matrices as PEFT saves them, to serve and measure adapters of a true shape with.

use std::path::Path;

use serde_json::{Value, json};

use super::files::{make_empty, write_json, write_shard, write_tensors};
use super::shape::{Shape, Tensor, bf16, fan_in, uniform};
use crate::adapter::Adapter;
use crate::error::{Error, Result};

/// Root mean square of what an adapter adds to a product whose inputs have one of one.
const GAIN: f32 = 0.1;

/// What a synthetic adapter changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterTargets {
    /// Queries, keys, values and attention's output.
    Attention,
    /// Also the router and both products of every expert.
    All,
}

/// An adapter to be written.
#[derive(Debug, Clone, Copy)]
pub struct SynthAdapter {
    /// The base's shape.
    pub shape: Shape,
    /// Numbers between the two matrices of a pair.
    pub rank: u64,
    /// What it changes, in every layer.
    pub targets: AdapterTargets,
    /// Chooses the values.
    pub seed: u64,
}

impl SynthAdapter {
    /// Bytes of weights that will be written.
    pub fn num_bytes(&self) -> u64 {
        self.tensors().iter().map(Tensor::num_bytes).sum()
    }

    /// Writes the adapter to `dir`, which must be empty or not there, and calls `progress` with the bytes written since the
    /// last call.
    pub fn write(&self, dir: &Path, mut progress: impl FnMut(u64)) -> Result<()> {
        make_empty(dir)?;
        let weights = dir.join("adapter_model.safetensors");
        write_shard(&weights, &self.tensors(), self.seed, &mut progress)?;
        write_json(&dir.join("adapter_config.json"), &self.config())
    }

    /// The adapter in memory instead of files, for small shapes.
    pub fn adapter(&self) -> Result<Adapter> {
        let mut weights = Vec::new();
        write_tensors(&mut weights, &self.tensors(), self.seed, &mut |_| ())
            .map_err(|source| Error::Io { file: "<memory>".into(), source })?;
        let config = self.config().to_string();
        Adapter::from_memory(config.as_bytes(), weights, &self.shape.to_config()?)
    }

    fn config(&self) -> Value {
        let parameters: &[&str] = match self.targets {
            AdapterTargets::Attention => &[],
            AdapterTargets::All => {
                &["mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
            }
        };
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": self.rank,
            "lora_alpha": self.rank,
            "bias": "none",
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "target_parameters": parameters,
        })
    }

    /// The pairs, of each layer in turn. Of experts A has the expert slowest and B fastest, and the first of two
    /// parameters of one module lies one level further in.
    fn tensors(&self) -> Vec<Tensor> {
        let Shape { num_experts, hidden_size: hidden, intermediate_size: inner, .. } = self.shape;
        let (query, kv) = (self.shape.query_size(), self.shape.kv_size());
        let mut products = vec![
            ("self_attn.q_proj", query, hidden, 1),
            ("self_attn.k_proj", kv, hidden, 1),
            ("self_attn.v_proj", kv, hidden, 1),
            ("self_attn.o_proj", hidden, query, 1),
        ];
        if self.targets == AdapterTargets::All {
            products.extend([
                ("mlp.router", num_experts, hidden, 1),
                ("mlp.experts.base_layer", 2 * inner, hidden, num_experts),
                ("mlp.experts", hidden, inner, num_experts),
            ]);
        }
        let layers = 0..self.shape.num_layers;
        let pair = |layer: u64, (module, outputs, inputs, experts): (&str, u64, u64, u64)| {
            let name =
                |side| format!("base_model.model.model.layers.{layer}.{module}.lora_{side}.weight");
            let ranks = experts * self.rank;
            let spread = uniform(GAIN / (self.rank as f32).sqrt());
            [
                bf16(&name("A"), &[ranks, inputs], 0.0, fan_in(inputs)),
                bf16(&name("B"), &[outputs, ranks], 0.0, spread),
            ]
        };
        layers
            .flat_map(|layer| products.iter().flat_map(move |product| pair(layer, *product)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logits::{LogitsMode, LogitsPlace, adapted_logits, logits};
    use crate::parity::relative_error;
    use crate::simd::Precision;
    use crate::synth::{SHARD_BYTES, Synth};

    #[test]
    fn a_synthetic_adapter_fits_its_base_and_can_be_seen_in_its_answers() {
        let shape = Shape::SMALL;
        let synth = Synth { shape, seed: 0, tokenizer: None, shard_bytes: SHARD_BYTES };
        let base = synth.checkpoint().unwrap();
        let (tokens, mode) = ([1, 2, 3, 400, 77, 9], LogitsMode::All);
        let place = LogitsPlace::Cpu(Precision::Float32);
        let plain = logits(&base, &tokens, mode, place).unwrap();
        for (targets, last) in [
            (AdapterTargets::Attention, "o_proj in 2 layers"),
            (AdapterTargets::All, "down_proj in 2 layers"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let adapter = SynthAdapter { shape, rank: 3, targets, seed: 1 };
            let mut num_written = 0;
            adapter.write(dir.path(), |len| num_written += len).unwrap();
            assert_eq!(num_written, adapter.num_bytes());
            let opened = Adapter::open(dir.path(), base.config()).unwrap();
            assert!(opened.describe().ends_with(last), "{opened:?}");
            let read = adapted_logits(&base, opened, &tokens, mode, place).unwrap();
            let made = adapter.adapter().unwrap();
            assert!(read == adapted_logits(&base, made, &tokens, mode, place).unwrap());
            let change = relative_error(&read, &plain);
            assert!((0.05..0.5).contains(&change), "{targets:?}: {change}");
        }
    }
}
