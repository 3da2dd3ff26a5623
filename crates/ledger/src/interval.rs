//! Windows: aligned spans of time, the same for every replica.

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z.
pub type UnixSeconds = i64;

/// A half-open span of time: the first second, and the second after the last.
pub(crate) type Span = (UnixSeconds, UnixSeconds);

/// A half-open span of time, `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The first second.
    pub start: UnixSeconds,
    /// The second after the last.
    pub end: UnixSeconds,
}

/// The length of windows, in whole seconds. Windows are aligned to the Unix epoch, so that every
/// replica and every restart cuts time in the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval(i64);

impl Interval {
    /// An interval of so many seconds; `None` for less than one.
    #[must_use]
    pub fn new(seconds: i64) -> Option<Self> {
        (seconds >= 1).then_some(Self(seconds))
    }

    /// The start of the window that holds `at`.
    #[must_use]
    pub fn floor(self, at: UnixSeconds) -> UnixSeconds {
        at.saturating_sub(at.rem_euclid(self.0))
    }

    /// The first window boundary at or after `at`.
    #[must_use]
    pub fn ceil(self, at: UnixSeconds) -> UnixSeconds {
        match self.floor(at) {
            floor if floor == at => at,
            floor => floor.saturating_add(self.0),
        }
    }

    /// The first window boundary after `at`.
    #[must_use]
    pub fn next_boundary(self, at: UnixSeconds) -> UnixSeconds {
        self.floor(at).saturating_add(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_to_the_epoch() {
        let interval = Interval::new(15).unwrap();
        assert_eq!((interval.floor(29), interval.next_boundary(29)), (15, 30));
        assert_eq!((interval.floor(30), interval.next_boundary(30)), (30, 45));
        assert_eq!((interval.floor(-1), interval.next_boundary(-1)), (-15, 0));
        assert_eq!(Interval::new(0), None);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let interval = Interval::new(i64::MAX).unwrap();
        for at in [i64::MIN, -1, 0, i64::MAX] {
            assert!(interval.floor(at) <= at);
            let _ = interval.next_boundary(at);
        }
    }
}
