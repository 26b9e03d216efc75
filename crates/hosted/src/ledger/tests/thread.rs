//! The thread and its queue: what happens when nobody waits, nobody listens or nobody is there.

use std::future::{Future, poll_fn};
use std::panic::panic_any;
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::task::Poll;
use std::time::Duration;

use super::*;

/// Lets a future do what it can without waiting.
async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn settlement_without_waiting_arrives() {
    let fixture = Fixture::new(NO_LIMIT);
    fixture.reserve("alice", 10).await.unwrap().settle_later(cost(4));
    fixture.assert_spent(4, 4).await;
}

#[tokio::test]
async fn settlement_finds_room_while_others_wait_for_it() {
    let fixture = Fixture::new(NO_LIMIT);
    let reservation = fixture.reserve("alice", 10).await.unwrap();
    fixture.clock.stop();
    let mut waiting: Vec<_> = (0..=QUEUE).map(|_| Box::pin(fixture.ledger.spent())).collect();
    for future in &mut waiting {
        poll_once(future.as_mut()).await;
    }
    assert_eq!(fixture.ledger.queue.room.available_permits(), 0);
    reservation.settle_later(cost(4));
    fixture.clock.start();
    for future in waiting {
        future.await.unwrap();
    }
    fixture.assert_spent(4, 4).await;
}

#[tokio::test]
async fn reservation_given_up_before_it_is_made_is_taken_back() {
    let fixture = Fixture::new(NO_LIMIT);
    fixture.clock.stop();
    let mut reserving = Box::pin(fixture.reserve("alice", 10));
    poll_once(reserving.as_mut()).await;
    drop(reserving);
    fixture.clock.start();
    fixture.assert_spent(0, 0).await;
}

#[tokio::test]
async fn reservation_given_up_after_it_is_made_is_taken_back() {
    let fixture = Fixture::new(NO_LIMIT);
    fixture.clock.stop();
    let mut reserving = Box::pin(fixture.reserve("alice", 10));
    poll_once(reserving.as_mut()).await;
    fixture.clock.start();
    // Answers come in order, so the reservation's has come too.
    fixture.assert_spent(10, 10).await;
    drop(reserving);
    fixture.assert_spent(0, 0).await;
}

#[tokio::test]
async fn a_charge_is_settled_once() {
    let fixture = Fixture::new(NO_LIMIT);
    let reservation = fixture.reserve("alice", 10).await.unwrap();
    let id = reservation.id();
    fixture.ledger.queue.settle_later(id, cost(4));
    let again = reservation.settle(cost(5)).await;
    assert!(matches!(again, Err(LedgerError::NotOpen { id: not_open }) if not_open == id));
    fixture.assert_spent(4, 4).await;
}

#[tokio::test]
async fn reservation_outlives_the_ledger() {
    let Fixture { dir, clock, ledger } = Fixture::new(NO_LIMIT);
    let path = dir.path().join("ledger.db");
    let reservation = ledger.reserve("alice", "model", cost(10)).await.unwrap();
    drop(ledger);
    reservation.settle(cost(4)).await.unwrap();
    let ledger = open(&path, NO_LIMIT, &clock).unwrap();
    assert_eq!(ledger.spent().await.unwrap(), spent(4, 4));
}

#[tokio::test]
async fn thread_ends_with_the_last_clone() {
    let dir = tempfile::tempdir().unwrap();
    // The thread owns the clock and the clock one end of this channel.
    let (alive, ended) = sync_channel::<()>(1);
    let clock = move || {
        let _ = &alive;
        NOON
    };
    let ledger =
        Ledger::open_with_clock(&dir.path().join("ledger.db"), NO_LIMIT, Arc::new(clock)).unwrap();
    let clone = ledger.clone();
    drop(ledger);
    let reservation = clone.reserve("alice", "model", cost(10)).await.unwrap();
    drop((clone, reservation));
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Err(RecvTimeoutError::Disconnected));
}

#[tokio::test]
async fn nothing_is_reserved_without_the_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let deadly = Arc::new(AtomicI64::new(NOON));
    let clock = Arc::clone(&deadly);
    let clock = move || match clock.load(Ordering::Relaxed) {
        0 => panic_any("the clock of this test ends the thread"),
        now => now,
    };
    let ledger = Ledger::open_with_clock(&path, NO_LIMIT, Arc::new(clock)).unwrap();
    let reservation = ledger.reserve("alice", "model", cost(10)).await.unwrap();
    let later = ledger.reserve("alice", "model", cost(10)).await.unwrap();
    deadly.store(0, Ordering::Relaxed);
    for _ in 0..2 {
        let refused = ledger.reserve("alice", "model", cost(10)).await;
        assert!(matches!(refused, Err(LedgerError::Closed)));
    }
    assert!(matches!(ledger.spent().await, Err(LedgerError::Closed)));
    assert!(matches!(ledger.spent_by("alice").await, Err(LedgerError::Closed)));
    assert!(matches!(reservation.settle(cost(4)).await, Err(LedgerError::Closed)));
    later.settle_later(cost(4));

    let ledger = open(&path, NO_LIMIT, &TestClock::at(NOON)).unwrap();
    assert_eq!(ledger.spent().await.unwrap(), spent(20, 20));
}
