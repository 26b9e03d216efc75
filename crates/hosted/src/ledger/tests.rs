//! A clock that tests hold, and the life of one charge.

mod crash;
mod file;
mod limits;
mod thread;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;

/// 2026-11-23T12:00:00Z.
const NOON: i64 = 1_795_435_200;
const DAY: i64 = 86_400;
const NO_LIMIT: Budget = Budget { day: None, month: None, key_day: None, key_month: None };

fn cost(picos: u64) -> Cost {
    Cost::from_picos(picos)
}

fn spent(day: u64, month: u64) -> Spent {
    Spent { day: cost(day), month: cost(month) }
}

/// A clock that stands still, and on which the ledger's thread can be made to wait.
struct TestClock {
    now: AtomicI64,
    stopped: Mutex<bool>,
    started: Condvar,
    asked: Notify,
}

impl TestClock {
    fn at(now: i64) -> Arc<Self> {
        let (stopped, started, asked) = Default::default();
        Arc::new(Self { now: AtomicI64::new(now), stopped, started, asked })
    }

    fn set(&self, now: i64) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// Makes whoever asks for the time wait for [`Self::start`].
    fn stop(&self) {
        *self.stopped.lock().unwrap() = true;
    }

    fn start(&self) {
        *self.stopped.lock().unwrap() = false;
        self.started.notify_all();
    }

    fn tell(&self) -> i64 {
        self.asked.notify_one();
        drop(self.started.wait_while(self.stopped.lock().unwrap(), |stopped| *stopped).unwrap());
        self.now.load(Ordering::Relaxed)
    }
}

/// A ledger in a directory of its own.
struct Fixture {
    dir: TempDir,
    clock: Arc<TestClock>,
    ledger: Ledger,
}

impl Fixture {
    fn new(budget: Budget) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::at(NOON);
        let ledger = open(&dir.path().join("ledger.db"), budget, &clock).unwrap();
        Self { dir, clock, ledger }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ledger.db")
    }

    async fn reserve(&self, caller: &str, picos: u64) -> Result<Reservation, LedgerError> {
        self.ledger.reserve(caller, "model", cost(picos)).await
    }

    async fn assert_spent(&self, day: u64, month: u64) {
        assert_eq!(self.ledger.spent().await.unwrap(), spent(day, month));
    }
}

fn open(path: &Path, budget: Budget, clock: &Arc<TestClock>) -> Result<Ledger, LedgerError> {
    let clock = Arc::clone(clock);
    Ledger::open_with_clock(path, budget, Arc::new(move || clock.tell()))
}

/// All charges as the operator sees them: caller, model, estimate, actual.
fn charges(path: &Path) -> Vec<(String, String, i64, Option<i64>)> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let query = "SELECT caller, model, estimate, actual FROM charges ORDER BY id";
    let mut statement = connection.prepare(query).unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_settled_charge_costs_what_it_did_cost() {
    for actual in [0, 4, 10, 15] {
        let fixture = Fixture::new(NO_LIMIT);
        let _other = fixture.reserve("bob", 100).await.unwrap();
        let reservation = fixture.reserve("alice", 10).await.unwrap();
        assert_eq!(reservation.estimate(), cost(10));
        fixture.assert_spent(110, 110).await;
        reservation.settle(cost(actual)).await.unwrap();
        fixture.assert_spent(100 + actual, 100 + actual).await;
        let alice = fixture.ledger.spent_by("alice").await.unwrap();
        assert_eq!(alice, spent(actual, actual));
        assert_eq!(fixture.ledger.spent_by("bob").await.unwrap(), spent(100, 100));
    }
}

#[tokio::test]
async fn released_charge_costs_nothing() {
    let fixture = Fixture::new(NO_LIMIT);
    fixture.reserve("alice", 10).await.unwrap().release().await.unwrap();
    fixture.assert_spent(0, 0).await;
}

#[tokio::test]
async fn dropped_reservation_stays_charged() {
    let fixture = Fixture::new(Budget { day: Some(cost(10)), ..NO_LIMIT });
    drop(fixture.reserve("alice", 10).await.unwrap());
    fixture.assert_spent(10, 10).await;
    assert!(fixture.reserve("alice", 1).await.is_err());
}

#[tokio::test]
async fn operator_finds_every_charge() {
    let fixture = Fixture::new(NO_LIMIT);
    let first = fixture.reserve("alice", 10).await.unwrap();
    let second = fixture.ledger.reserve("bob", "other", cost(20)).await.unwrap();
    assert_ne!(first.id(), second.id());
    second.settle(cost(7)).await.unwrap();
    let [alice, bob] = &charges(&fixture.path())[..] else { panic!("two charges were made") };
    assert_eq!(*alice, ("alice".to_owned(), "model".to_owned(), 10, None));
    assert_eq!(*bob, ("bob".to_owned(), "other".to_owned(), 20, Some(7)));
}

#[tokio::test]
async fn caller_without_a_name_is_refused() {
    let fixture = Fixture::new(NO_LIMIT);
    assert!(matches!(fixture.reserve("", 1).await, Err(LedgerError::NoCaller)));
    assert!(matches!(fixture.ledger.spent_by("").await, Err(LedgerError::NoCaller)));
    fixture.assert_spent(0, 0).await;
}

#[tokio::test]
async fn amount_the_file_cannot_hold_is_refused() {
    const MAX: u64 = i64::MAX as u64;
    let fixture = Fixture::new(NO_LIMIT);
    let refused = fixture.reserve("alice", MAX + 1).await;
    assert!(matches!(refused, Err(LedgerError::TooLarge { cost: c }) if c == cost(MAX + 1)));
    fixture.assert_spent(0, 0).await;

    let reservation = fixture.reserve("alice", MAX).await.unwrap();
    // Nor may a sum pass it.
    assert!(matches!(fixture.reserve("alice", 1).await, Err(LedgerError::TooLarge { .. })));
    let settled = reservation.settle(cost(u64::MAX)).await;
    assert!(matches!(settled, Err(LedgerError::TooLarge { .. })));
    fixture.assert_spent(MAX, MAX).await;
}
