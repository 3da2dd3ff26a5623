//! The parts of a batch that wait to be written, and when each is due.

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
    pulse::{Mark, Pulse},
    size_limit::bytes,
};

/// A batch that failed so often makes way for others: they may pass, though an outage looks the same.
const OFTEN: u32 = 12;

/// Messages with their acks, in two lists, for the writer wants the messages in a row.
pub(crate) struct Part {
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
    /// How a single message fared.
    pub(crate) alone: Alone,
    /// It failed as it is.
    pub(crate) stumbled: bool,
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

/// How a single message fared.
#[derive(Default)]
pub(crate) struct Alone {
    /// What had been taken when it failed alone for the first time.
    pub(crate) since: Option<Mark>,
    /// How often it failed after another request had been taken since it failed before.
    pub(crate) failures: u32,
    /// The other side failed for it in another way than by saying that it is too large.
    pub(crate) failed_otherwise: bool,
    /// It failed often enough to be set aside, but within a short time limit: it is sent again with the
    /// configured one.
    pub(crate) needs_full_limit: bool,
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Part {
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
            stumbled: false,
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
    pub(crate) fn others_pass(&self, pulse: &Pulse) -> bool {
        self.failed.is_some_and(|mark| pulse.took_since(mark))
    }

    /// Whether it may hold the message that makes the server hang, while the server takes others: it is
    /// looked for with a short time limit. What decides has the configured one.
    pub(crate) fn is_searched(&self, pulse: &Pulse) -> bool {
        let decides = self.is_admitted || self.alone.needs_full_limit;
        self.has_hung && !decides && self.others_pass(pulse)
    }

    /// Cuts off what is behind `at`. It was part of everything that happened to the whole, but was
    /// never tried as it is now.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        self.stumbled = false;
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

    fn due(&self, pulse: &Pulse) -> Instant {
        // What was judged when nothing had been taken yet is judged anew as soon as something is.
        if self.others_pass(pulse) || self.held && pulse.has_taken() {
            self.early
        } else {
            self.due
        }
    }
}

/// Messages that make way for others.
#[derive(Clone, Copy)]
pub(crate) enum Crowd {
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

/// The parts of one batch.
pub(crate) struct Parts {
    waiting: VecDeque<Part>,
    taken: watch::Receiver<u64>,
    /// The right to have a request under way, while the batch keeps it.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
    /// The room that its messages take, if they gave up the slot.
    pub(crate) room: Option<OwnedSemaphorePermit>,
    pub(crate) lane: Lane,
    /// The right of one slow batch to the extra lane.
    pub(crate) leads: Option<OwnedSemaphorePermit>,
    /// It took long to fail while others were taken.
    pub(crate) is_slow: bool,
}

impl Parts {
    pub(crate) fn new(pulse: &Pulse, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            waiting: VecDeque::new(),
            taken: pulse.subscribe(),
            slot,
            room: None,
            lane: Lane::Slot,
            leads: None,
            is_slow: false,
        }
    }

    /// Adds a part that is due at once, before or behind all others.
    pub(crate) fn put(&mut self, mut part: Part, first: bool) {
        if part.messages.is_empty() {
            return;
        }
        let now = Instant::now();
        (part.due, part.early) = (now, now);
        if first {
            self.waiting.push_front(part);
        } else {
            self.waiting.push_back(part);
        }
    }

    /// Takes over the parts of another batch, with their pauses.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.waiting.append(&mut other.waiting);
    }

    /// Puts both halves of a part before all others.
    pub(crate) fn halve(&mut self, part: &mut Part) {
        let rest = part.split_off(part.len().div_ceil(2));
        let first = part.split_off(0);
        self.put(rest, true);
        self.put(first, true);
    }

    /// Puts back a part that is to be written again after `pause`, or already after `early` where
    /// another request is taken meanwhile.
    pub(crate) fn put_back(&mut self, mut part: Part, pause: Duration, early: Duration) {
        let now = Instant::now();
        part.due = now + pause;
        part.early = now + early.min(pause);
        self.waiting.push_back(part);
    }

    /// Puts back one that was judged when nothing had been taken yet. One of those is tried at a time.
    pub(crate) fn hold(&mut self, mut part: Part, pause: Duration) {
        let due = Instant::now() + pause;
        for held in self.waiting.iter_mut().filter(|it| it.held) {
            held.due = held.due.max(due);
        }
        part.held = true;
        self.put_back(part, pause, Duration::ZERO);
    }

    /// The room that these messages take, if each of them failed alone or very often, or is held, or if
    /// they took long to fail.
    pub(crate) fn crowd(&self) -> Option<Crowd> {
        let failed = |part: &Part| {
            let often = part.failed.is_some() && part.tries >= OFTEN;
            // What was judged when nothing had been taken yet must not keep others from being tried.
            often || part.held || part.is_known || part.alone.since.is_some()
        };
        let is_suspect = |part: &Part| part.is_known || part.is_suspect();
        let kibibytes = || {
            let each = self.waiting.iter().map(|part| part.bytes() / 1_024 + 1);
            each.sum()
        };
        if self.waiting.is_empty() {
            None
        } else if self.waiting.iter().all(is_suspect) {
            Some(Crowd::Suspects(kibibytes()))
        } else if self.is_slow {
            Some(Crowd::Slow(kibibytes()))
        } else if self.waiting.iter().all(failed) {
            let messages = self.waiting.iter().map(Part::len).sum();
            Some(Crowd::Unproven(messages))
        } else {
            None
        }
    }

    /// The next that is due; `None` when there are no more.
    pub(crate) async fn next(&mut self, pulse: &Pulse) -> Option<Part> {
        loop {
            self.taken.mark_unchanged();
            let now = Instant::now();
            let mut due = self.waiting.iter().map(|part| part.due(pulse));
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
