//! The day and the month that a moment counts in, in UTC and as the file names them.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::LedgerError;

/// Whole months kept before the current one.
const MONTHS_KEPT: i32 = 13;

/// The two periods of one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Periods {
    /// Such as `2026-11-23`.
    pub(super) day: String,
    /// Such as `2026-11`.
    pub(super) month: String,
}

impl Periods {
    /// The periods that `unix_seconds` lies in.
    pub(super) fn at(unix_seconds: i64) -> Result<Self, LedgerError> {
        let date = date(unix_seconds).ok_or(LedgerError::Clock { unix_seconds })?;
        Ok(Self { day: date.to_string(), month: month(date) })
    }
}

/// Where the past ends for the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cutoff {
    /// The oldest month that is kept. As text it comes before all its days, so that one comparison
    /// finds older days and older months alike.
    pub(super) month: String,
    /// Its first second, in unix seconds.
    pub(super) unix_seconds: i64,
}

impl Cutoff {
    /// The cutoff for a file opened at `unix_seconds`. It is the start of a month, so that no
    /// month is kept in part.
    pub(super) fn at(unix_seconds: i64) -> Result<Self, LedgerError> {
        let oldest = || {
            let first = date(unix_seconds)?.first_of_month();
            let oldest = first.checked_sub(MONTHS_KEPT.months()).ok()?;
            let start = oldest.to_zoned(TimeZone::UTC).ok()?.timestamp();
            Some(Self { month: month(oldest), unix_seconds: start.as_second() })
        };
        oldest().ok_or(LedgerError::Clock { unix_seconds })
    }
}

fn date(unix_seconds: i64) -> Option<Date> {
    Some(Timestamp::from_second(unix_seconds).ok()?.to_zoned(TimeZone::UTC).date())
}

fn month(date: Date) -> String {
    format!("{:04}-{:02}", date.year(), date.month())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_turns_at_midnight_utc() {
        // 2024-02-29T23:59:59Z and the second after it.
        let last = Periods::at(1_709_251_199).unwrap();
        assert_eq!((&*last.day, &*last.month), ("2024-02-29", "2024-02"));
        let next = Periods::at(1_709_251_200).unwrap();
        assert_eq!((&*next.day, &*next.month), ("2024-03-01", "2024-03"));
    }

    #[test]
    fn the_cutoff_is_the_start_of_a_month() {
        // 2024-02-29T23:59:59Z; 2023-01-01T00:00:00Z.
        let cutoff = Cutoff { month: "2023-01".to_owned(), unix_seconds: 1_672_531_200 };
        assert_eq!(Cutoff::at(1_709_251_199).unwrap(), cutoff);
        assert!(*"2022-12-31" < *cutoff.month && *cutoff.month < *"2023-01-01");
    }

    #[test]
    fn a_clock_outside_the_calendar_is_an_error() {
        for unix_seconds in [i64::MIN, i64::MAX] {
            assert!(Periods::at(unix_seconds).is_err());
            assert!(Cutoff::at(unix_seconds).is_err());
        }
    }
}
