//! Sums and middles of the answers of one model, and what a month of such requests would cost.
//!
//! Only answers without an error count: a failed one has no time that could be compared, and what it cost is not
//! known.

use harmonium_hosted::Cost;
use serde::Serialize;

use super::report::{Answer, Tokens};

/// One model over all prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Totals {
    /// Answers without an error.
    pub(super) num_answered: u64,
    /// Answers with one.
    pub(super) num_failed: u64,
    /// Of those without, given by another model than the one that was asked.
    pub(super) num_elsewhere: u64,
    /// Half of the answers began in this time.
    pub(super) ttft_median_ms: Option<f64>,
    /// 95 of 100 answers began in this time.
    pub(super) ttft_p95_ms: Option<f64>,
    /// Half of the answers were at most this fast.
    pub(super) tokens_per_s_median: Option<f64>,
    /// Sums over all answers.
    pub(super) tokens: Tokens,
    /// The sum of all known costs.
    pub(super) cost_usd: f64,
    /// Its mean over the answers whose cost is known.
    pub(super) mean_cost_usd: Option<f64>,
    /// That mean times the number of requests in a month.
    pub(super) monthly_cost_usd: Option<f64>,
}

impl Totals {
    /// Sums up the answers of one model.
    pub(super) fn of<'a>(answers: impl Iterator<Item = &'a Answer>, monthly_requests: u64) -> Self {
        let (answered, failed): (Vec<_>, Vec<_>) = answers.partition(|a| a.error.is_none());
        let mut tokens = Tokens::default();
        for more in answered.iter().filter_map(|answer| answer.usage) {
            tokens.add(more);
        }
        let costs: Vec<Cost> = answered.iter().filter_map(|answer| answer.cost).collect();
        let cost = costs.iter().fold(Cost::ZERO, |sum, &cost| sum.saturating_add(cost));
        let mean_cost_usd = (!costs.is_empty()).then(|| cost.as_usd() / costs.len() as f64);
        let ttft_ms = sorted(answered.iter().filter_map(|answer| answer.ttft_ms));
        Self {
            num_answered: answered.len() as u64,
            num_failed: failed.len() as u64,
            num_elsewhere: answered.iter().filter(|answer| answer.is_elsewhere).count() as u64,
            ttft_median_ms: median(&ttft_ms),
            ttft_p95_ms: p95(&ttft_ms),
            tokens_per_s_median: median(&sorted(
                answered.iter().filter_map(|answer| answer.tokens_per_s),
            )),
            tokens,
            cost_usd: cost.as_usd(),
            mean_cost_usd,
            monthly_cost_usd: mean_cost_usd.map(|mean| mean * monthly_requests as f64),
        }
    }
}

impl Tokens {
    /// What a server reports may be anything, so sums stop at the largest number.
    fn add(&mut self, more: Self) {
        self.prompt = self.prompt.saturating_add(more.prompt);
        self.cached = self.cached.saturating_add(more.cached);
        self.completion = self.completion.saturating_add(more.completion);
        self.reasoning = self.reasoning.saturating_add(more.reasoning);
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of sorted values; of an even number of them, the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(lower.midpoint(upper))
}

/// The least of sorted values that 95 % of them do not exceed.
fn p95(sorted: &[f64]) -> Option<f64> {
    let rank = (sorted.len() * 95).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ttft_ms: f64, usd: Option<f64>) -> Answer {
        Answer {
            ttft_ms: Some(ttft_ms),
            tokens_per_s: Some(ttft_ms),
            usage: Some(Tokens { prompt: 10, cached: 4, completion: 3, reasoning: 2 }),
            cost: usd.map(|usd| Cost::from_usd(usd).unwrap()),
            ..Answer::default()
        }
    }

    #[test]
    fn the_median_is_in_the_middle_and_p95_is_a_value_that_occurred() {
        let upto = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        for (n, expected_median, expected_p95) in
            [(1, 1.0, 1.0), (2, 1.5, 2.0), (3, 2.0, 3.0), (20, 10.5, 19.0), (100, 50.5, 95.0)]
        {
            assert_eq!(median(&upto(n)), Some(expected_median), "{n}");
            assert_eq!(p95(&upto(n)), Some(expected_p95), "{n}");
        }
        assert_eq!((median(&[]), p95(&[])), (None, None));
    }

    #[test]
    fn a_month_costs_the_mean_of_what_was_answered() {
        let failed = Answer { error: Some("status 500".into()), ..answer(900.0, Some(1.0)) };
        let elsewhere = Answer { is_elsewhere: true, ..answer(30.0, Some(0.003)) };
        // The one without a cost is answered, but says nothing of the mean.
        let answers = [answer(10.0, Some(0.001)), failed, elsewhere, answer(20.0, None)];
        let totals = Totals::of(answers.iter(), 1000);
        assert_eq!((totals.num_answered, totals.num_failed, totals.num_elsewhere), (3, 1, 1));
        assert_eq!((totals.ttft_median_ms, totals.ttft_p95_ms), (Some(20.0), Some(30.0)));
        assert_eq!(totals.tokens_per_s_median, Some(20.0));
        assert_eq!(totals.tokens, Tokens { prompt: 30, cached: 12, completion: 9, reasoning: 6 });
        assert_eq!((totals.cost_usd, totals.mean_cost_usd), (0.004, Some(0.002)));
        assert_eq!(totals.monthly_cost_usd, Some(2.0));
    }

    #[test]
    fn nothing_answered_has_no_middle_and_no_mean() {
        let failed = Answer { error: Some("e".into()), ..Answer::default() };
        let totals = Totals::of([failed].iter(), 1000);
        assert_eq!((totals.num_answered, totals.num_failed), (0, 1));
        assert_eq!((totals.ttft_median_ms, totals.tokens_per_s_median), (None, None));
        assert_eq!((totals.mean_cost_usd, totals.monthly_cost_usd), (None, None));
    }
}
