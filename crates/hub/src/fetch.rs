//! One file of a repository, fetched by ranges until it is whole and has the right digest.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, TryStreamExt};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::client::{Failure, Hub};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::listing::RemoteFile;
use crate::names::RepoId;
use crate::parts::{PIECE, Parts};

/// Longest range asked for at once. Each goes through the hub again, whose signed addresses end after a while.
const MAX_RANGE: u64 = 64 << 20;
/// How often a file whose digest is wrong is fetched in all.
const MAX_FETCHES: u32 = 3;
/// The hub's word for the commit that a file comes from.
const COMMIT_HEADER: &str = "x-repo-commit";

/// Fetches files of one commit.
pub(crate) struct Fetcher {
    pub(crate) hub: Hub,
    pub(crate) repo: RepoId,
    pub(crate) commit: String,
    /// A place for each range in flight.
    pub(crate) places: Semaphore,
    pub(crate) num_jobs: usize,
    pub(crate) events: mpsc::Sender<Event>,
}

/// A file and where it goes.
struct Task<'a> {
    /// Its place in [`Event::Listed`].
    index: usize,
    file: &'a RemoteFile,
    parts: Arc<Parts>,
}

impl Fetcher {
    pub(crate) async fn tell(&self, event: Event) {
        // Nobody listens: the files are wanted all the same.
        let _ = self.events.send(event).await;
    }

    /// Brings a file to `blob`. The caller holds its lock.
    pub(crate) async fn fetch(&self, index: usize, file: &RemoteFile, blob: &Path) -> Result<()> {
        let parts = Arc::new(Parts::open(blob, file.len)?);
        let task = Task { index, file, parts };
        for tries in 1.. {
            self.ranges(&task).await?;
            self.tell(Event::Verifying { file: index }).await;
            match verify(&task, blob, tries == MAX_FETCHES).await? {
                Verdict::Right => break,
                Verdict::Wrong { lost } => self.tell(Event::Wrong { file: index, lost }).await,
                Verdict::Hopeless { got } => {
                    let (want, got) = (file.digest.name().to_owned(), got.name().to_owned());
                    return Err(Error::WrongDigest { file: file.path.clone(), tries, want, got });
                }
            }
        }
        Ok(())
    }

    /// Fetches every missing piece of a file. The first range goes alone: it shows whether the hub gives ranges.
    async fn ranges(&self, task: &Task<'_>) -> Result<()> {
        if let Some(first) = task.parts.missing(MAX_RANGE).into_iter().next() {
            self.range(task, first).await?;
        }
        stream::iter(task.parts.missing(MAX_RANGE).into_iter().map(Ok))
            .try_for_each_concurrent(self.num_jobs, |range| self.range(task, range))
            .await
    }

    /// Fetches one range, as often as it takes while something arrives.
    async fn range(&self, task: &Task<'_>, range: Range<u64>) -> Result<()> {
        let _place = self.places.acquire().await.map_err(|_| Error::Panicked)?;
        let mut rest = range;
        let mut tries = 0;
        loop {
            // Pieces that have arrived are not asked for again.
            while rest.start < rest.end && task.parts.has(rest.start) {
                rest.start = (rest.start + PIECE).min(rest.end);
            }
            if rest.is_empty() {
                return Ok(());
            }
            let mut num_stored = 0;
            let outcome = self.try_range(task, &mut rest, &mut num_stored).await;
            let Err(failure) = outcome else { continue };
            tries = if num_stored > 0 { 1 } else { tries + 1 };
            let (wait, message) = self.hub.wait_after(failure, tries, &task.file.path)?;
            self.tell(Event::Retry { file: task.index, message }).await;
            sleep(wait).await;
        }
    }

    /// Asks for a range once. A hub that ignores ranges sends the whole file: then that is the range from here on.
    async fn try_range(
        &self,
        task: &Task<'_>,
        range: &mut Range<u64>,
        num_stored: &mut u64,
    ) -> Result<(), Failure> {
        let file = task.file;
        let url = self.hub.url(&[self.repo.as_str(), "resolve", &self.commit, &file.path]);
        let (headers, response) =
            self.hub.get(url, Some(range), self.repo.as_str(), &file.path).await?;
        let commit = headers.get(COMMIT_HEADER).and_then(|commit| commit.to_str().ok());
        if let Some(got) = commit.filter(|commit| *commit != self.commit) {
            let (file, want) = (file.path.clone(), self.commit.clone());
            return Err(Error::Moved { file, want, got: got.to_owned() }.into());
        }
        if response.status() == StatusCode::PARTIAL_CONTENT {
            check_range(&response, range, file.len)?;
        } else {
            *range = 0..file.len;
        }
        check_len(&response, range)?;
        self.store(task, response, range.clone(), num_stored).await
    }

    /// Stores the whole pieces of an answer that consists of the bytes `sent`.
    async fn store(
        &self,
        task: &Task<'_>,
        mut response: Response,
        sent: Range<u64>,
        num_stored: &mut u64,
    ) -> Result<(), Failure> {
        let mut offset = sent.start;
        let mut piece = Vec::with_capacity(PIECE as usize);
        while let Some(chunk) =
            response.chunk().await.map_err(|error| Failure::of_transport(&error))?
        {
            let mut chunk = &chunk[..];
            while !chunk.is_empty() {
                let piece_len = PIECE.min(sent.end - offset);
                if piece_len == 0 {
                    return Err(Failure::passing(format!("more than bytes {sent:?}")));
                }
                let wanted = usize::try_from(piece_len).unwrap_or(usize::MAX) - piece.len();
                let (now, later) = chunk.split_at(wanted.min(chunk.len()));
                piece.extend_from_slice(now);
                chunk = later;
                if piece.len() as u64 == piece_len {
                    if task.parts.store(offset, &piece)? {
                        *num_stored += 1;
                        self.tell(Event::Bytes { file: task.index, count: piece_len }).await;
                    }
                    offset += piece_len;
                    piece.clear();
                }
            }
            // Of a whole file that was sent instead of a range, the end may be here already.
            if task.parts.is_whole() {
                return Ok(());
            }
        }
        match offset == sent.end {
            true => Ok(()),
            false => Err(Failure::passing(format!("ended at byte {offset} of {sent:?}"))),
        }
    }
}

/// What the digest says of a file.
enum Verdict {
    /// It is in its place.
    Right,
    /// So many bytes of it are to be fetched again.
    Wrong { lost: u64 },
    /// It was the last try; nothing of it is kept.
    Hopeless { got: Digest },
}

/// Hashes what has arrived, off the async threads, and does what follows from it.
async fn verify(task: &Task<'_>, blob: &Path, is_last: bool) -> Result<Verdict> {
    let (parts, want) = (task.parts.clone(), task.file.digest.clone());
    let blob = blob.to_owned();
    let hashing = tokio::task::spawn_blocking(move || {
        let got = want.of_file(parts.contents())?;
        if got == want {
            parts.finish(&blob)?;
            Ok(Verdict::Right)
        } else if is_last {
            parts.discard()?;
            Ok(Verdict::Hopeless { got })
        } else {
            Ok(Verdict::Wrong { lost: parts.forget_bad()? })
        }
    });
    hashing.await.map_err(|_| Error::Panicked)?
}

/// An answer must be the range that was asked for, of a file as long as the listing says.
fn check_range(response: &Response, want: &Range<u64>, len: u64) -> Result<(), Failure> {
    let got = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let (start, last) = (want.start, want.end - 1);
    match got {
        Some(got) if got == format!("bytes {start}-{last}/{len}") => Ok(()),
        got => {
            let got = got.unwrap_or("no range");
            let message = format!("the hub sends {got:?} instead of bytes {start}-{last}/{len}");
            Err(Failure::passing(message))
        }
    }
}

/// An answer that announces another length than what is wanted is not read.
fn check_len(response: &Response, want: &Range<u64>) -> Result<(), Failure> {
    let want = want.end - want.start;
    match response.content_length() {
        Some(len) if len != want => {
            Err(Failure::passing(format!("{len} bytes announced instead of {want}")))
        }
        _ => Ok(()),
    }
}
