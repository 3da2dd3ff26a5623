//! Writes one batch, whatever it takes.

use std::{
    collections::VecDeque,
    sync::{
        self, Arc, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use meterline_core::{
    Ack, Cause, DropRule, Health, HealthHandle, IntCounter, Message, Metrics, Outcome, Rejection,
    RetryPolicy, Taken, WriteError, Writer, WriterNode,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use tracing::{error, info, warn};

use crate::{
    backoff,
    lately::Lately,
    rejections::Rejections,
    sink::Delivery,
    sizes::{Limit, Seen},
};

/// After so many failures in a row one batch at a time tries; the others wait for it.
const FAILURES_BEFORE_ONE_BY_ONE: u32 = 3;
/// The pause while the other side refuses us.
const UNAUTHORIZED_PAUSE: Duration = Duration::from_secs(10);
/// A verdict on so many messages is told, though a large batch is not through yet.
const TOLD: usize = 64;

/// The counter of messages that an output dropped on purpose.
pub(crate) fn dropped(metrics: &Metrics, label: &str) -> IntCounter {
    metrics.counter(
        "output_dropped",
        "Messages that an output dropped on purpose: as `drop_on` says, or because no case of a \
         `switch` takes them.",
        &[("label", label)],
    )
}

/// What the writes of one leaf share.
pub(crate) struct Desk {
    label: Arc<str>,
    writer: Arc<dyn Writer>,
    rejections: Arc<Rejections>,
    health: HealthHandle,
    standing: sync::Mutex<Standing>,
    /// Failures in a row, of whichever batch.
    failures: AtomicU32,
    /// Held by the one batch that tries while everything fails.
    turn: Mutex<()>,
    limit: Limit,
    retry: RetryPolicy,
    drops: Option<DropRule>,
    taken: Taken,
    sent: IntCounter,
    batches: IntCounter,
    errors: IntCounter,
    dropped: IntCounter,
}

/// Why a batch will not arrive as it is.
enum Never {
    /// Smaller parts of it may.
    Refused(String),
    /// Smaller parts of it may, for all of it together is too large.
    TooLarge(String),
    /// None of it: it was tried for long enough.
    GivenUp(String),
    /// None of it, on purpose.
    Dropped,
}

/// What `/ready` says of this output.
#[derive(Default)]
struct Standing {
    /// Why nothing gets through.
    outage: Option<String>,
    /// Why most of what gets through is rejected.
    refusal: Option<String>,
    lately: Lately,
}

impl Standing {
    fn tell(&self, health: &HealthHandle) {
        match self.outage.as_ref().or(self.refusal.as_ref()) {
            Some(reason) => health.not_ready(reason.as_str()),
            None => health.ready(""),
        }
    }
}

/// Messages of one batch that came to an end and are not told of yet.
#[derive(Default)]
struct Tally {
    settled: usize,
    rejected: usize,
    reason: String,
}

/// Messages with their acks, in two lists, for the writer wants the messages in a row.
struct Batch {
    messages: Vec<Message>,
    acks: Vec<Ack>,
}

impl Batch {
    fn split_off(&mut self, at: usize) -> Self {
        Self {
            messages: self.messages.split_off(at),
            acks: self.acks.split_off(at),
        }
    }
}

impl Desk {
    pub(crate) fn new(
        node: WriterNode,
        metrics: &Metrics,
        health: &Health,
        rejections: Arc<Rejections>,
    ) -> Self {
        let labels = [("label", node.label.as_ref())];
        let handle = health.register(format!("output {}", node.label));
        handle.ready("nothing was sent yet");
        Self {
            writer: node.writer,
            rejections,
            health: handle,
            failures: AtomicU32::new(0),
            turn: Mutex::new(()),
            standing: sync::Mutex::default(),
            limit: Limit::default(),
            sent: metrics.counter("output_sent", "Messages that arrived.", &labels),
            batches: metrics.counter("output_batch_sent", "Batches that arrived.", &labels),
            errors: metrics.counter("output_error", "Writes that failed.", &labels),
            dropped: dropped(metrics, &node.label),
            retry: node.retry,
            drops: node.drops,
            taken: node.taken,
            label: node.label,
        }
    }

    /// The most bytes to put into one batch.
    pub(crate) fn limit(&self) -> usize {
        self.limit.bytes()
    }

    /// Writes a batch. Ends when each of its messages is delivered or rejected.
    pub(crate) async fn write(&self, deliveries: Vec<Delivery>) {
        let (messages, acks) = deliveries
            .into_iter()
            .map(|Delivery { message, ack }| (message, ack))
            .unzip();
        // Parts are written in order, so that the messages of one object stay in order.
        let mut parts = VecDeque::from([Batch { messages, acks }]);
        let (mut seen, mut tally) = (Seen::default(), Tally::default());
        while let Some(mut part) = parts.pop_front() {
            if part.messages.is_empty() {
                continue;
            }
            let written = self.until_final(&part.messages).await;
            match &written {
                Ok(()) | Err(Never::Refused(_)) => seen.fit(&part.messages),
                Err(Never::TooLarge(reason)) => seen.refused(&part.messages, reason.clone()),
                Err(Never::GivenUp(_) | Never::Dropped) => {}
            }
            match written {
                Err(Never::Refused(_) | Never::TooLarge(_)) if part.messages.len() > 1 => {
                    let rest = part.split_off(part.messages.len().div_ceil(2));
                    parts.push_front(rest);
                    parts.push_front(part);
                }
                written => self.settle(part, written, &mut tally).await,
            }
        }
        self.judge(&mut tally);
        if let Some((bytes, reason)) = self.limit.learn(seen) {
            info!(output = %self.label, bytes, "{reason}; batches are made smaller");
        }
    }

    /// Ends what can be cut no further.
    async fn settle(&self, part: Batch, written: Result<(), Never>, tally: &mut Tally) {
        tally.settled = tally.settled.saturating_add(part.messages.len());
        match written {
            Ok(()) => {
                self.sent.inc_by(part.acks.len() as u64);
                self.batches.inc();
                for ack in part.acks {
                    let outcome = self.taken(&ack);
                    ack.resolve(outcome);
                }
            }
            Err(Never::Dropped) => self.drop_all(part.acks),
            Err(Never::Refused(reason) | Never::TooLarge(reason)) if self.is_dropped(&reason) => {
                self.drop_all(part.acks);
            }
            Err(Never::Refused(reason)) => self.reject(part, Cause::Refused, reason, tally).await,
            Err(Never::TooLarge(reason)) => self.reject(part, Cause::TooLarge, reason, tally).await,
            Err(Never::GivenUp(reason)) => self.reject(part, Cause::GivenUp, reason, tally).await,
        }
        if tally.settled >= TOLD {
            self.judge(tally);
        }
    }

    async fn reject(&self, part: Batch, cause: Cause, reason: String, tally: &mut Tally) {
        tally.rejected = tally.rejected.saturating_add(part.messages.len());
        let rejection = Rejection::new(cause, Arc::clone(&self.label), reason.as_str());
        for (message, ack) in part.messages.into_iter().zip(part.acks) {
            self.rejections
                .reject(message, ack, rejection.clone())
                .await;
        }
        tally.reason = reason;
    }

    /// What it means for a message that it was written.
    fn taken(&self, ack: &Ack) -> Outcome {
        match (self.taken, ack.refused()) {
            (Taken::Dropped, _) => Outcome::Dropped(Arc::clone(&self.label)),
            (Taken::Kept, Some(refused)) => Outcome::Rejected(Arc::clone(refused)),
            (Taken::Kept, None) | (Taken::Delivered, _) => Outcome::Delivered,
        }
    }

    fn is_dropped(&self, reason: &str) -> bool {
        self.drops.as_ref().is_some_and(|drops| drops(reason))
    }

    fn drop_all(&self, acks: Vec<Ack>) {
        self.dropped.inc_by(acks.len() as u64);
        for ack in acks {
            ack.resolve(Outcome::Dropped(Arc::clone(&self.label)));
        }
    }

    /// Whether to go on, after so many tries since then.
    fn may_retry(&self, tries: u32, since: Instant) -> bool {
        let RetryPolicy {
            most,
            no_longer_than,
            ..
        } = self.retry;
        most.is_none_or(|most| tries <= most)
            && no_longer_than.is_none_or(|limit| since.elapsed() < limit)
    }

    /// Writes until the answer is final: it arrived, or as a whole it never will.
    async fn until_final(&self, messages: &[Message]) -> Result<(), Never> {
        let mut turn: Option<MutexGuard<'_, ()>> = None;
        let (mut tries, since) = (0_u32, Instant::now());
        loop {
            if turn.is_none() && self.failures.load(Ordering::Relaxed) >= FAILURES_BEFORE_ONE_BY_ONE
            {
                turn = Some(self.turn.lock().await);
            }
            let error = match self.writer.write(messages).await {
                Ok(()) => {
                    self.answered();
                    return Ok(());
                }
                Err(error) => error,
            };
            self.errors.inc();
            tries = tries.saturating_add(1);
            let (reason, after) = match error {
                WriteError::Retry { reason, after } => (reason, after),
                WriteError::Unauthorized { reason } => (reason, Some(UNAUTHORIZED_PAUSE)),
                WriteError::TooLarge { reason } => {
                    self.answered();
                    return Err(Never::TooLarge(reason));
                }
                WriteError::Rejected { reason } => {
                    self.answered();
                    return Err(Never::Refused(reason));
                }
            };
            let failures = self.failed(&reason);
            if self.is_dropped(&reason) {
                return Err(Never::Dropped);
            }
            if !self.may_retry(tries, since) {
                return Err(Never::GivenUp(reason));
            }
            sleep(backoff::pause(&self.retry, failures, after)).await;
        }
    }

    /// Notes a failure; gives back how many there were in a row.
    fn failed(&self, reason: &str) -> u32 {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let mut standing = self.standing();
        standing.outage = Some(reason.to_owned());
        standing.tell(&self.health);
        drop(standing);
        // The first failure and then ever fewer, so that an hour's outage is a dozen lines.
        if failures.is_power_of_two() {
            warn!(output = %self.label, failures, "{reason}; trying again, nothing is lost");
        }
        failures
    }

    /// The other side works, whether it took this batch or not.
    fn answered(&self) {
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures > 0 {
            info!(output = %self.label, failures, "it answers again");
        }
        let mut standing = self.standing();
        standing.outage = None;
        standing.tell(&self.health);
    }

    /// One event that is rejected is the event's fault; when most of them are it is a matter of how
    /// this is set up, and somebody has to see it.
    fn judge(&self, tally: &mut Tally) {
        let Tally {
            settled,
            rejected,
            reason,
        } = std::mem::take(tally);
        if settled == 0 {
            return;
        }
        let mut standing = self.standing();
        standing.lately.note(settled, rejected);
        if !standing.lately.most_failed() {
            if standing.refusal.take().is_some() {
                info!(output = %self.label, "most events are taken again");
            }
        } else if rejected > 0 {
            let reason = format!("most events are rejected: {reason}");
            if standing.refusal.is_none() {
                error!(output = %self.label, "{reason}");
            }
            standing.refusal = Some(reason);
        }
        standing.tell(&self.health);
    }

    fn standing(&self) -> sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
