//! Writes one batch, whatever it takes.
//!
//! What fails is written again, for ever. Where others are taken meanwhile it is not the other side
//! that is away, and what fails is halved until the message that is the reason stands alone. While
//! everything fails one request at a time is tried, and nothing is set aside.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use meterline_core::{
    Cause, Health, IntCounter, Message, Metrics, RetryPolicy, WriteError, Writer, WriterNode,
};
use tokio::{
    sync::{Mutex, MutexGuard, OwnedSemaphorePermit},
    time::{Duration, Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    backoff,
    delivery::Delivery,
    ends::{End, Ends},
    part::{Lane, Part, Parts},
    probe::Probes,
    pulse::Pulse,
    rejections::Rejections,
    room::Room,
    size_limit::{Limit, Seen},
    standing::{OutputStatus, Tally},
    suspects::{Admission, Suspects},
    trouble::{SLOW, Trouble},
};

/// After so many failures in a row one batch at a time tries; the others wait for it.
const FAILURES_BEFORE_ONE_BY_ONE: u32 = 3;
/// The pauses of a message that fails alone while others are taken grow up to that of this failure.
const PATIENCE: u32 = 3;

/// A failure after which it is soon tried again is told when it fails again.
const BRIEF: Duration = Duration::from_secs(5);

/// What the writes of one leaf share.
pub(crate) struct BatchWriter {
    label: Arc<str>,
    writer: Arc<dyn Writer>,
    ends: Ends,
    standing: OutputStatus,
    pulse: Pulse,
    probes: Probes,
    suspects: Suspects,
    /// Failures in a row, of whichever batch.
    failures: AtomicU32,
    /// Verdicts while nothing was taken yet.
    held: AtomicU32,
    /// Held by the one batch that tries while everything fails.
    retry_gate: Mutex<()>,
    room: Room,
    limit: Limit,
    retry: RetryPolicy,
    errors: IntCounter,
}

/// A batch on its way.
struct Batch {
    parts: Parts,
    seen: Seen,
    tally: Tally,
}

impl Batch {
    fn new(pulse: &Pulse, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            parts: Parts::new(pulse, slot),
            seen: Seen::default(),
            tally: Tally::default(),
        }
    }
}

impl BatchWriter {
    pub(crate) fn new(
        node: WriterNode,
        metrics: &Metrics,
        health: &Health,
        rejections: Arc<Rejections>,
    ) -> Self {
        let handle = health.register(format!("output {}", node.label));
        Self {
            ends: Ends::new(&node, metrics, rejections),
            writer: node.writer,
            standing: OutputStatus::new(Arc::clone(&node.label), handle),
            pulse: Pulse::default(),
            probes: Probes::default(),
            suspects: Suspects::default(),
            failures: AtomicU32::new(0),
            held: AtomicU32::new(0),
            retry_gate: Mutex::new(()),
            room: Room::new(node.max_in_flight),
            limit: Limit::default(),
            errors: metrics.counter(
                "output_error",
                "Writes that failed.",
                &[("label", &node.label)],
            ),
            retry: node.retry,
            label: node.label,
        }
    }

    /// The most bytes to put into one batch.
    pub(crate) fn limit(&self) -> usize {
        self.limit.bytes()
    }

    /// The right to have a request under way, once there is one.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.room.slot().await
    }

    /// Writes a batch. Ends when each of its messages is delivered, rejected or dropped.
    pub(crate) async fn write(
        &self,
        mut deliveries: Vec<Delivery>,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let suspects = self.suspects.take_from(&mut deliveries);
        let mut others = Batch::new(&self.pulse, slot);
        let alone = deliveries.is_empty();
        others.parts.put(Part::new(deliveries), false);
        let mut apart = Batch::new(&self.pulse, None);
        for delivery in suspects {
            let mut part = Part::new(vec![delivery]);
            (part.failed, part.is_known) = (Some(self.pulse.now()), true);
            if alone {
                apart.parts.put(part, false);
            } else {
                // Once something else is taken its failure says something.
                apart
                    .parts
                    .put_back(part, self.retry.longest, Duration::ZERO);
            }
        }
        self.room.make_way(&mut apart.parts);
        if apart.parts.lane == Lane::Suspects {
            tokio::join!(self.write_all(others), self.write_all(apart));
        } else {
            // There is no room: they are tried in the slot of the others, which is the back-pressure.
            others.parts.append(apart.parts);
            self.write_all(others).await;
        }
    }

    /// Writes all parts of a batch.
    async fn write_all(&self, mut batch: Batch) {
        while let Some(part) = batch.parts.next(&self.pulse).await {
            self.try_once(part, &mut batch).await;
            self.room.make_way(&mut batch.parts);
            if batch.tally.is_due() {
                self.standing.judge(&mut batch.tally);
            }
        }
        self.standing.judge(&mut batch.tally);
        self.standing.ends(&batch.tally);
        if let Some((bytes, reason)) = self.limit.learn(batch.seen) {
            info!(output = %self.label, bytes, "{reason}; batches are made smaller");
        }
    }

    /// The turn to try, if everything fails.
    async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if !self.is_outage() {
            return None;
        }
        let turn = self.retry_gate.lock().await;
        self.is_outage().then_some(turn)
    }

    fn is_outage(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_BEFORE_ONE_BY_ONE
    }

    /// Writes a part, or while everything fails perhaps a piece of it.
    async fn try_once(&self, part: Part, batch: &mut Batch) {
        let Some(part) = self.admitted(part, batch).await else {
            return;
        };
        let _rights = self.room.rights(&batch.parts).await;
        let Some(mut part) = self.admitted(part, batch).await else {
            return;
        };
        let turn = if part.is_suspect() && self.is_outage() {
            // Its failure would say nothing now: it waits for others to be taken while there are any.
            let Ok(turn) = self.retry_gate.try_lock() else {
                let early = self.short_pause(&part);
                return batch.parts.put_back(part, self.retry.longest, early);
            };
            Some(turn)
        } else {
            self.turn().await
        };
        let failures = self.failures.load(Ordering::Relaxed);
        let piece = turn.as_ref().and_then(|_| {
            self.probes
                .piece(part.len(), failures, |at| part.object_at(at))
        });
        let range = piece.clone().unwrap_or(0..part.len());
        if std::mem::take(&mut part.held) {
            // A verdict is an answer, and waiting until something is taken is no try in vain.
            part.forget_tries();
        }
        if piece.is_none() {
            part.tries = part.tries.saturating_add(1);
        }
        batch.tally.request();
        let messages = part.messages.get(range).unwrap_or(&part.messages);
        let (start, before) = (Instant::now(), self.pulse.now());
        let written = self.writer.write(messages).await;
        let Err(error) = written else {
            self.answered();
            if let Some(piece) = piece {
                let behind = part.split_off(piece.end);
                let taken = part.split_off(piece.start);
                batch.parts.put(behind, true);
                batch.parts.put(part, true);
                part = taken;
            }
            return self.took(part, batch).await;
        };
        self.errors.inc();
        match error {
            WriteError::Retry { .. }
            | WriteError::Failed { .. }
            | WriteError::Unauthorized { .. }
            | WriteError::Strange { .. } => {
                let trouble = Trouble::new(error, start.elapsed());
                let may_be_its_doing = trouble.cause.is_some() && piece.is_none();
                if may_be_its_doing && trouble.is_slow() && part.failed.is_none() {
                    // Others that are taken while it takes long to fail say as much as those after it.
                    part.failed = Some(before);
                }
                self.stumble(part, trouble, piece.is_some(), turn, batch)
                    .await;
            }
            WriteError::Unsendable { reason } => {
                let first = piece.map_or(0, |piece| piece.start);
                self.unsendable(part, first, reason, batch).await;
            }
            // What is said of a piece is said of the whole when that is written.
            _ if piece.is_some() => {
                self.answered();
                batch.parts.put(part, false);
            }
            WriteError::TooLarge { reason } => self.too_large(part, reason, turn, batch).await,
            WriteError::Rejected { reason } => self.refused(part, reason, batch).await,
            WriteError::Dropped { reason } => {
                self.answered();
                batch.seen.fit(&part.messages);
                if !self.halve(&mut part, &reason, batch) {
                    self.settle(part, End::Dropped, batch).await;
                }
            }
        }
    }

    /// The part, unless nothing of it is sent now. While everything fails nothing is set aside.
    async fn admitted(&self, part: Part, batch: &mut Batch) -> Option<Part> {
        if self.is_outage() {
            return Some(part);
        }
        let longest = self.retry.longest;
        match self.suspects.admit(part, &mut batch.parts, longest) {
            Admission::Sent(part) => Some(part),
            Admission::Waits => None,
            Admission::Denied(part, reason) => {
                let end = self.ends.unless_dropped(Cause::Poison, reason);
                self.settle(part, end, batch).await;
                None
            }
        }
    }

    async fn took(&self, part: Part, batch: &mut Batch) {
        if self.pulse.took(part.bytes(), part.stumbled) {
            info!(output = %self.label, events = part.len(), "the first delivery was taken");
        }
        batch.seen.fit(&part.messages);
        let identities = part.messages.iter().filter_map(Message::identity);
        self.suspects.clear(identities.map(|it| &it.uid));
        self.settle(part, End::Taken, batch).await;
    }

    /// No request can be made of the message at this place, which says nothing of the other side.
    async fn unsendable(&self, mut part: Part, at: usize, reason: String, batch: &mut Batch) {
        let behind = part.split_off(at.saturating_add(1));
        let first = part.split_off(at);
        batch.parts.put(behind, true);
        batch.parts.put(part, true);
        let end = self.ends.unless_dropped(Cause::Processing, reason);
        self.settle(first, end, batch).await;
    }

    /// A part is too large. That is believed of a single message if a smaller request was taken since
    /// it was said before.
    async fn too_large(
        &self,
        mut part: Part,
        reason: String,
        turn: Option<MutexGuard<'_, ()>>,
        batch: &mut Batch,
    ) {
        let before = part.too_large.replace(self.pulse.now());
        batch.seen.refused(&part.messages, reason.clone());
        if part.len() > 1 {
            return batch.parts.halve(&mut part);
        }
        if before.is_some_and(|mark| self.pulse.took_smaller_since(mark, part.bytes())) {
            self.answered();
            let end = self.ends.unless_dropped(Cause::TooLarge, reason);
            return self.settle(part, end, batch).await;
        }
        let reason = format!(
            "{reason}; a single event is too large and nothing smaller is taken, so this is not \
             believed: is there a proxy in between with a limit, such as nginx's \
             client_max_body_size?"
        );
        let trouble = Trouble {
            reason,
            asked: None,
            slow: Some(SLOW),
            lasted: Duration::ZERO,
            cause: Some(Cause::TooLarge),
        };
        self.stumble(part, trouble, false, turn, batch).await;
    }

    /// The other side refuses something in a part for good. As long as it never took anything it is
    /// not the events that are wrong.
    async fn refused(&self, mut part: Part, reason: String, batch: &mut Batch) {
        let counts = self.pulse.has_taken() || self.ends.is_dropped(&reason);
        if counts {
            self.answered();
            batch.seen.fit(&part.messages);
        }
        if self.halve(&mut part, &reason, batch) {
            return;
        }
        if counts {
            let end = self.ends.unless_dropped(Cause::Refused, reason);
            return self.settle(part, end, batch).await;
        }
        let reason = format!(
            "no event was taken since the start, and this one is refused: {reason}; check the URL, \
             the token and the mapping"
        );
        self.standing.outage(&reason);
        let held = self.held.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if held.is_power_of_two() {
            warn!(output = %self.label, "{reason}; trying again, nothing is lost");
        }
        batch.parts.hold(part, SLOW);
    }

    /// What may pass failed.
    async fn stumble(
        &self,
        mut part: Part,
        trouble: Trouble,
        is_piece: bool,
        turn: Option<MutexGuard<'_, ()>>,
        batch: &mut Batch,
    ) {
        let reason = &trouble.reason;
        let others_pass = trouble.cause.is_some() && part.others_pass(&self.pulse);
        let is_suspect = others_pass || part.is_suspect();
        batch.parts.is_slow |= others_pass && trouble.is_slow();
        let mut failures = if is_suspect {
            debug!(output = %self.label, events = part.len(), "{reason}; others are taken");
            1
        } else {
            self.failed(&trouble)
        };
        if self.ends.is_dropped(reason) {
            return self.settle(part, End::Dropped, batch).await;
        }
        if let Some(cause) = trouble.cause
            && !is_piece
        {
            part.stumbled = true;
            if cause != Cause::TooLarge && part.len() == 1 {
                // It is not its size then, whatever was said of what it was cut from.
                part.too_large = None;
                part.alone.failed_otherwise = true;
            }
            if others_pass && self.halve(&mut part, reason, batch) {
                return;
            }
            if part.len() == 1 {
                let is_crowded = self.room.is_crowded();
                let suspects = &self.suspects;
                if suspects.is_at_fault(&mut part, others_pass, &trouble, &self.pulse, is_crowded) {
                    let cause = if part.alone.failed_otherwise {
                        Cause::Poison
                    } else {
                        cause
                    };
                    let reason = format!(
                        "it fails whenever it is sent, and others are taken meanwhile: {reason}"
                    );
                    return self.settle(part, End::Rejected(cause, reason), batch).await;
                }
                if is_suspect {
                    failures = part.tries;
                }
            }
            part.failed = Some(self.pulse.now());
        }
        if !is_piece && !part.may_retry(&self.retry) {
            let end = End::Rejected(Cause::GivenUp, trouble.reason);
            return self.settle(part, end, batch).await;
        }
        self.pause(part, &trouble, failures, turn, batch).await;
    }

    /// Ends a part that is cut no further.
    async fn settle(&self, part: Part, end: End, batch: &mut Batch) {
        if let Some(object) = part.object() {
            self.suspects.release(object, part.number);
        }
        self.ends.settle(part, end, &mut batch.tally).await;
    }

    /// The pause where others are taken.
    fn short_pause(&self, part: &Part) -> Duration {
        let failures = part.alone.failures.saturating_add(1).min(PATIENCE);
        backoff::pause(&self.retry, failures, None)
    }

    /// Puts a part that failed back. While everything fails the turn is kept for the pause.
    async fn pause(
        &self,
        part: Part,
        trouble: &Trouble,
        failures: u32,
        turn: Option<MutexGuard<'_, ()>>,
        batch: &mut Batch,
    ) {
        let asked = trouble.asked.or(trouble.slow);
        let pause = backoff::pause(&self.retry, failures, asked);
        // What the other side asked for is kept to, whatever it does with others.
        let early = if trouble.asked.is_none() && trouble.cause.is_some() {
            self.short_pause(&part)
        } else {
            pause
        };
        if turn.is_none() || part.is_suspect() {
            return batch.parts.put_back(part, pause, early);
        }
        let mut taken = self.pulse.subscribe();
        if early < pause {
            // Whether the time is up or something was taken, it is tried again.
            let _ = timeout(pause, taken.changed()).await;
        } else {
            sleep(pause).await;
        }
        batch.parts.put(part, false);
    }

    /// Cuts a part of several messages in two and says so; false for a single one.
    fn halve(&self, part: &mut Part, reason: &str, batch: &mut Batch) -> bool {
        if part.len() < 2 {
            return false;
        }
        self.standing.bisects(part.len(), reason, &mut batch.tally);
        batch.parts.halve(part);
        true
    }

    /// Notes a failure; returns how many there were in a row.
    fn failed(&self, trouble: &Trouble) -> u32 {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let pause = trouble.asked.or(trouble.slow).unwrap_or(self.retry.first);
        let is_brief = pause.max(trouble.lasted) < BRIEF;
        self.standing.failed(&trouble.reason, failures, is_brief);
        failures
    }

    /// The other side works, whether it took this batch or not.
    fn answered(&self) {
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures > 0 {
            self.probes.reset();
        }
        self.standing.works(failures);
    }
}
