//! Writes one batch and retries until each message is delivered, rejected or dropped.
//!
//! A request that fails is sent again, for ever unless the configuration sets a limit. If other requests
//! succeed meanwhile the server is not down, and the batch is halved until the message that causes the failure
//! stands alone. While every request fails one request at a time is sent, and nothing is set aside.

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
    batch::Batch,
    chunk::{Chunk, Lane},
    delivery::Delivery,
    evidence::Evidence,
    failure::{SLOW, TransientFailure},
    lanes::Lanes,
    outage::{Gate, Outage},
    output_status::OutputStatus,
    rejections::Rejections,
    search_limit::SearchLimit,
    settle::{End, Settler},
    size_limit::Limit,
    suspects::{Admission, Suspects},
};

/// The pauses of a message that fails alone while others are taken grow up to that of this failure.
const PATIENCE: u32 = 3;

/// A failure with a shorter pause is logged only when the next attempt fails too.
const BRIEF: Duration = Duration::from_secs(5);

/// What the writes of one leaf share.
pub(crate) struct BatchWriter {
    label: Arc<str>,
    writer: Arc<dyn Writer>,
    settler: Settler,
    status: OutputStatus,
    evidence: Evidence,
    outage: Outage,
    suspects: Suspects,
    search_limit: SearchLimit,
    /// Verdicts while nothing was taken yet.
    held: AtomicU32,
    lanes: Lanes,
    limit: Limit,
    retry: RetryPolicy,
    errors: IntCounter,
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
            settler: Settler::new(&node, metrics, rejections),
            writer: node.writer,
            status: OutputStatus::new(Arc::clone(&node.label), handle),
            evidence: Evidence::default(),
            outage: Outage::default(),
            suspects: Suspects::default(),
            search_limit: SearchLimit::default(),
            held: AtomicU32::new(0),
            lanes: Lanes::new(node.max_in_flight),
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
        self.lanes.slot().await
    }

    /// Writes a batch. Returns when each of its messages is delivered, rejected or dropped.
    pub(crate) async fn write(
        &self,
        mut deliveries: Vec<Delivery>,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        let suspects = self.suspects.take_from(&mut deliveries);
        let mut others = Batch::new(&self.evidence, slot);
        let alone = deliveries.is_empty();
        others.chunks.put(Chunk::new(deliveries), false);
        let mut apart = Batch::new(&self.evidence, None);
        for delivery in suspects {
            let mut chunk = Chunk::new(vec![delivery]);
            (chunk.failed, chunk.is_known) = (Some(self.evidence.now()), true);
            if alone {
                apart.chunks.put(chunk, false);
            } else {
                // Once something else is taken its failure says something.
                apart
                    .chunks
                    .put_back(chunk, self.retry.longest, Duration::ZERO);
            }
        }
        self.lanes.change_lane(&mut apart.chunks);
        if apart.chunks.lane == Lane::Suspects {
            tokio::join!(self.write_all(others), self.write_all(apart));
        } else {
            // There is no room: they are tried in the slot of the others, which is the back-pressure.
            others.chunks.append(apart.chunks);
            self.write_all(others).await;
        }
    }

    /// Writes all chunks of a batch.
    async fn write_all(&self, mut batch: Batch) {
        while let Some(chunk) = batch.chunks.next(&self.evidence).await {
            self.try_once(chunk, &mut batch).await;
            self.lanes.change_lane(&mut batch.chunks);
            if batch.tally.is_due() {
                self.status.judge(&mut batch.tally);
            }
        }
        self.status.judge(&mut batch.tally);
        self.status.ends(&batch.tally);
        if let Some((bytes, reason)) = self.limit.learn(batch.seen) {
            info!(output = %self.label, bytes, "{reason}; batches are made smaller");
        }
    }

    /// Sends a chunk, or while every request fails perhaps a piece of it.
    async fn try_once(&self, chunk: Chunk, batch: &mut Batch) {
        let Some(chunk) = self.admitted(chunk, batch).await else {
            return;
        };
        let is_short = chunk.is_searched(&self.evidence);
        let _rights = self.lanes.rights(&batch.chunks, is_short).await;
        let Some(mut chunk) = self.admitted(chunk, batch).await else {
            return;
        };
        let gate = if chunk.is_suspect() && self.outage.is_on() {
            // Its failure would say nothing now: it waits for others to be taken while there are any.
            let Some(gate) = self.outage.try_gate() else {
                let early = self.short_pause(&chunk);
                return batch.chunks.put_back(chunk, self.retry.longest, early);
            };
            Some(gate)
        } else if chunk.has_hung && !chunk.others_succeed(&self.evidence) && !self.outage.is_on() {
            // A piece shows within seconds whether it is the batch or the server.
            self.outage.try_gate()
        } else {
            self.outage.gate().await
        };
        if std::mem::take(&mut chunk.held) {
            // A verdict is an answer, and waiting until something is taken is no try in vain.
            chunk.forget_tries();
        }
        let attempt = Attempt::new(
            &chunk,
            gate,
            &self.outage,
            &self.evidence,
            &self.search_limit,
        );
        chunk.tries = chunk.tries.saturating_add(u32::from(attempt.is_try()));
        batch.tally.request();
        let before = self.evidence.now();
        match attempt.send(self.writer.as_ref(), &chunk).await {
            Ok(()) => {
                self.search_limit.succeeded(attempt.lasted());
                self.answered();
                if let Some(piece) = attempt.piece {
                    let behind = chunk.split_off(piece.end);
                    let taken = chunk.split_off(piece.start);
                    batch.chunks.put(behind, true);
                    batch.chunks.put(chunk, true);
                    chunk = taken;
                }
                self.took(chunk, batch).await;
            }
            Err(Failed::Transient(failure)) => {
                self.errors.inc();
                let may_be_its_doing = failure.cause.is_some() && attempt.piece.is_none();
                if may_be_its_doing && failure.is_slow() && chunk.failed.is_none() {
                    // Others that are taken while it takes long to fail say as much as those after it.
                    chunk.failed = Some(before);
                }
                self.handle_failure(chunk, failure, attempt, batch).await;
            }
            Err(Failed::Verdict(verdict, reason)) => {
                self.errors.inc();
                self.judged(chunk, verdict, reason, attempt, batch).await;
            }
        }
    }

    /// The server says something of the messages.
    async fn judged(
        &self,
        mut chunk: Chunk,
        verdict: Verdict,
        reason: String,
        attempt: Attempt<'_>,
        batch: &mut Batch,
    ) {
        match verdict {
            Verdict::Unsendable => {
                let first = attempt.piece.map_or(0, |piece| piece.start);
                self.unsendable(chunk, first, reason, batch).await;
            }
            // What is said of a piece is said of the whole when that is written.
            _ if attempt.piece.is_some() => {
                self.answered();
                batch.chunks.put(chunk, false);
            }
            Verdict::TooLarge => self.too_large(chunk, reason, attempt, batch).await,
            Verdict::Rejected => self.refused(chunk, reason, batch).await,
            Verdict::Dropped => {
                self.answered();
                batch.seen.fit(&chunk.messages);
                if !batch.halve(&mut chunk, &reason, &self.status) {
                    self.settle(chunk, End::Dropped, batch).await;
                }
            }
        }
    }

    /// The chunk, unless nothing of it is sent now. While everything fails nothing is set aside.
    async fn admitted(&self, chunk: Chunk, batch: &mut Batch) -> Option<Chunk> {
        if self.outage.is_on() {
            return Some(chunk);
        }
        let longest = self.retry.longest;
        match self.suspects.admit(chunk, &mut batch.chunks, longest) {
            Admission::Sent(chunk) => Some(chunk),
            Admission::Waits => None,
            Admission::Denied(chunk, reason) => {
                let end = self.settler.rejected_unless_dropped(Cause::Poison, reason);
                self.settle(chunk, end, batch).await;
                None
            }
        }
    }

    async fn took(&self, chunk: Chunk, batch: &mut Batch) {
        if self.evidence.took(chunk.bytes(), chunk.has_failed) {
            info!(output = %self.label, events = chunk.len(), "the server accepted the first delivery");
        }
        batch.seen.fit(&chunk.messages);
        let identities = chunk.messages.iter().filter_map(Message::identity);
        self.suspects.clear(identities.map(|it| &it.uid));
        self.settle(chunk, End::Taken, batch).await;
    }

    /// No request can be made of the message at this place, which is no answer of the server.
    async fn unsendable(&self, mut chunk: Chunk, at: usize, reason: String, batch: &mut Batch) {
        let behind = chunk.split_off(at.saturating_add(1));
        let first = chunk.split_off(at);
        batch.chunks.put(behind, true);
        batch.chunks.put(chunk, true);
        let end = self
            .settler
            .rejected_unless_dropped(Cause::Processing, reason);
        self.settle(first, end, batch).await;
    }

    /// A chunk is too large. That is believed of a single message if a smaller request was taken since
    /// it was said before.
    async fn too_large(
        &self,
        mut chunk: Chunk,
        reason: String,
        attempt: Attempt<'_>,
        batch: &mut Batch,
    ) {
        let before = chunk.too_large.replace(self.evidence.now());
        batch.seen.refused(&chunk.messages, reason.clone());
        if chunk.len() > 1 {
            return batch.chunks.halve(&mut chunk);
        }
        if before.is_some_and(|mark| self.evidence.smaller_succeeded_since(mark, chunk.bytes())) {
            self.answered();
            let end = self
                .settler
                .rejected_unless_dropped(Cause::TooLarge, reason);
            return self.settle(chunk, end, batch).await;
        }
        let reason = format!(
            "{reason}; a single event is too large and nothing smaller is taken, so this is not \
             believed: is there a proxy in between with a limit, such as nginx's \
             client_max_body_size?"
        );
        let failure = TransientFailure {
            reason,
            asked: None,
            slow: Some(SLOW),
            lasted: Duration::ZERO,
            cause: Some(Cause::TooLarge),
            is_cut_short: false,
        };
        self.handle_failure(chunk, failure, attempt, batch).await;
    }

    /// The server refuses something in a chunk for good. As long as it never took anything it is
    /// not the events that are wrong.
    async fn refused(&self, mut chunk: Chunk, reason: String, batch: &mut Batch) {
        let counts = self.evidence.has_succeeded() || self.settler.is_dropped(&reason);
        if counts {
            self.answered();
            batch.seen.fit(&chunk.messages);
        }
        if batch.halve(&mut chunk, &reason, &self.status) {
            return;
        }
        if counts {
            let end = self.settler.rejected_unless_dropped(Cause::Refused, reason);
            return self.settle(chunk, end, batch).await;
        }
        let reason = format!(
            "no event was taken since the start, and this one is refused: {reason}; check the URL, \
             the token and the mapping"
        );
        self.status.outage(&reason);
        let held = self.held.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if held.is_power_of_two() {
            warn!(output = %self.label, "{reason}; trying again, nothing is lost");
        }
        batch.chunks.hold(chunk, SLOW);
    }

    /// What may pass failed.
    async fn handle_failure(
        &self,
        mut chunk: Chunk,
        failure: TransientFailure,
        attempt: Attempt<'_>,
        batch: &mut Batch,
    ) {
        let is_piece = attempt.piece.is_some();
        let reason = &failure.reason;
        let others_succeed = failure.cause.is_some() && chunk.others_succeed(&self.evidence);
        let is_suspect = others_succeed || chunk.is_suspect();
        batch.chunks.is_slow |= others_succeed && failure.is_slow();
        let mut failures = if is_suspect {
            debug!(output = %self.label, events = chunk.len(), "{reason}; other requests succeed");
            1
        } else {
            self.failed(&failure, is_piece)
        };
        if !failure.is_cut_short && self.settler.is_dropped(reason) {
            return self.settle(chunk, End::Dropped, batch).await;
        }
        if let Some(cause) = failure.cause
            && !is_piece
        {
            chunk.has_failed = true;
            chunk.has_hung |= failure.is_slow();
            if cause != Cause::TooLarge && chunk.len() == 1 {
                // It is not its size then, whatever was said of what it was cut from.
                chunk.too_large = None;
                chunk.alone.failed_otherwise = true;
            }
            if others_succeed && batch.halve(&mut chunk, reason, &self.status) {
                return;
            }
            if chunk.len() == 1 {
                let is_crowded = self.lanes.is_crowded();
                let suspects = &self.suspects;
                if suspects.is_at_fault(
                    &mut chunk,
                    others_succeed,
                    &failure,
                    &self.evidence,
                    is_crowded,
                ) {
                    let cause = if chunk.alone.failed_otherwise {
                        Cause::Poison
                    } else {
                        cause
                    };
                    let reason = format!(
                        "it fails whenever it is sent, and other events are accepted meanwhile: {reason}"
                    );
                    return self
                        .settle(chunk, End::Rejected(cause, reason), batch)
                        .await;
                }
                if is_suspect {
                    failures = chunk.tries;
                }
            }
            chunk.failed = Some(self.evidence.now());
        }
        let is_over = !is_piece && !chunk.may_retry(&self.retry);
        if is_over && failure.is_cut_short {
            chunk.alone.needs_full_limit = true;
        } else if is_over {
            let end = End::Rejected(Cause::GivenUp, failure.reason);
            return self.settle(chunk, end, batch).await;
        }
        self.pause(chunk, &failure, failures, attempt.gate, batch)
            .await;
    }

    /// Settles a chunk that is cut no further.
    async fn settle(&self, chunk: Chunk, end: End, batch: &mut Batch) {
        if let Some(object) = chunk.object() {
            self.suspects.release(object, chunk.number);
        }
        self.settler.settle(chunk, end, &mut batch.tally).await;
    }

    /// The pause where others are taken.
    fn short_pause(&self, chunk: &Chunk) -> Duration {
        let failures = chunk.alone.failures.saturating_add(1).min(PATIENCE);
        backoff::pause(&self.retry, failures, None)
    }

    /// Puts a chunk that failed back. While every request fails the right to send is kept for the pause.
    async fn pause(
        &self,
        chunk: Chunk,
        failure: &TransientFailure,
        failures: u32,
        gate: Option<Gate<'_>>,
        batch: &mut Batch,
    ) {
        let asked = failure.asked.or(failure.slow);
        let pause = backoff::pause(&self.retry, failures, asked);
        // A pause that the server asked for is kept, even if other requests succeed meanwhile.
        let early = if failure.asked.is_none() && failure.cause.is_some() {
            self.short_pause(&chunk)
        } else {
            pause
        };
        if gate.is_none() || !self.outage.is_on() || chunk.is_suspect() {
            return batch.chunks.put_back(chunk, pause, early);
        }
        let mut taken = self.evidence.subscribe();
        if early < pause {
            // Whether the time is up or something was taken, it is tried again.
            let _ = timeout(pause, taken.changed()).await;
        } else {
            sleep(pause).await;
        }
        batch.chunks.put(chunk, false);
    }

    /// Notes a failure; returns how many there were in a row.
    fn failed(&self, failure: &TransientFailure, is_piece: bool) -> u32 {
        let failures = self.outage.failed(failure, is_piece);
        let pause = failure.asked.or(failure.slow).unwrap_or(self.retry.first);
        let is_brief = pause.max(failure.lasted) < BRIEF;
        self.status.failed(&failure.reason, failures, is_brief);
        failures
    }

    /// The server works, whether it took this batch or not.
    fn answered(&self) {
        let failures = self.outage.ends();
        self.status.works(failures);
    }
}
