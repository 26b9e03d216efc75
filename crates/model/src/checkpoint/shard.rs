//! One safetensors file: its header, read with suspicion, and its tensors as ranges of bytes.
//!
//! The header is checked here rather than by the library because its errors do not say which tensor is at
//! fault. After a successful [`Shard::parse`] every tensor lies inside the file, has exactly the bytes its shape
//! and dtype need, and shares none of them with another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::bytes::Bytes;
use crate::error::{Error, Result};

/// Longest header accepted, as in the reference library; the 20B checkpoint's are under 64 KiB.
const MAX_HEADER_LEN: u64 = 100_000_000;
/// Bytes of the header's length field.
const PREFIX_LEN: usize = 8;

/// A tensor as stored.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Bytes,
    /// The file that holds it, for errors.
    pub(crate) file: PathBuf,
}

/// The tensors of one file by name.
pub(crate) struct Shard {
    pub(crate) tensors: HashMap<String, Stored>,
}

#[derive(Deserialize)]
struct Header {
    /// Free text of the writer; named so that it is not taken for a tensor.
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: HashMap<String, TensorInfo>,
}

impl Shard {
    /// Reads the header of `bytes`. `file` only names it in errors.
    pub(crate) fn parse(bytes: &Bytes, file: &Path) -> Result<Self> {
        let damaged = |message: String| Error::File { file: file.to_owned(), message };
        let header_len = match bytes.first_chunk::<PREFIX_LEN>() {
            Some(prefix) => u64::from_le_bytes(*prefix),
            None => return Err(damaged(format!("{} bytes are no safetensors file", bytes.len()))),
        };
        if header_len > MAX_HEADER_LEN {
            return Err(damaged(format!("header of {header_len} bytes, over {MAX_HEADER_LEN}")));
        }
        // At most 100 million: it fits every usize.
        let data_start = PREFIX_LEN + header_len as usize;
        let header = bytes.get(PREFIX_LEN..data_start).ok_or_else(|| {
            damaged(format!("truncated: header of {header_len} bytes in a file of {}", bytes.len()))
        })?;
        let header: Header =
            serde_json::from_slice(header).map_err(|e| damaged(format!("header: {e}")))?;

        let mut order: Vec<_> = header.tensors.into_iter().collect();
        order.sort_by_key(|(_, info)| info.data_offsets);
        let mut tensors = HashMap::with_capacity(order.len());
        let mut end = 0;
        for (name, info) in order {
            let part = check_extent(&info, end)
                .and_then(|()| take(bytes, data_start, info.data_offsets))
                .map_err(|message| Error::Tensor {
                    file: file.to_owned(),
                    tensor: name.clone(),
                    message,
                })?;
            end = info.data_offsets.1;
            let stored =
                Stored { dtype: info.dtype, shape: info.shape, bytes: part, file: file.to_owned() };
            tensors.insert(name, stored);
        }
        match bytes.len() - data_start - end {
            0 => Ok(Self { tensors }),
            rest => Err(damaged(format!("{rest} bytes after the last tensor"))),
        }
    }
}

/// Whether a tensor starts where the one before it ends and has the length its shape and dtype need.
fn check_extent(info: &TensorInfo, previous_end: usize) -> Result<(), String> {
    let (from, to) = info.data_offsets;
    if from != previous_end {
        let fault =
            if from < previous_end { "overlaps the tensor" } else { "leaves a gap after the one" };
        return Err(format!("offset {from} {fault} before it, which ends at {previous_end}"));
    }
    let bits = info
        .shape
        .iter()
        .try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size))
        .ok_or_else(|| format!("shape {:?} is absurd", info.shape))?;
    match to.checked_sub(from) {
        Some(len) if len.checked_mul(8) == Some(bits) => Ok(()),
        _ => Err(format!(
            "offsets {from}..{to} do not hold {:?} of shape {:?}",
            info.dtype, info.shape
        )),
    }
}

/// The bytes between two offsets of the data part.
fn take(bytes: &Bytes, data_start: usize, (from, to): (usize, usize)) -> Result<Bytes, String> {
    let data_len = bytes.len() - data_start;
    if to > data_len {
        return Err(format!("truncated: ends at byte {to} of the data, which has {data_len}"));
    }
    bytes.slice(data_start + from..data_start + to).ok_or_else(|| "outside the file".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header_len: u64, header: &str, data_len: usize) -> Result<Shard> {
        let mut file = header_len.to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend(std::iter::repeat_n(7, data_len));
        Shard::parse(&Bytes::from_static(file.leak()), Path::new("weights.safetensors"))
    }

    /// Parses a whole header and expects an error that names the file and holds every word given.
    fn refused(header: &str, data_len: usize, words: &[&str]) {
        let message = parse(header.len() as u64, header, data_len).err().unwrap().to_string();
        for word in words.iter().chain(&["weights.safetensors"]) {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]},
        "b":{"dtype":"BF16","shape":[2],"data_offsets":[6,10]}}"#;

    #[test]
    fn a_sound_file_gives_its_tensors() {
        let shard = parse(GOOD.len() as u64, GOOD, 10).unwrap();
        assert_eq!(shard.tensors.len(), 2);
        assert_eq!(shard.tensors["a"].bytes.len(), 6);
        assert_eq!(shard.tensors["b"].dtype, Dtype::BF16);
    }

    #[test]
    fn a_truncated_file_names_the_tensor_cut_off() {
        refused(GOOD, 9, &["tensor b", "truncated"]);
        refused(GOOD, 3, &["tensor a", "truncated"]);
    }

    #[test]
    fn bytes_after_the_last_tensor_are_refused() {
        refused(GOOD, 11, &["1 bytes after"]);
    }

    #[test]
    fn an_absurd_header_length_is_refused() {
        for len in [u64::MAX, MAX_HEADER_LEN + 1, 5000] {
            let message = parse(len, GOOD, 10).err().unwrap().to_string();
            assert!(message.contains("header"), "{message}");
        }
        assert!(Shard::parse(&Bytes::from_static(b"abc"), Path::new("x")).is_err());
        refused("{", 0, &["header"]);
    }

    #[test]
    fn overlapping_and_gaping_offsets_name_the_tensor() {
        let two = |from: u32, to: u32| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":[{from},{to}]}}}}"#
            )
        };
        refused(&two(2, 6), 8, &["tensor b", "overlaps"]);
        refused(&two(5, 9), 9, &["tensor b", "gap"]);
    }

    #[test]
    fn a_shape_that_does_not_fit_its_bytes_names_the_tensor() {
        let one = |shape: &str, to: u64| {
            format!(r#"{{"a":{{"dtype":"BF16","shape":{shape},"data_offsets":[0,{to}]}}}}"#)
        };
        refused(&one("[3]", 4), 4, &["tensor a", "[3]"]);
        refused(&one("[4294967296,4294967296]", 4), 4, &["tensor a", "absurd"]);
        refused(r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[3,2]}}"#, 4, &["tensor a"]);
        refused(r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}"#, 1, &["header"]);
    }
}
