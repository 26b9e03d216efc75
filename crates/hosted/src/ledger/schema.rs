//! The file: who may read it, what is in it, and how an older one becomes a current one.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::LedgerError;
use super::period::Cutoff;

/// Marks the database as a ledger: the ASCII codes of `HLdg`.
const APPLICATION_ID: i32 = 0x484c_6467;

/// One step for each version of the file; never changed once released, only added to.
const MIGRATIONS: &[&str] = &["
    -- Running totals in pico-dollars. The empty caller stands for all callers together.
    CREATE TABLE totals (
        period TEXT NOT NULL,
        caller TEXT NOT NULL,
        spent INTEGER NOT NULL CHECK (spent >= 0),
        PRIMARY KEY (period, caller)
    ) STRICT, WITHOUT ROWID;

    -- One row a request, in unix seconds and pico-dollars. Open while it has no actual cost.
    CREATE TABLE charges (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        caller TEXT NOT NULL,
        model TEXT NOT NULL,
        estimate INTEGER NOT NULL CHECK (estimate >= 0),
        actual INTEGER CHECK (actual >= 0)
    ) STRICT;
    CREATE INDEX charges_at ON charges (at);
", "
    -- Conversations that must not leave this machine, and when they were last marked, in unix seconds.
    CREATE TABLE kept (
        conversation BLOB PRIMARY KEY,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX kept_at ON kept (at);

    -- What the names of users are hashed with, so that only this file can tell whose they are.
    CREATE TABLE secret (bytes BLOB NOT NULL) STRICT;
    INSERT INTO secret VALUES (randomblob(32));
"];

/// How long another process may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Which file a path leads to: device and inode.
pub(super) type FileId = (u64, u64);

/// Opens or creates the file at `path`, brings it to the current version and deletes what is too
/// old at `now` (unix seconds).
pub(super) fn open(path: &Path, now: i64) -> Result<Connection, LedgerError> {
    create_private(path).map_err(|source| LedgerError::Create { path: path.to_owned(), source })?;
    open_existing(path, now).map_err(|error| match error {
        LedgerError::Storage(source) => LedgerError::Open { path: path.to_owned(), source },
        other => other,
    })
}

/// The path as it stays right when the process changes its directory, and when the database gives
/// a name a meaning of its own, such as `:memory:`.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, LedgerError> {
    std::path::absolute(path)
        .map_err(|source| LedgerError::Create { path: path.to_owned(), source })
}

/// The file that is at `path` now, if any is.
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Makes the file if there is none, readable by its owner only: it says who asked what models. The
/// database gives the files it keeps beside it the same permissions.
fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

fn open_existing(path: &Path, now: i64) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Before the first write: a file that is not ours stays as it is. In one transaction, so that
    // it is not seen while another process makes it one of ours.
    version(&*connection.transaction()?, path)?;
    write_ahead(&mut connection)?;
    // A charge must be on the disk, not only in the system's memory, before money is spent.
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate(&mut connection, path)?;
    prune(&mut connection, now)?;
    Ok(connection)
}

/// Has changes written to a log beside the file first, which takes one disk sync a change instead
/// of several. Where the file system cannot do it the older way stays, which is as safe.
fn write_ahead(connection: &mut Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        // Unlike all else this does not wait for another process that opens the same new file.
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < give_up =>
            {
                // This does, until the file is ours alone.
                drop(connection.transaction_with_behavior(TransactionBehavior::Exclusive)?);
            }
            done => return done,
        }
    }
}

/// How many of the migrations the file has.
fn version(connection: &Connection, path: &Path) -> Result<usize, LedgerError> {
    let application: i32 = integer(connection, "PRAGMA application_id")?;
    let version: i32 = integer(connection, "PRAGMA user_version")?;
    let num_tables: i32 = integer(connection, "SELECT count(*) FROM sqlite_schema")?;
    let foreign = || LedgerError::Foreign { path: path.to_owned() };
    match application {
        APPLICATION_ID => {
            let found = usize::try_from(version).map_err(|_| foreign())?;
            let known = MIGRATIONS.len();
            match found > known {
                true => Err(LedgerError::Newer { path: path.to_owned(), found, known }),
                false => Ok(found),
            }
        }
        0 if version == 0 && num_tables == 0 => Ok(0),
        _ => Err(foreign()),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Asked again: another process may have been first.
    let found = version(&transaction, path)?;
    for step in &MIGRATIONS[found..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    Ok(transaction.commit()?)
}

fn prune(connection: &mut Connection, now: i64) -> Result<(), LedgerError> {
    let cutoff = Cutoff::at(now)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("DELETE FROM totals WHERE period < ?1", [cutoff.month])?;
    transaction.execute("DELETE FROM charges WHERE at < ?1", [cutoff.unix_seconds])?;
    transaction.execute("DELETE FROM kept WHERE at < ?1", [cutoff.unix_seconds])?;
    Ok(transaction.commit()?)
}

/// What names are hashed with, as it was drawn when the file was made.
pub(super) fn secret(connection: &Connection) -> Result<[u8; 32], LedgerError> {
    Ok(connection.query_row("SELECT bytes FROM secret", [], |row| row.get(0))?)
}

fn integer(connection: &Connection, query: &str) -> rusqlite::Result<i32> {
    connection.query_row(query, [], |row| row.get(0))
}
