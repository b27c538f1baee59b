//! What a key may use over time: requests a minute, requests at once, tokens a day. Money over time is limited by budgets,
//! which are the ledger's; what one request may use, by the planner, before any prefill.
//!
//! - The rate is a token bucket (GCRA): a minute's worth may come at once, then one at a time.
//! - A request counts as running until the last byte of its response is sent, so a stream counts until it ends.
//! - Tokens are those of prompts, cached or not, and of what was written. Whoever has used the day's is refused until
//!   midnight UTC; the request that passes the limit is answered.
//!
//! A refusal is a 429 that names the limit and says when to come back.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use edgewise_access::{AccessStore, KeyId, Limits};
use edgewise_telemetry::names::{self, labels};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use jiff::{Timestamp, tz::TimeZone};

use crate::{ApiError, ErrorKind, caller::Caller};

/// When a caller with too many requests at once is told to come back.
const SOON: Duration = Duration::from_secs(1);

/// What is counted of each key.
#[derive(Default)]
pub(crate) struct Counters {
    keys: Mutex<HashMap<KeyId, Counter>>,
    clock: DefaultClock,
}

struct Counter {
    /// The rate it was made for: a key's limits do not change, but the next version of them may.
    per_minute: Option<u32>,
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    running: Arc<AtomicU32>,
}

/// A place among the requests of a key that run at once; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn refused(key: &KeyId, reason: &'static str, what: String, wait: Duration) -> ApiError {
    metrics::counter!(names::REQUESTS_REFUSED_TOTAL, labels::REASON => reason).increment(1);
    ApiError::new(ErrorKind::LimitReached, format!("the key {key} {what}"))
        .hint("come back after the time in Retry-After, or ask the operator for a key with other limits")
        .retry_after(wait)
}

/// Until the day ends in UTC.
fn until_tomorrow(now: Timestamp) -> Duration {
    let day = now.to_zoned(TimeZone::UTC);
    let left =
        day.tomorrow().and_then(|tomorrow| tomorrow.start_of_day()).map(|start| start.timestamp().duration_since(now));
    left.ok().and_then(|left| Duration::try_from(left).ok()).unwrap_or(Duration::from_secs(3600))
}

impl Counters {
    /// Lets a request of `caller` in, or refuses it. `spends`: it may use tokens.
    pub(crate) fn admit(
        &self,
        store: &AccessStore,
        caller: &Caller,
        spends: bool,
        now: Timestamp,
    ) -> Result<Option<Place>, ApiError> {
        let Some(key) = &caller.key else { return Ok(None) };
        let Limits { requests_per_minute, concurrent_requests, tokens_per_day, .. } = caller.limits;
        if spends
            && let Some(most) = tokens_per_day
            && store.tokens_today(key, now) >= most
        {
            let what = format!("has used its {most} tokens of today (UTC)");
            return Err(refused(key, "tokens_per_day", what, until_tomorrow(now)));
        }
        if requests_per_minute.is_none() && concurrent_requests.is_none() {
            return Ok(None);
        }
        let (rate, running) = self.of(key, requests_per_minute);
        // The place first: a request that finds none must not use up the rate.
        let place = Place(running);
        let before = place.0.fetch_add(1, Ordering::AcqRel);
        if let Some(most) = concurrent_requests
            && before >= most
        {
            let what = format!("has {most} requests running, which is its limit");
            return Err(refused(key, "concurrent_requests", what, SOON));
        }
        if let (Some(rate), Some(most)) = (rate, requests_per_minute)
            && let Err(not_until) = rate.check()
        {
            let wait = not_until.wait_time_from(self.clock.now());
            // Whole seconds are sent: rounded up, or the next request would come too early.
            let wait = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            return Err(refused(key, "requests_per_minute", format!("may send {most} requests a minute"), wait));
        }
        Ok(Some(place))
    }

    fn of(&self, key: &KeyId, per_minute: Option<u32>) -> (Option<Arc<DefaultDirectRateLimiter>>, Arc<AtomicU32>) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = || {
            let quota = Quota::per_minute(per_minute.and_then(NonZeroU32::new)?);
            Some(Arc::new(RateLimiter::direct(quota)))
        };
        let counter =
            keys.entry(key.clone()).or_insert_with(|| Counter { per_minute, rate: limiter(), running: Arc::default() });
        if counter.per_minute != per_minute {
            (counter.per_minute, counter.rate) = (per_minute, limiter());
        }
        (counter.rate.clone(), Arc::clone(&counter.running))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn caller(limits: Limits) -> Caller {
        Caller { limits, key: Some("ewk_0123456789ab".parse().unwrap()), ..Caller::local() }
    }

    fn admit(counters: &Counters, store: &AccessStore, limits: Limits) -> Result<Option<Place>, ApiError> {
        counters.admit(store, &caller(limits), true, "2026-11-22T23:00:00Z".parse().unwrap())
    }

    #[test]
    fn each_limit_says_which_it_is_and_when_to_come_back() {
        let store = AccessStore::in_memory(Timestamp::UNIX_EPOCH).unwrap();
        let counters = Counters::default();
        let rate = Limits { requests_per_minute: Some(2), ..Limits::default() };
        let held: Vec<_> = (0..2).map(|_| admit(&counters, &store, rate).unwrap()).collect();
        let error = admit(&counters, &store, rate).unwrap_err();
        assert!(error.to_string().contains("2 requests a minute"), "{error}");
        assert!((1..=30).contains(&error.wait().unwrap().as_secs()), "{error:?}");
        drop(held);

        let at_once = Limits { concurrent_requests: Some(1), ..Limits::default() };
        let held = admit(&counters, &store, at_once).unwrap();
        let error = admit(&counters, &store, at_once).unwrap_err();
        assert!(error.to_string().contains("1 requests running"), "{error}");
        drop(held);
        admit(&counters, &store, at_once).unwrap();

        let day = Limits { tokens_per_day: Some(100), ..Limits::default() };
        let now: Timestamp = "2026-11-22T23:00:00Z".parse().unwrap();
        let fresh = AccessStore::in_memory(now).unwrap();
        let key = caller(day).key.unwrap();
        fresh.used_tokens(&key, 99, now);
        admit(&counters, &fresh, day).unwrap();
        fresh.used_tokens(&key, 1, now);
        let error = admit(&counters, &fresh, day).unwrap_err();
        assert_eq!(error.wait(), Some(Duration::from_secs(3600)));
        counters.admit(&fresh, &caller(day), false, now).unwrap();
    }
}
