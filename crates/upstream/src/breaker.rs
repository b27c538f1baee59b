//! A circuit breaker (Nygard, "Release It!", 2007): a replica that fails again and again gets no requests for a while,
//! then one on trial. Plain data; the clock is the caller's.

use std::time::{Duration, Instant};

/// Pauses grow to this many times the first.
const MOST_PAUSES: u32 = 8;

/// The state of one replica's circuit.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures_allowed: u32,
    pause: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Requests pass; so many have failed in a row.
    Closed { failures: u32 },
    /// None passes before `until`; the pause was `pauses` times the first.
    Open { until: Instant, pauses: u32 },
    /// One is on trial since then. If it never says how it went, another is tried after a pause.
    Trial { since: Instant, pauses: u32 },
}

impl Breaker {
    /// Opens after `failures` in a row, for `pause`.
    pub(crate) fn new(failures: u32, pause: Duration) -> Self {
        Self { failures_allowed: failures.max(1), pause, state: State::Closed { failures: 0 } }
    }

    /// Whether a request may go there, without taking the trial.
    pub(crate) fn would_pass(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::Trial { since, pauses } => now >= since + self.pause * pauses,
        }
    }

    /// Takes a request, as a trial if that is what it is. `false` if it may not go there.
    pub(crate) fn pass(&mut self, now: Instant) -> bool {
        let passes = self.would_pass(now);
        match self.state {
            State::Open { pauses, .. } | State::Trial { pauses, .. } if passes => {
                self.state = State::Trial { since: now, pauses };
            }
            _ => {}
        }
        passes
    }

    /// A request got its first token, or an answer that shows the server works.
    pub(crate) fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// A request failed in a way that is the replica's. Whether that opened the circuit.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        let (state, opened) = match self.state {
            State::Closed { failures } if failures + 1 < self.failures_allowed => {
                (State::Closed { failures: failures + 1 }, false)
            }
            State::Closed { .. } => (State::Open { until: now + self.pause, pauses: 1 }, true),
            State::Trial { pauses, .. } => {
                let pauses = (pauses * 2).min(MOST_PAUSES);
                (State::Open { until: now + self.pause * pauses, pauses }, true)
            }
            // One that was sent before the circuit opened.
            open @ State::Open { .. } => (open, false),
        };
        self.state = state;
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[test]
    fn failures_in_a_row_open_it_and_one_request_is_tried_after_the_pause() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3, PAUSE);
        assert!(!breaker.failed(start));
        assert!(!breaker.failed(start));
        breaker.succeeded();
        assert!(!breaker.failed(start) && !breaker.failed(start) && breaker.pass(start));
        assert!(breaker.failed(start), "three in a row");
        assert!(!breaker.failed(start), "an older request does not prolong it");
        assert!(!breaker.pass(start + PAUSE / 2));
        let later = start + PAUSE;
        assert!(breaker.pass(later), "a trial");
        assert!(!breaker.pass(later), "one at a time");
        assert!(breaker.failed(later));
        assert!(!breaker.pass(later + PAUSE), "the pause has doubled");
        assert!(breaker.pass(later + PAUSE * 2));
        breaker.succeeded();
        assert!(breaker.pass(later) && breaker.pass(later));
    }

    #[test]
    fn a_trial_that_never_ends_does_not_keep_it_open_for_ever() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, PAUSE);
        breaker.failed(start);
        assert!(breaker.pass(start + PAUSE));
        assert!(!breaker.would_pass(start + PAUSE * 3 / 2));
        assert!(breaker.pass(start + PAUSE * 2));
    }

    #[test]
    fn pauses_stop_growing() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(1, PAUSE);
        for _ in 0..10 {
            breaker.failed(now);
            now += PAUSE * MOST_PAUSES;
            assert!(breaker.pass(now));
        }
    }
}
