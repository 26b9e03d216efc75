//! What a batch wishes for its sampled rows, as the device takes it.

use std::collections::HashMap;
use std::sync::Arc;

use harmonium_cuda::ops::{Adjustment, MAX_ALTERNATIVES, Wish, mask_words};
use harmonium_engine::{MAX_TOP_LOGPROBS, Sample, TokenMask};

use crate::sampler;

const _: () = assert!(MAX_TOP_LOGPROBS as usize <= MAX_ALTERNATIVES);

/// One wish for each sampled row, and the adjustments and masks that they name.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) rows: Vec<Wish>,
    pub(super) adjustments: Vec<Adjustment>,
    /// Each of the words that its vocabulary needs.
    pub(super) masks: Vec<u32>,
    /// Whether a row keeps less than all tokens.
    pub(super) truncates: bool,
}

impl Wishes {
    /// Rows in order. One whose adjustments do not fit the `room` that is left wishes nothing of the device.
    pub(super) fn new(samples: &[Sample], num_tokens: usize, room: usize) -> Self {
        let mut all = Self { rows: Vec::with_capacity(samples.len()), ..Self::default() };
        let mut masks = Masks::new(num_tokens);
        for sample in samples {
            let adjustments = adjustments(sample, num_tokens);
            if adjustments.len() > room - all.adjustments.len() {
                all.rows.push(Wish::default());
                continue;
            }
            let wish = Wish {
                first_adjustment: all.adjustments.len() as u32,
                num_adjustments: adjustments.len() as u32,
                mask: sample.mask.as_ref().map_or(0, |mask| 1 + masks.row(mask)),
                ..wish(sample, num_tokens)
            };
            all.adjustments.extend(adjustments);
            all.truncates |=
                wish.top_k != 0 || wish.top_p < 1.0 || wish.min_log > f32::NEG_INFINITY;
            all.rows.push(wish);
        }
        all.masks = masks.words;
        all
    }
}

/// Masks side by side, each once however many rows have it.
struct Masks {
    words: Vec<u32>,
    mask_len: usize,
    rows: HashMap<*const TokenMask, u32>,
}

impl Masks {
    fn new(num_tokens: usize) -> Self {
        Self { words: Vec::new(), mask_len: mask_words(num_tokens), rows: HashMap::new() }
    }

    /// Where a mask lies.
    fn row(&mut self, mask: &Arc<TokenMask>) -> u32 {
        let next = self.rows.len() as u32;
        *self.rows.entry(Arc::as_ptr(mask)).or_insert_with(|| {
            let words = mask.words();
            self.words.extend_from_slice(&words[..words.len().min(self.mask_len)]);
            // Tokens beyond a mask's words are not in it.
            self.words.resize((next as usize + 1) * self.mask_len, 0);
            next
        })
    }
}

/// A row's wish without adjustments. For a greedy choice nothing is drawn and nothing cut.
fn wish(sample: &Sample, num_tokens: usize) -> Wish {
    let params = &*sample.params;
    let num_top = params.logprobs.map(|num_top| usize::from(num_top).min(num_tokens));
    let greedy = Wish {
        choice: Wish::GREEDY,
        top_p: 1.0,
        min_log: f32::NEG_INFINITY,
        repetition: params.repetition_penalty,
        frequency: params.frequency_penalty,
        presence: params.presence_penalty,
        num_logprobs: num_top.map_or(0, |num_top| 1 + num_top as u32),
        ..Wish::default()
    };
    if sampler::is_greedy(params) {
        return greedy;
    }
    Wish {
        random: sample.random_bits(),
        choice: Wish::DRAW,
        scale: params.temperature.recip(),
        top_k: if (params.top_k as usize) < num_tokens { params.top_k } else { 0 },
        top_p: params.top_p,
        min_log: params.min_p.ln(),
        ..greedy
    }
}

/// What changes a row's logits, each token once.
fn adjustments(sample: &Sample, num_tokens: usize) -> Vec<Adjustment> {
    let counted = sample.counts.iter().map(|count| Adjustment {
        token: count.token,
        num_generated: count.num_generated,
        is_repeated: u32::from(count.in_prompt || count.num_generated > 0),
        bias: 0.0,
    });
    let biased = sample.params.logit_bias.iter();
    let biased = biased.map(|&(token, bias)| Adjustment { token, bias, ..Adjustment::default() });
    let mut all: Vec<Adjustment> =
        counted.chain(biased).filter(|one| (one.token as usize) < num_tokens).collect();
    all.sort_by_key(|one| one.token);
    all.dedup_by(|from, into| {
        let is_same = from.token == into.token;
        if is_same {
            into.num_generated += from.num_generated;
            into.is_repeated |= from.is_repeated;
            into.bias += from.bias;
        }
        is_same
    });
    all
}

#[cfg(test)]
mod tests {
    use harmonium_engine::{SamplingParams, TokenCount};

    use super::*;

    fn sample(params: SamplingParams, counts: &[(u32, bool, u32)]) -> Sample {
        let count = |&(token, in_prompt, num_generated): &(u32, bool, u32)| TokenCount {
            token,
            in_prompt,
            num_generated,
        };
        let counts = counts.iter().map(count).collect();
        Sample { row: 0, params: Arc::new(params), seed: 7, counts, mask: None }
    }

    #[test]
    fn counts_and_biases_of_a_token_are_one_adjustment() {
        let params = SamplingParams {
            logit_bias: vec![(9, 1.5), (3, -2.0), (50, 1.0)],
            ..SamplingParams::default()
        };
        let sample = sample(params, &[(2, true, 0), (3, false, 4), (60, true, 1)]);
        let one = |token, num_generated, is_repeated, bias| Adjustment {
            token,
            num_generated,
            is_repeated,
            bias,
        };
        let expected = [one(2, 0, 1, 0.0), one(3, 4, 1, -2.0), one(9, 0, 0, 1.5)];
        assert_eq!(adjustments(&sample, 50), expected);
    }

    #[test]
    fn a_row_that_does_not_fit_is_left_out_and_the_next_one_may_fit() {
        let samples = [3, 4, 2].map(|num| {
            let logit_bias = (0..num).map(|token| (token, 1.0)).collect();
            sample(SamplingParams { logit_bias, ..SamplingParams::default() }, &[])
        });
        let wishes = Wishes::new(&samples, 50, 5);
        assert_eq!(wishes.rows[1], Wish::default());
        let places =
            [0, 2].map(|row| (wishes.rows[row].first_adjustment, wishes.rows[row].num_adjustments));
        assert_eq!((places, wishes.adjustments.len()), ([(0, 3), (3, 2)], 5));
    }

    #[test]
    fn masks_are_of_one_length_and_lie_there_once() {
        let short = Arc::new([0, 33].into_iter().collect::<TokenMask>());
        let long = Arc::new(TokenMask::new([7, 8, 9, 10]));
        let with = |mask| Sample { mask, ..sample(SamplingParams::default(), &[]) };
        let samples =
            [Some(&short), None, Some(&long), Some(&short)].map(|mask| with(mask.cloned()));
        let wishes = Wishes::new(&samples, 70, 0);
        assert_eq!(wishes.rows.iter().map(|wish| wish.mask).collect::<Vec<_>>(), [1, 0, 2, 1]);
        assert_eq!(wishes.masks, [1, 2, 0, 7, 8, 9]);
    }

    #[test]
    fn only_draws_that_keep_less_than_all_truncate() {
        let truncates =
            |params: SamplingParams| Wishes::new(&[sample(params, &[])], 50, 0).truncates;
        let all = SamplingParams::default();
        assert!(!truncates(SamplingParams { top_k: 50, ..all.clone() }));
        assert!(!truncates(SamplingParams { top_k: 3, top_p: 0.5, ..SamplingParams::greedy() }));
        assert!(truncates(SamplingParams { top_k: 49, ..all.clone() }));
        assert!(truncates(SamplingParams { top_p: 0.99, ..all.clone() }));
        assert!(truncates(SamplingParams { min_p: 0.01, ..all }));
    }
}
