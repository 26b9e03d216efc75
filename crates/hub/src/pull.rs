//! One pull: list, check the disk, lock, fetch what is missing, put it in place.

use std::path::PathBuf;

use futures_util::stream::{self, TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use crate::cache::HubCache;
use crate::client::Hub;
use crate::error::{Error, Result};
use crate::event::{Event, Wanted};
use crate::fetch::Fetcher;
use crate::listing::{self, Listing, RemoteFile};
use crate::names::RepoId;
use crate::note::Note;
use crate::parts::Parts;

/// Most ranges in flight.
const MAX_JOBS: usize = 32;
/// Room left on the disk beside what is fetched.
const SPARE_BYTES: u64 = 64 << 20;

/// What to pull, from where, to where.
pub struct Options {
    /// Configures TLS and proxies; redirects and time-outs are set here.
    pub http: reqwest::ClientBuilder,
    /// The hub's address.
    pub endpoint: String,
    /// Sent to the hub's own address only.
    pub token: Option<String>,
    /// Where to.
    pub cache: HubCache,
    /// The repository.
    pub repo: RepoId,
    /// Branch, tag or commit.
    pub revision: String,
    /// Fetch the folder `original`, too.
    pub with_original: bool,
    /// Ranges in flight, from 1 to 32.
    pub num_jobs: usize,
}

/// What a pull has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The snapshot's directory.
    pub snapshot: PathBuf,
    /// Its commit.
    pub commit: String,
    /// Bytes that were missing before.
    pub fetched: u64,
    /// The commit that the revision has come to stand for in the meantime.
    pub moved_to: Option<String>,
}

/// Pulls and tells `events` about it; the pull waits while the receiver is behind and goes on without one.
pub async fn pull(options: Options, events: mpsc::Sender<Event>) -> Result<Pulled> {
    let Options { http, endpoint, token, cache, repo, revision, with_original, num_jobs } = options;
    check(&revision, num_jobs)?;
    let hub = Hub::new(http, &endpoint, token)?;
    let Listing { commit, files } = listing::list(&hub, &repo, &revision, with_original).await?;
    let _lock = cache.lock_repo(&repo)?;
    let wanted = wanted(&cache, &repo, &files);
    let to_fetch: u64 = wanted.iter().map(|file| file.missing).sum();
    check_disk(&cache, to_fetch)?;
    Note::new(&revision, &commit, &files).write(&cache, &repo)?;
    let places = Semaphore::new(num_jobs);
    let fetcher = Fetcher { hub, repo, commit, places, num_jobs, events };
    fetcher.tell(Event::Listed { commit: fetcher.commit.clone(), files: wanted }).await;
    stream::iter(by_contents(&files).into_iter().map(Ok))
        .try_for_each_concurrent(num_jobs, |same| place(&fetcher, &cache, &files, same))
        .await?;
    let Fetcher { hub, repo, commit, .. } = fetcher;
    // A commit stands for itself.
    if revision != commit {
        cache.set_ref(&repo, &revision, &commit)?;
    }
    Note::settle(&cache, &repo, &revision, &commit)?;
    // A courtesy: what was pulled is whole whether or not the hub still answers.
    let now = listing::list(&hub, &repo, &revision, with_original).await.ok();
    Ok(Pulled {
        snapshot: cache.snapshot_dir(&repo, &commit),
        fetched: to_fetch,
        moved_to: now.map(|now| now.commit).filter(|now| *now != commit),
        commit,
    })
}

/// Brings files that have the same contents into their places.
async fn place(
    fetcher: &Fetcher,
    cache: &HubCache,
    files: &[RemoteFile],
    same: Vec<usize>,
) -> Result<()> {
    let (repo, first) = (&fetcher.repo, same[0]);
    let file = &files[first];
    let digest = file.digest.name();
    if !is_here(cache, repo, file) {
        let _lock = cache.lock_blob(repo, digest, &file.path)?;
        // Whoever held the lock before may have brought it.
        if !is_here(cache, repo, file) {
            fetcher.fetch(first, file, &cache.blob(repo, digest)).await?;
        }
    }
    for index in same {
        cache.link(repo, &fetcher.commit, &files[index].path, digest)?;
        fetcher.tell(Event::Done { file: index }).await;
    }
    Ok(())
}

/// Indexes of files by their contents: what is the same is fetched once.
fn by_contents(files: &[RemoteFile]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        match groups.iter_mut().find(|group| files[group[0]].digest == file.digest) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn is_here(cache: &HubCache, repo: &RepoId, file: &RemoteFile) -> bool {
    let blob = cache.blob(repo, file.digest.name());
    std::fs::metadata(blob).is_ok_and(|blob| blob.len() == file.len)
}

fn wanted(cache: &HubCache, repo: &RepoId, files: &[RemoteFile]) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> =
        files.iter().map(|f| Wanted { path: f.path.clone(), len: f.len, missing: 0 }).collect();
    for first in by_contents(files).into_iter().map(|group| group[0]) {
        let file = &files[first];
        if !is_here(cache, repo, file) {
            let blob = cache.blob(repo, file.digest.name());
            wanted[first].missing = Parts::missing_of(&blob, file.len);
        }
    }
    wanted
}

fn check(revision: &str, num_jobs: usize) -> Result<()> {
    let bad = |option, value: String, message: &str| {
        Err(Error::BadOption { option, value, message: message.to_owned() })
    };
    if !(1..=MAX_JOBS).contains(&num_jobs) {
        return bad("jobs", num_jobs.to_string(), "use 1 to 32");
    }
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if revision.len() > 200 || !revision.split('/').all(is_plain) {
        return bad("revision", revision.to_owned(), "use a branch, a tag or a commit");
    }
    Ok(())
}

fn check_disk(cache: &HubCache, needed: u64) -> Result<()> {
    let dir = cache.dir();
    let existing = dir.ancestors().find(|ancestor| ancestor.exists());
    let stat = existing.and_then(|existing| rustix::fs::statvfs(existing).ok());
    let free = stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if needed > 0 && needed.saturating_add(SPARE_BYTES) > free {
        return Err(Error::DiskFull { dir: dir.to_owned(), needed, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_be_are_named() {
        for (revision, num_jobs, word) in [
            ("main", 0, "jobs"),
            ("main", 33, "jobs"),
            ("../x", 1, "revision"),
            ("", 1, "revision"),
        ] {
            let error = check(revision, num_jobs).unwrap_err().to_string();
            assert!(error.starts_with(word), "{error}");
        }
        for revision in ["main", "refs/pr/7", "v1.0"] {
            check(revision, 8).unwrap();
        }
    }

    #[test]
    fn a_full_disk_is_told_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let cache = HubCache::new(dir.path().join("not/yet"));
        let error = check_disk(&cache, u64::MAX / 2).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        check_disk(&cache, 1).unwrap();
    }
}
