//! One row of logits to one token.
//!
//! Order: penalties, `logit_bias`, the mask of allowed tokens, then greedy choice, or temperature, `top_k`, `top_p` and `min_p` with candle's
//! sampler. It starts afresh from [`Sample::seed`] each time, so a choice depends on nothing but its row.
//! What a device chooses is held against this, and rows that it leaves out come here.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use harmonium_engine::{ExecutorError, Logprobs, Sample, Sampled, SamplingParams, TokenId};

/// Temperatures below this mean greedy: dividing by them would only overflow.
const MIN_TEMPERATURE: f32 = 1e-5;

/// Chooses the token that follows one row.
pub(crate) fn sample(logits: &[f32], sample: &Sample) -> Result<Sampled, ExecutorError> {
    let params = &*sample.params;
    check(logits)?;
    let mut adjusted = logits.to_vec();
    penalize(&mut adjusted, sample);
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = adjusted.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if let Some(mask) = &sample.mask {
        let disallowed = adjusted.iter_mut().zip(0..).filter(|(_, token)| !mask.allows(*token));
        disallowed.for_each(|(logit, _)| *logit = f32::NEG_INFINITY);
    }
    check(&adjusted)?;
    let token = if is_greedy(params) {
        greedy(&adjusted)
    } else {
        draw(adjusted, params, sample.seed).map_err(|e| ExecutorError::Step(e.to_string()))?
    };
    let logprobs = params.logprobs.map(|num_top| logprobs(logits, token, num_top.into()));
    Ok(Sampled { token, logprobs })
}

/// Whether a request takes the greatest logit.
pub(crate) fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature < MIN_TEMPERATURE
}

/// A row must offer a best token: numbers only, and one of them finite at the top.
fn check(logits: &[f32]) -> Result<(), ExecutorError> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(ExecutorError::Step("the logits hold a NaN".to_owned()));
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match max.is_finite() {
        true => Ok(()),
        false => Err(ExecutorError::Step(format!("the greatest logit is {max}"))),
    }
}

fn penalize(logits: &mut [f32], sample: &Sample) {
    let params = &sample.params;
    for count in &sample.counts {
        let Some(logit) = logits.get_mut(count.token as usize) else { continue };
        if count.in_prompt || count.num_generated > 0 {
            let penalty = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if count.num_generated > 0 {
            *logit -= params.frequency_penalty * count.num_generated as f32;
            *logit -= params.presence_penalty;
        }
    }
}

/// The greatest logit, lowest id on a tie.
fn greedy(logits: &[f32]) -> TokenId {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as TokenId
}

fn draw(logits: Vec<f32>, params: &SamplingParams, seed: u64) -> candle_core::Result<TokenId> {
    let temperature = f64::from(params.temperature);
    let (k, p) = (params.top_k as usize, f64::from(params.top_p));
    let sampling = match (k > 0 && k < logits.len(), p < 1.0) {
        (false, false) => Sampling::All { temperature },
        (true, false) => Sampling::TopK { k, temperature },
        (false, true) => Sampling::TopP { p, temperature },
        (true, true) => Sampling::TopKThenTopP { k, p, temperature },
    };
    let logits = Tensor::new(logits, &Device::Cpu)?;
    // All three truncations keep a head of the same descending order, and none renormalizes before the next, so
    // taking `min_p` first keeps the same tokens as taking it last.
    let keep_min_p = |probabilities: &mut [f32]| {
        let max = probabilities.iter().copied().fold(0.0, f32::max);
        for probability in probabilities {
            if *probability < params.min_p * max {
                *probability = 0.0;
            }
        }
    };
    LogitsProcessor::from_sampling(seed, sampling).sample_f(&logits, keep_min_p)
}

/// Log-softmax of the raw logits at the chosen token and at the best ones.
fn logprobs(logits: &[f32], chosen: TokenId, num_top: usize) -> Logprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let logprob = |logit: f32| (f64::from(logit - max) - sum.ln()) as f32;
    let better = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if num_top < order.len() {
        order.select_nth_unstable_by(num_top, better);
        order.truncate(num_top);
    }
    order.sort_unstable_by(better);
    let top = order.into_iter().map(|token| (token as TokenId, logprob(logits[token]))).collect();
    Logprobs { chosen: logprob(logits[chosen as usize]), top }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use harmonium_engine::TokenCount;

    use super::*;

    fn wish(params: SamplingParams, seed: u64) -> Sample {
        Sample { row: 0, params: Arc::new(params), seed, counts: Vec::new(), mask: None }
    }

    /// Tokens chosen over many seeds, without repetition, in order.
    fn drawn(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
        let mut tokens: Vec<u32> = (0..400)
            .map(|seed| sample(logits, &wish(params.clone(), seed)).unwrap().token)
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.5, 3.0, -1.0];

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(sample(&LOGITS, &wish(SamplingParams::greedy(), 9)).unwrap().token, 1);
    }

    #[test]
    fn a_seed_fixes_the_choice_and_seeds_differ() {
        let params = SamplingParams::default();
        let token = |seed| sample(&LOGITS, &wish(params.clone(), seed)).unwrap().token;
        assert!((0..50).all(|seed| token(seed) == token(seed)));
        assert!(drawn(&LOGITS, &params).len() > 3);
    }

    #[test]
    fn each_truncation_keeps_the_head_of_the_distribution() {
        let all = SamplingParams::default();
        let top_k = SamplingParams { top_k: 2, ..all.clone() };
        let top_p = SamplingParams { top_p: 0.5, ..all.clone() };
        let both = SamplingParams { top_k: 3, top_p: 0.5, ..all.clone() };
        let min_p = SamplingParams { min_p: 0.5, ..all.clone() };
        assert_eq!(drawn(&LOGITS, &top_k), [1, 3]);
        assert_eq!(drawn(&LOGITS, &top_p), [1, 3]);
        assert_eq!(drawn(&LOGITS, &both), [1, 3]);
        assert_eq!(drawn(&LOGITS, &min_p), [1, 2, 3]);
        assert_eq!(drawn(&LOGITS, &SamplingParams { top_k: 99, min_p: 1.0, ..all }), [1, 3]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 3f32.ln()];
        let params = SamplingParams::default();
        let ones = (0..2000)
            .filter(|seed| sample(&logits, &wish(params.clone(), *seed)).unwrap().token == 1);
        let share = ones.count() as f32 / 2000.0;
        assert!((share - 0.75).abs() < 0.05, "{share}");
    }

    #[test]
    fn penalties_and_bias_move_the_choice() {
        let counted = |params: SamplingParams, counts: &[(u32, bool, u32)]| {
            let mut wish = wish(SamplingParams { temperature: 0.0, ..params }, 0);
            let count = |&(token, in_prompt, num_generated): &(u32, bool, u32)| TokenCount {
                token,
                in_prompt,
                num_generated,
            };
            wish.counts = counts.iter().map(count).collect();
            sample(&LOGITS, &wish).unwrap().token
        };
        let base = SamplingParams::default;
        let presence = SamplingParams { presence_penalty: 0.1, ..base() };
        assert_eq!(counted(presence.clone(), &[(1, false, 1)]), 3);
        assert_eq!(counted(presence, &[(1, true, 0)]), 1);
        let frequency = SamplingParams { frequency_penalty: 0.2, ..base() };
        assert_eq!(counted(frequency, &[(1, false, 3), (3, false, 1)]), 3);
        let repetition = SamplingParams { repetition_penalty: 2.0, ..base() };
        assert_eq!(counted(repetition, &[(1, true, 0), (3, true, 0)]), 2);
        let bias = SamplingParams { logit_bias: vec![(4, 100.0), (77, 100.0)], ..base() };
        assert_eq!(counted(bias, &[]), 4);
    }

    #[test]
    fn a_mask_leaves_only_what_it_allows() {
        for params in [SamplingParams::greedy(), SamplingParams::default()] {
            let masked = |tokens: &[u32], seed| {
                let mask = Some(Arc::new(tokens.iter().copied().collect()));
                sample(&LOGITS, &Sample { mask, ..wish(params.clone(), seed) })
            };
            assert!((0..50).all(|seed| [0, 4].contains(&masked(&[0, 4], seed).unwrap().token)));
            assert_eq!(masked(&[4], 0).unwrap().token, 4);
            assert!(matches!(masked(&[99], 0), Err(ExecutorError::Step(_))));
        }
    }

    #[test]
    fn logprobs_are_of_the_raw_distribution() {
        let params = SamplingParams {
            logprobs: Some(2),
            temperature: 0.0,
            logit_bias: vec![(0, 50.0)],
            ..SamplingParams::default()
        };
        let sampled = sample(&[0.0, 3f32.ln()], &wish(params, 0)).unwrap();
        let logprobs = sampled.logprobs.unwrap();
        assert_eq!(sampled.token, 0);
        assert!((logprobs.chosen - 0.25f32.ln()).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 0]);
        assert!((logprobs.top[0].1 - 0.75f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn rows_without_a_best_token_are_errors() {
        let bad = [[f32::NAN, 0.0], [f32::NEG_INFINITY; 2], [f32::INFINITY, 0.0]];
        for (logits, temperature) in bad.iter().flat_map(|row| [(row, 0.0), (row, 1.0)]) {
            let params = SamplingParams { temperature, ..SamplingParams::default() };
            let result = sample(logits, &wish(params, 0));
            assert!(matches!(result, Err(ExecutorError::Step(_))), "{logits:?}");
        }
    }
}
