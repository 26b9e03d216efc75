//! The whole forward pass on the host device against transformers and the CPU executor.

use std::path::{Path, PathBuf};

use harmonium_cuda::Device;
use safetensors::SafeTensors;

use crate::Checkpoint;
use crate::logits::{LogitsMode, logits};

/// Bound of ‖ours − reference‖ / ‖reference‖ against float32.
///
/// What enters a product is rounded to bf16 here, 2^-9 each time. How much of it reaches the logits is the checkpoint's
/// doing: these have large random weights and scores, and transformers in bf16 comes to 4.7e-2 on the first of them,
/// where ours is 2.6e-2. A window one position too wide costs more than the bound.
const TOLERANCES: [(&str, f64); 2] = [("head64", 3.5e-2), ("long", 2.5e-2)];

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

/// Tokens, and the logits of the last of them.
fn golden(name: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(directory(name).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words =
        |name| -> Vec<[u8; 4]> { tensors.tensor(name).unwrap().data().as_chunks().0.to_vec() };
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

fn error(ours: &[f32], reference: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let differences = ours.iter().zip(reference).map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(&mut { differences }) / norm(&mut reference.iter().map(|value| f64::from(*value)))
}

fn check(name: &str, modes: &[LogitsMode]) {
    let checkpoint = Checkpoint::open(&directory(name)).unwrap();
    let (tokens, reference) = golden(name);
    let tolerance = TOLERANCES.iter().find(|(of, _)| *of == name).unwrap().1;
    let device = Device::host().unwrap();
    for mode in modes {
        let ours = logits(&checkpoint, &tokens, *mode, Some(&device)).unwrap();
        let error = error(&ours[ours.len() - reference.len()..], &reference);
        assert!(error <= tolerance, "{name} {mode:?}: relative error {error:e}");
    }
}

#[test]
fn four_experts_and_truncated_yarn_match_transformers() {
    check("head64", &[LogitsMode::All, LogitsMode::Chunk(16), LogitsMode::DecodeLast(50)]);
}

#[test]
fn positions_past_4096_match_transformers() {
    check("long", &[LogitsMode::Chunk(512), LogitsMode::DecodeLast(20)]);
}
