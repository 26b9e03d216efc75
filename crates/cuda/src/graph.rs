//! Work that was captured once and is done again with one call.

#![expect(unsafe_code, reason = "replaying uses memory by address")]

use crate::Result;
use crate::device::{Device, Replay};

/// Captured work; see [`Device::capture`]. Memory it uses stays allocated as long as it is there.
pub struct Graph {
    device: Device,
    replay: Box<dyn Replay>,
}

impl Graph {
    pub(crate) fn new(device: Device, replay: Box<dyn Replay>) -> Self {
        Self { device, replay }
    }

    /// Does the captured work again, after all work before it.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: the device frees no memory while this graph is there.
        unsafe { self.replay.replay() }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.graph_dropped();
    }
}
