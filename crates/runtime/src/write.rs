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
    Cause, Health, IntCounter, Message, Metrics, RetryPolicy, Writer, WriterNode,
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    attempt::{Attempt, Failed, Verdict},
    backoff,
    delivery::Delivery,
    ends::{End, Ends},
    outage::{Gate, Outage},
    part::{Lane, Part, Parts},
    pulse::Pulse,
    rejections::Rejections,
    room::Room,
    search_limit::SearchLimit,
    size_limit::{Limit, Seen},
    standing::{OutputStatus, Tally},
    suspects::{Admission, Suspects},
    trouble::{SLOW, Trouble},
};

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
    outage: Outage,
    suspects: Suspects,
    search_limit: SearchLimit,
    /// Verdicts while nothing was taken yet.
    held: AtomicU32,
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
            outage: Outage::default(),
            suspects: Suspects::default(),
            search_limit: SearchLimit::default(),
            held: AtomicU32::new(0),
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

    /// Sends a part, or while every request fails perhaps a piece of it.
    async fn try_once(&self, part: Part, batch: &mut Batch) {
        let Some(part) = self.admitted(part, batch).await else {
            return;
        };
        let is_short = part.is_searched(&self.pulse);
        let _rights = self.room.rights(&batch.parts, is_short).await;
        let Some(mut part) = self.admitted(part, batch).await else {
            return;
        };
        let gate = if part.is_suspect() && self.outage.is_on() {
            // Its failure would say nothing now: it waits for others to be taken while there are any.
            let Some(gate) = self.outage.try_gate() else {
                let early = self.short_pause(&part);
                return batch.parts.put_back(part, self.retry.longest, early);
            };
            Some(gate)
        } else if part.has_hung && !part.others_pass(&self.pulse) && !self.outage.is_on() {
            // A piece shows within seconds whether it is the batch or the server.
            self.outage.try_gate()
        } else {
            self.outage.gate().await
        };
        if std::mem::take(&mut part.held) {
            // A verdict is an answer, and waiting until something is taken is no try in vain.
            part.forget_tries();
        }
        let attempt = Attempt::new(&part, gate, &self.outage, &self.pulse, &self.search_limit);
        part.tries = part.tries.saturating_add(u32::from(attempt.is_try()));
        batch.tally.request();
        let before = self.pulse.now();
        match attempt.send(self.writer.as_ref(), &part).await {
            Ok(()) => {
                self.search_limit.succeeded(attempt.lasted());
                self.answered();
                if let Some(piece) = attempt.piece {
                    let behind = part.split_off(piece.end);
                    let taken = part.split_off(piece.start);
                    batch.parts.put(behind, true);
                    batch.parts.put(part, true);
                    part = taken;
                }
                self.took(part, batch).await;
            }
            Err(Failed::Trouble(trouble)) => {
                self.errors.inc();
                let may_be_its_doing = trouble.cause.is_some() && attempt.piece.is_none();
                if may_be_its_doing && trouble.is_slow() && part.failed.is_none() {
                    // Others that are taken while it takes long to fail say as much as those after it.
                    part.failed = Some(before);
                }
                self.stumble(part, trouble, attempt, batch).await;
            }
            Err(Failed::Verdict(verdict, reason)) => {
                self.errors.inc();
                self.judged(part, verdict, reason, attempt, batch).await;
            }
        }
    }

    /// The server says something of the messages.
    async fn judged(
        &self,
        mut part: Part,
        verdict: Verdict,
        reason: String,
        attempt: Attempt<'_>,
        batch: &mut Batch,
    ) {
        match verdict {
            Verdict::Unsendable => {
                let first = attempt.piece.map_or(0, |piece| piece.start);
                self.unsendable(part, first, reason, batch).await;
            }
            // What is said of a piece is said of the whole when that is written.
            _ if attempt.piece.is_some() => {
                self.answered();
                batch.parts.put(part, false);
            }
            Verdict::TooLarge => self.too_large(part, reason, attempt, batch).await,
            Verdict::Rejected => self.refused(part, reason, batch).await,
            Verdict::Dropped => {
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
        if self.outage.is_on() {
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
        attempt: Attempt<'_>,
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
            is_cut_short: false,
        };
        self.stumble(part, trouble, attempt, batch).await;
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
        attempt: Attempt<'_>,
        batch: &mut Batch,
    ) {
        let is_piece = attempt.piece.is_some();
        let reason = &trouble.reason;
        let others_pass = trouble.cause.is_some() && part.others_pass(&self.pulse);
        let is_suspect = others_pass || part.is_suspect();
        batch.parts.is_slow |= others_pass && trouble.is_slow();
        let mut failures = if is_suspect {
            debug!(output = %self.label, events = part.len(), "{reason}; others are taken");
            1
        } else {
            self.failed(&trouble, is_piece)
        };
        if !trouble.is_cut_short && self.ends.is_dropped(reason) {
            return self.settle(part, End::Dropped, batch).await;
        }
        if let Some(cause) = trouble.cause
            && !is_piece
        {
            part.stumbled = true;
            part.has_hung |= trouble.is_slow();
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
        let is_over = !is_piece && !part.may_retry(&self.retry);
        if is_over && trouble.is_cut_short {
            part.alone.needs_full_limit = true;
        } else if is_over {
            let end = End::Rejected(Cause::GivenUp, trouble.reason);
            return self.settle(part, end, batch).await;
        }
        self.pause(part, &trouble, failures, attempt.gate, batch)
            .await;
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

    /// Puts a part that failed back. While every request fails the right to send is kept for the pause.
    async fn pause(
        &self,
        part: Part,
        trouble: &Trouble,
        failures: u32,
        gate: Option<Gate<'_>>,
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
        if gate.is_none() || !self.outage.is_on() || part.is_suspect() {
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
    fn failed(&self, trouble: &Trouble, is_piece: bool) -> u32 {
        let failures = self.outage.failed(trouble, is_piece);
        let pause = trouble.asked.or(trouble.slow).unwrap_or(self.retry.first);
        let is_brief = pause.max(trouble.lasted) < BRIEF;
        self.standing.failed(&trouble.reason, failures, is_brief);
        failures
    }

    /// The server works, whether it took this batch or not.
    fn answered(&self) {
        let failures = self.outage.ends();
        self.standing.works(failures);
    }
}
