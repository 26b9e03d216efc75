//! Files of seeded tensors.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::fill::fill;
use super::shape::Tensor;
use crate::error::{Error, Result};

/// Bytes made at a time, which is the memory that writing takes.
const CHUNK: usize = 32 << 20;

/// Header length, header, contents: the safetensors format, written as a stream. `progress` is told how many bytes more
/// are written.
pub(super) fn write_shard(
    path: &Path,
    tensors: &[Tensor],
    seed: u64,
    progress: &mut impl FnMut(u64),
) -> Result<()> {
    let io = |source| Error::Io { file: path.to_owned(), source };
    let mut file = File::create(path).map_err(io)?;
    write_tensors(&mut file, tensors, seed, progress).map_err(io)?;
    file.sync_all().map_err(io)
}

pub(super) fn write_tensors(
    out: &mut impl Write,
    tensors: &[Tensor],
    seed: u64,
    progress: &mut impl FnMut(u64),
) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.num_bytes();
        let entry = json!({
            "dtype": tensor.dtype(),
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // The contents begin at a multiple of eight bytes, as the format's own writer makes them.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut chunk = Vec::new();
    for tensor in tensors {
        let mut at = 0;
        while at < tensor.num_bytes() {
            let len = tensor.num_bytes().saturating_sub(at).min(CHUNK as u64);
            chunk.resize(usize::try_from(len).unwrap_or(CHUNK), 0);
            fill(&mut chunk, at, tensor, seed);
            out.write_all(&chunk)?;
            at += len;
            progress(len);
        }
    }
    Ok(())
}

/// Makes a directory that is not there; one that is must be empty.
pub(super) fn make_empty(dir: &Path) -> Result<()> {
    let io = |source| Error::Io { file: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(io)?;
    if fs::read_dir(dir).map_err(io)?.next().is_none() {
        return Ok(());
    }
    let message = format!("{} is not empty; nothing is overwritten", dir.display());
    Err(Error::Option { option: "out", message })
}

pub(super) fn write_json(file: &Path, value: &Value) -> Result<()> {
    write(file, format!("{value:#}\n").as_bytes())
}

pub(super) fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(file, bytes).map_err(|source| Error::Io { file: file.to_owned(), source })
}
