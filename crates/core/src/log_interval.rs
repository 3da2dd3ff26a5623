//! How often something that repeats is logged.

use std::time::{Duration, Instant};

/// The interval between two log lines about the same condition. It doubles with each line, up to the longest, so
/// that a condition that lasts for a day takes few lines.
#[derive(Debug, Clone)]
pub struct LogInterval {
    interval: Duration,
    longest: Duration,
    next: Instant,
    suppressed: u64,
}

impl LogInterval {
    /// Starts when the first line is logged: the next line comes after `first` at the earliest.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, now: Instant) -> Self {
        Self {
            interval: first,
            longest,
            next: now + first,
            suppressed: 0,
        }
    }

    /// Whether to log an occurrence. Returns how many were not logged since the last line.
    pub fn try_log(&mut self, now: Instant) -> Option<u64> {
        if now < self.next {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.interval = self.interval.saturating_mul(2).min(self.longest);
        self.next = now + self.interval;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_doubles_and_what_is_not_logged_is_counted() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut log = LogInterval::new(60 * second, 3_600 * second, start);
        let lines: Vec<_> = (1..86_400)
            .filter_map(|at| Some((at, log.try_log(start + at * second)?)))
            .collect();
        assert_eq!(lines[..3], [(60, 59), (180, 119), (420, 239)]);
        assert!(lines.len() < 30, "{}", lines.len());
        let last = lines.len() - 1;
        assert_eq!(lines[last].0 - lines[last - 1].0, 3_600);
    }
}
