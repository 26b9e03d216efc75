//! Names of repositories.

use std::fmt;

use crate::error::{Error, Result};

/// Short names of the published models and the repositories they stand for.
const PUBLISHED: [(&str, &str); 2] =
    [("gpt-oss-20b", "openai/gpt-oss-20b"), ("gpt-oss-120b", "openai/gpt-oss-120b")];
/// Longest part of a repository's name, as on the hub.
const MAX_PART_LEN: usize = 96;
/// How the cache names the folder of a model's repository.
const FOLDER_PREFIX: &str = "models--";

/// `OWNER/NAME`, checked: it cannot leave the folder it is joined to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoId(String);

impl RepoId {
    /// The repository that `name` stands for: a published model's short name, or `OWNER/NAME`.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some((_, repo)) = PUBLISHED.iter().find(|(short, _)| *short == name) {
            return Ok(Self((*repo).to_owned()));
        }
        let is_valid =
            name.split_once('/').is_some_and(|(owner, rest)| is_part(owner) && is_part(rest));
        is_valid
            .then(|| Self(name.to_owned()))
            .ok_or_else(|| Error::BadName { name: name.to_owned() })
    }

    /// The repository whose folder in the cache has this name.
    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        let (owner, rest) = folder.strip_prefix(FOLDER_PREFIX)?.split_once("--")?;
        (is_part(owner) && is_part(rest)).then(|| Self(format!("{owner}/{rest}")))
    }

    /// `OWNER/NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shortest name that [`Self::parse`] takes.
    pub fn short(&self) -> &str {
        let short = PUBLISHED.iter().find(|(_, repo)| *repo == self.0);
        short.map_or(&self.0, |(short, _)| short)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_part(part: &str) -> bool {
    (1..=MAX_PART_LEN).contains(&part.len())
        && !part.starts_with('.')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_names_are_the_same_repository() {
        let short = RepoId::parse("gpt-oss-20b").unwrap();
        assert_eq!(short, RepoId::parse("openai/gpt-oss-20b").unwrap());
        assert_eq!((short.as_str(), short.short()), ("openai/gpt-oss-20b", "gpt-oss-20b"));
        assert_eq!(RepoId::of_folder("models--openai--gpt-oss-20b"), Some(short));
    }

    #[test]
    fn names_that_no_repository_has_are_refused() {
        for name in ["", "gpt", "../x", "a/b/c", "a/..", "/nowhere/at/all", "a b/c", "a/"] {
            assert!(matches!(RepoId::parse(name), Err(Error::BadName { .. })), "{name}");
        }
        for folder in ["models--a", "datasets--a--b", "models--..--b", "models--a--b/c"] {
            assert_eq!(RepoId::of_folder(folder), None, "{folder}");
        }
    }
}
