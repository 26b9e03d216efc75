//! What lies in a cache: which repositories, which of their revisions, how complete, and whether it is intact.
//!
//! A snapshot can be served if it has every file that its index names, whoever pulled it. An interrupted pull is
//! known by its note, which tells what is missing to the byte.

mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cache::HubCache;
use crate::error::{Error, Result};
use crate::listing::ORIGINAL;
use crate::names::RepoId;
use crate::note::{Note, read_json};
use crate::parts::Parts;

pub use verify::{Damaged, discard, verify};

/// A repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRepo {
    /// Which.
    pub repo: RepoId,
    /// Its revisions in order of name, commits that no name leads to, and interrupted pulls.
    pub snapshots: Vec<LocalSnapshot>,
    /// Bytes on the disk, shared blobs counted once and partial ones as far as they are here.
    pub num_bytes: u64,
}

/// A revision of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSnapshot {
    /// Its name, such as `main`; the commit where it has none.
    pub revision: String,
    /// Its commit.
    pub commit: String,
    /// Where its files are, or will be.
    pub dir: PathBuf,
    /// Its files, as far as they are known.
    pub num_files: usize,
    /// Bytes of its files that are here.
    pub num_bytes: u64,
    /// Files that are not here or not whole.
    pub missing: Vec<String>,
    /// Bytes still to fetch, where that is known.
    pub missing_bytes: Option<u64>,
    /// Whether all that serving needs is here, whatever else is missing.
    pub is_servable: bool,
}

/// The repositories of models in a cache, in order of name. A cache that does not exist is empty.
pub fn list(cache: &HubCache) -> Result<Vec<LocalRepo>> {
    let names = folders_in(cache.dir())?;
    let repos: BTreeSet<RepoId> = names.iter().filter_map(|name| RepoId::of_folder(name)).collect();
    repos.into_iter().map(|repo| describe(cache, repo)).collect()
}

/// One repository, if any of it is in the cache.
pub fn find(cache: &HubCache, repo: &RepoId) -> Result<Option<LocalRepo>> {
    let is_here = cache.repo_dir(repo).is_dir();
    is_here.then(|| describe(cache, repo.clone())).transpose()
}

/// Removes a repository from the cache, but not while a pull is at work on it.
pub fn remove(cache: &HubCache, repo: &RepoId) -> Result<()> {
    let _lock = cache.lock_repo(repo)?;
    let dir = cache.repo_dir(repo);
    fs::remove_dir_all(&dir).map_err(Error::io(&dir))
}

fn describe(cache: &HubCache, repo: RepoId) -> Result<LocalRepo> {
    let dir = cache.repo_dir(&repo);
    let notes = Note::read_all(cache, &repo);
    let mut snapshots = Vec::new();
    let mut named = BTreeSet::new();
    for revision in files_below(&dir.join("refs"))? {
        let Some(snapshot) = cache.snapshot(&repo, &revision) else { continue };
        named.insert(snapshot.clone());
        snapshots.push(as_found(revision, snapshot)?);
    }
    named.extend(notes.iter().map(|note| cache.snapshot_dir(&repo, &note.commit)));
    for commit in folders_in(&dir.join("snapshots"))? {
        let snapshot = cache.snapshot_dir(&repo, &commit);
        if !named.contains(&snapshot) {
            snapshots.push(as_found(commit, snapshot)?);
        }
    }
    for note in notes {
        let is_same =
            |row: &LocalSnapshot| (&row.revision, &row.commit) == (&note.revision, &note.commit);
        snapshots.retain(|row| !is_same(row));
        snapshots.push(under_way(cache, &repo, note));
    }
    let num_bytes = used_bytes(&dir.join("blobs"));
    Ok(LocalRepo { repo, snapshots, num_bytes })
}

/// A snapshot of which nothing but its files is known.
fn as_found(revision: String, dir: PathBuf) -> Result<LocalSnapshot> {
    let files = files_below(&dir)?;
    let lens = files.iter().filter_map(|path| Some(fs::metadata(dir.join(path)).ok()?.len()));
    let mut missing = missing_for_serving(&dir);
    let is_servable = missing.is_empty();
    missing.extend(files.iter().filter(|path| !dir.join(path).exists()).cloned());
    let commit = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(LocalSnapshot {
        revision,
        commit,
        num_files: files.len(),
        num_bytes: lens.sum(),
        missing_bytes: missing.is_empty().then_some(0),
        missing: missing.into_iter().collect(),
        is_servable,
        dir,
    })
}

/// What serving needs and a snapshot lacks: config, tokenizer, and the weights that its index names.
fn missing_for_serving(dir: &Path) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let has = |path: &str| dir.join(path).exists();
    let folder = if has("config.json") || !has("original/config.json") { "" } else { ORIGINAL };
    let mut needed = BTreeSet::from([format!("{folder}config.json"), "tokenizer.json".to_owned()]);
    let (index, single) =
        (format!("{folder}model.safetensors.index.json"), format!("{folder}model.safetensors"));
    match read_json::<Index>(&dir.join(&index)) {
        Some(index) => {
            needed.extend(index.weight_map.into_values().map(|shard| format!("{folder}{shard}")));
        }
        None if has(&index) => drop(needed.insert(index)),
        None => drop(needed.insert(single)),
    }
    needed.retain(|path| !has(path));
    needed
}

/// A snapshot that a pull has not completed.
fn under_way(cache: &HubCache, repo: &RepoId, note: Note) -> LocalSnapshot {
    let dir = cache.snapshot_dir(repo, &note.commit);
    let (mut missing, mut missing_bytes, mut num_bytes) = (Vec::new(), 0, 0);
    for file in &note.files {
        let left = match file.blob(cache, repo) {
            Some(blob) if fs::metadata(&blob).is_ok_and(|blob| blob.len() == file.len) => 0,
            Some(blob) => Parts::missing_of(&blob, file.len),
            None => file.len,
        };
        num_bytes += file.len - left;
        missing_bytes += left;
        // The contents may be here already, but not yet in the snapshot.
        if left > 0 || !dir.join(&file.path).exists() {
            missing.push(file.path.clone());
        }
    }
    LocalSnapshot {
        is_servable: missing_for_serving(&dir).is_empty(),
        dir,
        revision: note.revision,
        commit: note.commit,
        num_files: note.files.len(),
        num_bytes,
        missing,
        missing_bytes: Some(missing_bytes),
    }
}

/// Names of the folders in a folder; none if it is not there.
fn folders_in(dir: &Path) -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(Error::io(dir))?,
    };
    let entries = entries.flatten().filter(|entry| entry.path().is_dir());
    Ok(entries.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Paths of the files and links below a folder, two levels deep as the layout is; none if there is no folder.
fn files_below(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::io(&folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io(&folder))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            match entry.file_type().map_err(Error::io(&folder))?.is_dir() {
                true if depth < 2 => folders.push((entry.path(), format!("{path}/"), depth + 1)),
                true => {}
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Bytes that a folder's files take on the disk.
fn used_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// The unit of `st_blocks`, whatever the file system's own.
    const UNIT: u64 = 512;
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.blocks() * UNIT)).sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::listing::RemoteFile;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with a snapshot as other tools leave it, one shard of two in place.
    pub(super) fn cache() -> (tempfile::TempDir, HubCache, RepoId) {
        let dir = tempfile::tempdir().unwrap();
        let cache = HubCache::new(dir.path().to_owned());
        let repo = RepoId::parse("owner/name").unwrap();
        let index = r#"{"weight_map": {"a": "m1.safetensors", "b": "m2.safetensors"}}"#;
        for (path, text) in [
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("model.safetensors.index.json", index),
            ("m1.safetensors", "weights"),
        ] {
            put(&cache, &repo, path, text);
        }
        cache.set_ref(&repo, "main", COMMIT).unwrap();
        (dir, cache, repo)
    }

    fn put(cache: &HubCache, repo: &RepoId, path: &str, text: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let digest = Digest::Sha256(String::new()).of_file(file.path()).unwrap();
        let blob = cache.blob(repo, digest.name());
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(blob, text).unwrap();
        cache.link(repo, COMMIT, path, digest.name()).unwrap();
    }

    #[test]
    fn what_an_index_names_and_is_not_here_is_missing() {
        let (_dir, cache, repo) = cache();
        let found = list(&cache).unwrap();
        assert_eq!((found.len(), &found[0].repo), (1, &repo));
        assert_eq!(found[0].snapshots[0].missing, ["m2.safetensors"]);
        put(&cache, &repo, "m2.safetensors", "more");
        let found = find(&cache, &repo).unwrap().unwrap();
        assert!(found.snapshots[0].missing.is_empty());
        assert_eq!(found.snapshots[0].missing_bytes, Some(0));
    }

    #[test]
    fn an_interrupted_pull_is_known_by_its_note() {
        let (_dir, cache, repo) = cache();
        put(&cache, &repo, "m2.safetensors", "more");
        let digest = Digest::of_name(&"a".repeat(64)).unwrap();
        let file = RemoteFile { path: "new.safetensors".to_owned(), len: 3 << 20, digest };
        let files = std::slice::from_ref(&file);
        Note::new("main", &"f".repeat(40), files).write(&cache, &repo).unwrap();
        let parts = Parts::open(&cache.blob(&repo, file.digest.name()), file.len).unwrap();
        parts.store(0, &vec![0; 1 << 20]).unwrap();
        let found = find(&cache, &repo).unwrap().unwrap();
        assert_eq!(found.snapshots.len(), 2);
        assert!(found.snapshots[0].is_servable && !found.snapshots[1].is_servable);
        assert_eq!(found.snapshots[1].missing_bytes, Some(2 << 20));
        assert_eq!(found.snapshots[1].missing, ["new.safetensors"]);
        // More of what can be served already: it still can.
        Note::new("main", COMMIT, files).write(&cache, &repo).unwrap();
        let found = find(&cache, &repo).unwrap().unwrap();
        let more = found.snapshots.iter().find(|snapshot| snapshot.commit == COMMIT).unwrap();
        assert!(more.is_servable && more.missing == ["new.safetensors"]);
        assert!(found.num_bytes > 0);
        // Killed between the last byte and the link to it.
        fs::write(cache.blob(&repo, file.digest.name()), vec![0; 3 << 20]).unwrap();
        let found = find(&cache, &repo).unwrap().unwrap();
        assert!(found.snapshots.iter().all(|one| one.missing == ["new.safetensors"]));
        let lock = cache.lock_repo(&repo).unwrap();
        assert!(matches!(remove(&cache, &repo), Err(Error::Busy { .. })));
        drop(lock);
        remove(&cache, &repo).unwrap();
        assert_eq!(find(&cache, &repo).unwrap(), None);
    }

    #[test]
    fn a_commit_without_a_name_is_listed_by_itself() {
        let (_dir, cache, repo) = cache();
        cache.set_ref(&repo, "main", &"b".repeat(40)).unwrap();
        fs::create_dir_all(cache.snapshot_dir(&repo, &"b".repeat(40))).unwrap();
        let found = find(&cache, &repo).unwrap().unwrap();
        let revisions: Vec<&str> = found.snapshots.iter().map(|s| s.revision.as_str()).collect();
        assert_eq!(revisions, ["main", COMMIT]);
    }
}
