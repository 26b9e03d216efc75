//! One safe function a kernel. Each checks shapes and lengths, so that its kernel stays inside the buffers it is given.

#![allow(unsafe_code, reason = "a launch is safe because of the checks before it")]

mod embedding;
mod rms_norm;

pub use embedding::{Embedding, embedding};
pub use rms_norm::{RmsNorm, rms_norm};

use crate::{BufferSlice, Device, DevicePtr, Error, Result};

/// Bytes of a bf16.
const BF16: usize = 2;
/// Kernels load and store up to this many bytes at a time.
const VECTOR_BYTES: usize = 16;

/// Checks the arguments of one operation.
struct Arguments<'a> {
    device: &'a Device,
    op: &'static str,
}

impl Arguments<'_> {
    fn refuse<T>(&self, field: &'static str, problem: String) -> Result<T> {
        Err(Error::Argument { op: self.op, field, problem })
    }

    /// A count that is at least 1 and fits the kernel's 32 bits.
    fn count(&self, field: &'static str, value: usize) -> Result<u32> {
        match u32::try_from(value) {
            Ok(count) if count > 0 => Ok(count),
            _ => self.refuse(field, format!("is {value}, not from 1 to {}", u32::MAX)),
        }
    }

    /// The address of exactly `shape` elements of `size` bytes, on this device and aligned for wide access.
    fn tensor(
        &self,
        field: &'static str,
        slice: BufferSlice<'_>,
        shape: &[usize],
        size: usize,
    ) -> Result<DevicePtr> {
        let wanted = shape.iter().try_fold(size, |all, &dimension| all.checked_mul(dimension));
        if wanted != Some(slice.len()) {
            let problem = format!("has {} bytes, not {shape:?} of {size} bytes each", slice.len());
            return self.refuse(field, problem);
        }
        if !self.device.is_same(slice.buffer().device()) {
            return self.refuse(field, format!("is not on {}", self.device.name()));
        }
        if !slice.ptr().0.is_multiple_of(VECTOR_BYTES as u64) {
            return self.refuse(field, format!("does not begin at a multiple of {VECTOR_BYTES}"));
        }
        Ok(slice.ptr())
    }
}
