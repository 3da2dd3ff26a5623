//! Writes one batch, whatever it takes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use meterline_core::{
    Ack, DropRule, Health, HealthHandle, IntCounter, Message, Metrics, Outcome, RetryPolicy,
    WriteError, Writer, WriterNode,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{backoff, rejections::Rejections, sink::Delivery};

/// After so many failures in a row one batch at a time tries; the others wait for it.
const FAILURES_BEFORE_ONE_BY_ONE: u32 = 3;
/// The pause while the other side refuses us.
const UNAUTHORIZED_PAUSE: Duration = Duration::from_secs(10);

/// What the writes of one leaf share.
pub(crate) struct Desk {
    label: Arc<str>,
    writer: Arc<dyn Writer>,
    rejections: Arc<Rejections>,
    health: HealthHandle,
    /// Failures in a row, of whichever batch.
    failures: AtomicU32,
    /// Held by the one batch that tries while everything fails.
    turn: Mutex<()>,
    /// The most messages that the other side takes at once, as far as it told.
    limit: AtomicUsize,
    retry: RetryPolicy,
    drops: Option<DropRule>,
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

/// What was seen of how much the other side takes, while one batch was written in parts.
#[derive(Default)]
struct Sizes {
    /// The largest part that arrived.
    taken: usize,
    /// Why a part of several was too large.
    refused: Option<String>,
    /// A message is too large alone: whatever it was part of says nothing of others.
    one_is_too_large: bool,
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
            limit: AtomicUsize::new(usize::MAX),
            sent: metrics.counter("output_sent", "Messages that arrived.", &labels),
            batches: metrics.counter("output_batch_sent", "Batches that arrived.", &labels),
            errors: metrics.counter("output_error", "Writes that failed.", &labels),
            dropped: metrics.counter(
                "output_dropped",
                "Messages that were dropped for an error, as `drop_on` says.",
                &labels,
            ),
            retry: node.retry,
            drops: node.drops,
            label: node.label,
        }
    }

    /// The most messages to put into one batch.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Writes a batch. Ends when each of its messages is delivered or rejected.
    pub(crate) async fn write(&self, deliveries: Vec<Delivery>) {
        let (messages, acks) = deliveries
            .into_iter()
            .map(|Delivery { message, ack }| (message, ack))
            .unzip();
        // Parts are written in order, so that the messages of one object stay in order.
        let mut parts = VecDeque::from([Batch { messages, acks }]);
        let mut sizes = Sizes::default();
        while let Some(mut part) = parts.pop_front() {
            if part.messages.is_empty() {
                continue;
            }
            match self.until_final(&part.messages).await {
                Ok(()) => {
                    sizes.taken = sizes.taken.max(part.messages.len());
                    self.sent.inc_by(part.acks.len() as u64);
                    self.batches.inc();
                    for ack in part.acks {
                        ack.resolve(Outcome::Delivered);
                    }
                }
                Err(Never::Dropped) => self.drop_all(part.acks),
                Err(never @ (Never::Refused(_) | Never::TooLarge(_)))
                    if part.messages.len() > 1 =>
                {
                    if let Never::TooLarge(reason) = never {
                        sizes.refused = Some(reason);
                    }
                    let rest = part.split_off(part.messages.len().div_ceil(2));
                    parts.push_front(rest);
                    parts.push_front(part);
                }
                Err(Never::TooLarge(reason)) => {
                    // It is too large by itself, and the batches that it was in because of it.
                    sizes.one_is_too_large = true;
                    self.refuse(part, &reason).await;
                }
                Err(Never::Refused(reason)) => self.refuse(part, &reason).await,
                Err(Never::GivenUp(reason)) => self.reject_all(part, &reason).await,
            }
        }
        self.learn(sizes);
    }

    /// Remembers how many messages the other side takes at once.
    fn learn(&self, sizes: Sizes) {
        let Some(reason) = sizes.refused.filter(|_| !sizes.one_is_too_large) else {
            return;
        };
        let most = sizes.taken.max(1);
        if self.limit.fetch_min(most, Ordering::Relaxed) > most {
            info!(output = %self.label, most, "{reason}; batches are made smaller");
        }
    }

    async fn refuse(&self, part: Batch, reason: &str) {
        if self.is_dropped(reason) {
            self.drop_all(part.acks);
        } else {
            self.reject_all(part, reason).await;
        }
    }

    async fn reject_all(&self, part: Batch, reason: &str) {
        for (message, ack) in part.messages.into_iter().zip(part.acks) {
            self.rejections.reject(message, ack, reason).await;
        }
    }

    fn is_dropped(&self, reason: &str) -> bool {
        self.drops.as_ref().is_some_and(|drops| drops(reason))
    }

    fn drop_all(&self, acks: Vec<Ack>) {
        self.dropped.inc_by(acks.len() as u64);
        for ack in acks {
            ack.resolve(Outcome::Delivered);
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
                    self.recovered();
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
        self.health.not_ready(reason);
        // The first failure and then ever fewer, so that an hour's outage is a dozen lines.
        if failures.is_power_of_two() {
            warn!(output = %self.label, failures, "{reason}; trying again, nothing is lost");
        }
        failures
    }

    /// The other side works, though it did not take this batch.
    fn answered(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    fn recovered(&self) {
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures > 0 {
            info!(output = %self.label, failures, "delivering again");
        }
        self.health.ready("");
    }
}
