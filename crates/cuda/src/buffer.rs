//! Memory of a device.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::device::Device;
use crate::{Error, Result};

/// An address in a device's memory, as kernels receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address: for optional inputs.
    pub const NULL: Self = Self(0);
}

/// Bytes on a device, freed when dropped; after a graph was captured, when the last graph is gone too.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    ptr: DevicePtr,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(device: Device, ptr: DevicePtr, len: usize) -> Self {
        Self { device, ptr, len }
    }

    /// The device whose memory it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its first byte.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of it.
    pub fn whole(&self) -> BufferSlice<'_> {
        BufferSlice { buffer: self, offset: 0, len: self.len }
    }

    /// Some of its bytes.
    pub fn slice(&self, range: Range<usize>) -> Result<BufferSlice<'_>> {
        self.whole().slice(range)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.release(self.ptr, self.len);
    }
}

/// Some bytes of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct BufferSlice<'a> {
    buffer: &'a Buffer,
    offset: usize,
    len: usize,
}

impl<'a> BufferSlice<'a> {
    /// The buffer it lies in.
    pub fn buffer(&self) -> &'a Buffer {
        self.buffer
    }

    /// Its first byte.
    pub fn ptr(&self) -> DevicePtr {
        DevicePtr(self.buffer.ptr.0 + self.offset as u64)
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Some of its bytes, counted from its own first one.
    pub fn slice(self, range: Range<usize>) -> Result<Self> {
        let len = range.end.saturating_sub(range.start);
        if range.start > range.end || range.end > self.len {
            return Err(Error::Range { offset: range.start, len, buffer_len: self.len });
        }
        Ok(Self { buffer: self.buffer, offset: self.offset + range.start, len })
    }
}

impl<'a> From<&'a Buffer> for BufferSlice<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        buffer.whole()
    }
}
