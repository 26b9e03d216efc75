//! The file: what it keeps, what it forgets, and files that are no ledger.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;

use super::*;

fn refusal(path: &Path) -> String {
    open(path, NO_LIMIT, &TestClock::at(NOON)).expect_err("the file is no ledger").to_string()
}

#[tokio::test]
async fn a_reopened_ledger_has_everything() {
    let Fixture { dir, clock, ledger } = Fixture::new(NO_LIMIT);
    let path = dir.path().join("ledger.db");
    let settled = ledger.reserve("alice", "model", cost(10)).await.unwrap();
    settled.settle(cost(4)).await.unwrap();
    let left_open = ledger.reserve("bob", "model", cost(20)).await.unwrap().id();
    drop(ledger);

    let ledger = open(&path, Budget { day: Some(cost(30)), ..NO_LIMIT }, &clock).unwrap();
    assert_eq!(ledger.spent().await.unwrap(), spent(24, 24));
    assert_eq!(ledger.spent_by("alice").await.unwrap(), spent(4, 4));
    assert_eq!(ledger.spent_by("bob").await.unwrap(), spent(20, 20));
    assert!(ledger.reserve("alice", "model", cost(7)).await.is_err());
    let next = ledger.reserve("alice", "model", cost(6)).await.unwrap();
    assert!(next.id() > left_open);
}

#[tokio::test]
async fn opening_forgets_what_is_older_than_thirteen_months() {
    let fixture = Fixture::new(NO_LIMIT);
    // 2025-09-30T23:59:59Z and the second after it: the oldest month kept is October.
    let forgotten = 1_759_276_799;
    for (now, picos) in [(forgotten, 1), (forgotten + 1, 20), (NOON, 300)] {
        fixture.clock.set(now);
        drop(fixture.reserve("alice", picos).await.unwrap());
    }
    let ledger = open(&fixture.path(), NO_LIMIT, &fixture.clock).unwrap();
    for (now, picos) in [(forgotten, 0), (forgotten + 1, 20), (NOON, 300)] {
        fixture.clock.set(now);
        assert_eq!(ledger.spent().await.unwrap(), spent(picos, picos));
        assert_eq!(ledger.spent_by("alice").await.unwrap(), spent(picos, picos));
    }
    let estimates: Vec<_> = charges(&fixture.path()).iter().map(|charge| charge.2).collect();
    assert_eq!(estimates, [20, 300]);
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let fixture = Fixture::new(NO_LIMIT);
    let _charge = fixture.reserve("alice", 10).await.unwrap();
    let files: Vec<_> = fs::read_dir(fixture.dir.path()).unwrap().map(Result::unwrap).collect();
    // The database, its log and the index of the log.
    assert_eq!(files.len(), 3);
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file:?}");
    }
}

#[test]
fn every_write_reaches_the_disk_before_it_counts() {
    let fixture = Fixture::new(NO_LIMIT);
    let connection = super::schema::open(&fixture.path(), NOON).unwrap();
    let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
    assert_eq!(mode.unwrap(), "wal");
    let full = connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
    assert_eq!(full.unwrap(), 2);
}

#[tokio::test]
async fn nothing_is_reserved_once_the_file_is_gone() {
    for replaced in [false, true] {
        let fixture = Fixture::new(NO_LIMIT);
        let reservation = fixture.reserve("alice", 10).await.unwrap();
        fs::rename(fixture.path(), fixture.dir.path().join("moved.db")).unwrap();
        if replaced {
            fs::write(fixture.path(), "").unwrap();
        }
        let refused = fixture.reserve("alice", 10).await;
        let Err(LedgerError::Replaced { path }) = refused else { panic!("{refused:?}") };
        assert_eq!(path, fixture.path());
        assert!(matches!(fixture.ledger.spent().await, Err(LedgerError::Replaced { .. })));
        let settled = reservation.settle(cost(4)).await;
        assert!(matches!(settled, Err(LedgerError::Replaced { .. })));
    }
}

#[tokio::test]
async fn nothing_is_reserved_once_the_file_cannot_be_read() {
    let fixture = Fixture::new(NO_LIMIT);
    let breaker = Connection::open(fixture.path()).unwrap();
    breaker.execute_batch("DROP TABLE totals").unwrap();
    assert!(matches!(fixture.reserve("alice", 10).await, Err(LedgerError::Storage(_))));
    assert!(matches!(fixture.ledger.spent().await, Err(LedgerError::Storage(_))));
}

#[test]
fn a_file_that_is_no_database_is_named_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    let notes = "not a database, but long enough to be taken for one. ".repeat(100);
    fs::write(&path, &notes).unwrap();
    let expected = format!("{}: cannot open the ledger: file is not a database", path.display());
    assert_eq!(refusal(&path), expected);
    assert_eq!(fs::read_to_string(&path).unwrap(), notes);
}

#[test]
fn a_directory_and_a_missing_directory_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert!(refusal(path).starts_with(&format!("{}: cannot open the ledger: ", path.display())));
    let path = path.join("missing/ledger.db");
    assert!(refusal(&path).starts_with(&format!("{}: cannot create the ledger: ", path.display())));
}

#[tokio::test]
async fn a_ledger_of_the_first_version_becomes_a_current_one() {
    let fixture = Fixture::new(NO_LIMIT);
    drop(fixture.reserve("alice", 10).await.unwrap());
    let older = Connection::open(fixture.path()).unwrap();
    older.execute_batch("DROP TABLE kept; DROP TABLE secret; PRAGMA user_version = 1").unwrap();
    let ledger = open(&fixture.path(), NO_LIMIT, &fixture.clock).unwrap();
    assert_eq!(ledger.spent().await.unwrap(), spent(10, 10));
    ledger.keep([7; 32]).await.unwrap();
    assert!(ledger.is_kept([7; 32]).await.unwrap());
    let again = open(&fixture.path(), NO_LIMIT, &fixture.clock).unwrap();
    assert_eq!(again.secret(), ledger.secret());
    assert_ne!(again.secret(), [0; 32]);
}

#[tokio::test]
async fn kept_conversations_are_known_after_a_restart_until_they_are_old() {
    let fixture = Fixture::new(NO_LIMIT);
    fixture.ledger.keep([7; 32]).await.unwrap();
    let is_kept = async |conversation| {
        let ledger = open(&fixture.path(), NO_LIMIT, &fixture.clock).unwrap();
        ledger.is_kept(conversation).await.unwrap()
    };
    assert!(is_kept([7; 32]).await && !is_kept([8; 32]).await);
    // Fourteen months of at most 31 days.
    fixture.clock.set(NOON + 14 * 31 * 86_400);
    assert!(!is_kept([7; 32]).await);
}

#[test]
fn a_newer_ledger_is_named_with_its_version() {
    let fixture = Fixture::new(NO_LIMIT);
    let newer = Connection::open(fixture.path()).unwrap();
    newer.pragma_update(None, "user_version", 7).unwrap();
    let expected = format!(
        "{}: a ledger of version 7, this program knows versions up to 2",
        fixture.path().display()
    );
    assert_eq!(refusal(&fixture.path()), expected);
}

#[test]
fn a_database_of_another_program_is_named_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("music.db");
    let music = Connection::open(&path).unwrap();
    music.execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    assert_eq!(refusal(&path), format!("{}: a database, but not a ledger", path.display()));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn names_with_a_meaning_to_the_database_are_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file::memory:?cache=shared");
    let clock = TestClock::at(NOON);
    let ledger = open(&path, NO_LIMIT, &clock).unwrap();
    drop(ledger.reserve("alice", "model", cost(10)).await.unwrap());
    drop(ledger);
    let ledger = open(&path, NO_LIMIT, &clock).unwrap();
    assert_eq!(ledger.spent().await.unwrap(), spent(10, 10));
    assert!(super::schema::absolute(Path::new(":memory:")).unwrap().is_absolute());
}

#[test]
fn many_can_open_a_new_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let clock = TestClock::at(NOON);
    std::thread::scope(|scope| {
        let openers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| open(&path, NO_LIMIT, &clock))).collect();
        for opener in openers {
            opener.join().unwrap().unwrap();
        }
    });
}
