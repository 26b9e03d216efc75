//! Many bytes at once, through staging buffers.

use std::sync::atomic::{AtomicU64, Ordering};

use harmonium_cuda::{Device, Upload, upload_all};

/// Parts of all lengths, of which one is cut into pieces, side by side in two buffers.
#[test]
fn everything_arrives_at_its_place() {
    let device = Device::host().unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    let lens = [3, 1 << 20, 1, 21 << 20, 4096, 77];
    let parts =
        lens.map(|len| std::iter::repeat_with(|| random.u8(..)).take(len).collect::<Vec<_>>());
    let total: usize = lens.iter().sum();
    let buffers = [device.alloc(total).unwrap(), device.alloc(total).unwrap()];
    let mut uploads = Vec::new();
    for buffer in &buffers {
        let mut offset = 0;
        for part in &parts {
            let to = buffer.slice(offset..offset + part.len()).unwrap();
            uploads.push(Upload { name: "part", from: part, to });
            offset += part.len();
        }
    }
    let read = AtomicU64::new(0);
    let progress = |num_bytes| {
        read.fetch_add(num_bytes, Ordering::Relaxed);
    };
    upload_all(&device, &uploads, &progress).unwrap();
    assert_eq!(read.into_inner(), 2 * total as u64);
    for buffer in &buffers {
        assert!(device.read::<u8>(buffer.whole()).unwrap() == parts.concat());
    }
    upload_all(&device, &[], &|_| ()).unwrap();
}

#[test]
fn an_error_names_what_it_is_about() {
    let device = Device::host().unwrap();
    let buffer = device.alloc(16).unwrap();
    let upload = Upload { name: "layers.3.router.weight", from: &[1; 15], to: buffer.whole() };
    let message = upload_all(&device, &[upload], &|_| ()).unwrap_err().to_string();
    assert_eq!(message, "layers.3.router.weight: bytes 0..15 of a buffer of 16 bytes");
}
