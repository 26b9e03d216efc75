//! From the name of a model to the place of its files. Nothing is downloaded here.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};

use crate::error::{Error, Result};

/// The name of the model inside the binary.
const NANO: &str = "nano";
/// Short names of the published models and the repositories they stand for.
const OFFICIAL: [(&str, &str); 2] =
    [("gpt-oss-20b", "openai/gpt-oss-20b"), ("gpt-oss-120b", "openai/gpt-oss-120b")];
/// Longest part of a repository's name, as on the hub.
const MAX_NAME_LEN: usize = 96;

/// Where a checkpoint's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Inside the binary.
    Nano,
    /// In a directory.
    Directory(PathBuf),
}

/// Finds the files of a model by its name: `nano`, a directory, `gpt-oss-20b`, `gpt-oss-120b`, or `OWNER/NAME`
/// in the Hugging Face cache. `cache` is that cache's `hub` directory; `None` takes the one in the home directory.
pub fn find(name: &str, cache: Option<&Path>) -> Result<Source> {
    if name == NANO {
        return Ok(Source::Nano);
    }
    let directory = Path::new(name);
    if directory.is_dir() {
        return Ok(Source::Directory(directory.to_owned()));
    }
    let repo = repository(name).ok_or_else(|| Error::BadName { name: name.to_owned() })?;
    let cache = match cache {
        Some(cache) => cache.to_owned(),
        None => std::env::home_dir().unwrap_or_default().join(".cache/huggingface/hub"),
    };
    let files = Cache::new(cache.clone()).repo(Repo::model(repo.clone()));
    ["config.json", "original/config.json"]
        .iter()
        .find_map(|file| files.get(file)?.parent().map(Path::to_owned))
        .map(Source::Directory)
        .ok_or_else(|| Error::NotFound { name: name.to_owned(), repo, cache })
}

/// The repository a name stands for, or `None` if no repository can be called that.
fn repository(name: &str) -> Option<String> {
    if let Some((_, repo)) = OFFICIAL.iter().find(|(short, _)| *short == name) {
        return Some((*repo).to_owned());
    }
    let legal = |part: &str| {
        (1..=MAX_NAME_LEN).contains(&part.len())
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let (owner, rest) = name.split_once('/')?;
    (legal(owner) && legal(rest)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_and_directories_need_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().to_str().unwrap();
        let nowhere = Some(Path::new("/nowhere"));
        assert_eq!(find("nano", nowhere).unwrap(), Source::Nano);
        assert_eq!(find(name, nowhere).unwrap(), Source::Directory(dir.path().to_owned()));
    }

    #[test]
    fn official_and_full_names_are_looked_up_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--openai--gpt-oss-20b");
        let snapshot = repo.join("snapshots/abc");
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(repo.join("refs/main"), "abc").unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        for name in ["gpt-oss-20b", "openai/gpt-oss-20b"] {
            let found = find(name, Some(cache.path())).unwrap();
            assert_eq!(found, Source::Directory(snapshot.clone()));
        }
        let message = find("gpt-oss-120b", Some(cache.path())).unwrap_err().to_string();
        assert!(message.contains("openai/gpt-oss-120b") && message.contains("download"));
    }

    #[test]
    fn names_that_no_repository_has_are_refused() {
        for name in ["", "gpt", "../x", "a/b/c", "a/..", "/nowhere/at/all", "a b/c", "a/"] {
            let found = find(name, Some(Path::new("/nowhere")));
            assert!(matches!(found, Err(Error::BadName { .. })), "{name}");
        }
    }
}
