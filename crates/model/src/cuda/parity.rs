//! The whole forward pass on the host device against transformers and the CPU executor.

use harmonium_cuda::Device;

use crate::Checkpoint;
use crate::logits::{LogitsMode, logits, median_row_error};
use crate::parity::{directory, golden, relative_error};

/// Bound of ‖ours − reference‖ / ‖reference‖ against float32.
///
/// What enters a product is rounded to bf16 here, 2^-9 each time. How much of it reaches the logits is the checkpoint's
/// doing: these have large random weights and scores, and transformers in bf16 comes to 4.7e-2 on the first of them,
/// where ours is 2.6e-2. A window one position too wide costs more than the bound.
const TOLERANCES: [(&str, f64); 2] = [("head64", 3.5e-2), ("long", 2.5e-2)];

fn check(name: &str, modes: &[LogitsMode]) {
    let checkpoint = Checkpoint::open(&directory(name)).unwrap();
    let (tokens, reference) = golden(name);
    let tolerance = TOLERANCES.iter().find(|(of, _)| *of == name).unwrap().1;
    let device = Device::host().unwrap();
    for mode in modes {
        let ours = logits(&checkpoint, &tokens, *mode, Some(&device)).unwrap();
        let error = relative_error(&ours[ours.len() - reference.len()..], &reference);
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

/// The executors agree on the embedded model, whose vocabulary and layers are those that chats meet. Tokens without sense
/// bring some rows near a tie between two experts, where any rounding decides: so it is the median of the rows that counts.
#[test]
fn nano_gives_the_logits_of_the_cpu_executor() {
    let checkpoint = Checkpoint::from_source(&crate::Source::Nano).unwrap();
    let tokens: Vec<u32> = (0..150).map(|index| index * 7919 % 4000).collect();
    let device = Device::host().unwrap();
    let reference = logits(&checkpoint, &tokens, LogitsMode::All, None).unwrap();
    for mode in [LogitsMode::All, LogitsMode::Chunk(40), LogitsMode::DecodeLast(10)] {
        let ours = logits(&checkpoint, &tokens, mode, Some(&device)).unwrap();
        let error = median_row_error(&ours, &reference, tokens.len());
        assert!(error <= 3e-2, "{mode:?}: median of relative errors {error:e}");
    }
}
