//! Whether what lies in a cache is intact.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::{LocalSnapshot, files_below};
use crate::cache::HubCache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::RepoId;

/// A file whose contents are not what their name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its path in the snapshot.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// The contents, where they can be judged and are wrong.
    blob: Option<PathBuf>,
}

/// Hashes every file of a snapshot and calls `progress` with each path before. Only files that lie in the cache
/// under their digest can be judged; others are reported. What is not there at all is in
/// [`LocalSnapshot::missing`].
pub fn verify(
    cache: &HubCache,
    repo: &RepoId,
    snapshot: &LocalSnapshot,
    mut progress: impl FnMut(&str),
) -> Result<Vec<Damaged>> {
    let blobs = fs::canonicalize(cache.blob(repo, "")).ok();
    let mut damaged = Vec::new();
    for path in files_below(&snapshot.dir)? {
        let mut wrong = |message, blob| {
            damaged.push(Damaged { path: path.clone(), message, blob });
        };
        let Ok(blob) = fs::canonicalize(snapshot.dir.join(&path)) else { continue };
        progress(&path);
        let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_in_cache = blob.parent() == blobs.as_deref();
        let Some(want) = Digest::of_name(name).filter(|_| is_in_cache) else {
            wrong(
                "it does not lie in the cache under its digest and cannot be judged".into(),
                None,
            );
            continue;
        };
        let got = want.of_file(&blob)?;
        if got != want {
            let message = format!("its digest is {} instead of {}", got.name(), want.name());
            wrong(message, Some(blob));
        }
    }
    Ok(damaged)
}

/// Removes the contents of damaged files that lie in the cache, so that the next pull fetches them.
pub fn discard(cache: &HubCache, repo: &RepoId, damaged: &[Damaged]) -> Result<()> {
    let _lock = cache.lock_repo(repo)?;
    for blob in damaged.iter().filter_map(|damaged| damaged.blob.as_ref()) {
        match fs::remove_file(blob) {
            // Two paths may have the same contents.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io(blob)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{find, tests as local};

    #[test]
    fn damage_is_found_and_removed() {
        let (dir, cache, repo) = local::cache();
        let snapshot = &find(&cache, &repo).unwrap().unwrap().snapshots[0];
        let mut seen = Vec::new();
        let damaged = verify(&cache, &repo, snapshot, |path| seen.push(path.to_owned())).unwrap();
        assert_eq!((damaged.len(), seen.len()), (0, 4));
        let blob = fs::canonicalize(snapshot.dir.join("m1.safetensors")).unwrap();
        fs::write(&blob, "weightz").unwrap();
        // A link that leads out of the cache is reported and left alone.
        let outside = dir.path().join("a".repeat(64));
        fs::write(&outside, "mine").unwrap();
        std::os::unix::fs::symlink(&outside, snapshot.dir.join("z")).unwrap();
        let damaged = verify(&cache, &repo, snapshot, |_| {}).unwrap();
        assert_eq!(damaged.iter().map(|d| &d.path).collect::<Vec<_>>(), ["m1.safetensors", "z"]);
        discard(&cache, &repo, &damaged).unwrap();
        assert!(!blob.exists() && outside.exists());
        let missing = &find(&cache, &repo).unwrap().unwrap().snapshots[0].missing;
        assert_eq!(*missing, ["m1.safetensors", "m2.safetensors"]);
    }
}
