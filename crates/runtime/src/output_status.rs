//! The status of an output for `/ready`, and log lines that are written once and not for each batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meterline_core::HealthHandle;
use tokio::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

use crate::failure_rate::FailureRate;

/// The status is updated after this many messages, even before a large batch is finished.
const UPDATE_AFTER: usize = 64;
/// The shortest interval between two log lines about bisections.
const BISECTION: Duration = Duration::from_secs(60);

/// Counts the messages of one batch by how they ended.
#[derive(Default)]
pub(crate) struct Tally {
    settled: usize,
    rejected: usize,
    reason: String,
    /// The number of messages of the batch when it was halved for the first time, and whether this is
    /// logged at INFO.
    bisected: Option<(usize, bool)>,
    requests: u64,
    delivered: usize,
    set_aside: usize,
    dropped: usize,
}

impl Tally {
    pub(crate) fn request(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    pub(crate) fn delivered(&mut self, messages: usize) {
        self.settled = self.settled.saturating_add(messages);
        self.delivered = self.delivered.saturating_add(messages);
    }

    pub(crate) fn dropped(&mut self, messages: usize) {
        self.settled = self.settled.saturating_add(messages);
        self.dropped = self.dropped.saturating_add(messages);
    }

    /// Notes rejected messages, of which `fresh` are rejected for the first time. A message that is
    /// rejected again does not affect the status.
    pub(crate) fn rejected(&mut self, messages: usize, new: usize, reason: String) {
        self.settled = self.settled.saturating_add(new);
        self.rejected = self.rejected.saturating_add(new);
        self.set_aside = self.set_aside.saturating_add(messages);
        self.reason = reason;
    }

    /// Whether enough messages ended to update the status.
    pub(crate) fn is_due(&self) -> bool {
        self.settled >= UPDATE_AFTER
    }
}

/// The shortest interval between two log lines about failures. It doubles up to the longest one. After a
/// period of the same length without a failure it is short again.
const FIRST_INTERVAL: Duration = Duration::from_secs(60);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3_600);
/// This many consecutive failures are logged in any case.
const MANY: u32 = 8;

#[derive(Default)]
struct State {
    /// Why no request succeeds.
    outage: Option<String>,
    /// Whether this was logged.
    warned: bool,
    /// When a failure was logged last, and until when the next one is not logged.
    logged: Option<(Instant, Instant)>,
    /// Why most messages are rejected.
    refusal: Option<String>,
    failure_rate: FailureRate,
    /// When a bisection was logged last.
    bisection: Option<Instant>,
}

impl State {
    /// Whether another failure may be logged now. If so, the next interval begins.
    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let interval = match self.logged {
            Some((_, until)) if now < until => return false,
            Some((at, until)) if now < until + (until - at) => {
                (until - at).saturating_mul(2).min(LONGEST_INTERVAL)
            }
            _ => FIRST_INTERVAL,
        };
        self.logged = Some((now, now + interval));
        true
    }

    fn report(&self, health: &HealthHandle) {
        match self.outage.as_ref().or(self.refusal.as_ref()) {
            Some(reason) => health.not_ready(reason.as_str()),
            None => health.ready(""),
        }
    }
}

/// The status of one output.
pub(crate) struct OutputStatus {
    label: Arc<str>,
    health: HealthHandle,
    state: Mutex<State>,
}

impl OutputStatus {
    pub(crate) fn new(label: Arc<str>, health: HealthHandle) -> Self {
        health.ready("nothing was sent yet");
        Self {
            label,
            health,
            state: Mutex::default(),
        }
    }

    /// Reports an outage with this reason.
    pub(crate) fn outage(&self, reason: &str) {
        let mut state = self.state();
        state.outage = Some(reason.to_owned());
        state.report(&self.health);
    }

    /// Reports this many consecutive failures; `reason` is that of the last one. A single brief failure
    /// with a brief pause is not reported yet.
    pub(crate) fn failed(&self, reason: &str, failures: u32, is_brief: bool) {
        if failures < 2 && is_brief {
            debug!(output = %self.label, "{reason}; trying again");
            return;
        }
        let mut state = self.state();
        let is_new = state.outage.replace(reason.to_owned()).is_none();
        state.report(&self.health);
        // Logs the beginning of an outage, and then at growing intervals: an outage of an hour takes
        // about a dozen lines.
        let goes_on = failures.is_power_of_two() && (state.warned || failures >= MANY);
        if is_new && state.may_warn() || goes_on {
            state.warned = true;
            warn!(output = %self.label, failures, "{reason}; trying again, nothing is lost");
        } else {
            debug!(output = %self.label, failures, "{reason}; trying again, nothing is lost");
        }
    }

    /// Reports that the server works, after this many consecutive failures.
    pub(crate) fn works(&self, failures: u32) {
        let mut state = self.state();
        state.outage = None;
        if std::mem::take(&mut state.warned) {
            info!(output = %self.label, failures, "the server answers again; sending the waiting events");
        } else if failures > 0 {
            debug!(output = %self.label, failures, "the server answers again; sending the waiting events");
        }
        state.report(&self.health);
    }

    /// Updates the status from finished messages. A single rejected event is at fault itself. If most
    /// events are rejected, the configuration is wrong and an operator has to see it.
    pub(crate) fn judge(&self, tally: &mut Tally) {
        let settled = std::mem::take(&mut tally.settled);
        let rejected = std::mem::take(&mut tally.rejected);
        if settled == 0 {
            return;
        }
        let mut state = self.state();
        state.failure_rate.note(settled, rejected);
        if !state.failure_rate.most_failed() {
            if state.refusal.take().is_some() {
                info!(output = %self.label, "most events are accepted again");
            }
        } else if rejected > 0 {
            let reason = format!("most events are rejected: {}", tally.reason);
            if state.refusal.is_none() {
                error!(output = %self.label, "{reason}");
            }
            state.refusal = Some(reason);
        }
        state.report(&self.health);
    }

    /// Logs that a batch of this many events is halved, with the reason.
    pub(crate) fn bisects(&self, events: usize, reason: &str, tally: &mut Tally) {
        if tally.bisected.is_some() {
            return;
        }
        let mut state = self.state();
        let now = Instant::now();
        let loud = state
            .bisection
            .is_none_or(|last| now.duration_since(last) >= BISECTION);
        tally.bisected = Some((events, loud));
        if loud {
            state.bisection = Some(now);
            info!(output = %self.label, events, "a batch failed and is halved to find the event that causes it: {reason}");
        } else {
            debug!(output = %self.label, events, "a batch failed and is halved to find the event that causes it: {reason}");
        }
    }

    /// Logs the end of a batch that was halved.
    pub(crate) fn ends(&self, tally: &Tally) {
        let Some((events, loud)) = tally.bisected else {
            return;
        };
        let Tally {
            requests,
            delivered,
            set_aside,
            dropped,
            ..
        } = tally;
        if loud {
            info!(output = %self.label, events, requests, delivered, set_aside, dropped, "the batch that was halved is finished");
        } else {
            debug!(output = %self.label, events, requests, delivered, set_aside, dropped, "the batch that was halved is finished");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_at_growing_intervals_that_reset() {
        let mut state = State::default();
        let mut logged = 0;
        for _ in 0..86_400 / 10 {
            logged += u32::from(state.may_warn());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert!((24..40).contains(&logged), "{logged}");
        tokio::time::advance(3 * LONGEST_INTERVAL).await;
        assert!(state.may_warn() && !state.may_warn());
        tokio::time::advance(FIRST_INTERVAL).await;
        assert!(state.may_warn());
    }
}
