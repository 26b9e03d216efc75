//! What the host device does in place of PTX instructions, against what the PTX manual says.

#![expect(unsafe_code, reason = "launches kernels that no operation stands for")]

use bytemuck::{Pod, Zeroable};
use half::bf16;
use harmonium_cuda::{Device, DevicePtr, Grid};

fn launch<P: Pod>(device: &Device, kernel: &'static str, num_threads: u32, params: &P) {
    let grid = Grid { grid: [1, 1, 1], block: [num_threads, 1, 1], shared_bytes: 0 };
    // SAFETY: the buffers are as long as emulation.cu says, and every access is checked.
    unsafe { device.launch(kernel, &grid, params) }.unwrap();
}

#[test]
fn matrices_are_multiplied() {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        a: DevicePtr,
        b: DevicePtr,
        d: DevicePtr,
    }
    // Small whole numbers: every product and sum is exact, so one wrong place shows.
    let a: Vec<bf16> = (0..256).map(|i| bf16::from_f32((i * 7 % 31) as f32 - 15.0)).collect();
    let b: Vec<bf16> = (0..128).map(|i| bf16::from_f32((i * 5 % 23) as f32 - 11.0)).collect();
    let device = Device::host().unwrap();
    let (a_buffer, b_buffer) = (device.alloc_from(&a).unwrap(), device.alloc_from(&b).unwrap());
    let d = device.alloc(16 * 8 * 4).unwrap();
    let params = Params { a: a_buffer.ptr(), b: b_buffer.ptr(), d: d.ptr() };
    launch(&device, "emulation_matmul", 32, &params);
    let d = device.read::<f32>(d.whole()).unwrap();
    for (i, actual) in d.into_iter().enumerate() {
        let (row, column) = (i / 8, i % 8);
        let products = (0..16).map(|k| a[row * 16 + k].to_f32() * b[k * 8 + column].to_f32());
        assert_eq!(actual, products.sum::<f32>(), "row {row}, column {column}");
    }
}

#[test]
fn warpgroups_multiply_tiles_of_shared_memory() {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        a: DevicePtr,
        b: DevicePtr,
        out: DevicePtr,
    }
    let a: Vec<bf16> = (0..64 * 64).map(|i| bf16::from_f32((i * 7 % 31) as f32 - 15.0)).collect();
    let b: Vec<bf16> = (0..96 * 64).map(|i| bf16::from_f32((i * 5 % 23) as f32 - 11.0)).collect();
    let device = Device::host().unwrap();
    let (a_buffer, b_buffer) = (device.alloc_from(&a).unwrap(), device.alloc_from(&b).unwrap());
    let out = device.alloc((3 * 96 + 64) * 64 * 4).unwrap();
    let params = Params { a: a_buffer.ptr(), b: b_buffer.ptr(), out: out.ptr() };
    let grid = Grid { grid: [1, 1, 1], block: [128, 1, 1], shared_bytes: (64 + 96) * 128 };
    // SAFETY: the buffers are as long as emulation.cu says, and every access is checked.
    unsafe { device.launch("emulation_wgmma", &grid, &params) }.unwrap();
    let out = device.read::<f32>(out.whole()).unwrap();
    let (shared, rest) = out.split_at(64 * 96);
    let (registers, rest) = rest.split_at(64 * 96);
    let (early, by_rows) = rest.split_at(64 * 96);
    for i in 0..64 * 96 {
        let (row, column) = (i / 96, i % 96);
        let products = (0..64).map(|k| a[row * 64 + k].to_f32() * b[column * 64 + k].to_f32());
        let sum = products.sum::<f32>();
        assert_eq!((shared[i], registers[i]), (sum, sum), "row {row}, column {column}");
    }
    for (i, actual) in by_rows.iter().enumerate() {
        let (row, column) = (i / 64, i % 64);
        let products = (0..64).map(|k| a[row * 64 + k].to_f32() * b[k * 64 + column].to_f32());
        assert_eq!(*actual, products.sum::<f32>(), "row {row}, column {column}");
    }
    assert!(early.iter().all(|sum| sum.is_nan()), "sums were read that no wait had completed");
}

#[test]
fn warps_exchange_values() {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        out: DevicePtr,
        counter: DevicePtr,
    }
    let device = Device::host().unwrap();
    let out = device.alloc(10 * 48 * 4).unwrap();
    let counter = device.alloc_from(&[0u32]).unwrap();
    launch(&device, "emulation_warp", 48, &Params { out: out.ptr(), counter: counter.ptr() });
    let out = device.read::<u32>(out.whole()).unwrap();
    for i in 0..48u32 {
        let (first, end) = if i < 32 { (0, 32) } else { (32, 48) };
        let lanes = || first..end;
        let expected = [
            first + 3,
            i ^ 5,
            if i % 8 < 4 { i + 4 } else { i },
            if i % 16 < 2 { i } else { i - 2 },
            lanes().filter(|lane| lane % 3 == 0).map(|lane| 1 << (lane - first)).sum(),
            lanes().sum(),
            (end - 1) << 16 | first,
            if i < 32 { 0b01 } else { 0b10 },
            lanes().filter(|lane| lane % 2 == i % 2).sum(),
            (0..48).sum(),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            assert_eq!(out[row * 48 + i as usize], expected, "operation {row}, thread {i}");
        }
    }
    assert_eq!(device.read::<u32>(counter.whole()).unwrap(), [48]);
}

#[test]
fn invalid_copies_write_zeros_and_read_nothing() {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        from: DevicePtr,
        to: DevicePtr,
    }
    let device = Device::host().unwrap();
    let from = device.alloc_from(&[bf16::ONE; 8]).unwrap();
    let to = device.alloc(32).unwrap();
    launch(&device, "emulation_zero_fill", 2, &Params { from: from.ptr(), to: to.ptr() });
    let to = device.read::<bf16>(to.whole()).unwrap();
    assert_eq!(to, [[bf16::ONE; 8], [bf16::ZERO; 8]].concat());
}
