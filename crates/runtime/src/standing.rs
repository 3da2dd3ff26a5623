//! What `/ready` says of an output, and what its log says once rather than for each batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meterline_core::HealthHandle;
use tokio::time::{Duration, Instant};
use tracing::{debug, error, info};

use crate::lately::Lately;

/// A verdict on so many messages is told, though a large batch is not through yet.
const TOLD: usize = 64;
/// Bisections are told so often at most.
const BISECTION: Duration = Duration::from_secs(60);

/// Messages of one batch that came to an end, and how.
#[derive(Default)]
pub(crate) struct Tally {
    settled: usize,
    rejected: usize,
    reason: String,
    /// Of how many messages a batch was when it was cut in halves for the first time, and whether
    /// that is told at INFO.
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

    /// Of these messages so many are `fresh`. That others are rejected as before says nothing new of
    /// how this is set up.
    pub(crate) fn rejected(&mut self, messages: usize, fresh: usize, reason: String) {
        self.settled = self.settled.saturating_add(fresh);
        self.rejected = self.rejected.saturating_add(fresh);
        self.set_aside = self.set_aside.saturating_add(messages);
        self.reason = reason;
    }

    /// Whether enough came to an end to judge by it.
    pub(crate) fn is_due(&self) -> bool {
        self.settled >= TOLD
    }
}

#[derive(Default)]
struct State {
    /// Why nothing gets through.
    outage: Option<String>,
    /// Why most of what gets through is rejected.
    refusal: Option<String>,
    lately: Lately,
    /// When a bisection was told last.
    bisection: Option<Instant>,
}

impl State {
    fn tell(&self, health: &HealthHandle) {
        match self.outage.as_ref().or(self.refusal.as_ref()) {
            Some(reason) => health.not_ready(reason.as_str()),
            None => health.ready(""),
        }
    }
}

/// What an output says of itself.
pub(crate) struct Standing {
    label: Arc<str>,
    health: HealthHandle,
    state: Mutex<State>,
}

impl Standing {
    pub(crate) fn new(label: Arc<str>, health: HealthHandle) -> Self {
        health.ready("nothing was sent yet");
        Self {
            label,
            health,
            state: Mutex::default(),
        }
    }

    /// Nothing gets through, for this reason.
    pub(crate) fn outage(&self, reason: &str) {
        let mut state = self.state();
        state.outage = Some(reason.to_owned());
        state.tell(&self.health);
    }

    /// The other side works.
    pub(crate) fn works(&self) {
        let mut state = self.state();
        state.outage = None;
        state.tell(&self.health);
    }

    /// One event that is rejected is the event's fault; when most of them are it is a matter of how
    /// this is set up, and somebody has to see it.
    pub(crate) fn judge(&self, tally: &mut Tally) {
        let settled = std::mem::take(&mut tally.settled);
        let rejected = std::mem::take(&mut tally.rejected);
        if settled == 0 {
            return;
        }
        let mut state = self.state();
        state.lately.note(settled, rejected);
        if !state.lately.most_failed() {
            if state.refusal.take().is_some() {
                info!(output = %self.label, "most events are taken again");
            }
        } else if rejected > 0 {
            let reason = format!("most events are rejected: {}", tally.reason);
            if state.refusal.is_none() {
                error!(output = %self.label, "{reason}");
            }
            state.refusal = Some(reason);
        }
        state.tell(&self.health);
    }

    /// A batch of so many is cut in halves for this reason.
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
            info!(output = %self.label, events, "a batch is halved to find the event that is the reason: {reason}");
        } else {
            debug!(output = %self.label, events, "a batch is halved to find the event that is the reason: {reason}");
        }
    }

    /// A batch has come to its end.
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
            info!(output = %self.label, events, requests, delivered, set_aside, dropped, "the batch that was halved is through");
        } else {
            debug!(output = %self.label, events, requests, delivered, set_aside, dropped, "the batch that was halved is through");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
