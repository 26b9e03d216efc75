//! Many bytes of this machine to a device at once: how weights get there.
//!
//! Bytes of mapped files cost a page fault or a read from the disk when they are first touched, and only pinned memory
//! is copied without the processor. So several threads each copy pieces into pinned memory of their own, and while one
//! buffer of a thread is on its way to the device, the thread fills the other. The bytes arrive as they are.

#![expect(unsafe_code, reason = "copies run beside the thread that asked for them")]

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::device::Stage;
use crate::{BufferSlice, Device, Error, Result};

/// Bytes of a pinned buffer, and of a piece at most: one expert's blocks of the published models are just less.
const PIECE_BYTES: usize = 8 << 20;
/// Pinned buffers of a thread.
const BUFFERS: usize = 2;
/// Most threads; with their buffers they pin 256 MiB.
const MAX_THREADS: usize = 16;

/// Bytes that a buffer is to hold.
#[derive(Clone, Copy)]
pub struct Upload<'a> {
    /// What they are, for errors.
    pub name: &'a str,
    /// The bytes.
    pub from: &'a [u8],
    /// As many on the device.
    pub to: BufferSlice<'a>,
}

/// Waits for all work before it, then copies everything; `progress` is told, from any thread, how many bytes more were
/// read.
pub fn upload_all(
    device: &Device,
    uploads: &[Upload<'_>],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let mut pieces = Vec::new();
    for upload in uploads {
        let (from, to) = (upload.from, upload.to);
        device.own(to)?;
        if from.len() != to.len() {
            let error = Error::Range { offset: 0, len: from.len(), buffer_len: to.len() };
            return Err(error.of(upload.name));
        }
        for start in (0..from.len()).step_by(PIECE_BYTES) {
            let range = start..from.len().min(start + PIECE_BYTES);
            let to = to.slice(range.clone())?;
            pieces.push(Upload { name: upload.name, from: &from[range], to });
        }
    }
    device.synchronize()?;
    let num_threads = thread::available_parallelism().map_or(1, NonZero::get);
    let num_threads = num_threads.min(MAX_THREADS).min(pieces.len());
    let queue = Queue { pieces, next: AtomicUsize::new(0), has_failed: AtomicBool::new(false) };
    thread::scope(|scope| {
        let worker = || queue.work(device, progress);
        let workers: Vec<_> = (0..num_threads).map(|_| scope.spawn(worker)).collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All are waited for, whichever fails: what they send goes to borrowed buffers.
        results.fold(Ok(()), Result::and)
    })
}

struct Queue<'a> {
    pieces: Vec<Upload<'a>>,
    next: AtomicUsize,
    has_failed: AtomicBool,
}

impl Queue<'_> {
    /// Copies pieces until there are no more or somebody has failed.
    fn work(&self, device: &Device, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let result = self.copy(device, progress);
        if result.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn copy(&self, device: &Device, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let mut stages: Vec<Box<dyn Stage>> =
            (0..BUFFERS).map(|_| device.stage(PIECE_BYTES)).collect::<Result<_>>()?;
        for turn in 0.. {
            let piece = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed));
            let Some(piece) = piece.filter(|_| !self.has_failed.load(Ordering::Relaxed)) else {
                break;
            };
            let stage = &mut *stages[turn % BUFFERS];
            let len = piece.from.len();
            let lent = stage.bytes().map(|bytes| bytes[..len].copy_from_slice(piece.from));
            // SAFETY: the slice has as many bytes, checked by `upload_all`, and is borrowed until all stages of this
            // thread have been waited for, below or when they are dropped.
            let sent = lent.and_then(|()| unsafe { stage.send(piece.to.ptr(), len) });
            sent.map_err(|error| error.of(piece.name))?;
            progress(len as u64);
        }
        stages.iter_mut().try_for_each(|stage| stage.bytes().map(drop))
    }
}
