//! The chunks of a batch that wait to be written, and when each one is due.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use meterline_core::{Ack, Message, RetryPolicy};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Duration, Instant, sleep_until},
};

use crate::{
    delivery::Delivery,
    evidence::{Evidence, Mark},
    size_limit::bytes,
    suspected::Suspected,
};

/// A batch that failed this often makes way for others. They may succeed, although an outage looks the
/// same.
const OFTEN: u32 = 12;

/// Messages with their acks, in two lists because the writer needs the messages in a slice.
pub(crate) struct Chunk {
    /// Unique in this process; a chunk that is split off gets another number.
    pub(crate) number: u64,
    pub(crate) messages: Vec<Message>,
    pub(crate) acks: Vec<Ack>,
    /// How often the chunk was written unsuccessfully in its current form. Verdicts before the first
    /// success do not count.
    pub(crate) tries: u32,
    /// When these tries began.
    pub(crate) since: Instant,
    /// The successes until the last failure of this chunk, or of the one that it was split from.
    pub(crate) failed: Option<Mark>,
    /// The same for the last response that it is too large.
    pub(crate) too_large: Option<Mark>,
    /// The failures of a single message.
    pub(crate) alone: Alone,
    /// Whether it failed in its current form.
    pub(crate) has_failed: bool,
    /// Whether it, or the chunk that it was split from, took long to fail.
    pub(crate) has_hung: bool,
    /// Whether an event of its object failed while others were accepted.
    pub(crate) is_known: bool,
    /// Whether it is the one event of a blocked object that is tried after a pause.
    pub(crate) is_admitted: bool,
    /// Whether it got a verdict before the first success.
    pub(crate) held: bool,
    /// When it is written again.
    due: Instant,
    /// When it is written again if another request succeeds meanwhile.
    early: Instant,
}

/// The failures of a single message.
#[derive(Default)]
pub(crate) struct Alone {
    /// The successes until the first time that it failed alone.
    pub(crate) since: Option<Mark>,
    /// How often it failed again, each time after another request had succeeded since its previous
    /// failure.
    pub(crate) failures: u32,
    /// Whether it failed for another reason than its size.
    pub(crate) failed_otherwise: bool,
    /// Whether it failed often enough to be rejected, but with a short time limit. It is sent again
    /// with the configured one.
    pub(crate) needs_full_limit: bool,
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Chunk {
    pub(crate) fn new(deliveries: Vec<Delivery>) -> Self {
        let now = Instant::now();
        let (messages, acks) = deliveries
            .into_iter()
            .map(|Delivery { message, ack }| (message, ack))
            .unzip();
        Self {
            number: next_number(),
            messages,
            acks,
            tries: 0,
            since: now,
            failed: None,
            too_large: None,
            alone: Alone::default(),
            has_failed: false,
            has_hung: false,
            is_known: false,
            is_admitted: false,
            held: false,
            due: now,
            early: now,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        bytes(&self.messages)
    }

    /// Returns what the failures of a single message are attributed to.
    pub(crate) fn suspected(&self) -> Option<Suspected> {
        match self.messages.as_slice() {
            [only] => Suspected::of(only),
            _ => None,
        }
    }

    /// Returns what the failures of the message at this position are attributed to.
    pub(crate) fn suspected_at(&self, at: usize) -> Option<Suspected> {
        Suspected::of(self.messages.get(at)?)
    }

    /// Whether it is a single message that failed again after others had been accepted.
    pub(crate) fn is_suspect(&self) -> bool {
        self.alone.failures > 0
    }

    /// Whether another request succeeded since it failed.
    pub(crate) fn others_succeed(&self, evidence: &Evidence) -> bool {
        self.failed
            .is_some_and(|mark| evidence.succeeded_since(mark))
    }

    /// Whether it may contain the message that makes the server hang, while the server accepts others.
    /// The search for that message uses a short time limit; a request that decides uses the configured
    /// one.
    pub(crate) fn is_searched(&self, evidence: &Evidence) -> bool {
        let decides = self.is_admitted || self.alone.needs_full_limit;
        self.has_hung && !decides && self.others_succeed(evidence)
    }

    /// Splits off the messages from `at` on. The new chunk shares the history of the whole, but was
    /// never tried in its current form.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        self.has_failed = false;
        let mut rest = Self {
            number: next_number(),
            messages: self.messages.split_off(at),
            acks: self.acks.split_off(at),
            alone: Alone::default(),
            ..*self
        };
        rest.forget_tries();
        rest
    }

    /// Takes out the message at this position.
    pub(crate) fn cut_out(&mut self, at: usize) -> Self {
        let mut behind = self.split_off(at.saturating_add(1));
        let cut = self.split_off(at);
        self.messages.append(&mut behind.messages);
        self.acks.append(&mut behind.acks);
        cut
    }

    /// Resets the tries and their time, so that nothing before counts towards the limits.
    pub(crate) fn forget_tries(&mut self) {
        (self.tries, self.since) = (0, Instant::now());
    }

    /// Whether the limits allow another try.
    pub(crate) fn may_retry(&self, policy: &RetryPolicy) -> bool {
        let RetryPolicy {
            most,
            no_longer_than,
            ..
        } = *policy;
        most.is_none_or(|most| self.tries <= most)
            && no_longer_than.is_none_or(|limit| self.since.elapsed() < limit)
    }

    fn due(&self, evidence: &Evidence) -> Instant {
        // A chunk that got a verdict before the first success is tried again as soon as a request
        // succeeds.
        if self.others_succeed(evidence) || self.held && evidence.has_succeeded() {
            self.early
        } else {
            self.due
        }
    }
}

/// Messages that make way for others.
#[derive(Clone, Copy)]
pub(crate) enum Backlog {
    /// The size in KiB of messages that failed again after others had been accepted.
    Suspects(usize),
    /// The size in KiB of a batch that took long to fail while others were accepted.
    Slow(usize),
    /// The number of messages that failed alone, or very often.
    Unproven(usize),
}

/// The permit with which a batch sends its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The slot that the batch keeps.
    Slot,
    /// A slot for each request. Messages that failed use at most half of the slots.
    Unproven,
    /// The extra lane for the leading batch, and slots as in [`Lane::Unproven`] for the others.
    Slow,
    /// The extra lane only.
    Suspects,
}

/// The chunks of one batch.
pub(crate) struct Chunks {
    waiting: VecDeque<Chunk>,
    taken: watch::Receiver<u64>,
    /// The right to have a request in flight, while the batch keeps it.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
    /// The capacity that its messages use, if the batch has given up its slot.
    pub(crate) capacity: Option<OwnedSemaphorePermit>,
    pub(crate) lane: Lane,
    /// The right of one slow batch to use the extra lane.
    pub(crate) leads: Option<OwnedSemaphorePermit>,
    /// Whether it took long to fail while others were accepted.
    pub(crate) is_slow: bool,
}

impl Chunks {
    pub(crate) fn new(evidence: &Evidence, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            waiting: VecDeque::new(),
            taken: evidence.subscribe(),
            slot,
            capacity: None,
            lane: Lane::Slot,
            leads: None,
            is_slow: false,
        }
    }

    /// Adds a chunk that is due at once, before or behind all others.
    pub(crate) fn put(&mut self, mut chunk: Chunk, first: bool) {
        if chunk.messages.is_empty() {
            return;
        }
        let now = Instant::now();
        (chunk.due, chunk.early) = (now, now);
        if first {
            self.waiting.push_front(chunk);
        } else {
            self.waiting.push_back(chunk);
        }
    }

    /// Takes over the chunks of another batch, including their pauses.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.waiting.append(&mut other.waiting);
    }

    /// Puts both halves of a chunk before all others.
    pub(crate) fn halve(&mut self, chunk: &mut Chunk) {
        let rest = chunk.split_off(chunk.len().div_ceil(2));
        let first = chunk.split_off(0);
        self.put(rest, true);
        self.put(first, true);
    }

    /// Puts back a chunk. It is written again after `pause`, or after `early` if another request
    /// succeeds meanwhile.
    pub(crate) fn put_back(&mut self, mut chunk: Chunk, pause: Duration, early: Duration) {
        let now = Instant::now();
        chunk.due = now + pause;
        chunk.early = now + early.min(pause);
        self.waiting.push_back(chunk);
    }

    /// Puts back a chunk that got a verdict before the first success. Only one of these is tried at a
    /// time.
    pub(crate) fn hold(&mut self, mut chunk: Chunk, pause: Duration) {
        let due = Instant::now() + pause;
        for held in self.waiting.iter_mut().filter(|it| it.held) {
            held.due = held.due.max(due);
        }
        chunk.held = true;
        self.put_back(chunk, pause, Duration::ZERO);
    }

    /// Returns the capacity that these messages need, if they took long to fail, or if each one failed
    /// alone or very often, or is held.
    pub(crate) fn backlog(&self) -> Option<Backlog> {
        let failed = |chunk: &Chunk| {
            let often = chunk.failed.is_some() && chunk.tries >= OFTEN;
            // A chunk that got a verdict before the first success must not block others.
            often || chunk.held || chunk.is_known || chunk.alone.since.is_some()
        };
        let is_suspect = |chunk: &Chunk| chunk.is_known || chunk.is_suspect();
        let kibibytes = || {
            let each = self.waiting.iter().map(|chunk| chunk.bytes() / 1_024 + 1);
            each.sum()
        };
        if self.waiting.is_empty() {
            None
        } else if self.waiting.iter().all(is_suspect) {
            Some(Backlog::Suspects(kibibytes()))
        } else if self.is_slow {
            Some(Backlog::Slow(kibibytes()))
        } else if self.waiting.iter().all(failed) {
            let messages = self.waiting.iter().map(Chunk::len).sum();
            Some(Backlog::Unproven(messages))
        } else {
            None
        }
    }

    /// Returns the next chunk when it is due; `None` if there are no more.
    pub(crate) async fn next(&mut self, evidence: &Evidence) -> Option<Chunk> {
        loop {
            self.taken.mark_unchanged();
            let now = Instant::now();
            let mut due = self.waiting.iter().map(|chunk| chunk.due(evidence));
            // Of the chunks that are due, the first one comes first: the messages of one object stay in
            // order unless one of them fails.
            if let Some(index) = due.clone().position(|due| due <= now) {
                return self.waiting.remove(index);
            }
            let due = due.by_ref().min()?;
            tokio::select! {
                () = sleep_until(due) => {}
                _ = self.taken.changed() => {}
            }
        }
    }
}
