//! How much CPU time a running script has had.
//!
//! Wall time would charge a script for what happens around it: a process that is paused, a machine
//! that is asleep, a container that is throttled.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// What the running script may use.
#[derive(Clone, Copy)]
struct Allowance {
    limit: Duration,
    /// The thread's CPU time at the first look.
    start: Option<Duration>,
    /// No more CPU time than wall time passes, so the limit is kept until then.
    kept_until: Instant,
}

thread_local! {
    static ALLOWANCE: Cell<Option<Allowance>> = const { Cell::new(None) };
    static CLOCK: Cell<fn() -> Duration> = const { Cell::new(thread_time) };
}

/// The CPU time of the calling thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither part of this clock is negative.
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
            kept_until: Instant::now(),
        })))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        ALLOWANCE.set(self.0);
    }
}

/// Whether the running script has had its time.
///
/// Asking for CPU time is a system call, so it is asked for when the script has come a little way,
/// and again only when enough wall time has passed.
pub(crate) fn is_used_up() -> bool {
    let Some(mut allowance) = ALLOWANCE.get() else {
        return false;
    };
    let now = Instant::now();
    if now < allowance.kept_until {
        return false;
    }
    let cpu = CLOCK.get()();
    let start = *allowance.start.get_or_insert(cpu);
    let used = cpu.saturating_sub(start);
    if used > allowance.limit {
        return true;
    }
    let rest = allowance.limit - used;
    // A limit of centuries is none.
    allowance.kept_until = now.checked_add(rest).unwrap_or(now);
    ALLOWANCE.set(Some(allowance));
    false
}

/// Puts another clock in the place of the calling thread's.
#[cfg(test)]
pub(crate) fn set_clock(clock: fn() -> Duration) {
    CLOCK.set(clock);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_thread_does_not_run_is_not_counted() {
        let limit = Duration::from_millis(20);
        let _limit = Limit::start(limit);
        assert!(!is_used_up());
        let paused = Instant::now();
        std::thread::sleep(10 * limit);
        assert!(paused.elapsed() > limit);
        assert!(!is_used_up(), "a thread that sleeps uses nothing");
        // What it does here is what it is charged for.
        while !is_used_up() {
            std::hint::black_box((0..1_000).sum::<u64>());
        }
    }

    #[test]
    fn a_limit_ends_with_its_run() {
        let outer = Limit::start(Duration::ZERO);
        drop(Limit::start(Duration::from_secs(3600)));
        while !is_used_up() {}
        drop(outer);
        assert!(!is_used_up());
    }
}
