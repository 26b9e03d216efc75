//! Every way the ledger can refuse or fail.

use std::path::PathBuf;

use super::Scope;
use crate::price::Cost;

/// Why a charge was not recorded, or the ledger not opened. Whatever it is, no money may be spent.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A limit has no room for the request.
    #[error(
        "no room in the budget of {scope}: {spent} of {limit} USD are {} and the request may \
         cost {estimate} USD",
        if *open == Cost::ZERO { "spent" } else { "spent or set aside" }
    )]
    Exceeded {
        /// The first limit without room.
        scope: Scope,
        /// What counts against it already, open charges by their estimates.
        spent: Cost,
        /// The limit.
        limit: Cost,
        /// What of `spent` is set aside for requests of this process that are under way, and may become less.
        open: Cost,
        /// The most the request can cost.
        estimate: Cost,
    },
    /// The caller has no name; the empty name stands for all callers.
    #[error("the caller of a charge has no name")]
    NoCaller,
    /// The file could not hold the amount.
    #[error("{cost} USD is more than a ledger can hold")]
    TooLarge {
        /// The amount.
        cost: Cost,
    },
    /// The charge is settled already, or gone from the file.
    #[error("charge {id} is not open")]
    NotOpen {
        /// Which charge.
        id: i64,
    },
    /// The clock is outside the calendar.
    #[error("the clock is at {unix_seconds} s, which is no date")]
    Clock {
        /// What it shows, in seconds since 1970.
        unix_seconds: i64,
    },
    /// The operating system refused the file or its directory.
    #[error("{}: cannot create the ledger: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be opened as a database.
    #[error("{}: cannot open the ledger: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// The database belongs to another program.
    #[error("{}: a database, but not a ledger", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer program.
    #[error(
        "{}: a ledger of version {found}, this program knows versions up to {known}",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The newest version this program can read.
        known: usize,
    },
    /// The file was removed or replaced while the ledger was open.
    #[error("{}: the ledger's file was removed or replaced", path.display())]
    Replaced {
        /// Where it was.
        path: PathBuf,
    },
    /// An open ledger could not be read or written.
    #[error("the ledger cannot be read or written: {0}")]
    Storage(#[from] rusqlite::Error),
    /// The thread could not be started.
    #[error("cannot start the ledger's thread: {0}")]
    Thread(std::io::Error),
    /// The thread that owns the file has ended.
    #[error("the ledger's thread has ended")]
    Closed,
}

impl LedgerError {
    /// Whether there may be room once the requests under way have ended: these are charged with the most they can
    /// cost, which is mostly more than they do.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Exceeded { spent, limit, open, estimate, .. } => {
                spent.saturating_sub(*open).saturating_add(*estimate) <= *limit
            }
            _ => false,
        }
    }
}
