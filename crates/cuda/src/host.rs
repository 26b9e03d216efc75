//! The host device: memory of this machine, kernels compiled with g++ (see `kernels/host/`).
//!
//! Work is done at once, in order, and a mistake of a kernel is the error of its launch. While a graph is captured,
//! work is noted down instead.

#![expect(unsafe_code, reason = "calls the C++ side in kernels/host")]

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::device::{Backend, CardInfo, Grid, Mark, Memory, Replay, Stage};
use crate::{DevicePtr, Error, Fault, FaultKind, Result};

/// `host::Fault` of `kernels/host/runtime.h`.
#[repr(C)]
struct RawFault {
    kind: i32,
    block: [u32; 3],
    thread: [u32; 3],
    message: [c_char; 300],
}

unsafe extern "C" {
    fn harmonium_host_alloc(num_bytes: u64) -> *mut c_void;
    fn harmonium_host_free(data: *mut c_void);
    fn harmonium_host_launch(
        name: *const c_char,
        sizes: *const u32,
        params: *const c_void,
        params_bytes: u64,
        fault: *mut RawFault,
    );
}

/// Work that was noted down while a graph was captured.
enum Work {
    Copy { from: DevicePtr, to: DevicePtr, num_bytes: usize },
    Zero { to: DevicePtr, num_bytes: usize },
    Launch { kernel: &'static str, grid: Grid, params: Vec<u8> },
    Mark(Arc<Mutex<Instant>>),
}

pub(crate) struct HostDevice {
    total: usize,
    used: AtomicUsize,
    captured: Mutex<Option<Vec<Work>>>,
}

impl HostDevice {
    /// A device with that many bytes of memory, or as many as this machine has.
    pub(crate) fn new(total: Option<usize>) -> Result<Self> {
        let total = match total {
            Some(total) => total,
            None => machine_memory()?,
        };
        Ok(Self { total, used: AtomicUsize::new(0), captured: Mutex::new(None) })
    }

    fn captured(&self) -> MutexGuard<'_, Option<Vec<Work>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_in_capture(&self, what: &'static str) -> Result<()> {
        if self.captured().is_some() { Err(Error::Capturing(what)) } else { Ok(()) }
    }

    /// Notes the work down if a graph is captured, does it otherwise.
    ///
    /// # Safety
    /// The memory it names is allocated and large enough.
    unsafe fn submit(&self, work: Work) -> Result<()> {
        if let Some(captured) = self.captured().as_mut() {
            captured.push(work);
            return Ok(());
        }
        // SAFETY: the caller's promise is the same.
        unsafe { work.run() }
    }
}

impl Work {
    /// # Safety
    /// The memory it names is allocated and large enough.
    unsafe fn run(&self) -> Result<()> {
        match self {
            Self::Copy { from, to, num_bytes } => {
                // SAFETY: the caller promises both ranges; they do not overlap.
                unsafe { bytes(*from).copy_to_nonoverlapping(bytes(*to), *num_bytes) };
                Ok(())
            }
            Self::Zero { to, num_bytes } => {
                // SAFETY: the caller promises the range.
                unsafe { bytes(*to).write_bytes(0, *num_bytes) };
                Ok(())
            }
            Self::Launch { kernel, grid, params } => launch(kernel, grid, params),
            Self::Mark(moment) => {
                *moment.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                Ok(())
            }
        }
    }
}

impl Backend for HostDevice {
    fn name(&self) -> &'static str {
        "host device"
    }

    fn is_host(&self) -> bool {
        true
    }

    fn info(&self) -> Option<&CardInfo> {
        None
    }

    fn memory(&self) -> Result<Memory> {
        let used = self.used.load(Ordering::Relaxed);
        Ok(Memory { free: self.total.saturating_sub(used), total: self.total })
    }

    fn alloc(&self, num_bytes: usize) -> Result<Option<DevicePtr>> {
        self.refuse_in_capture("allocating")?;
        let used = self.used.fetch_add(num_bytes, Ordering::Relaxed);
        let is_room = used.checked_add(num_bytes).is_some_and(|used| used <= self.total);
        let mut data = std::ptr::null_mut();
        if is_room {
            // SAFETY: has no requirements.
            data = unsafe { harmonium_host_alloc(num_bytes as u64) };
        }
        if data.is_null() {
            self.used.fetch_sub(num_bytes, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(Some(DevicePtr(data.expose_provenance() as u64)))
    }

    unsafe fn free(&self, ptr: DevicePtr, num_bytes: usize) {
        // SAFETY: the caller promises that it comes from `alloc` and is freed once.
        unsafe { harmonium_host_free(bytes(ptr).cast()) };
        self.used.fetch_sub(num_bytes, Ordering::Relaxed);
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.refuse_in_capture("uploading")?;
        // SAFETY: the caller promises the range; device memory overlaps nothing that Rust knows.
        unsafe { from.as_ptr().copy_to_nonoverlapping(bytes(to), from.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.refuse_in_capture("downloading")?;
        // SAFETY: as in `upload`.
        unsafe { bytes(from).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, num_bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.submit(Work::Copy { from, to, num_bytes }) }
    }

    unsafe fn zero(&self, to: DevicePtr, num_bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.submit(Work::Zero { to, num_bytes }) }
    }

    unsafe fn launch(&self, kernel: &'static str, grid: &Grid, params: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.submit(Work::Launch { kernel, grid: *grid, params: params.to_vec() }) }
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_capture("waiting")
    }

    fn stage(&self, num_bytes: usize) -> Result<Box<dyn Stage>> {
        self.refuse_in_capture("uploading")?;
        Ok(Box::new(Staged(vec![0; num_bytes])))
    }

    fn record(&self) -> Result<Box<dyn Mark>> {
        let moment = Arc::new(Mutex::new(Instant::now()));
        if let Some(captured) = self.captured().as_mut() {
            captured.push(Work::Mark(Arc::clone(&moment)));
        }
        Ok(Box::new(Moment(moment)))
    }

    fn begin_capture(&self) -> Result<()> {
        self.refuse_in_capture("capturing another graph")?;
        *self.captured() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Replay>> {
        let work = self.captured().take().unwrap_or_default();
        Ok(Box::new(Recording(Arc::from(work))))
    }
}

/// Copies at once.
struct Staged(Vec<u8>);

impl Stage for Staged {
    fn bytes(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.0)
    }

    unsafe fn send(&mut self, to: DevicePtr, len: usize) -> Result<()> {
        // SAFETY: the caller promises the range; device memory overlaps nothing that Rust knows.
        unsafe { self.0[..len].as_ptr().copy_to_nonoverlapping(bytes(to), len) };
        Ok(())
    }
}

/// Work is done at once, so a moment in its order is a moment in time.
struct Moment(Arc<Mutex<Instant>>);

impl Moment {
    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark for Moment {
    fn since(&self, earlier: &dyn Mark) -> Result<f32> {
        let Some(earlier) = earlier.as_any().downcast_ref::<Self>() else {
            let message = "the other event belongs to another device".to_owned();
            return Err(Error::Driver { call: "elapsed time", message });
        };
        Ok(self.get().saturating_duration_since(earlier.get()).as_secs_f32() * 1e3)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Recording(Arc<[Work]>);

impl Replay for Recording {
    unsafe fn replay(&self) -> Result<()> {
        // SAFETY: the caller promises that the memory is still there.
        self.0.iter().try_for_each(|work| unsafe { work.run() })
    }
}

fn bytes(ptr: DevicePtr) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(ptr.0 as usize)
}

fn launch(kernel: &'static str, grid: &Grid, params: &[u8]) -> Result<()> {
    let name = CString::new(kernel).unwrap_or_default();
    let [x, y, z] = grid.grid;
    let [width, height, depth] = grid.block;
    let sizes = [x, y, z, width, height, depth, grid.shared_bytes];
    let mut fault = RawFault { kind: 0, block: [0; 3], thread: [0; 3], message: [0; 300] };
    // SAFETY: name, sizes, parameters and fault are what the function reads and writes; what the kernel itself
    // does with memory is checked access by access.
    unsafe {
        harmonium_host_launch(
            name.as_ptr(),
            sizes.as_ptr(),
            params.as_ptr().cast(),
            params.len() as u64,
            &raw mut fault,
        );
    }
    if fault.kind == 0 {
        return Ok(());
    }
    // SAFETY: the C++ side ends the message with a zero.
    let message = unsafe { CStr::from_ptr(fault.message.as_ptr()) };
    let message = message.to_string_lossy().into_owned();
    let fault =
        Fault { kind: fault_kind(fault.kind), block: fault.block, thread: fault.thread, message };
    Err(Error::Kernel { kernel: kernel.to_owned(), fault: Box::new(fault) })
}

/// `host::FaultKind` of `kernels/host/runtime.h`.
fn fault_kind(raw: i32) -> FaultKind {
    match raw {
        1 => FaultKind::GlobalBounds,
        2 => FaultKind::SharedBounds,
        3 => FaultKind::Barrier,
        4 => FaultKind::SharedUnwritten,
        5 => FaultKind::SharedRace,
        6 => FaultKind::Misaligned,
        7 => FaultKind::ForeignMemory,
        _ => FaultKind::Launch,
    }
}

/// Bytes of memory of this machine.
fn machine_memory() -> Result<usize> {
    let unavailable = |why: String| Error::Unavailable { device: "host device", why };
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|error| unavailable(format!("cannot read /proc/meminfo: {error}")))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok());
    let kib = kib.ok_or_else(|| unavailable("/proc/meminfo names no MemTotal".to_owned()))?;
    Ok(kib * 1024)
}
