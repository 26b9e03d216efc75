//! Synthetic checkpoints: seeded random weights in the true layout.
//!
//! What costs time and memory in serving is the shape, not the values. A synthetic checkpoint has the published
//! shape, names, types and shards, so that loading and speed can be measured without the download. Values are
//! scaled by their fan-in, so that activations neither vanish nor explode and tokens spread evenly over the
//! experts; what such a model says is noise. The same seed gives the same bytes on every machine, whatever the
//! number of threads, and [`Checkpoint::synthetic`] makes the very same on a device, without files.

mod adapter;
mod files;
mod fill;
pub(crate) mod shape;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

pub use self::adapter::{AdapterTargets, SynthAdapter};
use self::files::{make_empty, write, write_json, write_shard, write_tensors};
pub use self::shape::Shape;
use self::shape::Tensor;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// Bytes of weights in a published shard, about.
pub const SHARD_BYTES: u64 = 4_800_000_000;
/// Written last: without it, several shards are no checkpoint.
const INDEX: &str = "model.safetensors.index.json";
/// Ends of an answer in the published vocabulary: return, endoftext and call.
const PUBLISHED_EOS: [u32; 3] = [200_002, 199_999, 200_012];

/// A checkpoint to be written.
#[derive(Debug, Clone, Copy)]
pub struct Synth<'a> {
    /// The model's shape.
    pub shape: Shape,
    /// Chooses the values.
    pub seed: u64,
    /// The published vocabulary's `tokenizer.json`. `None` takes nano's: then only its few thousand tokens are
    /// ever chosen.
    pub tokenizer: Option<&'a [u8]>,
    /// Bytes of weights in a shard, about.
    pub shard_bytes: u64,
}

impl Synth<'_> {
    /// Bytes of weights that will be written.
    pub fn num_bytes(&self) -> u64 {
        self.shape.num_bytes()
    }

    /// Writes the checkpoint to `dir`, which must be empty or not there, and calls `progress` with the bytes
    /// written since the last call.
    pub fn write(&self, dir: &Path, mut progress: impl FnMut(u64)) -> Result<()> {
        make_empty(dir)?;
        let shards = self.shards();
        let last = shards.len().saturating_sub(1);
        let mut weight_map = BTreeMap::new();
        for (index, tensors) in shards.iter().enumerate() {
            let name = format!("model-{index:05}-of-{last:05}.safetensors");
            write_shard(&dir.join(&name), tensors, self.seed, &mut progress)?;
            weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        }
        let nano = Checkpoint::nano()?;
        let (tokenizer, eos) = match self.tokenizer {
            Some(text) => (text, &PUBLISHED_EOS[..]),
            None => (nano.tokenizer_json()?, &nano.generation().eos_token_ids[..]),
        };
        write(&dir.join("tokenizer.json"), tokenizer)?;
        write_json(&dir.join("config.json"), &self.shape.config())?;
        let generation = json!({"do_sample": true, "eos_token_id": eos});
        write_json(&dir.join("generation_config.json"), &generation)?;
        let index = json!({"metadata": {"total_size": self.num_bytes()}, "weight_map": weight_map});
        write_json(&dir.join(INDEX), &index)
    }

    /// The checkpoint in memory instead of files, for small shapes.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut weights = Vec::new();
        write_tensors(&mut weights, &self.shape.tensors(), self.seed, &mut |_| ())
            .map_err(|source| Error::Io { file: "<memory>".into(), source })?;
        Checkpoint::from_memory(self.shape.config().to_string().into_bytes(), weights)
    }

    /// Tensors in the order of the published files, cut where a shard is full.
    fn shards(&self) -> Vec<Vec<Tensor>> {
        let mut shards: Vec<Vec<Tensor>> = Vec::new();
        let mut room = 0;
        for tensor in self.shape.tensors() {
            if shards.is_empty() || tensor.num_bytes() > room {
                shards.push(Vec::new());
                room = self.shard_bytes;
            }
            room = room.saturating_sub(tensor.num_bytes());
            if let Some(shard) = shards.last_mut() {
                shard.push(tensor);
            }
        }
        shards
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::logits::{LogitsMode, LogitsPlace, logits};
    use crate::simd::Precision;

    fn small(seed: u64) -> (tempfile::TempDir, Checkpoint) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let synth = Synth { shape: Shape::SMALL, seed, tokenizer: None, shard_bytes: 400_000 };
        let mut num_written = 0;
        synth.write(&out, |len| num_written += len).unwrap();
        assert_eq!(num_written, synth.num_bytes());
        assert!(synth.write(&out, |_| ()).unwrap_err().to_string().contains("is not empty"));
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.num_bytes(), synth.num_bytes());
        (dir, checkpoint)
    }

    #[test]
    fn a_synthetic_checkpoint_runs_with_activations_of_a_sane_size() {
        let (dir, checkpoint) = small(1);
        let shards = fs::read_dir(dir.path().join("out")).unwrap().count() - 4;
        assert!(shards > 2, "only {shards} shards");
        let values = logits(
            &checkpoint,
            &[1, 2, 3, 400, 77, 9],
            LogitsMode::All,
            LogitsPlace::Cpu(Precision::Float32),
        )
        .unwrap();
        let mean_square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        // Unit activations times rows of unit length; a vanished or exploded model is orders off.
        assert!((0.1..10.0).contains(&mean_square), "{mean_square}");
    }

    #[test]
    fn the_seed_decides_every_byte() {
        let bytes = |seed| {
            let (dir, _) = small(seed);
            let entries = fs::read_dir(dir.path().join("out")).unwrap();
            let mut shards: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            shards.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
            shards.sort();
            assert!(shards.len() > 1, "{shards:?}");
            shards.into_iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
        };
        let (one, same, other) = (bytes(1), bytes(1), bytes(2));
        assert!(one == same && one != other);
    }

    #[test]
    fn published_shapes_have_the_published_sizes() {
        // Sums of the published indexes (20B) and of the published shapes (120B).
        for (shape, expected) in
            [(Shape::GPT_OSS_20B, 13_761_264_768), (Shape::GPT_OSS_120B, 65_248_815_744)]
        {
            let synth = Synth { shape, seed: 0, tokenizer: None, shard_bytes: SHARD_BYTES };
            assert_eq!(synth.num_bytes(), expected);
        }
    }
}
