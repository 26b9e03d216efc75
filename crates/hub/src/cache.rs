//! The cache's layout, the same for all Hugging Face tools:
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION             the commit it stands for
//! models--OWNER--NAME/blobs/DIGEST              contents
//! models--OWNER--NAME/snapshots/COMMIT/PATH     -> ../../blobs/DIGEST
//! .locks/models--OWNER--NAME/DIGEST.lock        held by whoever fetches that blob
//! .locks/models--OWNER--NAME/harmonium-pull.lock  held by our pull, and by whoever removes
//! ```

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::names::RepoId;

/// A cache directory: the `hub` folder of a Hugging Face home.
#[derive(Debug, Clone)]
pub struct HubCache {
    dir: PathBuf,
}

impl HubCache {
    /// The cache in `dir`, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The snapshot that `revision` of a repository stands for, if a pull of it was ever completed here.
    pub fn snapshot(&self, repo: &RepoId, revision: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.ref_file(repo, revision)).ok()?;
        let commit = commit.trim();
        let is_plain =
            !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let dir = self.repo(repo, revision).pointer_path(commit);
        (is_plain && dir.is_dir()).then_some(dir)
    }

    /// The folder of a repository.
    pub(crate) fn repo_dir(&self, repo: &RepoId) -> PathBuf {
        self.dir.join(Repo::model(repo.as_str().to_owned()).folder_name())
    }

    pub(crate) fn blob(&self, repo: &RepoId, digest: &str) -> PathBuf {
        self.repo_dir(repo).join("blobs").join(digest)
    }

    pub(crate) fn snapshot_dir(&self, repo: &RepoId, commit: &str) -> PathBuf {
        self.repo(repo, "main").pointer_path(commit)
    }

    /// Makes `path` of a commit's snapshot stand for a blob.
    pub(crate) fn link(&self, repo: &RepoId, commit: &str, path: &str, digest: &str) -> Result<()> {
        let link = self.snapshot_dir(repo, commit).join(path);
        let folder = link.parent().expect("a path in a snapshot has a parent");
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let up = "../".repeat(2 + path.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{digest}"));
        if fs::read_link(&link).is_ok_and(|current| current == target) {
            return Ok(());
        }
        // Renamed into place, so that a reader finds the old file or the new one.
        let fresh = folder.join(format!(".{digest}.link"));
        let _ = fs::remove_file(&fresh);
        symlink(&target, &fresh).map_err(Error::io(&fresh))?;
        fs::rename(&fresh, &link).map_err(Error::io(&link))
    }

    /// Makes `revision` stand for `commit`, which is complete.
    pub(crate) fn set_ref(&self, repo: &RepoId, revision: &str, commit: &str) -> Result<()> {
        let file = self.ref_file(repo, revision);
        let folder = file.parent().expect("a ref has a parent");
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // Not beside it, where it would be a revision of its own.
        let fresh = self.repo_dir(repo).join("harmonium-ref.new");
        fs::write(&fresh, commit).map_err(Error::io(&fresh))?;
        fs::rename(&fresh, &file).map_err(Error::io(&file))
    }

    /// Takes the lock of a repository, for whoever writes to it, or says that another has it.
    pub(crate) fn lock_repo(&self, repo: &RepoId) -> Result<File> {
        self.lock(repo, "harmonium-pull", repo.as_str())
    }

    /// Takes the lock of a blob, which other tools take too. It is let go when the file is closed, by `kill -9` too.
    pub(crate) fn lock_blob(&self, repo: &RepoId, digest: &str, path: &str) -> Result<File> {
        self.lock(repo, digest, path)
    }

    fn lock(&self, repo: &RepoId, name: &str, what: &str) -> Result<File> {
        let folder = Repo::model(repo.as_str().to_owned()).folder_name();
        let dir = self.dir.join(".locks").join(folder);
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        let lock = dir.join(format!("{name}.lock"));
        let file =
            File::options().create(true).append(true).open(&lock).map_err(Error::io(&lock))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK) => Err(Error::Busy { what: what.to_owned(), lock }),
            Err(error) => Err(Error::io(lock)(error.into())),
        }
    }

    fn ref_file(&self, repo: &RepoId, revision: &str) -> PathBuf {
        self.repo_dir(repo).join("refs").join(revision)
    }

    fn repo(&self, repo: &RepoId, revision: &str) -> CacheRepo {
        let (id, revision) = (repo.as_str().to_owned(), revision.to_owned());
        Cache::new(self.dir.clone()).repo(Repo::with_revision(id, RepoType::Model, revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, HubCache, RepoId) {
        let dir = tempfile::tempdir().unwrap();
        let cache = HubCache::new(dir.path().to_owned());
        (dir, cache, RepoId::parse("owner/name").unwrap())
    }

    #[test]
    fn links_lead_from_snapshots_to_blobs() {
        let (_dir, cache, repo) = cache();
        let blob = cache.blob(&repo, "abc");
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "x").unwrap();
        for path in ["config.json", "original/config.json"] {
            for _ in 0..2 {
                cache.link(&repo, "c0ffee", path, "abc").unwrap();
            }
            let text = fs::read_to_string(cache.snapshot_dir(&repo, "c0ffee").join(path)).unwrap();
            assert_eq!(text, "x");
        }
        assert_eq!(cache.snapshot(&repo, "main"), None);
        cache.set_ref(&repo, "main", "c0ffee").unwrap();
        assert_eq!(cache.snapshot(&repo, "main"), Some(cache.snapshot_dir(&repo, "c0ffee")));
    }

    #[test]
    fn a_ref_cannot_lead_out_of_the_snapshots() {
        let (dir, cache, repo) = cache();
        cache.set_ref(&repo, "main", "../../..").unwrap();
        assert!(dir.path().exists());
        assert_eq!(cache.snapshot(&repo, "main"), None);
    }

    #[test]
    fn blobs_and_repositories_are_locked_once() {
        let (_dir, cache, repo) = cache();
        let held = cache.lock_blob(&repo, "abc", "model.safetensors").unwrap();
        let busy = cache.lock_blob(&repo, "abc", "model.safetensors");
        assert!(matches!(busy, Err(Error::Busy { what, .. }) if what == "model.safetensors"));
        cache.lock_blob(&repo, "def", "other").unwrap();
        drop(held);
        cache.lock_blob(&repo, "abc", "model.safetensors").unwrap();
        let _held = cache.lock_repo(&repo).unwrap();
        assert!(matches!(cache.lock_repo(&repo), Err(Error::Busy { .. })));
    }
}
