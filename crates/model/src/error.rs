//! What can go wrong between a checkpoint's files and a model ready to run.
//!
//! Every variant names the file, tensor, key or option at fault and the value found there, so that the one line a
//! person reads is enough to act on.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a checkpoint could not be read or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the checkpoint is not there.
    #[error("{}: no such file; is the download complete?", file.display())]
    MissingFile {
        /// The file.
        file: PathBuf,
    },
    /// The operating system refused a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file cannot be read as what it should be.
    #[error("{}: {message}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the parser met, with its place.
        message: String,
    },
    /// A key of `config.json` or `adapter_config.json` is missing or has a value that cannot be used.
    #[error("{}: {key}: {message}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with it, the value included.
        message: String,
    },
    /// A weight file is damaged as a whole.
    #[error("{}: {message}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// One tensor is missing, damaged or of the wrong form.
    #[error("{}: tensor {tensor}: {message}", file.display())]
    Tensor {
        /// The file that holds it or should.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        message: String,
    },
    /// The system has no memory for weights in another form.
    #[error("{bytes} bytes for weights: {source}")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// An option of an executor cannot be met.
    #[error("{option}: {message}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it, the value included.
        message: String,
    },
    /// A list of tokens cannot be run through the model.
    #[error("tokens: {0}")]
    Tokens(String),
    /// The forward pass failed.
    #[error(transparent)]
    Executor(#[from] harmonium_engine::ExecutorError),
    /// A device could not do what was asked of it.
    #[error(transparent)]
    Device(#[from] harmonium_cuda::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
