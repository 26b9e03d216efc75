//! What a pull leaves in the cache about itself: which files of which commit it wants.
//!
//! It is written before the first file is fetched and removed when the last one is in its place, so that a pull
//! that was interrupted is known for what it is.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cache::HubCache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::listing::RemoteFile;
use crate::names::RepoId;
use crate::parts::Parts;

/// How a note's file name begins; the commit follows.
const PREFIX: &str = "harmonium-pull-";
/// Longest note or index read.
const MAX_JSON_LEN: u64 = 64 << 20;

/// A pull that is under way or was interrupted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<NotedFile>,
}

/// A file that a pull wants.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NotedFile {
    pub(crate) path: String,
    pub(crate) len: u64,
    digest: String,
}

impl NotedFile {
    /// Where its contents go, unless somebody has made the note unusable.
    pub(crate) fn blob(&self, cache: &HubCache, repo: &RepoId) -> Option<PathBuf> {
        Digest::of_name(&self.digest).map(|digest| cache.blob(repo, digest.name()))
    }
}

impl Note {
    pub(crate) fn new(revision: &str, commit: &str, files: &[RemoteFile]) -> Self {
        let noted = |file: &RemoteFile| NotedFile {
            path: file.path.clone(),
            len: file.len,
            digest: file.digest.name().to_owned(),
        };
        Self {
            revision: revision.to_owned(),
            commit: commit.to_owned(),
            files: files.iter().map(noted).collect(),
        }
    }

    pub(crate) fn write(&self, cache: &HubCache, repo: &RepoId) -> Result<()> {
        let dir = cache.repo_dir(repo);
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        let file = dir.join(format!("{PREFIX}{}.json", self.commit));
        let text = serde_json::to_vec(self).map_err(io::Error::from).map_err(Error::io(&file))?;
        let fresh = dir.join("harmonium-note.new");
        fs::write(&fresh, text).map_err(Error::io(&fresh))?;
        fs::rename(&fresh, &file).map_err(Error::io(&file))
    }

    /// All notes of a repository.
    pub(crate) fn read_all(cache: &HubCache, repo: &RepoId) -> Vec<Self> {
        let entries = fs::read_dir(cache.repo_dir(repo)).into_iter().flatten().flatten();
        let is_note =
            |entry: &DirEntry| entry.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX));
        let notes = entries.filter(is_note).filter_map(|entry| read_json::<Self>(&entry.path()));
        let mut notes: Vec<Self> =
            notes.filter(|note| Digest::of_name(&note.commit).is_some()).collect();
        notes.sort_by(|a, b| (&a.revision, &a.commit).cmp(&(&b.revision, &b.commit)));
        notes
    }

    /// A pull is complete: its note goes, notes of earlier commits of the same revision go, and so does what was
    /// fetched in part and no note wants any more.
    pub(crate) fn settle(
        cache: &HubCache,
        repo: &RepoId,
        revision: &str,
        commit: &str,
    ) -> Result<()> {
        let (settled, open): (Vec<Self>, _) = Self::read_all(cache, repo)
            .into_iter()
            .partition(|note| note.revision == revision || note.commit == commit);
        for note in settled {
            let file = cache.repo_dir(repo).join(format!("{PREFIX}{}.json", note.commit));
            fs::remove_file(&file).map_err(Error::io(&file))?;
        }
        let wanted: BTreeSet<&str> =
            open.iter().flat_map(|note| &note.files).map(|file| file.digest.as_str()).collect();
        let blobs = cache.blob(repo, "");
        for entry in fs::read_dir(&blobs).into_iter().flatten().flatten() {
            let path = entry.path();
            if Parts::blob_of(&path).is_some_and(|blob| !wanted.contains(blob)) {
                fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }
}

/// A JSON file, if it can be read as what it should be.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Option<T> {
    let is_readable = fs::metadata(file).is_ok_and(|file| file.len() <= MAX_JSON_LEN);
    serde_json::from_slice(&is_readable.then(|| fs::read(file).ok())??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_pull_takes_earlier_ones_of_its_revision_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = HubCache::new(dir.path().to_owned());
        let repo = RepoId::parse("owner/name").unwrap();
        let [old, new, other] = ["a", "b", "c"].map(|digit| digit.repeat(40));
        for (revision, commit) in [("main", &old), ("main", &new), ("v1", &other)] {
            let digest = Digest::of_name(commit).unwrap();
            let file = RemoteFile { path: "m.safetensors".to_owned(), len: 7, digest };
            Note::new(revision, commit, std::slice::from_ref(&file)).write(&cache, &repo).unwrap();
            Parts::open(&cache.blob(&repo, commit), 7).unwrap();
        }
        Note::settle(&cache, &repo, "main", &new).unwrap();
        let left = Note::read_all(&cache, &repo);
        assert_eq!(left.iter().map(|note| &note.commit).collect::<Vec<_>>(), [&other]);
        let parts = fs::read_dir(cache.blob(&repo, "")).unwrap();
        let blobs: BTreeSet<_> =
            parts.map(|entry| Parts::blob_of(&entry.unwrap().path()).unwrap().to_owned()).collect();
        assert_eq!(blobs, BTreeSet::from([other]));
    }
}
