//! PEFT adapters: low-rank changes of a model's products, as `save_pretrained` writes them.
//!
//! The config and the tensors are checked against each other and against the base; whatever would change the
//! arithmetic in a way that is not done here is refused by name. What comes out is laid out for the loops that add
//! it to the base's own products. The base stays as it is stored: merging would have to quantize it anew.

mod low_rank;
mod settings;
mod target;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

pub(crate) use low_rank::{LowRank, RANKS_TOGETHER};
pub(crate) use target::Target;

use self::low_rank::Packed;
use self::settings::Settings;
use crate::checkpoint::bytes::Bytes;
use crate::checkpoint::shard::{Shard, Stored};
use crate::config::Config;
use crate::error::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names that modules have in the base.
const PREFIX: &str = "base_model.model.";
/// Largest `adapter_config.json` read; PEFT writes about a kilobyte.
const MAX_CONFIG_LEN: usize = 1 << 20;

/// An adapter that fits one base.
pub struct Adapter {
    layers: Vec<Layer>,
}

/// What an adapter changes in one layer.
#[derive(Default)]
struct Layer {
    /// By target, one change an expert; a dense product counts as one expert.
    changes: [Vec<LowRank>; Target::ALL.len()],
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("targets", &self.describe()).finish_non_exhaustive()
    }
}

impl Adapter {
    /// Reads the adapter in a directory, which must be made for a base with this config.
    pub fn open(directory: &Path, base: &Config) -> Result<Self> {
        let config = Bytes::map(&directory.join(CONFIG))?;
        if config.len() > MAX_CONFIG_LEN {
            let message = format!("{} bytes, over {MAX_CONFIG_LEN}", config.len());
            return Err(Error::File { file: directory.join(CONFIG), message });
        }
        // The config first: what it says of the tensors decides what is wrong with them.
        let settings = Settings::parse(&config, &directory.join(CONFIG), base)?;
        Self::read(&settings, &Bytes::map(&directory.join(WEIGHTS))?, directory, base)
    }

    /// The same from the contents of its two files, `config` and `weights`.
    pub(crate) fn from_memory(config: &[u8], weights: Vec<u8>, base: &Config) -> Result<Self> {
        let directory = Path::new("<memory>");
        let settings = Settings::parse(config, &directory.join(CONFIG), base)?;
        Self::read(&settings, &weights.into(), directory, base)
    }

    fn read(settings: &Settings, weights: &Bytes, directory: &Path, base: &Config) -> Result<Self> {
        let file = directory.join(WEIGHTS);
        let tensors = Shard::parse(weights, &file)?.tensors;
        let mut reader = Reader { settings, base, tensors, file };
        let layers =
            (0..base.layers.len()).map(|index| reader.layer(index)).collect::<Result<_>>()?;
        reader.finish()?;
        Ok(Self { layers })
    }

    /// What it changes, for people: each target with the number of layers in which it is changed.
    pub fn describe(&self) -> String {
        let count = |target| {
            self.layers.iter().filter(|layer| !layer.changes[target as usize].is_empty()).count()
        };
        let changed = Target::ALL.into_iter().map(|target| (target, count(target)));
        let parts: Vec<String> = changed
            .filter(|(_, count)| *count > 0)
            .map(|(target, count)| format!("{} in {count} layers", target.name()))
            .collect();
        parts.join(", ")
    }

    /// Bytes it takes in memory.
    pub fn num_bytes(&self) -> u64 {
        let changes = self.layers.iter().flat_map(|layer| layer.changes.iter().flatten());
        changes.map(LowRank::num_bytes).sum()
    }

    /// What it adds to a product, if anything. The layer is one of the base's.
    pub(crate) fn change(&self, layer: usize, target: Target, expert: usize) -> Option<&LowRank> {
        self.layers[layer].changes[target as usize].get(expert)
    }
}

struct Reader<'a> {
    settings: &'a Settings,
    base: &'a Config,
    /// Those not taken yet.
    tensors: HashMap<String, Stored>,
    file: PathBuf,
}

impl Reader<'_> {
    fn layer(&mut self, index: usize) -> Result<Layer> {
        let mut layer = Layer::default();
        for target in Target::ALL {
            let name = self.name(target, index);
            let [a, b] = ["A", "B"].map(|side| format!("{name}.lora_{side}.weight"));
            let is_wanted = self
                .settings
                .asks_for(target, index)
                .unwrap_or_else(|| self.tensors.contains_key(&a) || self.tensors.contains_key(&b));
            if is_wanted {
                layer.changes[target as usize] = self.changes(target, &a, &b)?;
            }
        }
        Ok(layer)
    }

    /// The wrapper of an `nn.Parameter` takes its module's name, and the next one on the same module wraps the first:
    /// so of the experts' two parameters the first is one level further in, if both have an adapter.
    fn name(&self, target: Target, layer: usize) -> String {
        let both = target == Target::GateUp
            && self.settings.asks_for(Target::Down, layer).unwrap_or(false);
        let level = if both { ".base_layer" } else { "" };
        format!("{PREFIX}model.layers.{layer}.{}{level}", target.module())
    }

    /// The pairs of one target. Of `E` experts with rank `r`, A is `[E r, inputs]` with the expert slowest, and B is
    /// `[outputs, r E]` with the expert fastest (PEFT's `ParamWrapper.get_delta_weight`).
    fn changes(&mut self, target: Target, a: &str, b: &str) -> Result<Vec<LowRank>> {
        let [num_outputs, num_inputs] = target.shape(self.base);
        let num_experts = target.num_experts(self.base);
        let num_ranks = self.settings.rank * num_experts;
        let packed = Packed {
            num_experts,
            rank: self.settings.rank,
            a: &self.take(a, [num_ranks, num_inputs])?,
            b: &self.take(b, [num_outputs, num_ranks])?,
            scale: self.settings.scale,
        };
        Ok((0..num_experts).into_par_iter().map(|expert| packed.expert(expert)).collect())
    }

    fn take(&mut self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        let error =
            |message| Error::Tensor { file: self.file.clone(), tensor: name.to_owned(), message };
        let Some(stored) = self.tensors.remove(name) else {
            let message = format!(
                "missing, though {CONFIG} asks for it in this base of {} layers",
                self.base.layers.len()
            );
            return Err(error(message));
        };
        if stored.shape != shape {
            let Settings { rank, .. } = self.settings;
            let message =
                format!("shape {:?} where r = {rank} and this base need {shape:?}", stored.shape);
            return Err(error(message));
        }
        let values = widen(&stored)
            .ok_or_else(|| error(format!("{:?} is not F32, F16 or BF16", stored.dtype)))?;
        // Devices have them as bf16. What is no number there would reach the rows of others in the batch.
        match values.iter().find(|value| !bf16::from_f32(**value).is_finite()) {
            Some(value) => Err(error(format!("{value} is no number that can be used"))),
            None => Ok(values),
        }
    }

    /// Refuses a file in which something is left that nothing has asked for.
    fn finish(self) -> Result<()> {
        let Some(name) = self.tensors.into_keys().min() else { return Ok(()) };
        let num_layers = self.base.layers.len();
        let layer = name.strip_prefix(PREFIX).and_then(|name| name.strip_prefix("model.layers."));
        let layer = layer.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let message = match layer.filter(|layer| *layer >= num_layers) {
            Some(layer) => format!("layer {layer} of a base that has {num_layers}"),
            None => format!(
                "not what {CONFIG} asks for, or no target here; adapters can change {}",
                Target::names()
            ),
        };
        Err(Error::Tensor { file: self.file, tensor: name, message })
    }
}

/// The numbers of a tensor as float32; `None` if they are of no type that adapters have.
fn widen(stored: &Stored) -> Option<Vec<f32>> {
    let pairs = |widen: fn([u8; 2]) -> f32| {
        stored.bytes.as_chunks().0.iter().map(|pair| widen(*pair)).collect()
    };
    match stored.dtype {
        Dtype::F32 => {
            Some(stored.bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
        }
        Dtype::F16 => Some(pairs(|pair| f16::from_le_bytes(pair).to_f32())),
        Dtype::BF16 => Some(pairs(|pair| bf16::from_le_bytes(pair).to_f32())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
