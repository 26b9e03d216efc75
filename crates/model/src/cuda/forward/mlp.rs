//! The experts: from the residual to the answers of each row's.

use harmonium_cuda::ops::{
    After, ExpertWeights, Experts, LoraRoutes, Output, Route, experts, route, route_tiles_bytes,
};
use harmonium_cuda::{Buffer, BufferSlice, Result};

use super::{BF16, Model, WORD, first};
use crate::cuda::adapters::Product;
use crate::cuda::step::Step;
use crate::cuda::weights::{DeviceExperts, DeviceLayer};

/// Which experts the rows go to, as the router leaves it.
struct Routed<'a> {
    /// Inputs of the experts.
    normed: BufferSlice<'a>,
    logits: BufferSlice<'a>,
    /// Whether what follows is there; one row of the base goes without.
    listed: bool,
    grouped: BufferSlice<'a>,
    tiles: BufferSlice<'a>,
    weights: BufferSlice<'a>,
    num_routes: usize,
}

impl Model {
    /// From the residual to the answers of the rows' experts. `next` are the weights that are read after them.
    pub(super) fn mlp(
        &self,
        step: &Step,
        index: usize,
        layer: &DeviceLayer,
        next: &Buffer,
    ) -> Result<()> {
        let routed = self.route(step, index, layer)?;
        self.experts(step, index, layer, next, &routed)
    }

    fn route(&self, step: &Step, index: usize, layer: &DeviceLayer) -> Result<Routed<'_>> {
        let (b, rows, width) = (&self.buffers, step.rows, self.config.hidden_size as usize);
        let (num_experts, chosen) =
            (self.config.num_experts as usize, self.config.experts_per_token as usize);
        let num_routes = rows * chosen;
        let tiles_bytes = route_tiles_bytes(num_routes, num_experts);
        let adapters = self.adapters(step);
        let routed = Routed {
            normed: first(&b.normed, rows * width * BF16)?,
            logits: first(&b.router_logits, rows * num_experts * WORD)?,
            listed: adapters.is_some_and(|adapters| adapters.change_experts(index)),
            grouped: first(&b.grouped, num_routes * WORD)?,
            tiles: first(&b.route_tiles, tiles_bytes)?,
            weights: first(&b.weights, num_routes * WORD)?,
            num_routes,
        };
        let Routed { normed, logits, listed, grouped, tiles, weights, .. } = routed;
        let out = Output::Added(logits);
        let args = Route {
            residual: first(&b.residual, rows * width * WORD)?,
            gain: layer.mlp_norm.whole(),
            eps: self.config.rms_norm_eps,
            normed,
            weight: layer.router.weight.whole(),
            bias: layer.router.bias.whole(),
            positions: b.inputs.slice(step.positions.clone())?,
            logits,
            change: self.change(step, index, Product::Router, normed, out, None)?,
            listed,
            experts: first(&b.experts, num_routes * WORD)?,
            weights,
            grouped,
            tiles,
            scratch: b.scratch.whole(),
            rows,
            width,
            num_experts,
            chosen,
        };
        route(&self.device, &args)?;
        Ok(routed)
    }

    fn experts(
        &self,
        step: &Step,
        index: usize,
        layer: &DeviceLayer,
        next: &Buffer,
        routed: &Routed<'_>,
    ) -> Result<()> {
        let (b, rows) = (&self.buffers, step.rows);
        let (hidden, intermediate) =
            (self.config.hidden_size as usize, self.config.intermediate_size as usize);
        let (num_experts, chosen) =
            (self.config.num_experts as usize, self.config.experts_per_token as usize);
        let Routed { normed, logits, listed, grouped, tiles, weights, num_routes } = *routed;
        // The up product's inputs are the rows', and its answers have no weights yet.
        let of_rows =
            LoraRoutes { grouped, tiles, weights: None, have_inputs: false, chosen, num_experts };
        let added = self.adapters(step).and_then(|adapters| adapters.added(index));
        let added = added.map(|added| first(added, num_routes * 2 * intermediate * WORD));
        let added = added.transpose()?;
        if let Some(added) = added {
            let (out, routes) = (Output::F32(added), Some(of_rows));
            let change = self.change(step, index, Product::Up, normed, out, routes)?;
            self.shrink(change.as_ref())?;
            self.expand(change.as_ref(), After::Shrink)?;
        }
        let inner = first(&b.inner, num_routes * intermediate * BF16)?;
        let answers = first(&b.answers, num_routes * hidden * WORD)?;
        let of_routes = LoraRoutes { weights: Some(weights), have_inputs: true, ..of_rows };
        let (out, routes) = (Output::Added(answers), Some(of_routes));
        let down_change = self.change(step, index, Product::Down, inner, out, routes)?;
        let args = Experts {
            x: normed,
            up: expert_weights(&layer.up),
            down: expert_weights(&layer.down),
            logits,
            listed,
            grouped,
            tiles,
            weights,
            added,
            down_change,
            next: Some(next.whole()),
            inner,
            out: answers,
            rows,
            chosen,
            num_experts,
            hidden,
            intermediate,
            limit: self.config.swiglu_limit,
            alpha: self.config.swiglu_alpha,
        };
        experts(&self.device, &args)
    }
}

fn expert_weights(weights: &DeviceExperts) -> ExpertWeights<'_> {
    ExpertWeights {
        blocks: weights.blocks.whole(),
        scales: weights.scales.whole(),
        bias: weights.bias.whole(),
    }
}
