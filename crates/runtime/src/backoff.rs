//! How long an output waits before it tries again.

use std::time::Duration;

use meterline_core::{Backoff, RetryPolicy};
use rand::Rng;

/// The longest pause that the server may request.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Returns the pause after this many consecutive failures. A pause that the server requested
/// (`Retry-After`) takes precedence, up to [`LONGEST_ASKED`]; jitter makes it up to a tenth longer, and
/// never shorter.
pub(crate) fn pause(
    policy: &RetryPolicy,
    failures: u32,
    requested_pause: Option<Duration>,
) -> Duration {
    if let Some(requested_pause) = requested_pause {
        let requested_pause = requested_pause.min(LONGEST_ASKED);
        return rand::rng().random_range(requested_pause..=requested_pause + requested_pause / 10);
    }
    Backoff::new(policy.first, policy.longest).pause(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(failures: u32, requested_pause: Option<Duration>) -> Duration {
        pause(&RetryPolicy::default(), failures, requested_pause)
    }

    #[test]
    fn the_pauses_are_those_of_the_policy() {
        let RetryPolicy { first, longest, .. } = RetryPolicy::default();
        for _ in 0..100 {
            assert!((first / 2..=first).contains(&usual(1, None)));
            assert!((first * 2..=first * 4).contains(&usual(3, None)));
            assert!((longest / 2..=longest).contains(&usual(u32::MAX, None)));
        }
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept_up_to_a_limit() {
        let requested_pause = usual(9, Some(Duration::from_secs(7)));
        assert!(
            requested_pause >= Duration::from_secs(7)
                && requested_pause <= Duration::from_millis(7_700)
        );
        assert!(usual(1, Some(Duration::from_secs(1_000_000_000))) <= LONGEST_ASKED.mul_f64(1.1));
    }
}
