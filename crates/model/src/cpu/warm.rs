//! Brings the mapped weights of experts into memory while the executor serves already.
//!
//! A page of a mapped file costs a fault when it is touched first, and a read from the disk if the system does not hold
//! it. Which experts a token wakes is chance, so for hundreds of tokens some of them would be new. A thread of its own
//! has the system map them layer by layer; it ends with the last weight, or with the executor. Dense weights need no such
//! help: every token reads all of them.

use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use crate::checkpoint::weights::{ExpertLinear, Layer, Weights};

/// Starts the thread. Without it all works as well, more slowly at first.
pub(super) fn start(weights: &Arc<Weights>) -> Option<JoinHandle<()>> {
    let weights = Arc::downgrade(weights);
    let thread = thread::Builder::new().name("cpu-weights".to_owned());
    let thread = thread.spawn(move || populate(&weights));
    thread.inspect_err(|error| tracing::debug!(%error, "weights are not read ahead")).ok()
}

/// Layer by layer, so that weights that nobody uses any more are held for one layer at most.
fn populate(weights: &Weak<Weights>) {
    let mut index = 0;
    while let Some(weights) = weights.upgrade() {
        let Some(layer) = weights.layers.get(index) else { return };
        populate_experts(layer);
        index += 1;
    }
}

fn populate_experts(layer: &Layer) {
    for ExpertLinear { experts, bias } in [&layer.gate_up, &layer.down] {
        for expert in experts {
            expert.blocks.populate();
            expert.scales.populate();
        }
        bias.bytes.populate();
    }
}
