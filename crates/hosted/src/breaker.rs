//! Leaves an upstream alone that keeps failing, and tries it with one request at a time until it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::BreakerConfig;

/// One upstream's state. Clones are the same breaker.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    config: BreakerConfig,
    state: Arc<Mutex<State>>,
}

/// What an upstream is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// It answers.
    Closed,
    /// It is left alone.
    Open,
    /// One request may try it, or is trying.
    HalfOpen,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// With so many failures in a row.
    Closed { num_failures: u32 },
    /// Until then nothing is sent.
    Open { until: Instant },
    /// A request is under way whose end decides.
    Probing,
}

/// Leave to send one request. Dropped without a verdict it says nothing about the upstream: the client left.
#[derive(Debug)]
pub(crate) struct Leave {
    breaker: Breaker,
    since: Instant,
    is_probe: bool,
    is_told: bool,
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        Self { config, state: Arc::new(Mutex::new(State::Closed { num_failures: 0 })) }
    }

    /// Leave to send a request, or how long there will be none.
    pub(crate) fn admit(&self, now: Instant) -> Result<Leave, Duration> {
        let mut state = self.lock();
        if let Some(wait) = state.refusal(now) {
            return Err(wait);
        }
        let is_probe = !matches!(*state, State::Closed { .. });
        if is_probe {
            *state = State::Probing;
        }
        drop(state);
        Ok(Leave { breaker: self.clone(), since: now, is_probe, is_told: false })
    }

    /// How long there will be no leave, if there is none now. Unlike [`Self::admit`] it changes nothing.
    pub(crate) fn refusal(&self, now: Instant) -> Option<Duration> {
        self.lock().refusal(now)
    }

    /// What the upstream is taken for now.
    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match *self.lock() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if until > now => BreakerState::Open,
            State::Open { .. } | State::Probing => BreakerState::HalfOpen,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refusal(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { until } => {
                until.checked_duration_since(now).filter(|rest| !rest.is_zero())
            }
            // Nobody knows how long the try will take.
            Self::Probing => Some(Duration::from_secs(1)),
        }
    }
}

impl Leave {
    /// The upstream answered, be it with a refusal of this one request.
    pub(crate) fn succeeded(mut self) {
        self.is_told = true;
        *self.breaker.lock() = State::Closed { num_failures: 0 };
    }

    /// The upstream did not answer, or not as it should.
    pub(crate) fn failed(mut self, now: Instant) {
        self.is_told = true;
        let mut state = self.breaker.lock();
        let num_failures = match *state {
            State::Closed { num_failures } => num_failures + 1,
            // Requests that were under way when it opened change nothing; the probe opens it again.
            State::Open { .. } => return,
            State::Probing if self.is_probe => self.breaker.config.max_failures,
            State::Probing => return,
        };
        *state = if num_failures >= self.breaker.config.max_failures {
            State::Open { until: now + self.breaker.config.cooldown }
        } else {
            State::Closed { num_failures }
        };
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.is_probe && !self.is_told {
            let mut state = self.breaker.lock();
            // Unless an older request has closed it meanwhile, the next request is the probe.
            if matches!(*state, State::Probing) {
                *state = State::Open { until: self.since };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(30);

    fn breaker(max_failures: u32) -> Breaker {
        Breaker::new(BreakerConfig { max_failures, cooldown: COOLDOWN })
    }

    /// One that has just opened, at the time it says.
    fn opened() -> (Breaker, Instant) {
        let (breaker, now) = (breaker(2), Instant::now());
        breaker.admit(now).unwrap().failed(now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        breaker.admit(now).unwrap().failed(now);
        assert_eq!(breaker.state(now), BreakerState::Open);
        (breaker, now)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (breaker, now) = (breaker(2), Instant::now());
        for _ in 0..3 {
            breaker.admit(now).unwrap().failed(now);
            breaker.admit(now).unwrap().succeeded();
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
        let (breaker, now) = opened();
        assert_eq!(breaker.admit(now).unwrap_err(), COOLDOWN);
    }

    #[test]
    fn one_request_tries_and_its_end_decides() {
        let (breaker, now) = opened();
        let now = now + COOLDOWN;
        let probe = breaker.admit(now).unwrap();
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        assert!(breaker.admit(now).is_err(), "only one");
        probe.failed(now);
        assert_eq!(breaker.admit(now).unwrap_err(), COOLDOWN);
        let now = now + COOLDOWN;
        breaker.admit(now).unwrap().succeeded();
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn a_try_that_was_given_up_makes_room_for_the_next() {
        let (breaker, now) = opened();
        let now = now + COOLDOWN;
        drop(breaker.admit(now).unwrap());
        breaker.admit(now).unwrap().succeeded();
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn a_try_that_was_given_up_changes_nothing_once_it_works_again() {
        let (breaker, now) = (breaker(1), Instant::now());
        let (older, first) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        first.failed(now);
        assert_eq!(breaker.refusal(now), Some(COOLDOWN));
        let now = now + COOLDOWN;
        assert_eq!(breaker.refusal(now), None);
        let probe = breaker.admit(now).unwrap();
        assert!(breaker.refusal(now).is_some(), "only one");
        older.succeeded();
        drop(probe);
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn requests_from_before_it_opened_do_not_prolong_it() {
        let (breaker, now) = (breaker(1), Instant::now());
        let (first, second) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        first.failed(now);
        let now = now + COOLDOWN / 2;
        second.failed(now);
        assert_eq!(breaker.admit(now).unwrap_err(), COOLDOWN / 2);
    }
}
