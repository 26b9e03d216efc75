//! The digests by which the hub names contents: SHA-256 for large files, git's object id for small ones.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::error::{Error, Result};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// What a file's contents must hash to, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Digest {
    /// SHA-256 of the contents: files in large-file storage.
    Sha256(String),
    /// SHA-1 of git's blob header and the contents: files in git itself.
    Git(String),
}

impl Digest {
    /// The digest that a blob's file name is, if it is one.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let is_hex =
            name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match name.len() {
            64 if is_hex => Some(Self::Sha256(name.to_owned())),
            40 if is_hex => Some(Self::Git(name.to_owned())),
            _ => None,
        }
    }

    /// The digits, which are the name of the blob in the cache.
    pub(crate) fn name(&self) -> &str {
        let (Self::Sha256(name) | Self::Git(name)) = self;
        name
    }

    /// The same kind of digest of a file's contents.
    pub(crate) fn of_file(&self, path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        let mut context = match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {len}\0").as_bytes());
                context
            }
        };
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = file.read(&mut chunk).map_err(Error::io(path))?;
            if count == 0 {
                break;
            }
            context.update(&chunk[..count]);
        }
        let digits = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(match self {
            Self::Sha256(_) => Self::Sha256(digits),
            Self::Git(_) => Self::Git(digits),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum_and_git_hash_object() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        for name in [
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "ce013625030ba8dba906f756967f9e9ca394464a",
        ] {
            let digest = Digest::of_name(name).unwrap();
            assert_eq!(digest.of_file(file.path()).unwrap(), digest);
        }
        assert_eq!(Digest::of_name("5891"), None);
        assert_eq!(Digest::of_name(&"G".repeat(64)), None);
    }
}
