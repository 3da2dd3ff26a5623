//! Counts the requests that succeed. They are the evidence against a message that fails.
//!
//! A failed request proves nothing by itself: the server may be down, or may fail now and then. If other
//! requests succeed in between, this is evidence against the message. The evidence is stronger if few of
//! the successful requests needed a second try.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// A message is rejected only after it failed alone at least this often after its first failure, each
/// time after another request had succeeded.
const FEWEST: i32 = 3;
/// A message is rejected when the probability that its failures are a coincidence is lower than this.
/// The calculation assumes that each request fails as often as the successful ones did.
const CHANCE: f64 = 1e-8;
/// The highest failure rate in the calculation. It bounds the evidence that is required where nearly all
/// requests need several tries.
const MOST_FAILING: f64 = 0.5;
/// The number of sizes that are kept.
const SIZES: usize = 64;

/// A point in time, as the number of successes until then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The number of successful requests.
    taken: u64,
    /// How many of these had failed before.
    has_failed: u64,
}

#[derive(Default)]
struct State {
    now: Mark,
    /// The smallest successful request after any point in time: number and bytes, both ascending.
    smallest: VecDeque<(u64, usize)>,
}

/// The requests that succeeded since the start.
pub(crate) struct Evidence {
    state: Mutex<State>,
    taken: watch::Sender<u64>,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            taken: watch::Sender::new(0),
        }
    }
}

impl Evidence {
    pub(crate) fn now(&self) -> Mark {
        self.state().now
    }

    /// Notes a successful request; returns true for the first one.
    pub(crate) fn succeeded(&self, bytes: usize, has_failed: bool) -> bool {
        let mut state = self.state();
        let now = &mut state.now;
        now.taken = now.taken.saturating_add(1);
        now.has_failed = now.has_failed.saturating_add(u64::from(has_failed));
        let at = now.taken;
        // An older entry matters only if it is smaller.
        while state
            .smallest
            .back()
            .is_some_and(|(_, size)| *size >= bytes)
        {
            state.smallest.pop_back();
        }
        state.smallest.push_back((at, bytes));
        if state.smallest.len() > SIZES {
            state.smallest.pop_front();
        }
        drop(state);
        self.taken.send_replace(at);
        at == 1
    }

    /// Whether any request has succeeded.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.now().taken > 0
    }

    /// Whether a request succeeded after this point in time.
    pub(crate) fn succeeded_since(&self, mark: Mark) -> bool {
        self.now().taken > mark.taken
    }

    /// Whether a request of fewer bytes succeeded after this point in time.
    pub(crate) fn smaller_succeeded_since(&self, mark: Mark, bytes: usize) -> bool {
        let state = self.state();
        let mut since = state.smallest.iter().filter(|(at, _)| *at > mark.taken);
        since.next().is_some_and(|(_, size)| *size < bytes)
    }

    /// Whether a message is the cause of its failures. It failed alone `failures` times after the first
    /// failure, each time after another request had succeeded. If `is_crowded`, the lowest number of
    /// failures suffices.
    pub(crate) fn is_at_fault(&self, since: Mark, failures: u32, is_crowded: bool) -> bool {
        let now = self.now();
        let taken = now.taken.saturating_sub(since.taken) as f64;
        let has_failed = now.has_failed.saturating_sub(since.has_failed) as f64;
        let failing = ((has_failed + 1.0) / (taken + 2.0)).min(MOST_FAILING);
        let failures = i32::try_from(failures).unwrap_or(i32::MAX);
        let by_chance = failing.powi(failures.saturating_add(1));
        failures >= FEWEST && (is_crowded || by_chance < CHANCE)
    }

    /// Returns a receiver that is notified of each success.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.taken.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_failures_suffice_if_fewer_other_requests_fail() {
        let enough = |taken: u64, has_failed: u64| {
            let evidence = Evidence::default();
            for index in 0..taken {
                evidence.succeeded(1, index < has_failed);
            }
            let at_fault =
                |failures, crowded| evidence.is_at_fault(Mark::default(), failures, crowded);
            assert_eq!((0..100).find(|it| at_fault(*it, true)), Some(3));
            (0..100).find(|it| at_fault(*it, false))
        };
        assert_eq!(enough(1_000, 0), Some(3));
        assert_eq!(enough(6, 0), Some(8));
        assert_eq!(enough(100, 30), Some(15));
        assert_eq!(enough(100, 100), Some(26));
        assert_eq!(enough(0, 0), Some(26));
    }

    #[test]
    fn the_smallest_success_since_a_moment_is_known() {
        let evidence = Evidence::default();
        for bytes in [5, 9, 7] {
            evidence.succeeded(bytes, false);
        }
        let mark = evidence.now();
        assert!(evidence.smaller_succeeded_since(Mark::default(), 6));
        assert!(!evidence.smaller_succeeded_since(Mark::default(), 5));
        assert!(!evidence.smaller_succeeded_since(mark, 100));
        assert!(!evidence.succeeded_since(mark));
        evidence.succeeded(50, false);
        assert!(evidence.smaller_succeeded_since(mark, 51));
        assert!(!evidence.smaller_succeeded_since(mark, 50));
        assert!(evidence.succeeded_since(mark));
        for bytes in 51..1_000 {
            evidence.succeeded(bytes, false);
        }
        assert!(evidence.state().smallest.len() <= SIZES);
        assert!(!evidence.smaller_succeeded_since(evidence.now(), 1_000));
    }
}
