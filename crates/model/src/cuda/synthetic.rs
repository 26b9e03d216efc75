//! Weights of a synthetic checkpoint, made where they are needed: byte for byte those that `synth` writes to files, then
//! arranged as those of any checkpoint.
//!
//! The largest shape has 65 GB of them. They take no memory of this machine and no time to speak of.

use std::collections::HashMap;
use std::sync::Arc;

use harmonium_cuda::ops::{arrange_blocks, fill, random_key};
use harmonium_cuda::{Buffer, Device};

use super::weights::{DeviceExperts, DeviceLayer, DeviceLinear, DeviceWeights};
use crate::error::{Error, Result};
use crate::synth::Shape;
use crate::synth::shape::Tensor;

/// Bytes of a bf16.
const BF16: usize = 2;

/// Fills the buffers of all weights of this shape.
pub(super) fn make(
    device: &Device,
    shape: &Shape,
    seed: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<DeviceWeights> {
    let tensors = shape.tensors().into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let maker = Maker { device, tensors, seed, progress };
    let layers = (0..shape.num_layers).map(|layer| maker.layer(layer));
    Ok(DeviceWeights {
        layers: layers.collect::<Result<_>>()?,
        embedding: maker.buffer(&["model.embed_tokens.weight".to_owned()])?,
        norm: maker.buffer(&["model.norm.weight".to_owned()])?,
        lm_head: maker.buffer(&["lm_head.weight".to_owned()])?,
    })
}

struct Maker<'a> {
    device: &'a Device,
    tensors: HashMap<String, Tensor>,
    seed: u64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Maker<'_> {
    fn layer(&self, layer: u64) -> Result<DeviceLayer> {
        let one = |name: &str| self.buffer(&[format!("model.layers.{layer}.{name}")]);
        let linear = |products: &[&str]| {
            let names = |part: &str| {
                let name = |product| format!("model.layers.{layer}.{product}.{part}");
                products.iter().map(name).collect::<Vec<_>>()
            };
            let (weight, bias) = (self.buffer(&names("weight"))?, self.buffer(&names("bias"))?);
            let outputs = bias.len() / BF16;
            let inputs = weight.len() / BF16 / outputs;
            Ok::<_, Error>(DeviceLinear { weight, bias, outputs, inputs })
        };
        let experts = |product: &str| {
            let part = |part: &str| one(&format!("mlp.experts.{product}_{part}"));
            let (blocks, scales, bias) = (part("blocks")?, part("scales")?, part("bias")?);
            arrange_blocks(self.device, blocks.whole())?;
            Ok::<_, Error>(DeviceExperts { blocks, scales, bias })
        };
        Ok(DeviceLayer {
            attention_norm: one("input_layernorm.weight")?,
            qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])?,
            output: linear(&["self_attn.o_proj"])?,
            sinks: one("self_attn.sinks")?,
            mlp_norm: one("post_attention_layernorm.weight")?,
            router: linear(&["mlp.router"])?,
            up: experts("gate_up_proj")?,
            down: experts("down_proj")?,
        })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let missing = || Error::Tensor {
            file: "<synthetic>".into(),
            tensor: name.to_owned(),
            message: "missing".to_owned(),
        };
        self.tensors.get(name).ok_or_else(missing)
    }

    /// A buffer of these tensors, one after another.
    fn buffer(&self, names: &[String]) -> Result<Arc<Buffer>> {
        let tensors: Vec<&Tensor> =
            names.iter().map(|name| self.tensor(name)).collect::<Result<_>>()?;
        let num_bytes: u64 = tensors.iter().map(|tensor| tensor.num_bytes()).sum();
        let named = |error: harmonium_cuda::Error| error.of(names.join(", "));
        let buffer = self.device.alloc(num_bytes as usize).map_err(named)?;
        let mut start = 0;
        for tensor in tensors {
            let end = start + tensor.num_bytes() as usize;
            let key = random_key(self.seed, &tensor.name);
            fill(self.device, buffer.slice(start..end)?, tensor.random, key).map_err(named)?;
            start = end;
        }
        (self.progress)(num_bytes);
        Ok(Arc::new(buffer))
    }
}
