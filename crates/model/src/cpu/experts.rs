//! The mixture of experts: which experts a row goes to, and what they answer.
//!
//! Rows are grouped by expert, so that an expert's weights are read once for all its rows. Experts of few rows work
//! side by side. A row's answers are added in the order of their experts' indexes, whatever else is in the batch.

use std::borrow::Cow;

use super::adapters::LayerAdapters;
use crate::adapter::Target;
use crate::checkpoint::weights::{ExpertLinear, Layer};
use crate::config::Config;
use crate::exp::exp;
use crate::product::{add_bias, products, round};
use crate::profile::{Clock, mark};
use crate::simd::{Precision, Rounded, Simd};

/// One row's way to one expert.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Route {
    row: usize,
    weight: f32,
}

/// Rows from which on an expert's products are enough work for threads to meet after each.
const ROWS_TOGETHER: usize = 32;

/// The experts of one layer and what they are asked.
pub(super) struct Experts<'a> {
    pub(super) simd: Simd,
    pub(super) precision: Precision,
    pub(super) config: &'a Config,
    pub(super) layer: &'a Layer,
    pub(super) adapters: Option<LayerAdapters<'a>>,
    /// Normed rows, `[rows, hidden]`.
    pub(super) x: &'a [f32],
}

impl Experts<'_> {
    /// Answers of the experts that the router's logits `[rows, experts]` choose for the rows.
    pub(super) fn run(&self, router_logits: &[f32], clock: &mut Option<Clock>) -> Vec<f32> {
        let mut out = vec![0.0; self.x.len()];
        let routes = routes(router_logits, self.config);
        mark(clock, "router");
        let mut experts: Vec<(usize, &[Route])> = Vec::new();
        let mut num_rows = 0;
        for (expert, routes) in routes.iter().enumerate().filter(|(_, routes)| !routes.is_empty()) {
            experts.push((expert, routes.as_slice()));
            num_rows += routes.len();
            if num_rows >= ROWS_TOGETHER {
                self.run_together(&experts, &mut out, clock);
                experts.clear();
                num_rows = 0;
            }
        }
        self.run_together(&experts, &mut out, clock);
        out
    }

    /// Adds the answers of some experts to `out`.
    fn run_together(
        &self,
        experts: &[(usize, &[Route])],
        out: &mut [f32],
        clock: &mut Option<Clock>,
    ) {
        let Self { simd, precision, config, .. } = *self;
        let (hidden, width) = (config.hidden_size as usize, config.intermediate_size as usize);
        let row = |route: &Route| &self.x[route.row * hidden..][..hidden];
        let rows = |&(_, routes): &(usize, &[Route])| {
            round(simd, precision, routes.len(), hidden, |index, to| to.fill(row(&routes[index])))
        };
        let inputs: Vec<_> = experts.iter().map(rows).collect();
        let mut gate_ups = expert_products(&self.layer.gate_up, experts, &inputs);
        self.adapt(Target::GateUp, experts, &mut gate_ups, |_, index, routes| {
            Cow::Borrowed(row(&routes[index]))
        });
        mark(clock, "experts up");
        let inner = |gate_up: &Vec<f32>| {
            round(simd, precision, gate_up.len() / (2 * width), width, |index, to| {
                to.fill(&swiglu(&gate_up[index * 2 * width..][..2 * width], config));
            })
        };
        let inners: Vec<_> = gate_ups.iter().map(inner).collect();
        let mut answers = expert_products(&self.layer.down, experts, &inners);
        self.adapt(Target::Down, experts, &mut answers, |place, index, _| {
            Cow::Owned(swiglu(&gate_ups[place][index * 2 * width..][..2 * width], config))
        });
        for ((_, routes), answers) in experts.iter().zip(answers) {
            for (route, answer) in routes.iter().zip(answers.chunks_exact(hidden)) {
                for (out, value) in out[route.row * hidden..][..hidden].iter_mut().zip(answer) {
                    *out += route.weight * value;
                }
            }
        }
        mark(clock, "experts down");
    }

    /// Adds what the rows' adapters make of the inputs of some experts' products to their answers. `input` gives that of
    /// a route by the expert's place among these and its own among the expert's.
    fn adapt<'x>(
        &self,
        target: Target,
        experts: &[(usize, &[Route])],
        answers: &mut [Vec<f32>],
        input: impl Fn(usize, usize, &[Route]) -> Cow<'x, [f32]>,
    ) {
        let Some(adapters) = self.adapters else { return };
        for (place, ((expert, routes), answers)) in experts.iter().zip(answers).enumerate() {
            let inputs: Vec<_> =
                (0..routes.len()).map(|index| input(place, index, routes)).collect();
            let inputs = routes.iter().zip(&inputs).map(|(route, input)| (route.row, &**input));
            adapters.add_to_expert(target, *expert, inputs, answers);
        }
    }
}

/// One product of each of some experts, with its bias.
fn expert_products(
    weights: &ExpertLinear,
    experts: &[(usize, &[Route])],
    inputs: &[Rounded],
) -> Vec<Vec<f32>> {
    let jobs: Vec<_> =
        experts.iter().zip(inputs).map(|((expert, _), x)| (&weights.experts[*expert], x)).collect();
    let mut answers = products(&jobs);
    let mut bias = vec![0.0; weights.bias.num_cols];
    for ((expert, _), answer) in experts.iter().zip(&mut answers) {
        weights.bias.widen_row(*expert, &mut bias);
        add_bias(answer, &bias);
    }
    answers
}

/// The routes to each expert, rows in order.
fn routes(logits: &[f32], config: &Config) -> Vec<Vec<Route>> {
    let num_experts = config.num_experts as usize;
    let mut routes = vec![Vec::new(); num_experts];
    for (row, logits) in logits.chunks_exact(num_experts).enumerate() {
        for (expert, weight) in choose(logits, config.experts_per_token as usize) {
            routes[expert].push(Route { row, weight });
        }
    }
    routes
}

/// The `count` greatest logits, lowest index on a tie, with their softmax among themselves.
fn choose(logits: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // The sort is stable, so equal logits stay in index order.
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(count);
    let max = logits[order[0]];
    let weights: Vec<f32> = order.iter().map(|&expert| (logits[expert] - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    order.into_iter().zip(weights).map(|(expert, weight)| (expert, weight / sum)).collect()
}

/// `gate' * sigmoid(alpha * gate') * (up' + 1)` of alternating gates and ups, the gate clamped above, the up on
/// both sides.
fn swiglu(gate_up: &[f32], config: &Config) -> Vec<f32> {
    let (limit, alpha) = (config.swiglu_limit, config.swiglu_alpha);
    let (pairs, _) = gate_up.as_chunks::<2>();
    let activate = |[gate, up]: &[f32; 2]| {
        let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
        gate / (1.0 + exp(-alpha * gate)) * (up + 1.0)
    };
    pairs.iter().map(activate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_index() {
        let chosen = choose(&[1.0, 3.0, 1.0, 1.0], 2);
        assert_eq!(chosen.iter().map(|route| route.0).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn weights_are_a_softmax_over_the_chosen_only() {
        let chosen = choose(&[0.0, 2f32.ln(), -9.0], 2);
        assert_eq!(chosen[0].0, 1);
        assert!((chosen[0].1 - 2.0 / 3.0).abs() < 1e-6 && (chosen[1].1 - 1.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn logits_that_are_no_numbers_still_choose() {
        assert_eq!(choose(&[f32::NAN; 4], 2).len(), 2);
    }
}
