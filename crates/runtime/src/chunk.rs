//! The chunks of a batch that wait to be written, and when each is due.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
};

/// A batch that failed so often makes way for others: they may pass, though an outage looks the same.
const OFTEN: u32 = 12;

/// Messages with their acks, in two lists, for the writer wants the messages in a row.
pub(crate) struct Chunk {
    /// Of this process; what is cut off has another one.
    pub(crate) number: u64,
    pub(crate) messages: Vec<Message>,
    pub(crate) acks: Vec<Ack>,
    /// How often it was written in vain as it is, but for verdicts while nothing was taken yet.
    pub(crate) tries: u32,
    /// Since when.
    pub(crate) since: Instant,
    /// What had been taken when it, or what it was cut from, failed last.
    pub(crate) failed: Option<Mark>,
    /// The same, of an answer that it is too large.
    pub(crate) too_large: Option<Mark>,
    /// The failures of a single message.
    pub(crate) alone: Alone,
    /// It failed as it is.
    pub(crate) has_failed: bool,
    /// It, or what it was cut from, took long to fail.
    pub(crate) has_hung: bool,
    /// It is about an object of which an event failed while others were taken.
    pub(crate) is_known: bool,
    /// It is the one event of a convicted object that is tried after a pause.
    pub(crate) is_admitted: bool,
    /// It was judged when nothing had been taken yet.
    pub(crate) held: bool,
    /// When it is written again.
    due: Instant,
    /// When it is written again if another request is taken meanwhile.
    early: Instant,
}

/// The failures of a single message.
#[derive(Default)]
pub(crate) struct Alone {
    /// What had been taken when it failed alone for the first time.
    pub(crate) since: Option<Mark>,
    /// How often it failed after another request had been taken since it failed before.
    pub(crate) failures: u32,
    /// The server failed for it in another way than by saying that it is too large.
    pub(crate) failed_otherwise: bool,
    /// It failed often enough to be set aside, but within a short time limit: it is sent again with the
    /// configured one.
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

    /// The object that a single message is about.
    pub(crate) fn object(&self) -> Option<&Arc<str>> {
        match self.messages.as_slice() {
            [only] => Some(&only.identity()?.uid),
            _ => None,
        }
    }

    /// The object that the message at this place is about.
    pub(crate) fn object_at(&self, at: usize) -> Option<Arc<str>> {
        Some(Arc::clone(&self.messages.get(at)?.identity()?.uid))
    }

    /// Whether it is a single message that failed again after others had been taken.
    pub(crate) fn is_suspect(&self) -> bool {
        self.alone.failures > 0
    }

    /// Whether another request was taken since it failed.
    pub(crate) fn others_succeed(&self, evidence: &Evidence) -> bool {
        self.failed
            .is_some_and(|mark| evidence.succeeded_since(mark))
    }

    /// Whether it may hold the message that makes the server hang, while the server takes others: it is
    /// looked for with a short time limit. What decides has the configured one.
    pub(crate) fn is_searched(&self, evidence: &Evidence) -> bool {
        let decides = self.is_admitted || self.alone.needs_full_limit;
        self.has_hung && !decides && self.others_succeed(evidence)
    }

    /// Cuts off what is behind `at`. It has taken part in everything that happened to the whole, but was
    /// never tried as it is now.
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

    /// Cuts out the message at this place.
    pub(crate) fn cut_out(&mut self, at: usize) -> Self {
        let mut behind = self.split_off(at.saturating_add(1));
        let cut = self.split_off(at);
        self.messages.append(&mut behind.messages);
        self.acks.append(&mut behind.acks);
        cut
    }

    /// Nothing that happened so far counts for the limits of tries.
    pub(crate) fn forget_tries(&mut self) {
        (self.tries, self.since) = (0, Instant::now());
    }

    /// Whether it may be tried again.
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
        // What was judged when nothing had been taken yet is judged anew as soon as something is.
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
    /// So many kibibytes of messages that failed again after others had been taken.
    Suspects(usize),
    /// So many kibibytes of a batch that took long to fail while others were taken.
    Slow(usize),
    /// So many messages that failed alone, or very often.
    Unproven(usize),
}

/// By which right a batch sends its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The slot that it keeps.
    Slot,
    /// A slot for each request, of which messages that failed have half at most.
    Unproven,
    /// The extra lane for the batch that leads, and a slot like [`Lane::Unproven`] for the others.
    Slow,
    /// The extra lane and nothing else.
    Suspects,
}

/// The chunks of one batch.
pub(crate) struct Chunks {
    waiting: VecDeque<Chunk>,
    taken: watch::Receiver<u64>,
    /// The right to have a request under way, while the batch keeps it.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
    /// The capacity that its messages take, if they gave up the slot.
    pub(crate) capacity: Option<OwnedSemaphorePermit>,
    pub(crate) lane: Lane,
    /// The right of one slow batch to the extra lane.
    pub(crate) leads: Option<OwnedSemaphorePermit>,
    /// It took long to fail while others were taken.
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

    /// Takes over the chunks of another batch, with their pauses.
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

    /// Puts back a chunk that is to be written again after `pause`, or already after `early` where
    /// another request is taken meanwhile.
    pub(crate) fn put_back(&mut self, mut chunk: Chunk, pause: Duration, early: Duration) {
        let now = Instant::now();
        chunk.due = now + pause;
        chunk.early = now + early.min(pause);
        self.waiting.push_back(chunk);
    }

    /// Puts back one that was judged when nothing had been taken yet. One of those is tried at a time.
    pub(crate) fn hold(&mut self, mut chunk: Chunk, pause: Duration) {
        let due = Instant::now() + pause;
        for held in self.waiting.iter_mut().filter(|it| it.held) {
            held.due = held.due.max(due);
        }
        chunk.held = true;
        self.put_back(chunk, pause, Duration::ZERO);
    }

    /// The room that these messages take, if each of them failed alone or very often, or is held, or if
    /// they took long to fail.
    pub(crate) fn backlog(&self) -> Option<Backlog> {
        let failed = |chunk: &Chunk| {
            let often = chunk.failed.is_some() && chunk.tries >= OFTEN;
            // What was judged when nothing had been taken yet must not keep others from being tried.
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

    /// The next that is due; `None` when there are no more.
    pub(crate) async fn next(&mut self, evidence: &Evidence) -> Option<Chunk> {
        loop {
            self.taken.mark_unchanged();
            let now = Instant::now();
            let mut due = self.waiting.iter().map(|chunk| chunk.due(evidence));
            // Of those that are due the first comes first: the messages of one object stay in order
            // unless one of them fails.
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
