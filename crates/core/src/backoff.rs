//! How long to wait before another attempt.

use std::time::Duration;

use rand::Rng;

/// Exponential back-off with jitter. The upper bound of the pause doubles with each failure; half of it is
/// fixed and half is random, so that clients that lost the same server do not all return at the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Pauses of at most `first` after the first failure, and never longer than `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after this many failures in a row: a random duration between half of
    /// [`Backoff::upper_bound`] and all of it. No failure, no pause.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let upper_bound = self.upper_bound(failures);
        rand::rng().random_range(upper_bound / 2..=upper_bound)
    }

    /// The longest pause after this many failures in a row, without jitter.
    #[must_use]
    pub fn upper_bound(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 2_u32.saturating_pow(doublings);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_upper_bound_doubles_up_to_the_longest_pause() {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let bounds: Vec<_> = (0..8)
            .map(|failures| backoff.upper_bound(failures).as_millis())
            .collect();
        assert_eq!(bounds, [0, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn clients_that_fail_together_pause_for_different_times() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let pauses: std::collections::HashSet<_> = (0..100).map(|_| backoff.pause(3)).collect();
        assert!(pauses.len() > 90, "{}", pauses.len());
        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*longest - *shortest > Duration::from_secs(1), "{pauses:?}");
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            (0_u64..10_000_000).prop_map(Duration::from_micros),
            any::<u64>().prop_map(Duration::from_secs),
        ]
    }

    proptest! {
        /// Also for values that no configuration should have.
        #[test]
        fn a_pause_is_between_half_of_the_upper_bound_and_all_of_it(
            first in durations(),
            longest in durations(),
            failures in prop_oneof![0_u32..40, any::<u32>()],
        ) {
            let backoff = Backoff::new(first, longest);
            let (bound, next) =
                (backoff.upper_bound(failures), backoff.upper_bound(failures.saturating_add(1)));
            prop_assert!(bound <= next && next <= longest);
            let pause = backoff.pause(failures);
            prop_assert!(bound / 2 <= pause && pause <= bound, "{:?} of {:?}", pause, bound);
        }
    }
}
