//! What the executor chooses on the host device, against the processor's sampler on the same logits.

use std::sync::Arc;

use harmonium_cuda::Device;
use harmonium_cuda::ops::NO_TOKEN;
use harmonium_engine::{
    Batch, Executor, ExecutorError, Sample, Sampled, SamplingParams, Span, TokenCount, TokenMask,
};

use super::plan::MAX_ADJUSTMENTS;
use crate::{Checkpoint, CudaExecutor, CudaOptions, Source, sampler};

/// Less than the vocabulary of the embedded model, so that its last tokens are never chosen.
const NUM_TOKENS: usize = 4000;

fn executor() -> CudaExecutor {
    let checkpoint = Checkpoint::from_source(&Source::Nano).unwrap();
    let mut options = CudaOptions {
        context_len: Some(16),
        max_rows: 32,
        max_sequences: 32,
        num_tokens: Some(NUM_TOKENS as u32),
        ..CudaOptions::default()
    };
    options.kv_bytes = Some(8 * options.kv_bytes_for_one_context(checkpoint.config()));
    CudaExecutor::new(&Device::host().unwrap(), &checkpoint, &[], &options, &|_| ()).unwrap()
}

/// One sequence of `len` tokens for each wish; the next token of each is wanted.
fn batch(len: usize, params: &[SamplingParams], counts: &[TokenCount], seed: u64) -> Batch {
    let num_rows = params.len() * len;
    let spans = (0..params.len()).map(|index| Span {
        rows: index * len..(index + 1) * len,
        full_blocks: index..index + 1,
        window_blocks: index..index + 1,
        window_first_block: 0,
        adapter: None,
    });
    let samples = params.iter().enumerate().map(|(index, params)| Sample {
        row: (index + 1) * len - 1,
        params: Arc::new(params.clone()),
        seed: seed + index as u64,
        counts: if params.needs_counts() { counts.to_vec() } else { Vec::new() },
        mask: None,
    });
    let blocks: Vec<u32> = (0..params.len() as u32).collect();
    Batch {
        tokens: (0..num_rows as u32).map(|index| index * 7919 % 4000).collect(),
        positions: (0..num_rows).map(|index| (index % len) as u32).collect(),
        spans: spans.collect(),
        full_blocks: blocks.clone(),
        window_blocks: blocks,
        samples: samples.collect(),
    }
}

/// The same choices on the processor, from the same logits.
fn on_the_processor(executor: &mut CudaExecutor, batch: &Batch) -> Vec<Sampled> {
    let rows: Vec<usize> = batch.samples.iter().map(|sample| sample.row).collect();
    let logits = executor.logits(batch, &rows).unwrap();
    let rows = logits.chunks(logits.len() / rows.len()).zip(&batch.samples);
    rows.map(|(logits, sample)| sampler::sample(&logits[..NUM_TOKENS], sample).unwrap()).collect()
}

fn check_same(ours: &[Sampled], reference: &[Sampled]) {
    assert_eq!(ours.len(), reference.len());
    for (row, (ours, reference)) in ours.iter().zip(reference).enumerate() {
        assert_eq!(ours.token, reference.token, "row {row}");
        let (Some(ours), Some(reference)) = (&ours.logprobs, &reference.logprobs) else {
            assert_eq!(ours.logprobs, reference.logprobs, "row {row}");
            continue;
        };
        // A sum of exponentials in float32.
        assert!((ours.chosen - reference.chosen).abs() < 1e-4, "row {row}");
        assert_eq!(ours.top.len(), reference.top.len(), "row {row}");
        for (ours, reference) in ours.top.iter().zip(&reference.top) {
            assert_eq!(ours.0, reference.0, "row {row}");
            assert!((ours.1 - reference.1).abs() < 1e-4, "row {row}");
        }
    }
}

fn tokens(sampled: &[Sampled]) -> Vec<u32> {
    sampled.iter().map(|sampled| sampled.token).collect()
}

/// Choices that leave nothing to chance.
fn certain() -> Vec<SamplingParams> {
    let greedy = SamplingParams::greedy;
    let all = SamplingParams::default;
    let biases: Vec<(u32, f32)> = (0..500).map(|index| (index * 8, 1.5)).collect();
    vec![
        greedy(),
        SamplingParams { logprobs: Some(0), ..greedy() },
        SamplingParams { logit_bias: vec![(3999, 90.0)], logprobs: Some(5), ..greedy() },
        SamplingParams { logit_bias: biases.clone(), presence_penalty: 1.5, ..greedy() },
        SamplingParams {
            repetition_penalty: 1.7,
            frequency_penalty: 0.7,
            logit_bias: biases,
            logprobs: Some(20),
            ..greedy()
        },
        SamplingParams { top_k: 1, repetition_penalty: 1.7, logprobs: Some(3), ..all() },
    ]
}

fn counts() -> Vec<TokenCount> {
    let count = |index: u32| TokenCount {
        token: index * 13,
        in_prompt: index.is_multiple_of(2),
        num_generated: index % 4,
    };
    (0..300).map(count).collect()
}

#[test]
fn certain_choices_and_logprobs_are_those_of_the_processor() {
    let mut executor = executor();
    // Single rows, replayed from a graph of more, and longer sequences.
    for len in [1, 2] {
        let batch = batch(len, &certain(), &counts(), 5);
        let reference = on_the_processor(&mut executor, &batch);
        assert_eq!(reference[2].token, 3999);
        for _ in 0..2 {
            check_same(&executor.run(&batch).unwrap(), &reference);
        }
    }
}

#[test]
fn seeds_fix_draws_and_differ() {
    let mut executor = executor();
    let all = SamplingParams { temperature: 3.0, ..SamplingParams::default() };
    let params = [
        all.clone(),
        SamplingParams { top_k: 50, ..all.clone() },
        SamplingParams { top_p: 0.9, logprobs: Some(2), ..all.clone() },
        SamplingParams { min_p: 0.2, presence_penalty: 0.5, ..all.clone() },
    ];
    let mut run = |params: &[SamplingParams], seed| {
        tokens(&executor.run(&batch(1, params, &counts(), seed)).unwrap())
    };
    let first = run(&params, 1);
    let others = run(&params, 900);
    assert_ne!(first, others);
    // A graph for draws from all tokens comes between two replays of the one that cuts.
    let plain = run(&[all.clone(), all.clone(), all.clone(), all], 1);
    assert_eq!(plain[0], first[0]);
    assert_eq!(run(&params, 1), first);
}

#[test]
fn the_processor_chooses_for_a_row_whose_penalties_do_not_fit() {
    let mut executor = executor();
    let params = SamplingParams { presence_penalty: 0.1, ..SamplingParams::default() };
    let count = |token| TokenCount { token, in_prompt: false, num_generated: 1 };
    let counts: Vec<TokenCount> = (0..NUM_TOKENS as u32).map(count).collect();
    let num_fitting = MAX_ADJUSTMENTS / NUM_TOKENS;
    let batch = batch(1, &vec![params; num_fitting + 1], &counts, 3);
    let reference = on_the_processor(&mut executor, &batch);
    let ours = executor.run(&batch).unwrap();
    assert_eq!(ours[num_fitting].token, reference[num_fitting].token);
    assert_ne!(tokens(&ours), tokens(&reference), "all rows were left to the processor");
}

#[test]
fn masked_choices_are_those_of_the_processor_and_made_on_the_device() {
    let mut executor = executor();
    // Of one token every draw is certain.
    let all = SamplingParams { temperature: 2.0, ..SamplingParams::default() };
    let cut = SamplingParams { top_k: 9, top_p: 0.9, min_p: 0.1, logprobs: Some(2), ..all.clone() };
    for (params, step) in [(vec![all, cut], 4000), (certain(), 2), (certain(), 1)] {
        for len in [1, 2] {
            let mut batch = batch(len, &params, &counts(), 5);
            let unmasked = tokens(&on_the_processor(&mut executor, &batch));
            // Shorter and longer than the vocabulary, without what is chosen else; one row of certain choices has none.
            let masks = [3000, 4096].map(|end| {
                let allowed = (1..end).step_by(step).filter(|token| !unmasked.contains(token));
                Arc::new(allowed.collect::<TokenMask>())
            });
            for (index, sample) in batch.samples.iter_mut().enumerate() {
                sample.mask = (index != 2).then(|| masks[index % 2].clone());
            }
            let reference = on_the_processor(&mut executor, &batch);
            for (index, (ours, unmasked)) in tokens(&reference).iter().zip(&unmasked).enumerate() {
                assert_eq!(ours == unmasked, index == 2, "row {index}");
            }
            check_same(&executor.run(&batch).unwrap(), &reference);
            let chosen = executor.model.tokens(params.len()).unwrap();
            assert!(!chosen.contains(&NO_TOKEN), "rows were left to the processor");
        }
    }
}

#[test]
fn a_mask_that_allows_nothing_is_the_same_error_as_on_the_processor() {
    let mut executor = executor();
    for params in [SamplingParams::greedy(), SamplingParams::default()] {
        let mut batch = batch(1, &[params.clone(), params], &counts(), 5);
        batch.samples[1].mask = Some(Arc::new([NUM_TOKENS as u32].into_iter().collect()));
        let logits = executor.logits(&batch, &[1]).unwrap();
        let expected = sampler::sample(&logits[..NUM_TOKENS], &batch.samples[1]).unwrap_err();
        let error = executor.run(&batch).unwrap_err();
        assert!(matches!(error, ExecutorError::Step(_)), "{error:?}");
        assert_eq!(error.to_string(), expected.to_string());
        batch.samples[1].mask = None;
        executor.run(&batch).unwrap();
    }
}
