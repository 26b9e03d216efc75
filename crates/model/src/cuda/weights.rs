//! The checkpoint's weights on a device, in the checkpoint's own layout but for the order within MXFP4 blocks.
//!
//! First all buffers are taken and what belongs in them is noted down, then everything is copied at once: the files are
//! read by several threads through pinned memory (see [`upload_all`]). At last the device rearranges the blocks of the
//! experts in place.

use std::sync::Arc;

use half::bf16;
use harmonium_cuda::ops::arrange_blocks;
use harmonium_cuda::{Buffer, Device, Upload, upload_all};

use super::synthetic;
use crate::checkpoint::weights::{Bf16Matrix, ExpertLinear, Layer, Linear, Weights};
use crate::checkpoint::{Checkpoint, Contents};
use crate::error::Result;

/// A dense product.
pub(super) struct DeviceLinear {
    pub(super) weight: Arc<Buffer>,
    pub(super) bias: Arc<Buffer>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

/// One product of every expert.
pub(super) struct DeviceExperts {
    /// Arranged for the kernels.
    pub(super) blocks: Arc<Buffer>,
    pub(super) scales: Arc<Buffer>,
    pub(super) bias: Arc<Buffer>,
}

/// One layer.
pub(super) struct DeviceLayer {
    pub(super) attention_norm: Arc<Buffer>,
    pub(super) qkv: DeviceLinear,
    pub(super) output: DeviceLinear,
    pub(super) sinks: Arc<Buffer>,
    pub(super) mlp_norm: Arc<Buffer>,
    pub(super) router: DeviceLinear,
    pub(super) up: DeviceExperts,
    pub(super) down: DeviceExperts,
}

/// A model.
pub(super) struct DeviceWeights {
    pub(super) embedding: Arc<Buffer>,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) norm: Arc<Buffer>,
    pub(super) lm_head: Arc<Buffer>,
}

impl DeviceWeights {
    /// Copies the weights, or makes them if they are synthetic. `progress` is told, from any thread, how many bytes more
    /// are there.
    pub(super) fn new(
        device: &Device,
        checkpoint: &Checkpoint,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        match checkpoint.contents() {
            Contents::Stored(weights) => Self::load(device, weights, progress),
            Contents::Synthetic { shape, seed } => synthetic::make(device, shape, *seed, progress),
        }
    }

    fn load(device: &Device, weights: &Weights, progress: &(dyn Fn(u64) + Sync)) -> Result<Self> {
        let mut loader = Loader { device, pending: Vec::new() };
        let layers = weights.layers.iter().enumerate();
        let this = Self {
            embedding: loader.matrices("embedding", &[&weights.embedding])?,
            layers: layers
                .map(|(index, layer)| loader.layer(index, layer))
                .collect::<Result<_>>()?,
            norm: loader.vector("norm", &weights.norm)?,
            lm_head: loader.matrices("lm_head", &[&weights.lm_head])?,
        };
        loader.finish(progress)?;
        for layer in &this.layers {
            arrange_blocks(device, layer.up.blocks.whole())?;
            arrange_blocks(device, layer.down.blocks.whole())?;
        }
        Ok(this)
    }
}

/// Takes buffers, and knows what is still to be copied to them.
struct Loader<'a> {
    device: &'a Device,
    pending: Vec<Pending<'a>>,
}

/// Bytes that belong into a buffer from byte `offset` on.
struct Pending<'a> {
    name: Arc<str>,
    from: &'a [u8],
    buffer: Arc<Buffer>,
    offset: usize,
}

impl<'a> Loader<'a> {
    fn layer(&mut self, index: usize, layer: &'a Layer) -> Result<DeviceLayer> {
        let name = |rest: &str| format!("layers.{index}.{rest}");
        Ok(DeviceLayer {
            attention_norm: self.vector(&name("attention_norm"), &layer.attention_norm)?,
            qkv: self.linear(&name("qkv"), &[&layer.query, &layer.key, &layer.value])?,
            output: self.linear(&name("output"), &[&layer.output])?,
            sinks: self.vector(&name("sinks"), &layer.sinks)?,
            mlp_norm: self.vector(&name("mlp_norm"), &layer.mlp_norm)?,
            router: self.linear(&name("router"), &[&layer.router])?,
            up: self.experts(&name("experts.gate_up"), &layer.gate_up)?,
            down: self.experts(&name("experts.down"), &layer.down)?,
        })
    }

    /// Several products of the same inputs as one: their rows one after another.
    fn linear(&mut self, name: &str, parts: &[&'a Linear]) -> Result<DeviceLinear> {
        let weights: Vec<&Bf16Matrix> = parts.iter().map(|part| &part.weight).collect();
        let bias: Vec<f32> = parts.iter().flat_map(|part| part.bias.iter().copied()).collect();
        Ok(DeviceLinear {
            weight: self.matrices(&format!("{name}.weight"), &weights)?,
            outputs: bias.len(),
            inputs: weights.first().map_or(0, |weight| weight.num_cols),
            bias: self.vector(&format!("{name}.bias"), &bias)?,
        })
    }

    fn experts(&mut self, name: &str, weights: &'a ExpertLinear) -> Result<DeviceExperts> {
        let experts = || weights.experts.iter();
        let blocks = experts().map(|expert| &*expert.blocks).collect();
        let scales = experts().map(|expert| &*expert.scales).collect();
        Ok(DeviceExperts {
            blocks: self.buffer(&format!("{name}.blocks"), blocks)?,
            scales: self.buffer(&format!("{name}.scales"), scales)?,
            bias: self.matrices(&format!("{name}.bias"), &[&weights.bias])?,
        })
    }

    fn matrices(&mut self, name: &str, parts: &[&'a Bf16Matrix]) -> Result<Arc<Buffer>> {
        self.buffer(name, parts.iter().map(|part| &*part.bytes).collect())
    }

    /// A buffer that will hold these bytes, one after another.
    fn buffer(&mut self, name: &str, parts: Vec<&'a [u8]>) -> Result<Arc<Buffer>> {
        let num_bytes = parts.iter().map(|part| part.len()).sum();
        let buffer = self.device.alloc(num_bytes).map_err(|error| error.of(name))?;
        let (buffer, name) = (Arc::new(buffer), Arc::<str>::from(name));
        let mut offset = 0;
        for from in parts {
            let (name, buffer) = (Arc::clone(&name), Arc::clone(&buffer));
            self.pending.push(Pending { name, from, buffer, offset });
            offset += from.len();
        }
        Ok(buffer)
    }

    /// Numbers that were widened from bf16 when the checkpoint was opened, and lose nothing on the way back.
    fn vector(&self, name: &str, values: &[f32]) -> Result<Arc<Buffer>> {
        let values: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
        Ok(Arc::new(self.device.alloc_from(&values).map_err(|error| error.of(name))?))
    }

    /// Copies what is pending.
    fn finish(self, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let uploads = self.pending.iter().map(|pending| {
            let to = pending.buffer.slice(pending.offset..pending.offset + pending.from.len())?;
            Ok(Upload { name: &pending.name, from: pending.from, to })
        });
        let uploads = uploads.collect::<Result<Vec<_>>>()?;
        Ok(upload_all(self.device, &uploads, progress)?)
    }
}
