//! What can go wrong on a device.

use std::fmt;

/// The result of anything a device does.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device asked for cannot be had; `why` says what is missing.
    #[error("no {device}: {why}")]
    Unavailable {
        /// `card` or `host device`.
        device: &'static str,
        /// What is missing, and how to get it.
        why: String,
    },
    /// The device has no room for a buffer.
    #[error("cannot allocate {num_bytes} bytes on {device}: {free} of {total} bytes are free")]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// Length of the buffer asked for.
        num_bytes: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// Bytes outside of a buffer.
    #[error("bytes {offset}..{} of a buffer of {buffer_len} bytes", offset.saturating_add(*len))]
    Range {
        /// First byte.
        offset: usize,
        /// Number of bytes.
        len: usize,
        /// Length of the buffer.
        buffer_len: usize,
    },
    /// An argument of an operation that its kernel cannot take.
    #[error("{op}: {field} {problem}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// The argument.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A kernel made a mistake (host device) or could not be launched.
    #[error("kernel {kernel}: {fault}")]
    Kernel {
        /// Name of the kernel.
        kernel: String,
        /// What it did.
        fault: Box<Fault>,
    },
    /// Something went wrong with one of many.
    #[error("{name}: {source}")]
    Of {
        /// Which one.
        name: String,
        /// What went wrong.
        source: Box<Error>,
    },
    /// Something that cannot be part of a graph was asked for while one is captured.
    #[error("{0} is not possible while a graph is captured")]
    Capturing(&'static str),
    /// A call of the driver failed.
    #[error("{call}: {message}")]
    Driver {
        /// What was asked of the driver.
        call: &'static str,
        /// What it answered.
        message: String,
    },
}

impl Error {
    /// Says what it is about.
    pub fn of(self, name: impl Into<String>) -> Self {
        Self::Of { name: name.into(), source: Box::new(self) }
    }
}

/// A mistake of a kernel, and the first thread that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the thread in its block.
    pub thread: [u32; 3],
    /// What the thread did.
    pub message: String,
}

/// The kinds of mistake that the host device finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Access outside of a buffer, or to one that was freed.
    GlobalBounds,
    /// Access outside of the block's shared memory.
    SharedBounds,
    /// A barrier or warp operation that not all of its threads reach.
    Barrier,
    /// Reads shared memory that no thread of the block wrote.
    SharedUnwritten,
    /// Two threads access the same shared memory, one of them writing, with no barrier between.
    SharedRace,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// Access to memory that is no device memory, such as another thread's locals.
    ForeignMemory,
    /// The launch itself is not possible.
    Launch,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == FaultKind::Launch {
            return f.write_str(&self.message);
        }
        let Self { block, thread, message, .. } = self;
        write!(f, "thread {thread:?} of block {block:?} {message}")
    }
}
