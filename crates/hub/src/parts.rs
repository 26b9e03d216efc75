//! A file that is being fetched: its contents so far, and which pieces of them have arrived.
//!
//! Beside the contents lies a log to which a record of each complete piece is appended once its bytes are written:
//! its number and a digest of it. Whatever moment the process is killed at, the log names only pieces that are
//! there; at most one piece a worker is fetched twice. After a power failure a piece may be named whose bytes never
//! reached the disk: its digest tells. Both files are named differently from the partial files of other tools,
//! which could not read them.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};

use crate::error::{Error, Result};

/// Bytes of a piece.
pub(crate) const PIECE: u64 = 1 << 20;
/// Bytes of a piece's digest: the beginning of its SHA-256, against accidents.
const CHECK_LEN: usize = 16;
/// Bytes of a record: a piece's number, then its digest.
const RECORD: usize = 4 + CHECK_LEN;
/// How the two files' names end.
const EXTENSIONS: [&str; 2] = ["harmonium-part", "harmonium-log"];

type Check = [u8; CHECK_LEN];

/// A file under way.
pub(crate) struct Parts {
    len: u64,
    contents: File,
    contents_path: PathBuf,
    log_path: PathBuf,
    state: Mutex<State>,
}

struct State {
    log: File,
    /// The digest of each piece that is here.
    pieces: Vec<Option<Check>>,
    num_missing: usize,
}

impl Parts {
    /// Opens what is there of a blob of `len` bytes, or begins it.
    pub(crate) fn open(blob: &Path, len: u64) -> Result<Self> {
        let [contents_path, log_path] = paths(blob);
        let folder = blob.parent().expect("a blob has a parent");
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let pieces = read_log(&contents_path, &log_path, len);
        let contents = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&contents_path)
            .map_err(Error::io(&contents_path))?;
        contents.set_len(len).map_err(Error::io(&contents_path))?;
        let state = Mutex::new(State::begin(&log_path, pieces)?);
        Ok(Self { len, contents, contents_path, log_path, state })
    }

    /// Bytes of a blob of `len` bytes that are not here, without touching anything.
    pub(crate) fn missing_of(blob: &Path, len: u64) -> u64 {
        let [contents, log] = paths(blob);
        if !log.exists() {
            return len;
        }
        let pieces = read_log(&contents, &log, len);
        let missing = (0u64..).zip(&pieces).filter(|(_, piece)| piece.is_none());
        missing.map(|(piece, _)| piece_range(piece, len)).map(|range| range.end - range.start).sum()
    }

    /// The name of the blob that a file of this module is about, if it is one.
    pub(crate) fn blob_of(file: &Path) -> Option<&str> {
        let extension = file.extension()?.to_str()?;
        EXTENSIONS.contains(&extension).then(|| file.file_stem()?.to_str())?
    }

    /// Ranges of bytes that are not here, none longer than `max_len` bytes or one piece.
    pub(crate) fn missing(&self, max_len: u64) -> Vec<Range<u64>> {
        let state = self.lock();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (piece, _) in (0u64..).zip(&state.pieces).filter(|(_, piece)| piece.is_none()) {
            let range = piece_range(piece, self.len);
            match ranges.last_mut() {
                Some(last) if last.end == range.start && range.end - last.start <= max_len => {
                    last.end = range.end;
                }
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Whether all pieces are here.
    pub(crate) fn is_whole(&self) -> bool {
        self.lock().num_missing == 0
    }

    /// Whether the piece that begins at `offset` is here.
    pub(crate) fn has(&self, offset: u64) -> bool {
        let piece = usize::try_from(offset / PIECE).unwrap_or(usize::MAX);
        self.lock().pieces.get(piece).is_none_or(Option::is_some)
    }

    /// Stores the whole piece that begins at `offset`, unless it is here, and tells whether it was not.
    pub(crate) fn store(&self, offset: u64, bytes: &[u8]) -> Result<bool> {
        debug_assert!(
            offset.is_multiple_of(PIECE) && bytes.len() as u64 == PIECE.min(self.len - offset)
        );
        if self.has(offset) {
            return Ok(false);
        }
        self.contents.write_all_at(bytes, offset).map_err(Error::io(&self.contents_path))?;
        let piece = u32::try_from(offset / PIECE).expect("lengths are bounded by the listing");
        let check = check_of(bytes);
        let mut state = self.lock();
        // Two workers may bring the same piece from a hub that ignores ranges.
        let is_new = state.pieces[piece as usize].replace(check).is_none();
        if is_new {
            state.log.write_all(&record(piece, &check)).map_err(Error::io(&self.log_path))?;
            state.num_missing -= 1;
        }
        Ok(is_new)
    }

    /// Where the contents are.
    pub(crate) fn contents(&self) -> &Path {
        &self.contents_path
    }

    /// Moves the contents, which are complete and right, to their place.
    pub(crate) fn finish(&self, blob: &Path) -> Result<()> {
        self.contents.sync_all().map_err(Error::io(&self.contents_path))?;
        fs::rename(&self.contents_path, blob).map_err(Error::io(blob))?;
        fs::remove_file(&self.log_path).map_err(Error::io(&self.log_path))
    }

    /// Forgets what must be fetched again because the whole is wrong, and returns how many bytes that is: the
    /// pieces that are no longer what arrived, or everything, if what arrived was wrong.
    pub(crate) fn forget_bad(&self) -> Result<u64> {
        let mut state = self.lock();
        let mut pieces = state.pieces.clone();
        let mut lost = 0;
        let mut bytes = Vec::new();
        for (index, piece) in (0u64..).zip(&mut pieces) {
            let range = piece_range(index, self.len);
            bytes.resize((range.end - range.start) as usize, 0);
            self.contents
                .read_exact_at(&mut bytes, range.start)
                .map_err(Error::io(&self.contents_path))?;
            if *piece != Some(check_of(&bytes)) {
                *piece = None;
                lost += range.end - range.start;
            }
        }
        if lost == 0 {
            pieces.fill(None);
            lost = self.len;
        }
        *state = State::begin(&self.log_path, pieces)?;
        Ok(lost)
    }

    /// Removes what has arrived.
    pub(crate) fn discard(&self) -> Result<()> {
        fs::remove_file(&self.log_path).map_err(Error::io(&self.log_path))?;
        fs::remove_file(&self.contents_path).map_err(Error::io(&self.contents_path))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes the log afresh: a record that was cut off by a kill would shift all that follow.
    fn begin(log_path: &Path, pieces: Vec<Option<Check>>) -> Result<Self> {
        let here = (0u32..).zip(&pieces).filter_map(|(piece, check)| Some((piece, (*check)?)));
        let records: Vec<u8> = here.flat_map(|(piece, check)| record(piece, &check)).collect();
        let num_missing = pieces.len() - records.len() / RECORD;
        let fresh = log_path.with_extension("harmonium-log-new");
        fs::write(&fresh, records).map_err(Error::io(&fresh))?;
        fs::rename(&fresh, log_path).map_err(Error::io(log_path))?;
        let log = File::options().append(true).open(log_path).map_err(Error::io(log_path))?;
        Ok(Self { log, pieces, num_missing })
    }
}

fn record(piece: u32, check: &Check) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&piece.to_le_bytes());
    record[4..].copy_from_slice(check);
    record
}

fn check_of(bytes: &[u8]) -> Check {
    *digest(&SHA256, bytes).as_ref().first_chunk().expect("a SHA-256 is longer")
}

/// The bytes of a piece.
fn piece_range(piece: u64, len: u64) -> Range<u64> {
    let start = piece * PIECE;
    start..(start + PIECE).min(len)
}

fn paths(blob: &Path) -> [PathBuf; 2] {
    EXTENSIONS.map(|extension| blob.with_extension(extension))
}

/// Which pieces are here. A log without contents of the right length says nothing.
fn read_log(contents: &Path, log: &Path, len: u64) -> Vec<Option<Check>> {
    let num_pieces =
        usize::try_from(len.div_ceil(PIECE)).expect("lengths are bounded by the listing");
    let mut pieces = vec![None; num_pieces];
    if fs::metadata(contents).is_ok_and(|contents| contents.len() == len)
        && fs::metadata(log).is_ok_and(|log| log.len() <= (num_pieces * RECORD) as u64)
    {
        for record in fs::read(log).unwrap_or_default().as_chunks::<RECORD>().0 {
            let (piece, check) = record.split_first_chunk().expect("a record is longer");
            if let Some(piece) = pieces.get_mut(u32::from_le_bytes(*piece) as usize) {
                *piece = check.first_chunk().copied();
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 3 * PIECE + 5;

    #[test]
    fn what_was_stored_is_not_missing_after_a_kill_at_any_byte_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blobs/abc");
        let parts = Parts::open(&blob, LEN).unwrap();
        assert_eq!(parts.missing(2 * PIECE), [0..2 * PIECE, 2 * PIECE..LEN]);
        parts.store(PIECE, &vec![1; PIECE as usize]).unwrap();
        parts.store(3 * PIECE, &[2; 5]).unwrap();
        assert_eq!(parts.missing(LEN), [0..PIECE, 2 * PIECE..3 * PIECE]);
        drop(parts);
        let [_, log] = paths(&blob);
        let records = fs::read(&log).unwrap();
        for cut in 0..=records.len() {
            fs::write(&log, &records[..cut]).unwrap();
            let missing = Parts::missing_of(&blob, LEN);
            let expected = [LEN, LEN - PIECE, LEN - PIECE - 5][cut / RECORD];
            assert_eq!(missing, expected);
            let reopened: u64 =
                Parts::open(&blob, LEN).unwrap().missing(1).iter().map(|r| r.end - r.start).sum();
            assert_eq!(reopened, expected);
        }
    }

    #[test]
    fn pieces_that_never_reached_the_disk_are_told_from_wrong_ones() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("abc");
        let parts = Parts::open(&blob, LEN).unwrap();
        for range in parts.missing(1) {
            let bytes = vec![7; (range.end - range.start) as usize];
            assert!(parts.store(range.start, &bytes).unwrap());
            assert!(!parts.store(range.start, &bytes).unwrap(), "stored twice");
        }
        assert!(parts.is_whole());
        // As a power failure leaves it: the log is there, a piece is not.
        parts.contents.write_all_at(&vec![0; PIECE as usize], PIECE).unwrap();
        drop(parts);
        let parts = Parts::open(&blob, LEN).unwrap();
        assert!(parts.is_whole());
        assert_eq!(parts.forget_bad().unwrap(), PIECE);
        assert_eq!(parts.missing(LEN).first(), Some(&(PIECE..2 * PIECE)));
        assert_eq!(Parts::missing_of(&blob, LEN), PIECE);
        parts.store(PIECE, &vec![7; PIECE as usize]).unwrap();
        // All is as it came, so what came was wrong.
        assert_eq!(parts.forget_bad().unwrap(), LEN);
        assert_eq!(parts.missing(LEN).first(), Some(&(0..LEN)));
    }

    #[test]
    fn files_of_a_blob_are_known_again() {
        let [contents, log] = paths(Path::new("blobs/abc"));
        assert_eq!([&contents, &log].map(|path| Parts::blob_of(path)), [Some("abc"); 2]);
        assert_eq!(Parts::blob_of(Path::new("blobs/abc")), None);
        assert_eq!(Parts::blob_of(Path::new("blobs/abc.incomplete")), None);
    }

    #[test]
    fn a_log_of_other_contents_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("blobs/abc");
        Parts::open(&blob, LEN).unwrap().store(0, &vec![1; PIECE as usize]).unwrap();
        assert_eq!(Parts::missing_of(&blob, LEN), LEN - PIECE);
        assert_eq!(Parts::missing_of(&blob, LEN + 1), LEN + 1);
        assert_eq!(Parts::missing_of(&dir.path().join("blobs/def"), LEN), LEN);
    }

    #[test]
    fn finished_contents_are_in_place_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("abc");
        let parts = Parts::open(&blob, 5).unwrap();
        assert!(!parts.has(0));
        parts.store(0, b"hello").unwrap();
        assert!(parts.has(0) && parts.missing(PIECE).is_empty());
        parts.finish(&blob).unwrap();
        assert_eq!(fs::read(&blob).unwrap(), b"hello");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
