//! A device: the one type through which everything above reaches memory and kernels.

#![expect(unsafe_code, reason = "the seam to C++ and to the driver")]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;

use crate::buffer::{Buffer, BufferSlice, DevicePtr};
use crate::graph::Graph;
use crate::profile::Recorder;
use crate::{Error, Result};

/// How many threads run a kernel, and what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in each dimension.
    pub grid: [u32; 3],
    /// Threads of a block in each dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Not allocated.
    pub free: usize,
    /// All there is.
    pub total: usize,
}

/// What a card says of itself; a report of measurements is worth little without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardInfo {
    /// Newest version of CUDA that the driver speaks, such as 13000 for 13.0.
    pub driver_cuda: u32,
    /// Multiprocessors.
    pub num_processors: u32,
    /// Bytes of the level 2 cache.
    pub l2_bytes: u64,
    /// Highest clock of the multiprocessors, in kHz.
    pub processor_khz: u32,
    /// Highest clock of the memory, in kHz.
    pub memory_khz: u32,
}

/// What the card and the host device have to be able to do. Work is done in the order it was asked for.
pub(crate) trait Backend: Send + Sync {
    fn name(&self) -> &str;
    /// Whether it is this machine itself.
    fn is_host(&self) -> bool;
    /// `None` for the host device.
    fn info(&self) -> Option<&CardInfo>;
    fn memory(&self) -> Result<Memory>;
    /// `None` if there is no room. `num_bytes` is not 0.
    fn alloc(&self, num_bytes: usize) -> Result<Option<DevicePtr>>;
    /// # Safety
    /// `ptr` comes from `alloc` with the same length, is freed once, and nothing uses it any more but work that was
    /// asked for before.
    unsafe fn free(&self, ptr: DevicePtr, num_bytes: usize);
    /// # Safety
    /// The bytes at `to` lie in one live allocation; so in the next three.
    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()>;
    /// # Safety
    /// See `upload`.
    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()>;
    /// # Safety
    /// See `upload`; the two ranges do not overlap.
    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, num_bytes: usize) -> Result<()>;
    /// # Safety
    /// See `upload`.
    unsafe fn zero(&self, to: DevicePtr, num_bytes: usize) -> Result<()>;
    /// # Safety
    /// `params` are what the kernel expects, and every pointer in them reaches as far as the kernel goes.
    unsafe fn launch(&self, kernel: &'static str, grid: &Grid, params: &[u8]) -> Result<()>;
    fn synchronize(&self) -> Result<()>;
    fn stage(&self, num_bytes: usize) -> Result<Box<dyn Stage>>;
    /// While a graph is captured, a part of it.
    fn record(&self) -> Result<Box<dyn Mark>>;
    fn begin_capture(&self) -> Result<()>;
    fn end_capture(&self) -> Result<Box<dyn Replay>>;
}

/// Memory of this machine that copies itself to a device, beside the device's other work. Dropping it waits.
pub(crate) trait Stage {
    /// Waits until what was sent has arrived, then lends the memory.
    fn bytes(&mut self) -> Result<&mut [u8]>;
    /// Begins to copy the first `len` bytes, of which there are as many.
    ///
    /// # Safety
    /// The bytes at `to` lie in one live allocation, and nothing uses them until `bytes` has returned or this was
    /// dropped.
    unsafe fn send(&mut self, to: DevicePtr, len: usize) -> Result<()>;
}

/// A moment in the order of a device's work.
pub(crate) trait Mark: Send + Sync {
    /// Milliseconds from `earlier`, a mark of the same device, to this one; waits for both.
    fn since(&self, earlier: &dyn Mark) -> Result<f32>;
    #[cfg_attr(
        not(any(feature = "cuda", feature = "host-device")),
        expect(dead_code, reason = "a build without devices has no marks")
    )]
    fn as_any(&self) -> &dyn std::any::Any;
}

/// Captured work that can be done again.
pub(crate) trait Replay: Send + Sync {
    /// # Safety
    /// All memory that the captured work uses is still allocated.
    unsafe fn replay(&self) -> Result<()>;
}

/// A device. Clones are the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    backend: Box<dyn Backend>,
    graphs: Mutex<Graphs>,
    recorder: Recorder,
}

/// Graphs name memory by its address, so while there are any, no memory is given back.
#[derive(Default)]
struct Graphs {
    num_alive: usize,
    released: Vec<(DevicePtr, usize)>,
}

impl Device {
    /// The host device: kernels run on the CPU, and mistakes in them become errors.
    pub fn host() -> Result<Self> {
        #[cfg(feature = "host-device")]
        return Ok(Self::new(Box::new(crate::host::HostDevice::new(None)?)));
        #[cfg(not(feature = "host-device"))]
        Err(Error::Unavailable {
            device: "host device",
            why: "this binary was built without the feature host-device".to_owned(),
        })
    }

    /// The card with this index.
    pub fn card(index: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self::new(Box::new(crate::card::Card::new(index)?)));
        #[cfg(not(feature = "cuda"))]
        Err(Error::Unavailable {
            device: "card",
            why: format!("this binary was built without the feature cuda (card {index})"),
        })
    }

    #[cfg(any(feature = "cuda", feature = "host-device"))]
    fn new(backend: Box<dyn Backend>) -> Self {
        let (graphs, recorder) = (Mutex::default(), Recorder::default());
        Self(Arc::new(Inner { backend, graphs, recorder }))
    }

    /// What a person calls it.
    pub fn name(&self) -> &str {
        self.0.backend.name()
    }

    /// Whether it is the host device.
    pub fn is_host(&self) -> bool {
        self.0.backend.is_host()
    }

    /// What it says of itself, if it is a card.
    pub fn info(&self) -> Option<&CardInfo> {
        self.0.backend.info()
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        self.0.backend.memory()
    }

    /// A buffer of `num_bytes` bytes whose content is anything. Its address is a multiple of 256.
    pub fn alloc(&self, num_bytes: usize) -> Result<Buffer> {
        if num_bytes == 0 {
            return Err(Error::Range { offset: 0, len: 0, buffer_len: 0 });
        }
        if let Some(ptr) = self.0.backend.alloc(num_bytes)? {
            return Ok(Buffer::new(self.clone(), ptr, num_bytes));
        }
        let Memory { free, total } = self.memory()?;
        Err(Error::OutOfMemory { device: self.name().to_owned(), num_bytes, free, total })
    }

    /// A buffer that holds `values`.
    pub fn alloc_from<T: Pod>(&self, values: &[T]) -> Result<Buffer> {
        let bytes = bytemuck::cast_slice(values);
        let buffer = self.alloc(bytes.len())?;
        self.upload(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// Copies `bytes` to the buffer, from byte `offset` on.
    pub fn upload(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.range(buffer, offset, bytes.len())?;
        // SAFETY: `range` has checked that the bytes lie in the buffer, which is borrowed and thus alive.
        unsafe { self.0.backend.upload(to.ptr(), bytes) }
    }

    /// Waits for all work before it, then copies from the buffer, from byte `offset` on.
    pub fn download(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.range(buffer, offset, bytes.len())?;
        // SAFETY: as in `upload`.
        unsafe { self.0.backend.download(from.ptr(), bytes) }
    }

    /// The buffer's bytes as values; its length must be a multiple of theirs.
    pub fn read<T: Pod>(&self, slice: BufferSlice<'_>) -> Result<Vec<T>> {
        let size = size_of::<T>();
        if size == 0 || !slice.len().is_multiple_of(size) {
            return Err(Error::Range { offset: 0, len: size, buffer_len: slice.len() });
        }
        let mut values = vec![T::zeroed(); slice.len() / size];
        self.own(slice)?;
        // SAFETY: a slice lies in its buffer, which is borrowed and thus alive.
        unsafe { self.0.backend.download(slice.ptr(), bytemuck::cast_slice_mut(&mut values)) }?;
        Ok(values)
    }

    /// Copies between two slices of the same length that do not overlap.
    pub fn copy(&self, from: BufferSlice<'_>, to: BufferSlice<'_>) -> Result<()> {
        self.own(from)?;
        self.own(to)?;
        let (first, second) = (from.ptr().0, to.ptr().0);
        let is_apart = first.abs_diff(second) >= from.len() as u64;
        if from.len() != to.len() || !is_apart {
            return Err(Error::Range { offset: 0, len: from.len(), buffer_len: to.len() });
        }
        // SAFETY: slices lie in their buffers, which are borrowed and thus alive; they do not overlap.
        unsafe { self.0.backend.copy(from.ptr(), to.ptr(), from.len()) }
    }

    /// Sets every byte to 0.
    pub fn zero(&self, slice: BufferSlice<'_>) -> Result<()> {
        self.own(slice)?;
        // SAFETY: a slice lies in its buffer, which is borrowed and thus alive.
        unsafe { self.0.backend.zero(slice.ptr(), slice.len()) }
    }

    /// Runs a kernel after all work before it.
    ///
    /// # Safety
    /// `params` are the kernel's own parameters, and every pointer in them reaches, in memory of this device that
    /// stays allocated, as far as the kernel goes with these parameters.
    pub unsafe fn launch<P: Pod>(
        &self,
        kernel: &'static str,
        grid: &Grid,
        params: &P,
    ) -> Result<()> {
        self.0.recorder.launched(kernel);
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.backend.launch(kernel, grid, bytemuck::bytes_of(params)) }
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<()> {
        self.0.backend.synchronize()
    }

    /// Memory of this machine from which bytes go to the device beside its other work.
    pub(crate) fn stage(&self, num_bytes: usize) -> Result<Box<dyn Stage>> {
        self.0.backend.stage(num_bytes)
    }

    /// Marks this moment in the order of the work; one that is captured, in each replay of the graph.
    pub fn event(&self) -> Result<Event> {
        Ok(Event { mark: self.0.backend.record()? })
    }

    /// Records the kernels, copies and zeroings that `work` asks for instead of doing them.
    ///
    /// Only one thread may use the device meanwhile, and allocating, uploading, downloading and waiting fail.
    pub fn capture(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<Graph> {
        self.0.backend.begin_capture()?;
        self.graphs().num_alive += 1;
        let worked = work(self);
        let graph = self.0.backend.end_capture();
        match worked.and(graph) {
            Ok(replay) => Ok(Graph::new(self.clone(), replay)),
            Err(error) => {
                self.graph_dropped();
                Err(error)
            }
        }
    }

    fn graphs(&self) -> MutexGuard<'_, Graphs> {
        self.0.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn graph_dropped(&self) {
        let mut graphs = self.graphs();
        graphs.num_alive -= 1;
        if graphs.num_alive > 0 {
            return;
        }
        for (ptr, len) in graphs.released.drain(..) {
            // SAFETY: its buffer was dropped, and no graph is left that could name it.
            unsafe { self.0.backend.free(ptr, len) };
        }
    }

    /// Called once by every buffer, when it is dropped.
    pub(crate) fn release(&self, ptr: DevicePtr, len: usize) {
        let mut graphs = self.graphs();
        if graphs.num_alive > 0 {
            graphs.released.push((ptr, len));
            return;
        }
        // SAFETY: the buffer is being dropped, and no graph could name it.
        unsafe { self.0.backend.free(ptr, len) };
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Refuses memory of another device.
    pub(crate) fn own(&self, slice: BufferSlice<'_>) -> Result<()> {
        if self.is_same(slice.buffer().device()) {
            return Ok(());
        }
        let why = format!("the buffer belongs to another device than {}", self.name());
        Err(Error::Driver { call: "memory access", message: why })
    }

    fn range<'a>(&self, buffer: &'a Buffer, offset: usize, len: usize) -> Result<BufferSlice<'a>> {
        let end = offset.checked_add(len);
        let end = end.ok_or(Error::Range { offset, len, buffer_len: buffer.len() })?;
        let slice = buffer.slice(offset..end)?;
        self.own(slice)?;
        Ok(slice)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.name()).finish()
    }
}

/// A moment in the order of a device's work.
pub struct Event {
    mark: Box<dyn Mark>,
}

impl Event {
    /// Milliseconds from `earlier` to this event; waits for both.
    pub fn elapsed_ms(&self, earlier: &Self) -> Result<f32> {
        self.mark.since(earlier.mark.as_ref())
    }
}
