//! The arithmetic of the ledger: one transaction a call, on totals that are kept up to date with
//! every charge, so that a call costs the same however many charges there are.

use std::path::{Path, PathBuf};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::open::OpenCharges;
use super::period::Periods;
use super::schema::{self, FileId};
use super::{Budget, Conversation, LedgerError, Scope, Spent};
use crate::price::Cost;

/// The name that totals of all callers go by.
pub(super) const ALL: &str = "";

/// An open file and the limits it is held to.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    file: Option<FileId>,
    budget: Budget,
    open: OpenCharges,
}

impl Store {
    /// Opens or creates the file at `path`; `now` in unix seconds.
    pub(super) fn open(path: &Path, budget: Budget, now: i64) -> Result<Self, LedgerError> {
        let path = schema::absolute(path)?;
        let connection = schema::open(&path, now)?;
        let (file, open) = (schema::file_id(&path), OpenCharges::default());
        Ok(Self { connection, file, path, budget, open })
    }

    /// What names are hashed with.
    pub(super) fn secret(&self) -> Result<[u8; 32], LedgerError> {
        schema::secret(&self.connection)
    }

    /// Records an open charge at `at` (unix seconds) if every limit has room for it, and returns
    /// its id.
    pub(super) fn reserve(
        &mut self,
        at: i64,
        caller: &str,
        model: &str,
        estimate: Cost,
    ) -> Result<i64, LedgerError> {
        let periods = Periods::at(at)?;
        self.check_file()?;
        let transaction = begin(&mut self.connection)?;
        let wanted = wanted(&transaction, self.budget, &self.open, &periods, caller, estimate)?;
        for ((_, period, caller), wanted) in totals_of(&periods, caller).into_iter().zip(wanted) {
            set_total(&transaction, period, caller, wanted)?;
        }
        transaction.execute(
            "INSERT INTO charges (at, caller, model, estimate) VALUES (?1, ?2, ?3, ?4)",
            params![at, caller, model, storable(estimate)?],
        )?;
        let id = transaction.last_insert_rowid();
        transaction.commit()?;
        self.open.insert(id, periods, caller, estimate);
        Ok(id)
    }

    /// Whether [`Self::reserve`] would find room now. Nothing is recorded.
    pub(super) fn check_room(
        &mut self,
        at: i64,
        caller: &str,
        estimate: Cost,
    ) -> Result<(), LedgerError> {
        self.check_file()?;
        let periods = Periods::at(at)?;
        wanted(&self.connection, self.budget, &self.open, &periods, caller, estimate)?;
        storable(estimate).map(drop)
    }

    /// Nobody will settle the charge: its estimate stays for good.
    pub(super) fn abandon(&mut self, id: i64) {
        self.open.remove(id);
    }

    /// Puts what a charge did cost in the place of its estimate, in the periods in which it was
    /// reserved.
    pub(super) fn settle(&mut self, id: i64, actual: Cost) -> Result<(), LedgerError> {
        // Even if it cannot be written: then the estimate stays.
        self.open.remove(id);
        self.check_file()?;
        let transaction = begin(&mut self.connection)?;
        let (at, caller, estimate): (i64, String, Cost) = transaction
            .query_row(
                "SELECT at, caller, estimate FROM charges WHERE id = ?1 AND actual IS NULL",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?
            .ok_or(LedgerError::NotOpen { id })?;
        for (_, period, caller) in totals_of(&Periods::at(at)?, &caller) {
            let others = total(&transaction, period, caller)?.saturating_sub(estimate);
            set_total(&transaction, period, caller, others.saturating_add(actual))?;
        }
        transaction.execute(
            "UPDATE charges SET actual = ?2 WHERE id = ?1",
            params![id, storable(actual)?],
        )?;
        Ok(transaction.commit()?)
    }

    /// What counts against `caller`, or [`ALL`], in the periods of `at` (unix seconds).
    pub(super) fn spent(&mut self, at: i64, caller: &str) -> Result<Spent, LedgerError> {
        self.check_file()?;
        let periods = Periods::at(at)?;
        Ok(Spent {
            day: total(&self.connection, &periods.day, caller)?,
            month: total(&self.connection, &periods.month, caller)?,
        })
    }

    /// Records at `at` (unix seconds) that a conversation must not leave.
    pub(super) fn keep(&mut self, at: i64, conversation: &Conversation) -> Result<(), LedgerError> {
        self.check_file()?;
        let transaction = begin(&mut self.connection)?;
        transaction.execute(
            "INSERT INTO kept (conversation, at) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET at = excluded.at",
            params![conversation, at],
        )?;
        Ok(transaction.commit()?)
    }

    /// Whether it has been recorded that a conversation must not leave.
    pub(super) fn is_kept(&mut self, conversation: &Conversation) -> Result<bool, LedgerError> {
        self.check_file()?;
        let query = "SELECT EXISTS (SELECT 1 FROM kept WHERE conversation = ?1)";
        Ok(self.connection.query_row(query, [conversation], |row| row.get(0))?)
    }

    /// A file without a name can still be written, but the next start would not find what is in it.
    fn check_file(&self) -> Result<(), LedgerError> {
        if self.file.is_some() && schema::file_id(&self.path) == self.file {
            Ok(())
        } else {
            Err(LedgerError::Replaced { path: self.path.clone() })
        }
    }
}

/// Takes the write lock at once, so that no other process can spend between our look at a total and our change to
/// it. A transaction that is dropped leaves nothing.
fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// The totals after a charge, or a limit without room for it: the first that waiting does not help against, else the
/// first.
fn wanted(
    connection: &Connection,
    budget: Budget,
    open: &OpenCharges,
    periods: &Periods,
    caller: &str,
    estimate: Cost,
) -> Result<Vec<Cost>, LedgerError> {
    let mut totals = Vec::new();
    let mut passing = None;
    for (scope, period, caller) in totals_of(periods, caller) {
        let spent = total(connection, period, caller)?;
        let wanted = spent.saturating_add(estimate);
        totals.push(wanted);
        if let Some(limit) = budget.limit(scope).filter(|&limit| wanted > limit) {
            let open = open.sum(period, caller);
            let full = LedgerError::Exceeded { scope, spent, limit, open, estimate };
            if !full.may_pass() {
                return Err(full);
            }
            passing.get_or_insert(full);
        }
    }
    passing.map_or(Ok(totals), Err)
}

impl FromSql for Cost {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let stored = value.as_i64()?;
        u64::try_from(stored).map(Self::from_picos).map_err(|_| FromSqlError::OutOfRange(stored))
    }
}

/// The totals a charge of `caller` counts in, in the order in which limits are checked.
fn totals_of<'a>(periods: &'a Periods, caller: &'a str) -> [(Scope, &'a str, &'a str); 4] {
    [
        (Scope::Day, &periods.day, ALL),
        (Scope::Month, &periods.month, ALL),
        (Scope::KeyDay, &periods.day, caller),
        (Scope::KeyMonth, &periods.month, caller),
    ]
}

fn total(connection: &Connection, period: &str, caller: &str) -> rusqlite::Result<Cost> {
    let query = "SELECT spent FROM totals WHERE period = ?1 AND caller = ?2";
    let spent = connection.query_row(query, [period, caller], |row| row.get(0)).optional()?;
    Ok(spent.unwrap_or_default())
}

fn set_total(
    connection: &Connection,
    period: &str,
    caller: &str,
    spent: Cost,
) -> Result<(), LedgerError> {
    connection.execute(
        "INSERT INTO totals (period, caller, spent) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET spent = excluded.spent",
        params![period, caller, storable(spent)?],
    )?;
    Ok(())
}

/// The database's integers have a sign; what does not fit is refused, not wrapped.
fn storable(cost: Cost) -> Result<i64, LedgerError> {
    i64::try_from(cost.as_picos()).map_err(|_| LedgerError::TooLarge { cost })
}
