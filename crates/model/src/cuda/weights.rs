//! The checkpoint's weights on a device, in the checkpoint's own layout.

use half::bf16;
use harmonium_cuda::{Buffer, Device};

use super::synthetic;
use crate::checkpoint::weights::{Bf16Matrix, ExpertLinear, Layer, Linear, Weights};
use crate::checkpoint::{Checkpoint, Contents};
use crate::error::Result;

/// A dense product.
pub(super) struct DeviceLinear {
    pub(super) weight: Buffer,
    pub(super) bias: Buffer,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

/// One product of every expert.
pub(super) struct DeviceExperts {
    pub(super) blocks: Buffer,
    pub(super) scales: Buffer,
    pub(super) bias: Buffer,
}

/// One layer.
pub(super) struct DeviceLayer {
    pub(super) attention_norm: Buffer,
    pub(super) qkv: DeviceLinear,
    pub(super) output: DeviceLinear,
    pub(super) sinks: Buffer,
    pub(super) mlp_norm: Buffer,
    pub(super) router: DeviceLinear,
    pub(super) up: DeviceExperts,
    pub(super) down: DeviceExperts,
}

/// A model.
pub(super) struct DeviceWeights {
    pub(super) embedding: Buffer,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) norm: Buffer,
    pub(super) lm_head: Buffer,
}

impl DeviceWeights {
    /// Copies the weights, or makes them if they are synthetic.
    pub(super) fn new(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint.contents() {
            Contents::Stored(weights) => Self::upload(device, weights),
            Contents::Synthetic { shape, seed } => synthetic::make(device, shape, *seed),
        }
    }

    /// Copies all weights. Says how far it is, for this takes a while with the published models.
    fn upload(device: &Device, weights: &Weights) -> Result<Self> {
        let num_layers = weights.layers.len();
        let mut layers = Vec::with_capacity(num_layers);
        for (index, layer) in weights.layers.iter().enumerate() {
            layers.push(upload_layer(device, layer)?);
            tracing::info!(layer = index + 1, of = num_layers, "weights copied to the device");
        }
        Ok(Self {
            embedding: matrix(device, &[&weights.embedding])?,
            layers,
            norm: vector(device, &weights.norm)?,
            lm_head: matrix(device, &[&weights.lm_head])?,
        })
    }
}

fn upload_layer(device: &Device, layer: &Layer) -> Result<DeviceLayer> {
    Ok(DeviceLayer {
        attention_norm: vector(device, &layer.attention_norm)?,
        qkv: linear(device, &[&layer.query, &layer.key, &layer.value])?,
        output: linear(device, &[&layer.output])?,
        sinks: vector(device, &layer.sinks)?,
        mlp_norm: vector(device, &layer.mlp_norm)?,
        router: linear(device, &[&layer.router])?,
        up: experts(device, &layer.gate_up)?,
        down: experts(device, &layer.down)?,
    })
}

/// Several products of the same inputs as one: their rows one after another.
fn linear(device: &Device, parts: &[&Linear]) -> Result<DeviceLinear> {
    let weights: Vec<&Bf16Matrix> = parts.iter().map(|part| &part.weight).collect();
    let bias: Vec<f32> = parts.iter().flat_map(|part| part.bias.iter().copied()).collect();
    Ok(DeviceLinear {
        weight: matrix(device, &weights)?,
        outputs: bias.len(),
        inputs: weights.first().map_or(0, |weight| weight.num_cols),
        bias: vector(device, &bias)?,
    })
}

fn matrix(device: &Device, parts: &[&Bf16Matrix]) -> Result<Buffer> {
    concatenated(device, parts.iter().map(|part| &*part.bytes))
}

fn experts(device: &Device, weights: &ExpertLinear) -> Result<DeviceExperts> {
    let experts = || weights.experts.iter();
    Ok(DeviceExperts {
        blocks: concatenated(device, experts().map(|expert| &*expert.blocks))?,
        scales: concatenated(device, experts().map(|expert| &*expert.scales))?,
        bias: matrix(device, &[&weights.bias])?,
    })
}

fn concatenated<'a>(
    device: &Device,
    parts: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<Buffer> {
    let buffer = device.alloc(parts.clone().map(<[u8]>::len).sum())?;
    let mut offset = 0;
    for part in parts {
        device.upload(&buffer, offset, part)?;
        offset += part.len();
    }
    Ok(buffer)
}

/// Numbers that were widened from bf16 when the checkpoint was opened, and lose nothing on the way back.
fn vector(device: &Device, values: &[f32]) -> Result<Buffer> {
    let values: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    Ok(device.alloc_from(&values)?)
}
