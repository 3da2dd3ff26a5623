//! Limits the CPU time of a running script.
//!
//! Wall time would charge a script for pauses that it does not cause: a suspended process or machine, a
//! throttled container.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// The CPU time that the running script may use.
#[derive(Clone, Copy)]
struct Allowance {
    limit: Duration,
    /// The thread's CPU time at the first check.
    start: Option<Duration>,
    /// The limit cannot be exceeded before this time, because CPU time never passes faster than wall
    /// time.
    next_check: Instant,
}

thread_local! {
    static ALLOWANCE: Cell<Option<Allowance>> = const { Cell::new(None) };
    static CLOCK: Cell<fn() -> Duration> = const { Cell::new(thread_time) };
}

/// Returns the CPU time of the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither part of this clock is ever negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Limits the CPU time of the calling thread until dropped.
pub(crate) struct Limit(Option<Allowance>);

impl Limit {
    pub(crate) fn start(limit: Duration) -> Self {
        Self(ALLOWANCE.replace(Some(Allowance {
            limit,
            start: None,
            next_check: Instant::now(),
        })))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        ALLOWANCE.set(self.0);
    }
}

/// Whether the running script has exceeded its limit.
///
/// Reading the CPU time is a system call, so it is read only when enough wall time has passed since the
/// last check.
pub(crate) fn is_exceeded() -> bool {
    let Some(mut allowance) = ALLOWANCE.get() else {
        return false;
    };
    let now = Instant::now();
    if now < allowance.next_check {
        return false;
    }
    let cpu = CLOCK.get()();
    let start = *allowance.start.get_or_insert(cpu);
    let used = cpu.saturating_sub(start);
    if used > allowance.limit {
        return true;
    }
    let rest = allowance.limit - used;
    // A limit beyond the range of `Instant` is checked each time.
    allowance.next_check = now.checked_add(rest).unwrap_or(now);
    ALLOWANCE.set(Some(allowance));
    false
}

/// Replaces the clock of the calling thread.
#[cfg(test)]
pub(crate) fn set_clock(clock: fn() -> Duration) {
    CLOCK.set(clock);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_thread_sleeps_is_not_counted() {
        let limit = Duration::from_millis(20);
        let _limit = Limit::start(limit);
        assert!(!is_exceeded());
        let paused = Instant::now();
        std::thread::sleep(10 * limit);
        assert!(paused.elapsed() > limit);
        assert!(!is_exceeded(), "a sleeping thread uses no CPU time");
        // Only this loop uses CPU time.
        while !is_exceeded() {
            std::hint::black_box((0..1_000).sum::<u64>());
        }
    }

    #[test]
    fn dropping_a_limit_restores_the_one_before() {
        let outer = Limit::start(Duration::ZERO);
        drop(Limit::start(Duration::from_secs(3600)));
        while !is_exceeded() {}
        drop(outer);
        assert!(!is_exceeded());
    }
}
