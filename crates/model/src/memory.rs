//! How many blocks of keys and values fit into the memory given, and what they allow.

use harmonium_engine::ExecutorSpec;

use crate::config::{Config, LayerKind};
use crate::error::{Error, Result};
use crate::simd::MAX_BLOCK_SIZE;

/// What an executor may take for keys and values, and how they are stored.
#[derive(Debug, Clone)]
pub(crate) struct KvLimits {
    /// Longest sequence in tokens; `None` takes the model's own bound, or what `kv_bytes` holds if that is less.
    pub(crate) context_len: Option<u32>,
    /// Memory for keys and values, in bytes.
    pub(crate) kv_bytes: u64,
    /// Most rows of one step.
    pub(crate) max_rows: u32,
    /// Most sequences of one step.
    pub(crate) max_sequences: u32,
    /// Positions in one block.
    pub(crate) block_size: u32,
    /// Bytes of one stored number.
    pub(crate) element_bytes: u64,
    /// For how many full blocks a window block is kept beyond the working set: a cached prefix is of use only with the
    /// window blocks at its end.
    pub(crate) full_blocks_per_spare: u64,
}

/// Divides `kv_bytes` between the two groups and fixes the executor's bounds.
pub(crate) fn plan(config: &Config, options: &KvLimits) -> Result<ExecutorSpec> {
    check(config, options)?;
    let block_size = u64::from(options.block_size);
    let [full_bytes, window_bytes] = group_bytes(config, options);
    let least = window_blocks(config, options, 1);
    let working_set = window_blocks(config, options, options.max_sequences);
    let half = options.kv_bytes / 2 / window_bytes;
    let num_window_blocks = working_set.min(half).max(least);

    let rest = options.kv_bytes.saturating_sub(num_window_blocks * window_bytes);
    let full_and_spare = with_spare([full_bytes, window_bytes], options);
    let wanted_len = options.context_len.unwrap_or(config.context_len);
    let all_sequences =
        u64::from(wanted_len).div_ceil(block_size) * u64::from(options.max_sequences);
    let num_full_blocks = (rest / full_and_spare).min(all_sequences).min(u64::from(u32::MAX) / 2);
    let num_window_blocks = num_window_blocks + num_full_blocks / options.full_blocks_per_spare;

    let positions = num_full_blocks * block_size;
    let context_len = u64::from(wanted_len).min(positions);
    if positions == 0 || (options.context_len.is_some() && context_len < u64::from(wanted_len)) {
        let needed = num_window_blocks * window_bytes
            + u64::from(wanted_len).div_ceil(block_size) * full_and_spare;
        let message = format!(
            "{} bytes hold {positions} positions; a context of {wanted_len} needs about {needed}",
            options.kv_bytes
        );
        return Err(Error::Option { option: "kv_bytes", message });
    }
    let narrow = |number: u64| u32::try_from(number).expect("bounded by u32::MAX / 2 full blocks");
    Ok(ExecutorSpec {
        vocab_size: config.vocab_size,
        context_len: narrow(context_len),
        window: config.window,
        block_size: options.block_size,
        num_full_blocks: narrow(num_full_blocks),
        num_window_blocks: narrow(num_window_blocks),
        max_rows: options.max_rows,
        max_sequences: options.max_sequences,
        num_adapters: 0,
    })
}

/// The least memory in which one sequence of `context_len` fits beside the windows of all others.
pub(crate) fn bytes_for_one_context(config: &Config, options: &KvLimits) -> u64 {
    let group_bytes = group_bytes(config, options);
    let context_len = options.context_len.unwrap_or(config.context_len);
    let num_full_blocks = u64::from(context_len).div_ceil(options.block_size.max(1).into());
    let num_window_blocks = window_blocks(config, options, options.max_sequences);
    num_full_blocks * with_spare(group_bytes, options) + num_window_blocks * group_bytes[1]
}

/// Bytes of one block in the full and in the window group: a key and a value. A group without layers
/// still counts blocks, so they cost one byte.
fn group_bytes(config: &Config, options: &KvLimits) -> [u64; 2] {
    [LayerKind::Full, LayerKind::Window].map(|kind| {
        let num_layers = config.layers.iter().filter(|layer| **layer == kind).count() as u64;
        let positions = num_layers * u64::from(options.block_size);
        (positions * config.kv_size() as u64 * 2 * options.element_bytes).max(1)
    })
}

/// Window blocks that so many sequences need at once. One with n rows in a step sees `window - 1 + n` positions,
/// which touch one block more than they fill.
fn window_blocks(config: &Config, options: &KvLimits, num_sequences: u32) -> u64 {
    let block_size = u64::from(options.block_size.max(1));
    let (window, sequences) = (u64::from(config.window), u64::from(num_sequences));
    let rows = u64::from(options.max_rows).max(sequences);
    sequences * ((window - 1) / block_size + 2) + rows.div_ceil(block_size)
}

/// Bytes of one full block and its share of a spare window block.
fn with_spare([full_bytes, window_bytes]: [u64; 2], options: &KvLimits) -> u64 {
    full_bytes + window_bytes / options.full_blocks_per_spare
}

/// Options that no amount of memory can meet.
fn check(config: &Config, options: &KvLimits) -> Result<()> {
    let within = |option, value: u64, max: u64| match value {
        0 => Err(Error::Option { option, message: "0 is not at least 1".to_owned() }),
        _ if value > max => {
            Err(Error::Option { option, message: format!("{value} is over {max}") })
        }
        _ => Ok(()),
    };
    within("block_size", options.block_size.into(), MAX_BLOCK_SIZE as u64)?;
    within("max_rows", options.max_rows.into(), 1 << 24)?;
    within("max_sequences", options.max_sequences.into(), 1 << 16)?;
    within("kv_bytes", options.kv_bytes, 1 << 46)?;
    let context_len = options.context_len.unwrap_or(config.context_len);
    within("context_len", context_len.into(), config.context_len.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of gpt-oss-20b: a block of 16 positions takes 786,432 bytes in either group.
    fn config() -> Config {
        let text = serde_json::json!({
            "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4,
            "vocab_size": 201_088, "hidden_size": 2880, "intermediate_size": 2880,
            "num_attention_heads": 64, "num_key_value_heads": 8,
            "rope_theta": 150_000, "rope_scaling_factor": 32.0
        });
        Config::parse(text.to_string().as_bytes(), std::path::Path::new("config.json")).unwrap()
    }

    fn limits() -> KvLimits {
        KvLimits {
            context_len: None,
            kv_bytes: 1 << 30,
            max_rows: 512,
            max_sequences: 64,
            block_size: 16,
            element_bytes: 4,
            full_blocks_per_spare: 4,
        }
    }

    fn bytes(spec: &ExecutorSpec) -> u64 {
        u64::from(spec.num_full_blocks + spec.num_window_blocks) * 786_432
    }

    #[test]
    fn blocks_stay_within_the_memory_given() {
        for kv_bytes in [1 << 28, 1 << 30, 10_u64 << 30] {
            let options = KvLimits { kv_bytes, ..limits() };
            let spec = plan(&config(), &options).unwrap();
            assert!(bytes(&spec) <= kv_bytes && bytes(&spec) > kv_bytes / 10 * 9, "{spec:?}");
            assert!(u64::from(spec.context_len) <= u64::from(spec.num_full_blocks) * 16);
        }
    }

    #[test]
    fn a_context_that_does_not_fit_is_refused_with_both_numbers() {
        let options = KvLimits { context_len: Some(131_072), ..limits() };
        let message = plan(&config(), &options).err().unwrap().to_string();
        assert!(
            message.contains("kv_bytes: 1073741824") && message.contains("131072"),
            "{message}"
        );
    }

    #[test]
    fn memory_for_one_context_holds_just_that() {
        for (context_len, max_sequences) in [(131_072, 64), (4096, 64), (160, 2)] {
            let mut options =
                KvLimits { context_len: Some(context_len), max_sequences, ..limits() };
            options.kv_bytes = bytes_for_one_context(&config(), &options);
            assert_eq!(plan(&config(), &options).unwrap().context_len, context_len);
            let slack = options.kv_bytes - bytes(&plan(&config(), &options).unwrap());
            assert!(slack < options.kv_bytes / 50, "{slack} of {}", options.kv_bytes);
        }
    }

    #[test]
    fn few_sequences_take_no_more_blocks_than_they_can_fill() {
        let options =
            KvLimits { context_len: Some(160), max_sequences: 2, kv_bytes: 40 << 30, ..limits() };
        assert_eq!(plan(&config(), &options).unwrap().num_full_blocks, 20);
    }

    #[test]
    fn options_out_of_bounds_are_refused_by_name() {
        let refused = |options: KvLimits, name: &str| {
            let message = plan(&config(), &options).err().unwrap().to_string();
            assert!(message.starts_with(name), "{message}");
        };
        refused(KvLimits { block_size: 0, ..limits() }, "block_size");
        refused(KvLimits { block_size: 65, ..limits() }, "block_size");
        refused(KvLimits { max_rows: 0, ..limits() }, "max_rows");
        refused(KvLimits { max_sequences: 0, ..limits() }, "max_sequences");
        refused(KvLimits { context_len: Some(131_073), ..limits() }, "context_len");
        refused(KvLimits { kv_bytes: 1000, ..limits() }, "kv_bytes");
    }
}
