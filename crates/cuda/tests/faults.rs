//! Each kernel of `kernels/host/faults.cu` has one mistake, and the host device finds it.

#![expect(unsafe_code, reason = "launches kernels that do what no operation may")]

use bytemuck::{Pod, Zeroable};
use harmonium_cuda::{Buffer, Device, DevicePtr, Error, Fault, FaultKind, Grid, Result};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    data: DevicePtr,
    scratch: DevicePtr,
}

const ONE_BLOCK: Grid = Grid { grid: [1, 1, 1], block: [64, 1, 1], shared_bytes: 0 };

fn launch(device: &Device, kernel: &'static str, grid: &Grid, data: &Buffer) -> Result<()> {
    let scratch = device.alloc_from(&[0.0f32; 64])?;
    let params = Params { data: data.ptr(), scratch: scratch.ptr() };
    // SAFETY: on the host device every access is checked; that it is, is what is tested here.
    unsafe { device.launch(kernel, grid, &params) }
}

fn numbers(device: &Device) -> Buffer {
    let numbers: Vec<f32> = (0..64u8).map(f32::from).collect();
    device.alloc_from(&numbers).unwrap()
}

fn fault(kernel: &'static str, grid: &Grid) -> Fault {
    let device = Device::host().unwrap();
    let data = numbers(&device);
    let fault = match launch(&device, kernel, grid, &data) {
        Err(Error::Kernel { kernel: named, fault }) if named == kernel => *fault,
        other => panic!("{kernel} gave {other:?}"),
    };
    // After a mistake the device works on.
    let data = numbers(&device);
    launch(&device, "fault_none", &ONE_BLOCK, &data).unwrap();
    assert_eq!(device.read::<f32>(data.whole()).unwrap()[0], 63.0);
    fault
}

/// Checks kind, thread and a part of the message.
fn finds(kernel: &'static str, kind: FaultKind, thread: u32, message: &str) {
    let fault = fault(kernel, &ONE_BLOCK);
    assert_eq!((fault.kind, fault.thread), (kind, [thread, 0, 0]), "{kernel}: {fault}");
    assert!(fault.message.contains(message), "{kernel}: {fault}");
}

#[test]
fn access_beyond_a_buffer_is_found_at_both_ends() {
    let kind = FaultKind::GlobalBounds;
    finds("fault_global_after_end", kind, 63, "writes 4 bytes at offset 256 of a buffer of 256");
    finds("fault_global_before_begin", kind, 0, "reads 4 bytes at 4 bytes before a buffer of 256");
    finds("fault_global_wide", kind, 5, "reads 16 bytes at offset 256 of a buffer of 256");
}

#[test]
fn access_to_a_freed_buffer_is_found() {
    let device = Device::host().unwrap();
    let data = numbers(&device);
    let params = Params { data: data.ptr(), scratch: data.ptr() };
    drop(data);
    // SAFETY: as in `launch`.
    let result = unsafe { device.launch("fault_none", &ONE_BLOCK, &params) };
    let Err(Error::Kernel { fault, .. }) = result else { panic!("{result:?}") };
    assert_eq!(fault.kind, FaultKind::GlobalBounds);
    assert!(fault.message.contains("where no buffer is"), "{fault}");
}

#[test]
fn access_beyond_shared_memory_is_found_at_both_ends() {
    let kind = FaultKind::SharedBounds;
    finds("fault_shared_after_end", kind, 63, "at offset 252 of a shared array of 252 bytes");
    finds("fault_shared_before_begin", kind, 0, "at offset -4 of a shared array of 256 bytes");
    finds("fault_dynamic_shared", kind, 0, "has none");
    let fault = fault("fault_dynamic_shared", &Grid { shared_bytes: 100, ..ONE_BLOCK });
    assert_eq!((fault.kind, fault.thread[0]), (kind, 25), "{fault}");
}

#[test]
fn barrier_that_not_all_threads_reach_is_found() {
    let kind = FaultKind::Barrier;
    finds("fault_barrier_left_out", kind, 0, "which thread 32 never reached");
    finds("fault_barrier_in_branch", kind, 32, "while thread 0 waits in faults.cu:");
    finds("fault_shuffle_left_out", kind, 63, "which thread 40 never reached");
}

#[test]
fn read_of_unwritten_shared_memory_is_found() {
    finds("fault_unwritten", FaultKind::SharedUnwritten, 43, "that no thread has written");
}

#[test]
fn missing_barrier_is_found() {
    let kind = FaultKind::SharedRace;
    finds("fault_race_read", kind, 1, "reads shared memory that thread 0 wrote");
    finds("fault_race_write", kind, 32, "writes shared memory that thread 31 reads");
    finds("fault_copy_not_awaited", kind, 0, "asynchronous copy");
    finds("fault_copy_not_committed", kind, 0, "asynchronous copy");
}

#[test]
fn misuse_of_warpgroup_products_is_found() {
    let finds = |kernel, num_threads, kind, message: &str| {
        let shared_bytes = 64 * 128 + 512;
        let grid = Grid { grid: [1, 1, 1], block: [num_threads, 1, 1], shared_bytes };
        let fault = fault(kernel, &grid);
        assert_eq!(fault.kind, kind, "{kernel}: {fault}");
        assert!(fault.message.contains(message), "{kernel}: {fault}");
    };
    finds("fault_wgmma_small_group", 64, FaultKind::Barrier, "fewer than 128 threads");
    finds("fault_wgmma_misaligned_tile", 128, FaultKind::Misaligned, "not a multiple of 1024");
    finds("fault_wgmma_beyond_row", 128, FaultKind::Misaligned, "offset 128 of a row of 128 bytes");
    finds("fault_wgmma_not_visible", 128, FaultKind::SharedRace, "no fence_async_proxy since");
    finds("fault_wgmma_not_begun", 128, FaultKind::Barrier, "no wgmma_fence before");
    finds("fault_wgmma_changed", 128, FaultKind::SharedRace, "with no barrier between");
    finds("fault_wgmma_copied_over", 128, FaultKind::SharedRace, "asynchronous copy");
}

#[test]
fn misaligned_and_foreign_addresses_are_found() {
    finds("fault_misaligned", FaultKind::Misaligned, 7, "is not a multiple of 16");
    finds("fault_other_threads_locals", FaultKind::ForeignMemory, 1, "which is no device memory");
}

#[test]
fn impossible_launches_are_refused() {
    let refused = |grid: &Grid, message: &str| {
        let fault = fault("fault_none", grid);
        assert_eq!(fault.kind, FaultKind::Launch);
        assert!(fault.message.contains(message), "{fault}");
    };
    refused(&Grid { block: [65, 1, 1], ..ONE_BLOCK }, "number of threads is 65");
    refused(&Grid { block: [0, 1, 1], ..ONE_BLOCK }, "is 0");
    refused(&Grid { grid: [1, 65536, 1], ..ONE_BLOCK }, "height is 65536");
    refused(&Grid { shared_bytes: 232_449, ..ONE_BLOCK }, "shared memory are 232449");
    let device = Device::host().unwrap();
    // SAFETY: there is no such kernel, so nothing runs.
    let result = unsafe { device.launch("nothing", &ONE_BLOCK, &0u64) };
    assert_eq!(result.unwrap_err().to_string(), "kernel nothing: there is no such kernel");
    // SAFETY: its parameters are two pointers, and the launch is refused before it runs.
    let result = unsafe { device.launch("fault_none", &ONE_BLOCK, &0u64) };
    assert!(result.unwrap_err().to_string().contains("parameters have another size: 8"));
}
