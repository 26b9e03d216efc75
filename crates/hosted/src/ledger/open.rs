//! The charges whose requests are under way: money that is set aside and may come back.
//!
//! Kept in memory only, by the thread that owns the file. A charge without an actual cost in the file may belong to
//! a request that was given up, to another process or to one that was killed: none of these comes back by waiting.

use std::collections::HashMap;

use super::period::Periods;
use super::store::ALL;
use crate::price::Cost;

/// Charges by their ids; there are as many as reservations.
#[derive(Debug, Default)]
pub(super) struct OpenCharges(HashMap<i64, OpenCharge>);

#[derive(Debug)]
struct OpenCharge {
    periods: Periods,
    caller: String,
    estimate: Cost,
}

impl OpenCharges {
    pub(super) fn insert(&mut self, id: i64, periods: Periods, caller: &str, estimate: Cost) {
        self.0.insert(id, OpenCharge { periods, caller: caller.to_owned(), estimate });
    }

    pub(super) fn remove(&mut self, id: i64) {
        self.0.remove(&id);
    }

    /// What is set aside in a period, for `caller` or for [`ALL`].
    pub(super) fn sum(&self, period: &str, caller: &str) -> Cost {
        let counts = |charge: &&OpenCharge| {
            [&charge.periods.day, &charge.periods.month].into_iter().any(|own| own == period)
                && (caller == ALL || caller == charge.caller)
        };
        let estimates = self.0.values().filter(counts).map(|charge| charge.estimate);
        estimates.fold(Cost::ZERO, Cost::saturating_add)
    }
}
