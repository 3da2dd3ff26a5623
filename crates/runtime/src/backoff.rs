//! How long to wait before trying again.

use std::time::Duration;

use meterline_core::RetryPolicy;
use rand::Rng;

/// The longest pause that the other side may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The pause after so many failures in a row: it doubles, and half of it is chance, so that many
/// who failed together do not come back together. A pause that the other side asked for is kept to,
/// within reason, and stretched by up to a tenth.
pub(crate) fn pause(policy: &RetryPolicy, failures: u32, asked: Option<Duration>) -> Duration {
    let mut random = rand::rng();
    if let Some(asked) = asked {
        let asked = asked.min(LONGEST_ASKED);
        return asked + asked.mul_f64(random.random_range(0.0..=0.1));
    }
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let pause = policy.first.saturating_mul(doubled);
    pause
        .min(policy.longest)
        .mul_f64(random.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(failures: u32, asked: Option<Duration>) -> Duration {
        pause(&RetryPolicy::default(), failures, asked)
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        for _ in 0..100 {
            assert!(usual(1, None) <= RetryPolicy::default().first);
            let first = RetryPolicy::default().first;
            let third = usual(3, None);
            assert!(third >= first && third <= first * 4);
            assert!(usual(u32::MAX, None) <= RetryPolicy::default().longest);
        }
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_to_within_reason() {
        let asked = usual(9, Some(Duration::from_secs(7)));
        assert!(asked >= Duration::from_secs(7) && asked <= Duration::from_millis(7_700));
        assert!(usual(1, Some(Duration::from_secs(1_000_000_000))) <= LONGEST_ASKED.mul_f64(1.1));
    }
}
