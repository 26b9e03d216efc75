//! How many bytes a step must read: what bounds decoding on every machine.

use std::ops::Range;

use crate::config::{Config, LayerKind};
use crate::dense::Dense;
use crate::mxfp4::{BLOCK, BLOCK_BYTES};
use crate::simd::Simd;

/// Bytes of a number in memory, where executors differ.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Of a stored key's or value's.
    pub kv: f64,
    /// Of a weight of the dense products.
    pub dense: f64,
}

impl Widths {
    /// On a device: bf16 both.
    pub const DEVICE: Self = Self { kv: 2.0, dense: 2.0 };

    /// On this processor.
    pub fn processor() -> Self {
        Self { kv: 4.0, dense: Dense::weight_bytes(Simd::detect()) }
    }
}

/// Bytes that one decode step reads at least: every weight in use once, and the keys and values that each sequence sees.
/// Tokens go to experts evenly and independently, so of few tokens each wakes experts of its own, and many share them.
pub fn decode_bytes(config: &Config, num_sequences: u32, context_len: u32, widths: Widths) -> f64 {
    let ops = decode_ops(config, num_sequences, context_len, widths);
    ops.iter().map(|(_, bytes)| bytes).sum()
}

/// The same by operation, all layers together, in the order of a step. What only moves activations reads nothing that
/// counts.
pub fn decode_ops(
    config: &Config,
    num_sequences: u32,
    context_len: u32,
    widths: Widths,
) -> [(&'static str, f64); 10] {
    let wide = |number: u32| f64::from(number);
    let (hidden, inner) = (wide(config.hidden_size), wide(config.intermediate_size));
    let (query, kv) = (config.query_size() as f64, config.kv_size() as f64);
    let (experts, sequences) = (wide(config.num_experts), wide(num_sequences));
    let (layers, qkv) = (config.layers.len() as f64, query + 2.0 * kv);
    let bf16 = |numbers: f64| numbers * 2.0;
    let mxfp4 = |outputs: f64, inputs: f64| {
        outputs * inputs / BLOCK as f64 * (BLOCK_BYTES as f64 + 1.0) + bf16(outputs)
    };
    let asleep = (1.0 - wide(config.experts_per_token) / experts).powf(sequences);
    let awake = layers * experts * (1.0 - asleep);
    let positions: f64 = config
        .layers
        .iter()
        .map(|kind| match kind {
            LayerKind::Full => wide(context_len),
            LayerKind::Window => wide(context_len.min(config.window)),
        })
        .sum();
    let cached = sequences * positions * kv * 2.0 * widths.kv;
    [
        ("embedding", bf16(hidden * sequences)),
        ("norm", bf16((2.0 * layers + 1.0) * hidden)),
        ("qkv", layers * (qkv * hidden * widths.dense + bf16(qkv))),
        ("attention", bf16(layers * wide(config.num_heads)) + cached),
        ("attention output", layers * (hidden * query * widths.dense + bf16(hidden))),
        ("router", layers * (experts * hidden * widths.dense + bf16(experts))),
        ("experts up", awake * mxfp4(2.0 * inner, hidden)),
        ("experts down", awake * mxfp4(hidden, inner)),
        ("logits", wide(config.vocab_size) * hidden * widths.dense),
        ("sample", 0.0),
    ]
}

/// Floating-point operations of a step of one sequence's prompt, by operation, all layers together: two for each weight
/// and row, four for each element of a key that a query sees. What is small beside these counts nothing.
pub fn prefill_flops(
    config: &Config,
    positions: Range<u32>,
    num_logits: usize,
) -> [(&'static str, f64); 7] {
    let wide = |number: u32| f64::from(number);
    let (rows, layers) = (positions.len() as f64, config.layers.len() as f64);
    let (hidden, inner) = (wide(config.hidden_size), wide(config.intermediate_size));
    let (query, kv) = (config.query_size() as f64, config.kv_size() as f64);
    // A row at position p sees p + 1 positions, through a window the last ones.
    let seen = |window: u32| positions.clone().map(|p| wide((p + 1).min(window))).sum::<f64>();
    let [full, window] = [seen(u32::MAX), seen(config.window)];
    let seen = config.layers.iter().map(|kind| match kind {
        LayerKind::Full => full,
        LayerKind::Window => window,
    });
    let product = |inputs: f64, outputs: f64| 2.0 * rows * layers * inputs * outputs;
    let chosen = wide(config.experts_per_token);
    [
        ("qkv", product(hidden, query + 2.0 * kv)),
        ("attention", 4.0 * query * seen.sum::<f64>()),
        ("attention output", product(query, hidden)),
        ("router", product(hidden, wide(config.num_experts))),
        ("experts up", product(hidden, 2.0 * inner) * chosen),
        ("experts down", product(inner, hidden) * chosen),
        ("logits", 2.0 * num_logits as f64 * hidden * wide(config.vocab_size)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::Shape;

    #[test]
    fn a_prompt_costs_two_operations_a_weight_and_row() {
        let config = Shape::GPT_OSS_120B.to_config().unwrap();
        let flops = |positions, num| {
            prefill_flops(&config, positions, num).map(|(_, flops)| flops.round() as u64)
        };
        let [qkv, attention, output, router, up, down, logits] = flops(1000..1002, 1);
        let layers = 36;
        assert_eq!(qkv, 2 * 2 * layers * 2880 * 5120);
        assert_eq!(output, 2 * 2 * layers * 4096 * 2880);
        assert_eq!(router, 2 * 2 * layers * 2880 * 128);
        assert_eq!(up, 2 * 2 * layers * 4 * 2880 * 5760);
        assert_eq!(down, 2 * 2 * layers * 4 * 2880 * 2880);
        assert_eq!(logits, 2 * 2880 * 201_088);
        assert_eq!(attention, 4 * 4096 * 18 * (1001 + 1002 + 2 * 128));
    }

    #[test]
    fn one_token_reads_what_the_published_shapes_make_it_read() {
        let bytes = |shape: Shape, num, context| {
            decode_bytes(&shape.to_config().unwrap(), num, context, Widths::DEVICE).round() as u64
        };
        // Sums over the tensors of both shapes: four experts a layer, everything else once.
        assert_eq!(bytes(Shape::GPT_OSS_120B, 1, 0), 5_002_907_904);
        assert_eq!(bytes(Shape::GPT_OSS_20B, 1, 0), 3_708_089_088);
        // Twelve bits in place of sixteen, and the power that 64 or 128 weights share.
        let smaller = Widths { dense: 1.5 + 1.0 / 64.0, ..Widths::DEVICE };
        let smaller = decode_bytes(&Shape::GPT_OSS_20B.to_config().unwrap(), 1, 0, smaller).round();
        let num_dense = 24 * 2880 * (5120 + 4096 + 32) + 201_088 * 2880_u64;
        assert_eq!(smaller as u64, 3_708_089_088 - num_dense * 2 + num_dense / 64 * 97);
        // A token's key and value are 2,048 bytes a layer; half of the 36 layers see all of them, half 128.
        let context = bytes(Shape::GPT_OSS_120B, 1, 1000) - bytes(Shape::GPT_OSS_120B, 1, 0);
        assert_eq!(context, 18 * 2048 * 1128);
        // Many tokens wake every expert.
        assert!(bytes(Shape::GPT_OSS_20B, 500, 0) > 13_761_264_768 - 1_158_266_880);
    }
}
