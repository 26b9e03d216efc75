//! One safe function a kernel. Each checks shapes and lengths, so that its kernel stays inside the buffers it is given.

#![allow(unsafe_code, reason = "a launch is safe because of the checks before it")]

mod arrange_blocks;
mod attention;
mod choice;
mod embedding;
mod experts;
mod fill;
mod linear;
mod lora;
mod rms_norm;
mod rope;
mod route;
mod router;
mod sample;
pub mod variants;

pub use arrange_blocks::arrange_blocks;
pub use attention::{
    AttentionDecode, AttentionPrefill, DecodeRow, RowTile, Splits, attention_decode,
    attention_prefill, rows_per_tile,
};
pub(crate) use choice::Cut;
pub use embedding::{Embedding, embedding};
pub use experts::{ExpertWeights, Experts, experts};
pub use fill::{Random, fill, random_key};
pub(crate) use linear::linear_cut;
pub use linear::{Linear, linear, linear_scratch_bytes};
pub use lora::{
    After, Lora, LoraRoutes, LoraWeights, NO_ADAPTER, RANK_MULTIPLE, lora_expand,
    lora_scratch_bytes, lora_shrink,
};
pub use rms_norm::{RmsNorm, rms_norm};
pub use rope::{Rope, rope};
pub use route::{Route, route};
pub(crate) use router::{GroupRoutes, Router, group_routes, route_tile_len, router};
pub use router::{PADDING, route_tiles_bytes};
pub use sample::{
    Adjustment, MAX_ALTERNATIVES, MAX_VOCABULARY, NO_TOKEN, Sample, TokenLogprob, Wish, cuts_bytes,
    mask_words, masks_bytes, sample, slices_bytes,
};

use crate::{BufferSlice, Device, DevicePtr, Error, Result};

/// Bytes of a bf16.
const BF16: usize = 2;
/// Bytes of an entry of the list of tiles of routes.
const ROUTE_TILE: usize = 16;
/// Kernels load and store up to this many bytes at a time.
const VECTOR_BYTES: usize = 16;

/// Where an answer goes, and how it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// Rounded to bf16.
    Bf16(BufferSlice<'a>),
    /// As float32.
    F32(BufferSlice<'a>),
    /// Added to the float32 numbers that are there; by dense products and [`lora_expand`] only.
    Added(BufferSlice<'a>),
}

/// Elements of a head; the kernels know no other.
pub const HEAD_LEN: usize = 64;

/// Heads of the model, and one layer's cache of keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Query heads: a multiple of `num_kv_heads`.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Positions in a block: a power of two.
    pub block_len: usize,
    /// Blocks in the cache.
    pub num_blocks: usize,
}

impl KvShape {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Elements of a row of queries.
    pub fn query_len(&self) -> usize {
        self.num_heads * HEAD_LEN
    }

    /// Elements of a row of queries, keys and values.
    pub fn qkv_len(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * HEAD_LEN
    }

    fn cache(&self) -> [usize; 4] {
        [self.num_blocks, self.num_kv_heads, self.block_len, HEAD_LEN]
    }
}

/// Checks the arguments of one operation.
struct Arguments<'a> {
    device: &'a Device,
    op: &'static str,
}

impl Arguments<'_> {
    fn refuse<T>(&self, field: &'static str, problem: String) -> Result<T> {
        Err(Error::Argument { op: self.op, field, problem })
    }

    /// A count that is at least 1 and fits the kernel's 32 bits.
    fn count(&self, field: &'static str, value: usize) -> Result<u32> {
        match u32::try_from(value) {
            Ok(count) if count > 0 => Ok(count),
            _ => self.refuse(field, format!("is {value}, not from 1 to {}", u32::MAX)),
        }
    }

    /// The address of an answer, and its form as the kernels know it.
    fn output(&self, out: Output<'_>, shape: &[usize]) -> Result<(DevicePtr, u32)> {
        let (out, size, form) = match out {
            Output::Bf16(out) => (out, BF16, 0),
            Output::F32(out) => (out, size_of::<f32>(), 1),
            Output::Added(out) => (out, size_of::<f32>(), 2),
        };
        Ok((self.tensor("out", out, shape, size)?, form))
    }

    /// The address of exactly `shape` elements of `size` bytes, on this device and aligned for wide access.
    fn tensor(
        &self,
        field: &'static str,
        slice: BufferSlice<'_>,
        shape: &[usize],
        size: usize,
    ) -> Result<DevicePtr> {
        let wanted = shape.iter().try_fold(size, |all, &dimension| all.checked_mul(dimension));
        if wanted != Some(slice.len()) {
            let problem = format!("has {} bytes, not {shape:?} of {size} bytes each", slice.len());
            return self.refuse(field, problem);
        }
        if !self.device.is_same(slice.buffer().device()) {
            return self.refuse(field, format!("is not on {}", self.device.name()));
        }
        if !slice.ptr().0.is_multiple_of(VECTOR_BYTES as u64) {
            return self.refuse(field, format!("does not begin at a multiple of {VECTOR_BYTES}"));
        }
        Ok(slice.ptr())
    }
}
