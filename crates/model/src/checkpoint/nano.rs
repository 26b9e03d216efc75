//! The small model inside the binary, so that everything runs with nothing downloaded.

use std::path::{Path, PathBuf};

use super::Files;
use super::bytes::Bytes;
use super::index::Tensors;
use crate::error::Result;

/// Its files, by the names they have in `crates/model/nano`.
pub(super) fn files() -> Result<Files> {
    let tensors = Bytes::from_static(include_bytes!("../../nano/model.safetensors"));
    Ok(Files {
        config: Bytes::from_static(include_bytes!("../../nano/config.json")),
        config_file: file("config.json"),
        generation: Some(Bytes::from_static(include_bytes!("../../nano/generation_config.json"))),
        generation_file: file("generation_config.json"),
        tokenizer: Some(Bytes::from_static(include_bytes!("../../nano/tokenizer.json"))),
        tokenizer_file: file("tokenizer.json"),
        tensors: Tensors::from_bytes(&tensors, file("model.safetensors"))?,
    })
}

/// A path for errors only.
fn file(name: &str) -> PathBuf {
    Path::new("<nano>").join(name)
}
