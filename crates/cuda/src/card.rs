//! The card: CUDA's driver, loaded when it is first asked for.
//!
//! All work goes to one stream, in order, but for copies from pinned memory, which have one of their own. A kernel may
//! start while the one before it ends (programmatic dependent launch: every kernel waits for its predecessor before it
//! touches what that wrote). A call that fails says which.

#![expect(unsafe_code, reason = "calls the driver")]

use std::any::Any;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::{result, sys};

use crate::device::{Backend, CardInfo, Grid, Mark, Memory, Replay, Stage};
use crate::{DevicePtr, Error, Fault, FaultKind, Result};

include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// Bytes of shared memory that a kernel may use without having been told so before.
const USUAL_SHARED_BYTES: u32 = 48 << 10;
/// What a block may have on this architecture.
const MAX_SHARED_BYTES: i32 = 227 << 10;

pub(crate) struct Card {
    name: String,
    info: CardInfo,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Copies from pinned memory.
    copies: sys::CUstream,
    kernels: HashMap<&'static str, sys::CUfunction>,
    is_capturing: AtomicBool,
}

// SAFETY: the driver's handles may be used from any thread that has made the context current, which every call here
// does; the device lives as long as the process.
unsafe impl Send for Card {}
// SAFETY: as above; the driver locks its own state.
unsafe impl Sync for Card {}

fn unavailable(why: impl Into<String>) -> Error {
    Error::Unavailable { device: "card", why: why.into() }
}

/// Names the call that failed.
fn called<T>(call: &'static str, result: std::result::Result<T, result::DriverError>) -> Result<T> {
    result.map_err(|error| Error::Driver { call, message: error.to_string() })
}

impl Card {
    /// Opens the card with this index and loads all kernels.
    pub(crate) fn new(index: usize) -> Result<Self> {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable(
                "the NVIDIA driver's library libcuda.so.1 is not installed; install a driver of version 580 or newer",
            ));
        }
        result::init()
            .map_err(|error| unavailable(format!("the driver does not start: {error}")))?;
        let count = called("cuDeviceGetCount", result::device::get_count())?;
        let ordinal = i32::try_from(index).ok().filter(|index| *index < count);
        let ordinal = ordinal
            .ok_or_else(|| unavailable(format!("there is no card {index}, only {count} in all")))?;
        let device = called("cuDeviceGet", result::device::get(ordinal))?;
        let name = called("cuDeviceGetName", result::device::get_name(device))?;
        let info = describe(device, &name)?;
        // SAFETY: the device was returned by the driver, and its primary context is never released.
        let context =
            called("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        // SAFETY: the context was returned by the driver.
        called("cuCtxSetCurrent", unsafe { result::ctx::set_current(context) })?;
        let new_stream = || {
            let kind = result::stream::StreamKind::NonBlocking;
            called("cuStreamCreate", result::stream::create(kind))
        };
        let (stream, copies) = (new_stream()?, new_stream()?);
        let kernels = load_kernels()?;
        let is_capturing = AtomicBool::new(false);
        Ok(Self { name, info, context, stream, copies, kernels, is_capturing })
    }

    /// Makes the context current in this thread; every call begins with it.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is never released.
        called("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    fn enter_uncaptured(&self, what: &'static str) -> Result<()> {
        if self.is_capturing.load(Ordering::Acquire) {
            return Err(Error::Capturing(what));
        }
        self.enter()
    }
}

/// Refuses a card for which the kernels are not made.
fn describe(device: sys::CUdevice, name: &str) -> Result<CardInfo> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_CLOCK_RATE, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
        CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    };
    let attribute = |attribute| {
        // SAFETY: the device was returned by the driver.
        let number = unsafe { result::device::get_attribute(device, attribute) };
        called("cuDeviceGetAttribute", number).map(i32::unsigned_abs)
    };
    let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    if (major, minor) != (9, 0) {
        return Err(unavailable(format!(
            "{name} has compute capability {major}.{minor}; the kernels are made for 9.0 (H100, H200)"
        )));
    }
    let mut driver_cuda = 0;
    // SAFETY: the driver writes one number.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut driver_cuda) };
    called("cuDriverGetVersion", asked.result())?;
    Ok(CardInfo {
        driver_cuda: driver_cuda.unsigned_abs(),
        num_processors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        l2_bytes: attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        processor_khz: attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
        memory_khz: attribute(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
    })
}

/// All kernels by name. They stay loaded as long as the process lives.
fn load_kernels() -> Result<HashMap<&'static str, sys::CUfunction>> {
    let mut kernels = HashMap::new();
    for (names, image) in CUBINS {
        // The driver reads the image as 8-byte words.
        let mut words = vec![0u64; image.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<_, u8>(&mut words)[..image.len()].copy_from_slice(image);
        // SAFETY: the image is a whole cubin that nvcc has written.
        let module = called("cuModuleLoadData", unsafe {
            result::module::load_data(words.as_ptr().cast())
        })?;
        for name in *names {
            let text = CString::new(*name).unwrap_or_default();
            // SAFETY: the module was loaded above and is never unloaded.
            let function = called("cuModuleGetFunction", unsafe {
                result::module::get_function(module, text)
            })?;
            // SAFETY: as above.
            called("cuFuncSetAttribute", unsafe {
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    dynamic_room(function)?,
                )
            })?;
            // All kernels split a processor's memory alike: one that wants another split waits until the one before it
            // has left the processor.
            // SAFETY: as above.
            called("cuFuncSetAttribute", unsafe {
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                    sys::CUshared_carveout::CU_SHAREDMEM_CARVEOUT_MAX_SHARED as i32,
                )
            })?;
            kernels.insert(*name, function);
        }
    }
    Ok(kernels)
}

/// What is left of a block's shared memory beside the kernel's own arrays.
fn dynamic_room(function: sys::CUfunction) -> Result<i32> {
    // SAFETY: the function was returned by the driver.
    let taken = called("cuFuncGetAttribute", unsafe {
        result::function::get_function_attribute(
            function,
            sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        )
    })?;
    Ok((MAX_SHARED_BYTES - taken).max(USUAL_SHARED_BYTES as i32))
}

impl Backend for Card {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_host(&self) -> bool {
        false
    }

    fn info(&self) -> Option<&CardInfo> {
        Some(&self.info)
    }

    fn memory(&self) -> Result<Memory> {
        self.enter()?;
        let (free, total) = called("cuMemGetInfo", result::mem_get_info())?;
        Ok(Memory { free, total })
    }

    fn alloc(&self, num_bytes: usize) -> Result<Option<DevicePtr>> {
        self.enter_uncaptured("allocating")?;
        // SAFETY: the memory is written before anything reads it, or read as anything.
        match unsafe { result::malloc_sync(num_bytes) } {
            Ok(ptr) => Ok(Some(DevicePtr(ptr))),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(error) => called("cuMemAlloc", Err(error)),
        }
    }

    unsafe fn free(&self, ptr: DevicePtr, _num_bytes: usize) {
        // Waits for all work that was asked for before. A failure here means that the context is lost, which the next
        // call reports.
        if self.enter().is_ok() {
            // SAFETY: the caller promises that it comes from `alloc` and is freed once.
            let _ = unsafe { result::free_sync(ptr.0) };
        }
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.enter_uncaptured("uploading")?;
        // SAFETY: the caller promises the range. Memory that is not pinned has been read when the call returns.
        called("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to.0, from, self.stream) })
    }

    unsafe fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.enter_uncaptured("downloading")?;
        // SAFETY: the caller promises the range, and `to` is borrowed until the stream has been waited for.
        called("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(to, from.0, self.stream) })?;
        // SAFETY: the stream is never destroyed.
        called("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    unsafe fn copy(&self, from: DevicePtr, to: DevicePtr, num_bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller promises both ranges.
        called("cuMemcpyDtoDAsync", unsafe {
            result::memcpy_dtod_async(to.0, from.0, num_bytes, self.stream)
        })
    }

    unsafe fn zero(&self, to: DevicePtr, num_bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller promises the range.
        called("cuMemsetD8Async", unsafe {
            result::memset_d8_async(to.0, 0, num_bytes, self.stream)
        })
    }

    unsafe fn launch(&self, kernel: &'static str, grid: &Grid, params: &[u8]) -> Result<()> {
        self.enter()?;
        let failed = |message: String| {
            let fault = Fault { kind: FaultKind::Launch, block: [0; 3], thread: [0; 3], message };
            Error::Kernel { kernel: kernel.to_owned(), fault: Box::new(fault) }
        };
        let function = self.kernels.get(kernel);
        let function = *function.ok_or_else(|| failed("there is no such kernel".to_owned()))?;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.grid[0],
            gridDimY: grid.grid[1],
            gridDimZ: grid.grid[2],
            blockDimX: grid.block[0],
            blockDimY: grid.block[1],
            blockDimZ: grid.block[2],
            sharedMemBytes: grid.shared_bytes,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // Parameters are read when the kernel is launched, from memory aligned like the largest of them.
        let mut words = vec![0u64; params.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<_, u8>(&mut words)[..params.len()].copy_from_slice(params);
        let mut arguments: [*mut c_void; 1] = [words.as_mut_ptr().cast()];
        // SAFETY: the kernel has one parameter, of the type that the caller promises; the driver copies it.
        let launched = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        launched.result().map_err(|error| failed(error.to_string()))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter_uncaptured("waiting")?;
        // SAFETY: the stream is never destroyed.
        called("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    fn stage(&self, num_bytes: usize) -> Result<Box<dyn Stage>> {
        self.enter_uncaptured("uploading")?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let arrived = Moment(called("cuEventCreate", result::event::create(flags))?);
        // SAFETY: the memory is made zeros before anything reads it.
        let data = called("cuMemHostAlloc", unsafe { result::malloc_host(num_bytes, 0) })?;
        // SAFETY: the driver has returned that many bytes, which nobody else uses.
        unsafe { data.cast::<u8>().write_bytes(0, num_bytes) };
        let (stream, context) = (self.copies, self.context);
        Ok(Box::new(Pinned { data: data.cast(), num_bytes, arrived, stream, context }))
    }

    fn record(&self) -> Result<Box<dyn Mark>> {
        self.enter()?;
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let event = Moment(called("cuEventCreate", result::event::create(flags))?);
        // In a capture an event only orders streams, unless it is said to be used outside of it.
        let flags = match self.is_capturing.load(Ordering::Acquire) {
            true => sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL,
            false => sys::CUevent_record_flags::CU_EVENT_RECORD_DEFAULT,
        };
        // SAFETY: both were made by the driver and are alive.
        let recorded = unsafe { sys::cuEventRecordWithFlags(event.0, self.stream, flags as u32) };
        called("cuEventRecordWithFlags", recorded.result())?;
        Ok(Box::new(event))
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter_uncaptured("capturing another graph")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is never destroyed.
        called("cuStreamBeginCapture", unsafe {
            result::stream::begin_capture(self.stream, mode)
        })?;
        self.is_capturing.store(true, Ordering::Release);
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Replay>> {
        self.is_capturing.store(false, Ordering::Release);
        self.enter()?;
        // SAFETY: the stream is never destroyed, and a capture was begun.
        let graph =
            called("cuStreamEndCapture", unsafe { result::stream::end_capture(self.stream) })?;
        // SAFETY: the graph was returned by the driver.
        let executable =
            unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above; what was instantiated does not need it any more.
        let destroyed = unsafe { result::graph::destroy(graph) };
        let executable = called("cuGraphInstantiate", executable)?;
        called("cuGraphDestroy", destroyed)?;
        Ok(Box::new(Recording { executable, stream: self.stream, context: self.context }))
    }
}

/// Pinned memory. Its event is recorded behind each copy; one that was never recorded counts as arrived.
struct Pinned {
    data: *mut u8,
    num_bytes: usize,
    arrived: Moment,
    stream: sys::CUstream,
    context: sys::CUcontext,
}

impl Pinned {
    fn wait(&self) -> Result<()> {
        // SAFETY: the context is never released.
        called("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })?;
        // SAFETY: the event is alive.
        called("cuEventSynchronize", unsafe { result::event::synchronize(self.arrived.0) })
    }
}

impl Stage for Pinned {
    fn bytes(&mut self) -> Result<&mut [u8]> {
        self.wait()?;
        // SAFETY: the driver has given that many bytes, they were written, and no copy reads them any more.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data, self.num_bytes) })
    }

    unsafe fn send(&mut self, to: DevicePtr, len: usize) -> Result<()> {
        // SAFETY: the driver has given that many bytes, and they were written.
        let from = unsafe { std::slice::from_raw_parts(self.data, self.num_bytes) };
        // SAFETY: the caller promises the range on the device. The bytes here are not touched before the event
        // recorded behind the copy has been waited for.
        let copied = unsafe { result::memcpy_htod_async(to.0, &from[..len], self.stream) };
        called("cuMemcpyHtoDAsync", copied)?;
        // SAFETY: both were made by the driver and are alive.
        called("cuEventRecord", unsafe { result::event::record(self.arrived.0, self.stream) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What is left to do about a failure is nothing: the context is lost then, and no copy runs any more.
        let _ = self.wait();
        // SAFETY: allocated once, freed once, and no copy reads it any more.
        let _ = unsafe { result::free_host(self.data.cast()) };
    }
}

struct Moment(sys::CUevent);

// SAFETY: the driver's events may be used from any thread.
unsafe impl Send for Moment {}
// SAFETY: as above.
unsafe impl Sync for Moment {}

impl Mark for Moment {
    fn since(&self, earlier: &dyn Mark) -> Result<f32> {
        let Some(earlier) = earlier.as_any().downcast_ref::<Self>() else {
            let message = "the other event belongs to another device".to_owned();
            return Err(Error::Driver { call: "elapsed time", message });
        };
        // SAFETY: both events are alive; the later one has the earlier one behind it in the same stream.
        called("cuEventSynchronize", unsafe { result::event::synchronize(self.0) })?;
        // SAFETY: as above.
        called("cuEventElapsedTime", unsafe { result::event::elapsed(earlier.0, self.0) })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // SAFETY: the event is destroyed once. What is left to do about a failure is nothing.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

struct Recording {
    executable: sys::CUgraphExec,
    stream: sys::CUstream,
    context: sys::CUcontext,
}

// SAFETY: the driver's graphs may be used from any thread, one at a time; replaying takes the stream's order.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

impl Replay for Recording {
    unsafe fn replay(&self) -> Result<()> {
        // SAFETY: the context is never released.
        called("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })?;
        // SAFETY: the caller promises that the memory is still there; graph and stream are alive.
        called("cuGraphLaunch", unsafe { result::graph::launch(self.executable, self.stream) })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: the graph is destroyed once. What is left to do about a failure is nothing.
        let _ = unsafe { result::graph::exec_destroy(self.executable) };
    }
}
