//! A checkpoint: the files of one model, mapped and checked.
//!
//! Opening reads headers and small files only; weights are mapped and reach memory page by page as the forward
//! pass touches them, in the form they have on disk. The model inside the binary takes the same road as a
//! directory. What comes out is consistent: every tensor is present with the dtype and shape that the config
//! asks for.

pub(crate) mod bytes;
mod generation;
mod index;
mod layout;
mod nano;
pub(crate) mod shard;
pub(crate) mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use generation::Generation;

use self::bytes::Bytes;
use self::index::Tensors;
use self::layout::Layout;
use self::weights::Weights;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::synth::Shape;

/// Largest `config.json` or `generation_config.json` read; the published ones are under 2 KiB.
const MAX_JSON_LEN: usize = 1 << 20;
/// Folder of a Hugging Face repository that holds the weights in OpenAI's own layout.
const ORIGINAL: &str = "original";

/// Where a checkpoint's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Inside the binary.
    Nano,
    /// In a directory.
    Directory(PathBuf),
    /// Nowhere: seeded random weights of a published shape, made on a device.
    Synthetic(Shape),
}

/// An open checkpoint. A clone shares everything.
#[derive(Clone)]
pub struct Checkpoint {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    contents: Contents,
    generation: Generation,
    /// Absent where only weights were downloaded; then `tokenizer_file` says where it should be.
    tokenizer: Option<Bytes>,
    tokenizer_file: PathBuf,
    num_bytes: u64,
}

/// The weights, or how to make them.
pub(crate) enum Contents {
    /// As the files hold them.
    Stored(Arc<Weights>),
    /// The tensors of a shape, as [`crate::synth`] writes them with this seed.
    Synthetic { shape: Shape, seed: u64 },
}

/// The files of a checkpoint before they are understood. The paths name them in errors.
struct Files {
    config: Bytes,
    config_file: PathBuf,
    generation: Option<Bytes>,
    generation_file: PathBuf,
    tokenizer: Option<Bytes>,
    tokenizer_file: PathBuf,
    tensors: Tensors,
}

impl Checkpoint {
    /// Opens the files of a source.
    pub fn from_source(source: &Source) -> Result<Self> {
        match source {
            Source::Nano => Self::nano(),
            Source::Directory(directory) => Self::open(directory),
            Source::Synthetic(shape) => Self::synthetic(*shape),
        }
    }

    /// The model inside the binary.
    pub fn nano() -> Result<Self> {
        Self::from_files(nano::files()?)
    }

    /// A checkpoint of this shape whose weights only a device has, the same that [`crate::synth`] writes with seed 0;
    /// tokenizer and ends of answers are nano's. Takes no memory of this machine.
    pub fn synthetic(shape: Shape) -> Result<Self> {
        let nano = Self::nano()?;
        let generation = Generation {
            eos_token_ids: nano.generation().eos_token_ids.clone(),
            ..Generation::default()
        };
        let inner = Inner {
            config: shape.to_config()?,
            contents: Contents::Synthetic { shape, seed: 0 },
            generation,
            tokenizer: nano.inner.tokenizer.clone(),
            tokenizer_file: nano.inner.tokenizer_file.clone(),
            num_bytes: shape.num_bytes(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The text of a config and one weight file that lie in memory.
    pub(crate) fn from_memory(config: Vec<u8>, weights: Vec<u8>) -> Result<Self> {
        let file = |name: &str| Path::new("<memory>").join(name);
        Self::from_files(Files {
            config: config.into(),
            config_file: file("config.json"),
            generation: None,
            generation_file: file("generation_config.json"),
            tokenizer: None,
            tokenizer_file: file("tokenizer.json"),
            tensors: Tensors::from_bytes(&weights.into(), file("model.safetensors"))?,
        })
    }

    /// Opens a directory in either layout; a repository's root serves for its folder `original` too.
    pub fn open(directory: &Path) -> Result<Self> {
        let original = directory.join(ORIGINAL);
        let in_original = !Tensors::are_in(directory) && Tensors::are_in(&original);
        let weights_dir = if in_original { &original } else { directory };
        // Only the root of a repository holds the tokenizer.
        let root = match weights_dir.parent() {
            Some(parent) if weights_dir.ends_with(ORIGINAL) => parent,
            _ => weights_dir,
        };
        let optional = |file: &Path| match Bytes::map(file) {
            Err(Error::MissingFile { .. }) => Ok(None),
            other => other.map(Some),
        };
        let config_file = weights_dir.join("config.json");
        let generation_file = root.join("generation_config.json");
        let tokenizer_file = root.join("tokenizer.json");
        Self::from_files(Files {
            config: Bytes::map(&config_file)?,
            generation: optional(&generation_file)?,
            tokenizer: optional(&tokenizer_file)?,
            tensors: Tensors::open(weights_dir)?,
            config_file,
            generation_file,
            tokenizer_file,
        })
    }

    fn from_files(files: Files) -> Result<Self> {
        check_len(&files.config, &files.config_file)?;
        let config = Config::parse(&files.config, &files.config_file)?;
        let generation = match &files.generation {
            None => Generation::default(),
            Some(text) => {
                check_len(text, &files.generation_file)?;
                Generation::parse(text, &files.generation_file)?
            }
        };
        let weights = Layout::of(&files.tensors).read(&files.tensors, &config)?;
        let num_bytes = files.tensors.num_bytes();
        let Files { tokenizer, tokenizer_file, .. } = files;
        let contents = Contents::Stored(Arc::new(weights));
        let inner = Inner { config, contents, generation, tokenizer, tokenizer_file, num_bytes };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The model's shape and constants.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What the checkpoint recommends for sampling.
    pub fn generation(&self) -> &Generation {
        &self.inner.generation
    }

    /// The text of `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Result<&[u8]> {
        let missing = || Error::MissingFile { file: self.inner.tokenizer_file.clone() };
        self.inner.tokenizer.as_deref().ok_or_else(missing)
    }

    /// Bytes of all weights.
    pub fn num_bytes(&self) -> u64 {
        self.inner.num_bytes
    }

    /// Whether the weights are random ones that are made on a device and lie nowhere else.
    pub fn is_synthetic(&self) -> bool {
        matches!(self.inner.contents, Contents::Synthetic { .. })
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.inner.contents
    }
}

fn check_len(text: &[u8], file: &Path) -> Result<()> {
    if text.len() <= MAX_JSON_LEN {
        return Ok(());
    }
    let message = format!("{} bytes, over {MAX_JSON_LEN}", text.len());
    Err(Error::File { file: file.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
    }

    /// A copy of a golden checkpoint, damaged; the error must hold every word.
    fn refused(damage: impl FnOnce(&Path), words: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("head64").join(file), dir.path().join(file)).unwrap();
        }
        damage(dir.path());
        let message = Checkpoint::open(dir.path()).err().unwrap().to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }

    fn replace(file: &Path, from: &str, to: &str) {
        let bytes = std::fs::read(file).unwrap();
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let bytes = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
        std::fs::write(file, bytes).unwrap();
    }

    #[test]
    fn the_embedded_model_opens() {
        let nano = Checkpoint::nano().unwrap();
        assert!(nano.tokenizer_json().unwrap().starts_with(b"{"));
        assert!(!nano.generation().eos_token_ids.is_empty());
        assert!(nano.num_bytes() < 12 << 20);
    }

    #[test]
    fn damaged_checkpoints_name_file_and_tensor() {
        let weights = |dir: &Path| dir.join("model.safetensors");
        refused(
            |dir| {
                let file = std::fs::File::options().write(true).open(weights(dir)).unwrap();
                file.set_len(file.metadata().unwrap().len() - 100).unwrap();
            },
            &["model.safetensors: tensor ", "truncated"],
        );
        refused(
            |dir| replace(&weights(dir), "layers.1.self_attn.sinks", "layers.1.self_attn.sinkz"),
            &["model.safetensors: tensor model.layers.1.self_attn.sinks", "missing"],
        );
        refused(
            |dir| replace(&dir.join("config.json"), "\"vocab_size\": 200", "\"vocab_size\": 208"),
            &["tensor model.embed_tokens.weight", "[200, 96]", "[208, 96]"],
        );
        refused(|dir| std::fs::remove_file(weights(dir)).unwrap(), &["no such file"]);
        refused(|dir| std::fs::remove_file(dir.join("config.json")).unwrap(), &["config.json"]);
    }

    #[test]
    fn a_repository_root_serves_its_original_folder() {
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join(ORIGINAL);
        std::fs::create_dir(&original).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("original").join(file), original.join(file)).unwrap();
        }
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        for directory in [dir.path(), &original] {
            assert_eq!(Checkpoint::open(directory).unwrap().tokenizer_json().unwrap(), b"{}");
        }
    }

    #[test]
    fn a_missing_tokenizer_is_an_error_only_when_asked_for() {
        let checkpoint = Checkpoint::open(&golden("head64")).unwrap();
        let message = checkpoint.tokenizer_json().unwrap_err().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
    }
}
