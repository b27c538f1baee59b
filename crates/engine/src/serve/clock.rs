//! The engine's only source of time, so that expiry can be tested without waiting.

use std::time::Instant;

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// The present.
    fn now(&self) -> Instant;
}

/// The system's monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// The system's clock, which can be moved ahead.
#[cfg(test)]
pub(crate) struct ManualClock {
    passed: std::sync::Mutex<std::time::Duration>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl ManualClock {
    pub(crate) fn new() -> Self {
        Self { passed: Default::default() }
    }

    pub(crate) fn advance(&self, by: std::time::Duration) {
        *self.passed.lock().unwrap() += by;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant::now() + *self.passed.lock().unwrap()
    }
}
