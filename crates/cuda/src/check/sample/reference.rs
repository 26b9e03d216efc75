//! The choice again: a sort, and sums in float64.

use super::{Answer, TOLERANCE};
use crate::ops::{Adjustment, Wish};

/// The logits that are chosen from, each operation in float32.
pub(super) fn adjusted(
    raw: &[f32],
    wish: &Wish,
    adjustments: &[Adjustment],
    mask: Option<&[u32]>,
) -> Vec<f32> {
    let mut logits = raw.to_vec();
    for adjustment in adjustments {
        let logit = &mut logits[adjustment.token as usize];
        if adjustment.is_repeated != 0 {
            let penalty = wish.repetition;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if adjustment.num_generated > 0 {
            *logit -= wish.frequency * adjustment.num_generated as f32;
            *logit -= wish.presence;
        }
        *logit += adjustment.bias;
    }
    if let Some(mask) = mask {
        let disallowed = logits.iter_mut().enumerate().filter(|(token, _)| !allows(mask, *token));
        disallowed.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
    }
    logits
}

/// Whether a mask has a token's bit.
pub(super) fn allows(mask: &[u32], token: usize) -> bool {
    mask[token / 32] >> (token % 32) & 1 == 1
}

/// Tokens, the greatest logit first, of equals the lowest index.
pub(super) fn order(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap_or(std::cmp::Ordering::Equal));
    order
}

/// How far a draw is from the part of all probability that its token has, where those that are kept lie one after another
/// in the order of the tokens. A token that is not kept is infinitely wrong, unless rounding might have kept it.
pub(super) fn draw_error(logits: &[f32], wish: &Wish, token: usize) -> f64 {
    let order = order(logits);
    let best = f64::from(logits[order[0]]);
    let scaled = |token: usize| (f64::from(logits[token]) - best) * f64::from(wish.scale);
    let total: f64 = order.iter().map(|token| scaled(*token).exp()).sum();
    let (mut kept, mut is_allowed, mut before) = (vec![false; logits.len()], false, 0.0);
    for (rank, other) in order.iter().copied().enumerate() {
        let stays = |slack: f64| {
            (wish.top_k == 0 || rank < wish.top_k as usize)
                && (wish.top_p >= 1.0 || before < (f64::from(wish.top_p) + slack) * total)
                && scaled(other) >= f64::from(wish.min_log) - slack
        };
        kept[other] = stays(0.0);
        is_allowed |= other == token && stays(TOLERANCE) && logits[token] > f32::NEG_INFINITY;
        before += scaled(other).exp();
    }
    if !is_allowed {
        return f64::INFINITY;
    }
    let weight = |token: usize| if kept[token] { scaled(token).exp() } else { 0.0 };
    let total: f64 = (0..logits.len()).map(weight).sum();
    let begin = (0..token).map(weight).sum::<f64>() / total;
    let end = begin + weight(token) / total;
    let place = wish.random as f64 / 2f64.powi(64);
    (begin - place).max(place - end).max(0.0)
}

/// The greatest error of a row's log-probabilities.
pub(super) fn logprobs_error(raw: &[f32], wish: &Wish, answer: &Answer) -> f64 {
    let Some((chosen, top)) = answer.logprobs.split_first() else { return 0.0 };
    let order = order(raw);
    let best = f64::from(raw[order[0]]);
    let sum: f64 = raw.iter().map(|logit| (f64::from(*logit) - best).exp()).sum();
    let num_top = (wish.num_logprobs as usize - 1).min(raw.len());
    let expected = [answer.token as usize].into_iter().chain(order.into_iter().take(num_top));
    let mut max = 0.0f64;
    for (logprob, token) in [chosen].into_iter().chain(top).zip(expected) {
        let exact = f64::from(raw[token]) - best - sum.ln();
        let error = (f64::from(logprob.logprob) - exact).abs() / exact.abs().max(1.0);
        let is_same = logprob.token as usize == token;
        max = max.max(if is_same && !error.is_nan() { error } else { f64::INFINITY });
    }
    max
}
