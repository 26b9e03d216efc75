//! The mixture of experts: which experts a row goes to, and what they answer.
//!
//! Rows are grouped by expert, so that an expert's weights are read once for all its rows. A row's answers are
//! added in the order of their experts' indexes, whatever else is in the batch.

use super::adapters::LayerAdapters;
use crate::adapter::Target;
use crate::checkpoint::weights::{ExpertLinear, Layer};
use crate::config::Config;
use crate::product::{add_bias, product};
use crate::profile::{Clock, mark};
use crate::simd::{Arranged, MXFP4_VECTORS, Simd};

/// One row's way to one expert.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Route {
    row: usize,
    weight: f32,
}

/// Answers of the experts that the router's logits `[rows, experts]` choose for normed rows `[rows, hidden]`.
pub(super) fn run(
    simd: Simd,
    config: &Config,
    layer: &Layer,
    adapters: Option<LayerAdapters<'_>>,
    x: &[f32],
    router_logits: &[f32],
    clock: &mut Option<Clock>,
) -> Vec<f32> {
    let hidden = config.hidden_size as usize;
    let mut out = vec![0.0; x.len()];
    let routes = routes(router_logits, config);
    mark(clock, "routes");
    for (expert, routes) in routes.iter().enumerate().filter(|(_, routes)| !routes.is_empty()) {
        let rows = routes.iter().map(|route| &x[route.row * hidden..][..hidden]);
        let inputs = Arranged::new(rows.clone(), hidden);
        let mut gate_up = expert_product(simd, &layer.gate_up, expert, &inputs);
        let numbers = routes.iter().map(|route| route.row);
        if let Some(adapters) = adapters {
            let inputs = numbers.clone().zip(rows);
            adapters.add_to_expert(Target::GateUp, expert, inputs, &mut gate_up);
        }
        let inner = swiglu(&gate_up, config);
        mark(clock, "experts up");
        let width = config.intermediate_size as usize;
        let inner_rows = inner.chunks_exact(width);
        let inputs = Arranged::new(inner_rows.clone(), width);
        let mut answers = expert_product(simd, &layer.down, expert, &inputs);
        if let Some(adapters) = adapters {
            let inputs = numbers.zip(inner_rows);
            adapters.add_to_expert(Target::Down, expert, inputs, &mut answers);
        }
        for (route, answer) in routes.iter().zip(answers.chunks_exact(hidden)) {
            for (out, value) in out[route.row * hidden..][..hidden].iter_mut().zip(answer) {
                *out += route.weight * value;
            }
        }
        mark(clock, "experts down");
    }
    out
}

fn expert_product(
    simd: Simd,
    weights: &ExpertLinear,
    expert: usize,
    x: &Arranged<MXFP4_VECTORS>,
) -> Vec<f32> {
    let mut out = product(simd, &weights.experts[expert], x);
    let mut bias = vec![0.0; weights.bias.num_cols];
    weights.bias.widen_row(expert, &mut bias);
    add_bias(&mut out, &bias);
    out
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
        gate / (1.0 + (-alpha * gate).exp()) * (up + 1.0)
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
