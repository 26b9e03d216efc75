//! What hosted requests cost, in one file that survives any end of the process.
//!
//! Money is recorded before it can be spent: [`Ledger::reserve`] charges the most that a request
//! can cost, durably, and only then may the request go out. [`Reservation::settle`] puts the real
//! cost in its place. Whatever goes wrong between the two, the estimate stays charged: the ledger
//! may count too much, never too little. If the file cannot be written, nothing can be reserved.
//!
//! Limits hold for UTC days and calendar months. A charge stays in the day and month in which it
//! was reserved, also when it is settled later. Several processes may share one file.
//!
//! One thread owns the file and takes its requests from a queue; async code only waits. The thread
//! ends when the last [`Ledger`] and the last [`Reservation`] are dropped.
//!
//! The file is an SQLite database with tables for the operator to read: `totals` for each day, month
//! and caller, and `charges` with one row a request. A third, `kept`, has the conversations that must
//! not leave, as hashes. Opening the file deletes what is older than 13 calendar months, so it does not
//! grow without end.

mod error;
mod open;
mod period;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, thread};

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

pub use self::error::LedgerError;
use self::store::{ALL, Store};
use self::worker::{Reply, Request};
use crate::price::Cost;

/// Requests that may wait for the thread.
const QUEUE: usize = 256;

/// A conversation by the SHA-256 of what makes it known again.
pub type Conversation = [u8; 32];

/// Says what time it is, in unix seconds.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Limits on spending, each in pico-dollars; none means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// For all callers together, each UTC day.
    pub day: Option<Cost>,
    /// For all callers together, each calendar month.
    pub month: Option<Cost>,
    /// For each caller, each UTC day.
    pub key_day: Option<Cost>,
    /// For each caller, each calendar month.
    pub key_month: Option<Cost>,
}

impl Budget {
    fn limit(&self, scope: Scope) -> Option<Cost> {
        match scope {
            Scope::Day => self.day,
            Scope::Month => self.month,
            Scope::KeyDay => self.key_day,
            Scope::KeyMonth => self.key_month,
        }
    }
}

/// Which limit of a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All callers, a UTC day.
    Day,
    /// All callers, a calendar month.
    Month,
    /// One caller, a UTC day.
    KeyDay,
    /// One caller, a calendar month.
    KeyMonth,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "the day",
            Self::Month => "the month",
            Self::KeyDay => "this key's day",
            Self::KeyMonth => "this key's month",
        })
    }
}

/// What counts against the limits now, open charges by their estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Since midnight UTC.
    pub day: Cost,
    /// Since the first of the month, UTC.
    pub month: Cost,
}

/// An open ledger. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    queue: Queue,
    secret: [u8; 32],
}

/// The way to the thread. Whoever waits for an answer waits for room, too; the last word on a reservation, of which
/// there is one each, always finds some.
#[derive(Clone)]
struct Queue {
    requests: mpsc::UnboundedSender<Request>,
    room: Arc<Semaphore>,
}

impl Ledger {
    /// Opens the file at `path`, or creates it, readable by its owner only. Blocks on the disk, and
    /// on another process that holds the file for up to five seconds: call it before serving.
    pub fn open(path: &Path, budget: Budget) -> Result<Self, LedgerError> {
        Self::open_with_clock(path, budget, Arc::new(system_clock))
    }

    fn open_with_clock(path: &Path, budget: Budget, clock: Clock) -> Result<Self, LedgerError> {
        let store = Store::open(path, budget, clock())?;
        let secret = store.secret()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "its bounds are `room` and one last word on each open reservation"
        )]
        let (requests, queue) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || worker::run(store, &clock, queue))
            .map_err(LedgerError::Thread)?;
        let room = Arc::new(Semaphore::new(QUEUE));
        Ok(Self { queue: Queue { requests, room }, secret })
    }

    /// What names are hashed with: nobody else knows it, and it outlives every key.
    pub(crate) fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// Charges `estimate` to `caller`, the name of a key and never the key itself, for a request to
    /// `model`. On the disk when it returns. Fails if a limit has no room for it: spent and
    /// estimate together may reach a limit, not pass it.
    ///
    /// If the future is dropped early, the charge is taken back.
    pub async fn reserve(
        &self,
        caller: &str,
        model: &str,
        estimate: Cost,
    ) -> Result<Reservation, LedgerError> {
        let caller = named(caller)?;
        let model = model.to_owned();
        let ask = |reply| Request::Reserve { caller, model, estimate, reply };
        let _room = self.queue.room().await?;
        let answer = self.queue.send(ask)?;
        let mut unclaimed = Unclaimed { answer, queue: self.queue.clone() };
        let id = (&mut unclaimed.answer).await.map_err(|_| LedgerError::Closed)??;
        Ok(Reservation { id, estimate, queue: self.queue.clone(), is_open: true })
    }

    /// Whether [`Self::reserve`] would find room now, for a dry run: nothing is charged, and nothing promised.
    pub async fn check_room(&self, caller: &str, estimate: Cost) -> Result<(), LedgerError> {
        let caller = named(caller)?;
        self.queue.ask(|reply| Request::CheckRoom { caller, estimate, reply }).await
    }

    /// What all callers together have spent.
    pub async fn spent(&self) -> Result<Spent, LedgerError> {
        self.totals(ALL.to_owned()).await
    }

    /// What one caller has spent.
    pub async fn spent_by(&self, caller: &str) -> Result<Spent, LedgerError> {
        self.totals(named(caller)?).await
    }

    /// Records that a conversation must not leave. On the disk when it returns.
    pub(crate) async fn keep(&self, conversation: Conversation) -> Result<(), LedgerError> {
        let ask = |reply| Request::Keep { conversation, reply };
        self.queue.ask(ask).await
    }

    /// Whether a conversation must not leave.
    pub(crate) async fn is_kept(&self, conversation: Conversation) -> Result<bool, LedgerError> {
        let ask = |reply| Request::IsKept { conversation, reply };
        self.queue.ask(ask).await
    }

    async fn totals(&self, caller: String) -> Result<Spent, LedgerError> {
        let ask = |reply| Request::Spent { caller, reply };
        self.queue.ask(ask).await
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

/// The right to spend an amount that is already charged.
///
/// Dropping it leaves the whole estimate charged, on purpose. Whoever drops it does not know what
/// became of the request, and the upstream may have charged us for all of it.
#[must_use = "dropped, it leaves the whole estimate charged"]
pub struct Reservation {
    id: i64,
    estimate: Cost,
    queue: Queue,
    /// Whether the thread has still to hear what becomes of it.
    is_open: bool,
}

impl Reservation {
    /// The charge's id in the file.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// What was charged.
    pub fn estimate(&self) -> Cost {
        self.estimate
    }

    /// Replaces the estimate by what the request did cost, which may be more.
    pub async fn settle(mut self, actual: Cost) -> Result<(), LedgerError> {
        let id = self.id;
        let queue = self.queue.clone();
        let _room = queue.room().await?;
        let answer = queue.send(|reply| Request::Settle { id, actual, reply: Some(reply) })?;
        self.is_open = false;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Takes the charge back, for a request that never reached the upstream.
    pub async fn release(self) -> Result<(), LedgerError> {
        self.settle(Cost::ZERO).await
    }

    /// As [`Self::settle`], but from where nothing can wait, such as a drop. If the write fails, it is
    /// logged and the estimate stays.
    pub fn settle_later(mut self, actual: Cost) {
        self.is_open = false;
        self.queue.settle_later(self.id, actual);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, estimate, queue: _, is_open: _ } = self;
        f.debug_struct("Reservation").field("id", id).field("estimate", estimate).finish()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_open {
            // Without the thread there is nobody who would count on it.
            let _ = self.queue.requests.send(Request::Abandon { id: self.id });
        }
    }
}

/// A charge that was asked for. If it is made but whoever asked has gone, it is taken back: without
/// a [`Reservation`] no request went out.
struct Unclaimed {
    answer: oneshot::Receiver<Result<i64, LedgerError>>,
    queue: Queue,
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        // From here on the thread sees that nobody listens; what it sent before is still there.
        self.answer.close();
        if let Ok(Ok(id)) = self.answer.try_recv() {
            self.queue.settle_later(id, Cost::ZERO);
        }
    }
}

impl Queue {
    /// Waits for room, which lasts as long as what is returned.
    async fn room(&self) -> Result<SemaphorePermit<'_>, LedgerError> {
        self.room.acquire().await.map_err(|_| LedgerError::Closed)
    }

    /// Sends a request to the thread and waits for its answer.
    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Request) -> Result<T, LedgerError> {
        let _room = self.room().await?;
        self.send(ask)?.await.map_err(|_| LedgerError::Closed)?
    }

    fn send<T>(
        &self,
        ask: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<oneshot::Receiver<Result<T, LedgerError>>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(ask(reply)).map_err(|_| LedgerError::Closed)?;
        Ok(answer)
    }

    fn settle_later(&self, id: i64, actual: Cost) {
        if self.requests.send(Request::Settle { id, actual, reply: None }).is_err() {
            tracing::warn!(
                charge = id,
                "charge not settled, its estimate stays: the thread is gone"
            );
        }
    }
}

fn named(caller: &str) -> Result<String, LedgerError> {
    match caller {
        ALL => Err(LedgerError::NoCaller),
        name => Ok(name.to_owned()),
    }
}

fn system_clock() -> i64 {
    // A clock before 1970 is as wrong as one that stands at its start.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
