//! What can go wrong between a repository's name and its files on this disk.

use std::io::ErrorKind;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why files could not be fetched, found or verified. The texts say what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none that a repository can have.
    #[error("{name:?} names no repository: use gpt-oss-20b, gpt-oss-120b or OWNER/NAME")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// An option has a value it cannot have.
    #[error("{option} = {value:?}: {message}")]
    BadOption {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// The hub cannot be reached.
    #[error("cannot reach {host}: {message}; check the network, or set HF_ENDPOINT to a mirror")]
    NoNetwork {
        /// The hub's host.
        host: String,
        /// What happened.
        message: String,
    },
    /// The hub does not accept the token, or wants one.
    #[error(
        "{repo}: the hub answers 401 (unauthorized): {}",
        if *had_token { "the token in HF_TOKEN or the token file is not valid" }
        else { "the repository does not exist, or it is private and HF_TOKEN is not set" }
    )]
    Unauthorized {
        /// The repository.
        repo: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// The hub does not let this token read the repository.
    #[error(
        "{repo}: the hub answers {status}: access is gated or the token may not read it; accept the terms at {page} \
         and set HF_TOKEN to a token that may read it"
    )]
    Forbidden {
        /// The repository.
        repo: String,
        /// The status: 401 without a token, 403 with one.
        status: u16,
        /// Where the terms are.
        page: String,
    },
    /// There is no such repository, revision or file.
    #[error("{what}: the hub answers 404 (not found)")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The hub gives files of another commit than the one asked for.
    #[error(
        "{file}: the hub gives it from commit {got}, not {want}: the revision has changed during the pull; pull again"
    )]
    Moved {
        /// The file.
        file: String,
        /// The commit asked for.
        want: String,
        /// The commit given.
        got: String,
    },
    /// The hub answered with a status that cannot be helped.
    #[error("{what}: the hub answers {status}: {excerpt}")]
    Status {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// The beginning of its answer.
        excerpt: String,
    },
    /// What was retried often enough.
    #[error("{what}: given up after {tries} tries without progress: {message}")]
    GivenUp {
        /// What was asked for.
        what: String,
        /// How often in a row nothing came.
        tries: u32,
        /// What happened last.
        message: String,
    },
    /// The hub's list of files cannot be used.
    #[error("{repo}: the hub's list of files is not usable: {message}")]
    Listing {
        /// The repository.
        repo: String,
        /// What is wrong.
        message: String,
    },
    /// The repository has no weights that could be served.
    #[error(
        "{repo} at {commit} has no *.safetensors in its root; is this the repository of a model?"
    )]
    NoWeights {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
    },
    /// The disk has too little room.
    #[error(
        "{}: {needed} bytes are to be fetched, but only {free} are free; choose another disk with --cache-dir",
        dir.display()
    )]
    DiskFull {
        /// The cache.
        dir: PathBuf,
        /// Bytes still to come.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk has become full.
    #[error(
        "{}: no room is left on the disk; free some and pull again, which goes on from here",
        file.display()
    )]
    NoRoom {
        /// The file that was being written.
        file: PathBuf,
    },
    /// Another process is at work on the same file or repository.
    #[error("{what}: another pull is at work on it (lock {}); wait for it", lock.display())]
    Busy {
        /// The file or the repository.
        what: String,
        /// The lock's file.
        lock: PathBuf,
    },
    /// What arrived is not what the hub says it has, even when fetched again.
    #[error(
        "{file}: fetched {tries} times, and its digest is {got} instead of {want}; the hub or the way to it is broken"
    )]
    WrongDigest {
        /// The file.
        file: String,
        /// How often it was fetched.
        tries: u32,
        /// The digest wanted.
        want: String,
        /// The digest of what came.
        got: String,
    },
    /// The operating system refused a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A worker of this process ended unexpectedly.
    #[error("a worker of the pull panicked")]
    Panicked,
}

impl Error {
    /// For `map_err`: names the file.
    pub(crate) fn io(file: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.into();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoRoom { file },
            _ => Self::Io { file, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn a_disk_that_becomes_full_is_told_as_such() {
        // The device on which every write finds the disk full.
        let full = "/dev/full";
        let mut file = File::options().write(true).open(full).unwrap();
        let error = file.write_all(b"x").map_err(Error::io(full)).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
    }
}
