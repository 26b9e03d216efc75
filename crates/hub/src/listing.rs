//! What a revision of a repository holds, and which of it serving needs.

use std::collections::HashSet;

use serde::Deserialize;
use tokio::time::sleep;

use crate::client::{Failure, Hub};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::RepoId;

/// Longest list read; that of the 120B repository is under 20 KiB.
const MAX_LISTING_LEN: usize = 16 << 20;
/// Most files fetched.
const MAX_FILES: usize = 1000;
/// Longest file, 1 TiB: what is remembered of its pieces must fit the memory.
const MAX_FILE_LEN: u64 = 1 << 40;
/// Folder with the weights in OpenAI's own layout.
pub(crate) const ORIGINAL: &str = "original/";

/// A file of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    pub(crate) path: String,
    pub(crate) len: u64,
    pub(crate) digest: Digest,
}

/// A revision's commit and the files wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<RemoteFile>,
}

/// The hub's answer, as far as it is used.
#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// Asks what `revision` holds.
pub(crate) async fn list(
    hub: &Hub,
    repo: &RepoId,
    revision: &str,
    with_original: bool,
) -> Result<Listing> {
    let mut url = hub.url(&["api", "models", repo.as_str(), "revision"]);
    if let Ok(mut path) = url.path_segments_mut() {
        // A slash in a revision, such as refs/pr/1, is escaped.
        path.push(revision);
    }
    url.set_query(Some("blobs=true"));
    let what = format!("{repo} at {revision}");
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match get(hub, url.clone(), repo, &what).await {
            Ok(body) => return select(&body, repo, with_original),
            Err(failure) => failure,
        };
        let (wait, _) = hub.wait_after(failure, tries, &what)?;
        sleep(wait).await;
    }
}

async fn get(hub: &Hub, url: reqwest::Url, repo: &RepoId, what: &str) -> Result<Vec<u8>, Failure> {
    let (_, mut response) = hub.get(url, None, repo.as_str(), what).await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::of_transport(&error))? {
        if body.len() + chunk.len() > MAX_LISTING_LEN {
            return Err(unusable(repo, format!("longer than {MAX_LISTING_LEN} bytes")).into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn select(body: &[u8], repo: &RepoId, with_original: bool) -> Result<Listing> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| unusable(repo, error.to_string()))?;
    let commit = answer.sha;
    if Digest::of_name(&commit).is_none() {
        return Err(unusable(repo, format!("sha {commit:?} is no commit")));
    }
    let wanted = |sibling: &Sibling| is_wanted(&sibling.rfilename, with_original);
    let files: Vec<RemoteFile> = answer
        .siblings
        .into_iter()
        .filter(wanted)
        .map(|sibling| remote_file(sibling, repo))
        .collect::<Result<_>>()?;
    if files.len() > MAX_FILES {
        return Err(unusable(repo, format!("{} files are over {MAX_FILES}", files.len())));
    }
    let mut paths = HashSet::new();
    if let Some(twice) = files.iter().find(|file| !paths.insert(&file.path)) {
        return Err(unusable(repo, format!("{} is in it twice", twice.path)));
    }
    if !files.iter().any(|file| file.path.ends_with(".safetensors")) {
        return Err(Error::NoWeights { repo: repo.to_string(), commit });
    }
    Ok(Listing { commit, files })
}

/// Config, tokenizer, weights and what one must be given with them (licence); of other folders only `original`,
/// if it is asked for.
fn is_wanted(path: &str, with_original: bool) -> bool {
    let (name, is_original) = match path.strip_prefix(ORIGINAL) {
        Some(name) => (name, true),
        None => (path, false),
    };
    let is_used = [".json", ".safetensors", ".jinja"].iter().any(|end| name.ends_with(end))
        || (!is_original && ["LICENSE", "USAGE_POLICY"].contains(&name));
    is_used && !name.contains('/') && (with_original || !is_original)
}

fn remote_file(sibling: Sibling, repo: &RepoId) -> Result<RemoteFile> {
    let path = sibling.rfilename;
    let name = path.strip_prefix(ORIGINAL).unwrap_or(&path);
    let is_harmless = name.len() <= 200
        && !name.starts_with('.')
        && !name.contains(|c: char| c.is_control() || c == '/' || c == '\\');
    if !is_harmless {
        return Err(unusable(repo, format!("file name {path:?} is not allowed")));
    }
    let (len, digest) = match (sibling.lfs, sibling.size, sibling.blob_id) {
        (Some(lfs), ..) => (lfs.size, lfs.sha256),
        (None, Some(size), Some(id)) => (size, id),
        _ => return Err(unusable(repo, format!("{path} has no size or no digest"))),
    };
    let digest = Digest::of_name(&digest)
        .ok_or_else(|| unusable(repo, format!("{path} has the digest {digest:?}")))?;
    if len > MAX_FILE_LEN {
        return Err(unusable(repo, format!("{path} has {len} bytes")));
    }
    Ok(RemoteFile { path, len, digest })
}

fn unusable(repo: &RepoId, message: String) -> Error {
    Error::Listing { repo: repo.to_string(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn listing(names: &[&str], with_original: bool) -> Result<Listing> {
        let siblings: Vec<_> = names
            .iter()
            .map(|name| json!({"rfilename": name, "size": 3, "blobId": COMMIT}))
            .collect();
        let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
        select(body.as_bytes(), &RepoId::parse("o/n").unwrap(), with_original)
    }

    #[test]
    fn only_what_serving_needs_is_wanted() {
        let all = [
            "README.md",
            "LICENSE",
            "config.json",
            "model-00000-of-00002.safetensors",
            "chat_template.jinja",
            "metal/model.bin",
            "original/model.safetensors",
            "original/config.json",
            "original/deep/x.json",
        ];
        let paths = |listing: Listing| listing.files.into_iter().map(|file| file.path).collect();
        let default: Vec<String> = paths(listing(&all, false).unwrap());
        assert_eq!(default, [all[1], all[2], all[3], all[4]]);
        let with_original: Vec<String> = paths(listing(&all, true).unwrap());
        assert_eq!(with_original, [all[1], all[2], all[3], all[4], all[6], all[7]]);
    }

    #[test]
    fn hostile_lists_are_refused() {
        for names in [
            &["..\\x.json", "m.safetensors"][..],
            &[".hidden.json", "m.safetensors"],
            &["m.safetensors", "m.safetensors"],
        ] {
            assert!(matches!(listing(names, false), Err(Error::Listing { .. })), "{names:?}");
        }
        assert!(matches!(listing(&["config.json"], false), Err(Error::NoWeights { .. })));
        let huge = json!({"sha": COMMIT, "siblings": [
            {"rfilename": "m.safetensors", "lfs": {"sha256": "a".repeat(64), "size": u64::MAX}}]});
        let repo = RepoId::parse("o/n").unwrap();
        for body in
            [huge.to_string(), json!({"sha": "../x", "siblings": []}).to_string(), "<html>".into()]
        {
            assert!(matches!(select(body.as_bytes(), &repo, false), Err(Error::Listing { .. })));
        }
    }
}
