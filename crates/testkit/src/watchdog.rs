//! The limit of a test that hangs.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Ends the process when a test takes longer than its limit, and prints which test it was. Otherwise a test that
/// hangs, in a deadlock for example, makes the whole run end without a result.
#[derive(Debug)]
pub struct Watchdog {
    /// Closed when this is dropped.
    _test: Sender<()>,
}

impl Watchdog {
    /// Begins to measure. The test is the thread that calls this.
    #[must_use]
    pub fn start(limit: Duration) -> Self {
        let name = thread::current().name().unwrap_or("a test").to_owned();
        Self::call_after(limit, move || {
            // Unlike `eprintln`, this is not captured.
            let line = format!("\n{name} has not ended after {limit:?}: the test run is aborted\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            std::process::abort();
        })
    }

    fn call_after(limit: Duration, act: impl FnOnce() + Send + 'static) -> Self {
        let (test, ended) = channel();
        thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                act();
            }
        });
        Self { _test: test }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_takes_too_long_is_ended_and_one_that_ends_is_not() {
        let (sender, called) = channel();
        let call = |name: &'static str| {
            let sender = sender.clone();
            move || assert_eq!(sender.send(name), Ok(()))
        };
        let slow = Watchdog::call_after(Duration::from_millis(20), call("slow"));
        assert_eq!(called.recv(), Ok("slow"));
        drop(slow);
        let ended = Watchdog::call_after(Duration::MAX, call("ended"));
        drop(ended);
        drop(sender);
        // The thread of the watchdog ends with it, and drops the last sender.
        assert!(called.recv().is_err());
    }
}
