//! What a pull tells while it runs. Whoever shows it decides how.

/// A file that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its path in the repository.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes of it that are not here yet.
    pub missing: u64,
}

/// Something happened. File indexes are places in [`Event::Listed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The hub has said what there is; always the first.
    Listed {
        /// The commit that the revision stands for.
        commit: String,
        /// The files wanted, those that are complete included.
        files: Vec<Wanted>,
    },
    /// Bytes of a file have reached the disk.
    Bytes {
        /// The file.
        file: usize,
        /// How many.
        count: u64,
    },
    /// Something failed and is tried again.
    Retry {
        /// The file.
        file: usize,
        /// What failed.
        message: String,
    },
    /// A file is complete and is being hashed.
    Verifying {
        /// The file.
        file: usize,
    },
    /// A file has the right digest and is in its place.
    Done {
        /// The file.
        file: usize,
    },
    /// A file has a wrong digest: as much of it as may be bad is fetched again.
    Wrong {
        /// The file.
        file: usize,
        /// How many bytes that is.
        lost: u64,
    },
}
