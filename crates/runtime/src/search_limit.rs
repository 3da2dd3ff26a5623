//! The time limit of requests that search for the message that makes the server hang.
//!
//! Without it, each step of the search takes as long as the configured limit of the output, usually half
//! a minute. A server that answered other requests within milliseconds does not need that long. The
//! short limit only decides where to search next: no message is rejected before it has failed alone
//! with the whole configured limit.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The shortest limit.
pub(crate) const SHORTEST: Duration = Duration::from_secs(3);
/// The limit is this many times the duration of the slowest of the last successful requests.
const FACTOR: u32 = 5;
/// After this many faster requests, the slowest one counts for a third.
const MEMORY: u64 = 64;

/// The duration of the slowest of the last successful requests in microseconds. The limit is derived
/// from it.
#[derive(Default)]
pub(crate) struct SearchLimit(AtomicU64);

impl SearchLimit {
    /// Notes a request that succeeded after this time.
    pub(crate) fn succeeded(&self, lasted: Duration) {
        let lasted = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
        let decay = |slowest: u64| Some(lasted.max(slowest - slowest / MEMORY));
        // The closure always returns a value.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, decay);
    }

    /// Returns the limit. It may be longer than the configured one, which the writer itself enforces.
    pub(crate) fn get(&self) -> Duration {
        let slowest = Duration::from_micros(self.0.load(Ordering::Relaxed));
        slowest.saturating_mul(FACTOR).max(SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_slowest_of_the_last_successes() {
        let limit = SearchLimit::default();
        assert_eq!(limit.get(), SHORTEST);
        limit.succeeded(Duration::from_millis(20));
        assert_eq!(limit.get(), SHORTEST);
        limit.succeeded(Duration::from_secs(20));
        assert_eq!(limit.get(), Duration::from_secs(100));
        for _ in 0..MEMORY {
            limit.succeeded(Duration::from_millis(20));
        }
        let later = limit.get();
        assert!((30..50).contains(&later.as_secs()), "{later:?}");
        for _ in 0..10 * MEMORY {
            limit.succeeded(Duration::from_millis(20));
        }
        assert_eq!(limit.get(), SHORTEST);
        limit.succeeded(Duration::MAX);
        assert!(limit.get() > Duration::from_secs(86_400));
    }
}
