//! All tensors of one checkpoint, whichever of its files they lie in.
//!
//! A checkpoint is either one `model.safetensors` or several shards with `model.safetensors.index.json`. With
//! an index only the index says where a tensor is: layers are out of order across shards, and one layer can
//! lie astride two. Each file is mapped once.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;

use super::bytes::Bytes;
use super::shard::{Shard, Stored};
use crate::error::{Error, Result};

/// Name of the index file.
const INDEX: &str = "model.safetensors.index.json";
/// Name of the only file of a checkpoint without one.
const SINGLE: &str = "model.safetensors";
/// Most shards accepted; the 120B checkpoint has 15.
const MAX_SHARDS: usize = 1024;

/// The tensors of a checkpoint by name.
pub(crate) struct Tensors {
    by_name: HashMap<String, Stored>,
    /// The index or the only file: where a tensor that is missing should have been named.
    origin: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Tensors {
    /// Whether a directory holds weights in either form.
    pub(crate) fn are_in(directory: &Path) -> bool {
        directory.join(INDEX).is_file() || directory.join(SINGLE).is_file()
    }

    /// Maps the weight files of a directory.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let index = directory.join(INDEX);
        if index.is_file() {
            return Self::open_sharded(directory, index);
        }
        let file = directory.join(SINGLE);
        Self::from_bytes(&Bytes::map(&file)?, file)
    }

    /// The tensors of one file already in memory.
    pub(crate) fn from_bytes(bytes: &Bytes, file: PathBuf) -> Result<Self> {
        Ok(Self { by_name: Shard::parse(bytes, &file)?.tensors, origin: file })
    }

    fn open_sharded(directory: &Path, origin: PathBuf) -> Result<Self> {
        let refuse = |message: String| Error::Json { file: origin.clone(), message };
        let index: Index =
            serde_json::from_slice(&Bytes::map(&origin)?).map_err(|e| refuse(e.to_string()))?;
        let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        if names.len() > MAX_SHARDS {
            return Err(refuse(format!("{} shards, over {MAX_SHARDS}", names.len())));
        }
        let mut shards = HashMap::with_capacity(names.len());
        for name in names {
            if !is_plain(name) {
                return Err(refuse(format!("shard {name:?} is not a file name")));
            }
            let file = directory.join(name);
            shards.insert(name, Shard::parse(&Bytes::map(&file)?, &file)?);
        }
        let mut by_name = HashMap::with_capacity(index.weight_map.len());
        for (tensor, file) in &index.weight_map {
            let stored =
                shards[file.as_str()].tensors.get(tensor).ok_or_else(|| Error::Tensor {
                    file: directory.join(file),
                    tensor: tensor.clone(),
                    message: format!("not in the file that {INDEX} says"),
                })?;
            by_name.insert(tensor.clone(), stored.clone());
        }
        Ok(Self { by_name, origin })
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The bytes of a tensor that must have this dtype and shape.
    pub(crate) fn get(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Bytes> {
        let error = |file: &Path, message| Error::Tensor {
            file: file.to_owned(),
            tensor: name.to_owned(),
            message,
        };
        let stored =
            self.by_name.get(name).ok_or_else(|| error(&self.origin, "missing".to_owned()))?;
        if stored.dtype != dtype {
            let message = format!("{:?} where {dtype:?} is expected", stored.dtype);
            return Err(error(&stored.file, message));
        }
        if stored.shape != shape {
            let message = format!("shape {:?} where {shape:?} is expected", stored.shape);
            return Err(error(&stored.file, message));
        }
        Ok(stored.bytes.clone())
    }

    /// Bytes of all tensors.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.by_name.values().map(|stored| stored.bytes.len() as u64).sum()
    }
}

/// Whether a name from a file stays inside the directory it is joined to.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(only)) if only == name)
        && components.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(index: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(INDEX), index).unwrap();
        let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend([1, 2]);
        std::fs::write(dir.path().join("model-00000-of-00002.safetensors"), &file).unwrap();
        dir
    }

    #[test]
    fn an_index_finds_its_tensors() {
        let dir = directory(r#"{"weight_map":{"a":"model-00000-of-00002.safetensors"}}"#);
        let tensors = Tensors::open(dir.path()).unwrap();
        assert_eq!(&*tensors.get("a", Dtype::U8, &[2]).unwrap(), [1, 2]);
        assert_eq!(tensors.num_bytes(), 2);
    }

    #[test]
    fn shard_names_cannot_leave_the_directory() {
        for name in ["../escaped.safetensors", "/etc/passwd", "..", ".", "", "x/../y", "x/y"] {
            let dir = directory(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#));
            let message = Tensors::open(dir.path()).err().unwrap().to_string();
            assert!(message.contains("is not a file name"), "{message}");
        }
    }

    #[test]
    fn a_tensor_or_shard_that_is_missing_is_named() {
        let dir = directory(r#"{"weight_map":{"b":"model-00000-of-00002.safetensors"}}"#);
        let message = Tensors::open(dir.path()).err().unwrap().to_string();
        assert!(message.contains("model-00000-of-00002.safetensors: tensor b"), "{message}");
        let dir = directory(r#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#);
        let message = Tensors::open(dir.path()).err().unwrap().to_string();
        assert!(message.contains("model-00001-of-00002.safetensors: no such file"), "{message}");
    }

    #[test]
    fn a_wrong_dtype_or_shape_names_file_and_tensor() {
        let dir = directory(r#"{"weight_map":{"a":"model-00000-of-00002.safetensors"}}"#);
        let tensors = Tensors::open(dir.path()).unwrap();
        let message =
            |dtype, shape: &[usize]| tensors.get("a", dtype, shape).err().unwrap().to_string();
        for message in [message(Dtype::BF16, &[2]), message(Dtype::U8, &[3])] {
            assert!(message.contains("00000-of-00002.safetensors: tensor a"), "{message}");
        }
        let missing = tensors.get("x", Dtype::U8, &[1]).err().unwrap().to_string();
        assert!(missing.contains("tensor x: missing"), "{missing}");
    }
}
