//! Ranges of bytes that live as long as someone holds them: a mapped file, data inside the binary, pages or a buffer.
//!
//! A clone shares the mapping, so that every weight can own its bytes while each file is mapped once. Nothing
//! is copied and nothing is aligned: readers take unaligned loads.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, Result};

/// A shared, immutable range of bytes.
#[derive(Clone)]
pub(crate) struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Static(&'static [u8]),
    Mapped(Arc<Mmap>),
    Memory(Arc<Mmap>),
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Data inside the binary.
    pub(crate) fn from_static(data: &'static [u8]) -> Self {
        Self { owner: Owner::Static(data), range: 0..data.len() }
    }

    /// Maps a whole file for reading.
    pub(crate) fn map(file: &Path) -> Result<Self> {
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => Error::MissingFile { file: file.to_owned() },
            _ => Error::Io { file: file.to_owned(), source },
        };
        let handle = File::open(file).map_err(io)?;
        if !handle.metadata().map_err(io)?.is_file() {
            let message = "not a regular file".to_owned();
            return Err(Error::File { file: file.to_owned(), message });
        }
        // SAFETY: The mapping is private and read-only, and its bytes are only ever read as plain integers.
        // The caller of the program keeps the checkpoint's files unchanged while it runs, as the Hugging Face
        // cache does by never writing to a file it has published.
        let map = unsafe { Mmap::map(&handle) }.map_err(io)?;
        #[cfg(target_os = "linux")]
        huge_pages(map.advise(memmap2::Advice::HugePage));
        let range = 0..map.len();
        Ok(Self { owner: Owner::Mapped(Arc::new(map)), range })
    }

    /// So many bytes of memory, zeros until `fill` is given them. They begin on a page.
    pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self> {
        let no_memory = |source| Error::Memory { bytes: len, source };
        let mut map = MmapMut::map_anon(len).map_err(no_memory)?;
        // Zeroed as they are first written, so the system must know before.
        #[cfg(target_os = "linux")]
        huge_pages(map.advise(memmap2::Advice::HugePage));
        fill(&mut map);
        let map = map.make_read_only().map_err(no_memory)?;
        Ok(Self { owner: Owner::Memory(Arc::new(map)), range: 0..len })
    }

    /// Asks the system to read what is mapped of a file, and waits until it has. Where that cannot be asked for, pages
    /// come when they are touched.
    pub(crate) fn populate(&self) {
        #[cfg(target_os = "linux")]
        if let Owner::Mapped(map) = &self.owner
            && let Err(error) =
                map.advise_range(memmap2::Advice::PopulateRead, self.range.start, self.range.len())
        {
            tracing::trace!(%error, "not read ahead");
        }
    }

    /// Tells the system that what is mapped of a file will not be read soon: its pages count for this process no more.
    pub(crate) fn release(&self) {
        #[cfg(target_os = "linux")]
        if let Owner::Mapped(map) = &self.owner {
            let (advice, Range { start, end }) =
                (memmap2::UncheckedAdvice::DontNeed, self.range.clone());
            // SAFETY: Pages of a file that was mapped for reading only come back with the same bytes when they are read.
            let released = unsafe { map.unchecked_advise_range(advice, start, end - start) };
            if let Err(error) = released {
                tracing::trace!(%error, "not released");
            }
        }
    }

    /// A part of it, or `None` if it does not lie inside.
    pub(crate) fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start + range.start;
        Some(Self { owner: self.owner.clone(), range: start..start + range.len() })
    }
}

/// What the system said when it was asked for pages of megabytes, which it may not have. Weights are read from end to end,
/// and looking up small pages costs memory a quarter of its bandwidth.
#[cfg(target_os = "linux")]
fn huge_pages(asked: std::io::Result<()>) {
    if let Err(error) = asked {
        tracing::trace!(%error, "no huge pages");
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(data: Vec<u8>) -> Self {
        let range = 0..data.len();
        Self { owner: Owner::Owned(data.into()), range }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.owner {
            Owner::Static(data) => data,
            Owner::Mapped(map) | Owner::Memory(map) => map,
            Owner::Owned(data) => data,
        };
        &whole[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_and_stay_inside() {
        let bytes = Bytes::from_static(&[0, 1, 2, 3, 4]).slice(1..4).unwrap();
        assert_eq!(&*bytes, [1, 2, 3]);
        assert_eq!(&*bytes.slice(1..3).unwrap(), [2, 3]);
        assert!(bytes.slice(1..4).is_none());
        assert!(bytes.slice(usize::MAX..usize::MAX).is_none());
    }

    #[test]
    fn a_directory_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Bytes::map(dir.path()).is_err());
        assert!(matches!(Bytes::map(&dir.path().join("x")), Err(Error::MissingFile { .. })));
    }
}
