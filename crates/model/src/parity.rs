//! The forward pass against transformers, and against itself in other batches.
//!
//! `tests/golden/checkpoints/make.py` makes the checkpoints and their logits, `tests/golden/adapters/make.py` adapters
//! and the logits that PEFT computes with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use harmonium_engine::{AdapterId, Batch, Executor, Logprobs, Sample, SamplingParams, Span};
use safetensors::SafeTensors;

use crate::logits::{LogitsMode, LogitsPlace, adapted_logits, logits, write};
use crate::{Adapter, Checkpoint, CpuExecutor, CpuOptions, Precision};

/// Bound of ‖ours − reference‖ / ‖reference‖. Both sides compute in float32 but add in other orders: that comes to
/// 4e-6 here, past position 4,096 too. A window one position too wide costs 3e-2 or more.
const TOLERANCE: f64 = 1e-4;
/// Likewise where activations have 16 bits: that comes to 3e-4 here.
const INT16_TOLERANCE: f64 = 1e-3;

pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

/// The directory of an adapter.
pub(crate) fn adapter_directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/adapters").join(name)
}

/// Tokens, and the logits of the last of them.
pub(crate) fn golden(name: &str) -> (Vec<u32>, Vec<f32>) {
    golden_in(&directory(name))
}

pub(crate) fn golden_in(directory: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(directory.join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words =
        |name| -> Vec<[u8; 4]> { tensors.tensor(name).unwrap().data().as_chunks().0.to_vec() };
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

/// ‖ours − reference‖ / ‖reference‖.
pub(crate) fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let mut differences = ours.iter().zip(reference).map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(&mut differences) / norm(&mut reference.iter().map(|value| f64::from(*value)))
}

fn check(name: &str, modes: &[LogitsMode]) {
    let checkpoint = Checkpoint::open(&directory(name)).unwrap();
    let (tokens, reference) = golden(name);
    let error = |mode, precision| {
        let ours = logits(&checkpoint, &tokens, mode, LogitsPlace::Cpu(precision)).unwrap();
        assert_eq!(ours.len(), tokens.len() * checkpoint.config().vocab_size as usize);
        relative_error(&ours[ours.len() - reference.len()..], &reference)
    };
    for mode in modes {
        let error = error(*mode, Precision::Float32);
        assert!(error <= TOLERANCE, "{name} {mode:?}: relative error {error:e}");
    }
    // Of one byte: 6e-3 to 9e-3 where magnitudes are a trained model's, up to 9e-2 where they are larger.
    let int8_tolerance = if name.starts_with("group") { 1.5e-2 } else { 1.2e-1 };
    for (precision, tolerance) in
        [(Precision::Int16, INT16_TOLERANCE), (Precision::Int8, int8_tolerance)]
    {
        let error = error(modes[0], precision);
        assert!(error <= tolerance, "{name} {precision:?}: relative error {error:e}");
    }
}

#[test]
fn sharded_checkpoint_matches_transformers() {
    check(
        "sharded",
        &[LogitsMode::All, LogitsMode::Chunk(7), LogitsMode::Chunk(1), LogitsMode::DecodeLast(25)],
    );
}

#[test]
fn wide_heads_four_experts_and_truncated_yarn_match_transformers() {
    check("head64", &[LogitsMode::All, LogitsMode::Chunk(16), LogitsMode::DecodeLast(50)]);
}

#[test]
fn a_window_of_128_matches_transformers() {
    check("window128", &[LogitsMode::All, LogitsMode::Chunk(33), LogitsMode::DecodeLast(180)]);
}

#[test]
fn positions_past_4096_match_transformers() {
    check("long", &[LogitsMode::All, LogitsMode::Chunk(512), LogitsMode::DecodeLast(110)]);
}

/// Bound of the same error with an adapter. PEFT adds `B A` to an expert's weights and multiplies then, we multiply by A
/// and then by B: that comes to 7e-6 at most here. Either matrix of only one layer's experts, read in the wrong order,
/// costs 3e-1 or more.
const ADAPTER_TOLERANCE: f64 = 1e-4;

/// Each adapter and its base.
const ADAPTERS: [(&str, &str); 5] = [
    ("sharded", "all"),
    ("sharded", "mixed"),
    ("sharded", "some"),
    ("group2", "wide"),
    ("group2", "narrow"),
];

#[test]
fn adapters_match_peft_in_all_modes() {
    for (base, name) in ADAPTERS {
        let checkpoint = Checkpoint::open(&directory(base)).unwrap();
        let (tokens, reference) = golden_in(&adapter_directory(name));
        let modes = [LogitsMode::All, LogitsMode::Chunk(7), LogitsMode::DecodeLast(25)];
        let logits = modes.map(|mode| {
            let adapter = Adapter::open(&adapter_directory(name), checkpoint.config()).unwrap();
            let place = LogitsPlace::Cpu(Precision::Float32);
            adapted_logits(&checkpoint, adapter, &tokens, mode, place).unwrap()
        });
        let error = relative_error(&logits[0][logits[0].len() - reference.len()..], &reference);
        assert!(error <= ADAPTER_TOLERANCE, "{name}: relative error {error:e}");
        assert!(logits[1..].iter().all(|other| *other == logits[0]), "{name}: modes differ");
    }
}

#[test]
fn eight_queries_a_key_and_32_experts_match_transformers() {
    check("group8", &[LogitsMode::All, LogitsMode::Chunk(16), LogitsMode::DecodeLast(60)]);
}

#[test]
fn one_query_a_key_and_all_experts_match_transformers() {
    check("group1", &[LogitsMode::All, LogitsMode::Chunk(33), LogitsMode::DecodeLast(72)]);
}

#[test]
fn two_queries_a_key_and_a_window_of_4_match_transformers() {
    check("group2", &[LogitsMode::All, LogitsMode::Chunk(7), LogitsMode::DecodeLast(90)]);
}

#[test]
fn both_layouts_give_the_same_bits() {
    let (tokens, _) = golden("sharded");
    let run = |name| {
        let checkpoint = Checkpoint::open(&directory(name)).unwrap();
        logits(&checkpoint, &tokens, LogitsMode::All, LogitsPlace::Cpu(Precision::Float32)).unwrap()
    };
    assert!(run("sharded") == run("original"));
}

#[test]
fn modes_give_the_same_bits() {
    let (tokens, _) = golden("sharded");
    let checkpoint = Checkpoint::open(&directory("sharded")).unwrap();
    let all = logits(&checkpoint, &tokens, LogitsMode::All, LogitsPlace::Cpu(Precision::Float32))
        .unwrap();
    for mode in [LogitsMode::Chunk(3), LogitsMode::DecodeLast(39), LogitsMode::DecodeLast(1000)] {
        assert!(
            logits(&checkpoint, &tokens, mode, LogitsPlace::Cpu(Precision::Float32)).unwrap()
                == all,
            "{mode:?}"
        );
    }
}

#[test]
fn written_logits_read_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2).unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    assert_eq!((logits.shape(), &logits.data()[20..]), (&[3, 2][..], &6f32.to_le_bytes()[..]));
    assert!(write(file.path(), &[1.0; 3], 2).is_err());
}

#[test]
fn tokens_that_cannot_be_run_are_errors() {
    let checkpoint = Checkpoint::open(&directory("sharded")).unwrap();
    let fails = |tokens: &[u32], mode| {
        logits(&checkpoint, tokens, mode, LogitsPlace::Cpu(Precision::Float32)).is_err()
    };
    assert!(fails(&[], LogitsMode::All));
    assert!(fails(&[256], LogitsMode::All));
    assert!(fails(&[1], LogitsMode::Chunk(0)));
    assert!(fails(&[1; 8193], LogitsMode::All));
}

const BLOCK_SIZE: u32 = 16;
/// Blocks that each test sequence owns in both pools.
const BLOCKS_EACH: u32 = 4;

fn executor() -> CpuExecutor {
    let checkpoint = Checkpoint::open(&directory("sharded")).unwrap();
    let options = CpuOptions {
        context_len: Some(64),
        max_sequences: 8,
        block_size: BLOCK_SIZE,
        num_tokens: Some(250),
        ..CpuOptions::default()
    };
    let adapter = |name| Adapter::open(&adapter_directory(name), checkpoint.config()).unwrap();
    CpuExecutor::new(&checkpoint, &options)
        .unwrap()
        .with_adapters(vec![adapter("all"), adapter("mixed")])
}

/// A sequence that runs its prompt in one chunk, then one token a step.
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) len_done: usize,
    pub(crate) owner: u32,
    pub(crate) adapter: Option<AdapterId>,
    /// What each choice reported; any difference in a logit shows here.
    logprobs: Vec<Option<Logprobs>>,
}

/// One step over what all sequences have not done yet; each one's greedy token is wanted.
pub(crate) fn batch(sequences: &[&mut Sequence]) -> Batch {
    let mut batch = Batch::default();
    for sequence in sequences.iter() {
        let first_row = batch.tokens.len();
        batch.tokens.extend(&sequence.tokens[sequence.len_done..]);
        batch.positions.extend(sequence.len_done as u32..sequence.tokens.len() as u32);
        let first_block = batch.full_blocks.len();
        let blocks = (0..BLOCKS_EACH).map(|block| sequence.owner * BLOCKS_EACH + block);
        batch.full_blocks.extend(blocks.clone());
        batch.window_blocks.extend(blocks.rev());
        let blocks = first_block..batch.full_blocks.len();
        batch.spans.push(Span {
            rows: first_row..batch.tokens.len(),
            full_blocks: blocks.clone(),
            window_blocks: blocks,
            window_first_block: 0,
            adapter: sequence.adapter,
        });
        batch.samples.push(Sample {
            row: batch.tokens.len() - 1,
            params: Arc::new(SamplingParams { logprobs: Some(3), ..SamplingParams::greedy() }),
            seed: 0,
            counts: Vec::new(),
            mask: None,
        });
    }
    batch
}

/// Runs one step over all sequences; appends each one's greedy token.
fn step(executor: &mut CpuExecutor, sequences: &mut [&mut Sequence]) {
    let sampled = executor.run(&batch(sequences)).unwrap();
    for (sequence, sampled) in sequences.iter_mut().zip(sampled) {
        sequence.len_done = sequence.tokens.len();
        sequence.tokens.push(sampled.token);
        sequence.logprobs.push(sampled.logprobs);
    }
}

pub(crate) fn sequence(owner: u32, len: usize) -> Sequence {
    let tokens = (0..len as u32).map(|index| (index * 37 + owner * 11) % 250).collect();
    Sequence { tokens, len_done: 0, owner, adapter: None, logprobs: Vec::new() }
}

#[test]
fn greedy_answers_are_the_same_alone_and_in_a_mixed_batch() {
    let mut alone = sequence(0, 20);
    let mut executor_alone = executor();
    for _ in 0..12 {
        step(&mut executor_alone, &mut [&mut alone]);
    }
    let mut crowd: Vec<Sequence> =
        [20, 3, 31, 1, 9, 17].into_iter().enumerate().map(|(i, n)| sequence(i as u32, n)).collect();
    // Others join and leave on the way, before it and after it in the batch.
    let mut shared = executor();
    for index in 0..12 {
        let (head, tail) = crowd.split_at_mut(1);
        let mut batch: Vec<&mut Sequence> = tail[..index % 6].iter_mut().collect();
        batch.insert(index % (batch.len() + 1), &mut head[0]);
        step(&mut shared, &mut batch);
    }
    assert_eq!(crowd[0].tokens, alone.tokens);
    assert_eq!(crowd[0].logprobs, alone.logprobs);
}

#[test]
fn rows_of_the_base_and_of_two_adapters_get_in_one_batch_the_bits_they_get_alone() {
    let adapters = [None, Some(AdapterId(0)), Some(AdapterId(1)), None, Some(AdapterId(0))];
    let sequences = || -> Vec<Sequence> {
        let lens = [20, 20, 20, 3, 31];
        // The first three have the same tokens.
        let sequences = lens.into_iter().enumerate().map(|(owner, len)| {
            let tokens = sequence(owner.saturating_sub(2) as u32, len).tokens;
            Sequence { tokens, adapter: adapters[owner], ..sequence(owner as u32, len) }
        });
        sequences.collect()
    };
    let mut alone = sequences();
    for sequence in &mut alone {
        let mut executor = executor();
        (0..8).for_each(|_| step(&mut executor, &mut [sequence]));
    }
    let mut together = sequences();
    let mut shared = executor();
    for _ in 0..8 {
        step(&mut shared, &mut together.iter_mut().collect::<Vec<_>>());
    }
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(together.tokens, alone.tokens);
        assert_eq!(together.logprobs, alone.logprobs);
    }
    let answers = [0, 1, 2].map(|index| &alone[index].logprobs);
    assert!(answers[0] != answers[1] && answers[1] != answers[2] && answers[0] != answers[2]);
}

#[test]
fn padding_of_the_vocabulary_is_never_chosen() {
    let mut executor = executor();
    let mut last = sequence(0, 5);
    let params = SamplingParams { temperature: 50.0, ..SamplingParams::default() };
    for seed in 0..100 {
        let batch = Batch {
            tokens: last.tokens[..1].to_vec(),
            positions: vec![0],
            spans: vec![Span {
                rows: 0..1,
                full_blocks: 0..1,
                window_blocks: 0..1,
                window_first_block: 0,
                adapter: None,
            }],
            full_blocks: vec![0],
            window_blocks: vec![0],
            samples: vec![Sample {
                row: 0,
                params: Arc::new(params.clone()),
                seed,
                counts: Vec::new(),
                mask: None,
            }],
        };
        last.tokens[0] = executor.run(&batch).unwrap()[0].token;
        assert!(last.tokens[0] < 250);
    }
}
