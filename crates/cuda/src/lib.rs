//! The device seam: memory, kernels, events and graphs of one accelerator, and one safe function a kernel.
//!
//! A [`Device`] is the card (feature `cuda`; the driver is loaded when it is asked for) or the host (feature
//! `host-device`), which runs the very same `.cu` files compiled as C++ and finds mistakes in them. Everything above
//! this crate sees only [`Device`], [`Buffer`] and the functions of [`ops`]; `check` holds every kernel against a
//! reference in float64, on whichever device it is given.

mod buffer;
#[cfg(feature = "cuda")]
mod card;
pub mod check;
mod device;
mod error;
mod graph;
#[cfg(feature = "host-device")]
mod host;
pub mod ops;
mod profile;
mod stream;

pub use buffer::{Buffer, BufferSlice, DevicePtr};
pub use device::{CardInfo, Device, Event, Grid, Memory};
pub use error::{Error, Fault, FaultKind, Result};
pub use graph::Graph;
pub use profile::{Profile, Timing};
pub use stream::{Upload, upload_all};
