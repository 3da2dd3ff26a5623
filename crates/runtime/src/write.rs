//! Writes one batch and retries until each message is delivered, rejected or dropped.
//!
//! Without a configured limit, a failed request is retried until it succeeds. If other requests succeed
//! meanwhile, the server is not down, and the batch is halved until the message that causes the failure
//! is alone. While every request fails, one request at a time is sent, and no message is rejected.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use meterline_core::{Cause, Health, IntCounter, Metrics, RetryPolicy, Writer, WriterNode};
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

/// The pauses of a message that fails alone while others are accepted grow up to the pause of this
/// failure.
const LONGEST_PAUSE_FAILURES: u32 = 3;

/// A failure with a shorter pause is logged only if the next attempt fails too.
const BRIEF: Duration = Duration::from_secs(5);

/// What all writes of one output share.
pub(crate) struct BatchWriter {
    label: Arc<str>,
    writer: Arc<dyn Writer>,
    settler: Settler,
    status: OutputStatus,
    evidence: Evidence,
    outage: Outage,
    suspects: Suspects,
    search_limit: SearchLimit,
    /// The number of verdicts before the first success.
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

    /// Returns the most bytes to put into one batch.
    pub(crate) fn limit(&self) -> usize {
        self.limit.bytes()
    }

    /// Waits for the right to have a request in flight.
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
                // Its failure is evidence only after another request has succeeded.
                apart
                    .chunks
                    .put_back(chunk, self.retry.longest, Duration::ZERO);
            }
        }
        self.lanes.change_lane(&mut apart.chunks);
        if apart.chunks.lane == Lane::Suspects {
            tokio::join!(self.write_all(others), self.write_all(apart));
        } else {
            // The lane has no capacity. They are tried in the slot of the others, which is the
            // back-pressure.
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
            info!(output = %self.label, bytes, "{reason}; the batch size is reduced");
        }
    }

    /// Sends a chunk. During an outage, it may send only a piece of it.
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
            // A failure proves nothing during an outage, so the chunk waits while other requests are
            // sent.
            let Some(gate) = self.outage.try_gate() else {
                let early = self.short_pause(&chunk);
                return batch.chunks.put_back(chunk, self.retry.longest, early);
            };
            Some(gate)
        } else if chunk.has_hung && !chunk.others_succeed(&self.evidence) && !self.outage.is_on() {
            // A piece shows within seconds whether the batch or the server is the cause.
            self.outage.try_gate()
        } else {
            self.outage.gate().await
        };
        if std::mem::take(&mut chunk.held) {
            // A verdict is a response. The wait for the first success does not count as an unsuccessful
            // try.
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
                self.accepted(chunk, batch).await;
            }
            Err(Failed::Transient(failure)) => {
                self.errors.inc();
                let may_be_its_doing = failure.cause.is_some() && attempt.piece.is_none();
                if may_be_its_doing && failure.is_slow() && chunk.failed.is_none() {
                    // Requests that succeed while this one is in flight are as good evidence as later
                    // ones.
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

    /// Handles a verdict of the server on the messages.
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
            // A verdict on a piece applies to the whole batch, which gets it when it is written.
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

    /// Returns the chunk, unless nothing of it is sent now. During an outage no message is rejected.
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

    async fn accepted(&self, chunk: Chunk, batch: &mut Batch) {
        if self.evidence.succeeded(chunk.bytes(), chunk.has_failed) {
            info!(output = %self.label, events = chunk.len(), "the server accepted the first delivery");
        }
        batch.seen.fit(&chunk.messages);
        self.suspects.clear(&chunk.messages);
        self.settle(chunk, End::Taken, batch).await;
    }

    /// Rejects the message at this position, because no request can be made from it. This is not a
    /// response.
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

    /// Handles a chunk that is too large. For a single message, the response counts only if a
    /// smaller request succeeded since the previous such response.
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
            "{reason}; a single event is reported as too large, but no smaller request has \
             succeeded, so it is not rejected: check whether a proxy limits the size of requests, such \
             as nginx's client_max_body_size"
        );
        let failure = TransientFailure {
            reason,
            requested_pause: None,
            slow: Some(SLOW),
            lasted: Duration::ZERO,
            cause: Some(Cause::TooLarge),
            is_cut_short: false,
        };
        self.handle_failure(chunk, failure, attempt, batch).await;
    }

    /// Handles a chunk that the server rejects permanently. Before the first success the events are not
    /// considered wrong.
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
            "no event has been accepted since the start, and this one is rejected: {reason}; check the URL, \
             the token and the mapping"
        );
        self.status.outage(&reason);
        let held = self.held.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if held.is_power_of_two() {
            warn!(output = %self.label, "{reason}; trying again, nothing is lost");
        }
        batch.chunks.hold(chunk, SLOW);
    }

    /// Handles a failure that may be transient.
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
                // Then the cause is not its size, regardless of the response to the larger chunk.
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
                        "every attempt to send it fails, and other events are accepted meanwhile: {reason}"
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

    /// Settles a chunk that is not split further.
    async fn settle(&self, chunk: Chunk, end: End, batch: &mut Batch) {
        if let Some(object) = chunk.suspected() {
            self.suspects.release(&object, chunk.number);
        }
        self.settler.settle(chunk, end, &mut batch.tally).await;
    }

    /// Returns the pause of a chunk while others are accepted.
    fn short_pause(&self, chunk: &Chunk) -> Duration {
        let failures = chunk
            .alone
            .failures
            .saturating_add(1)
            .min(LONGEST_PAUSE_FAILURES);
        backoff::pause(&self.retry, failures, None)
    }

    /// Puts back a chunk that failed. During an outage it keeps the right to send for the pause.
    async fn pause(
        &self,
        chunk: Chunk,
        failure: &TransientFailure,
        failures: u32,
        gate: Option<Gate<'_>>,
        batch: &mut Batch,
    ) {
        let requested_pause = failure.requested_pause.or(failure.slow);
        let pause = backoff::pause(&self.retry, failures, requested_pause);
        // A pause that the server requested is kept, even if other requests succeed meanwhile.
        let early = if failure.requested_pause.is_none() && failure.cause.is_some() {
            self.short_pause(&chunk)
        } else {
            pause
        };
        if gate.is_none() || !self.outage.is_on() || chunk.is_suspect() {
            return batch.chunks.put_back(chunk, pause, early);
        }
        let mut taken = self.evidence.subscribe();
        if early < pause {
            // The chunk is tried again after the pause, or as soon as another request succeeds.
            let _ = timeout(pause, taken.changed()).await;
        } else {
            sleep(pause).await;
        }
        batch.chunks.put(chunk, false);
    }

    /// Notes a failure; returns the number of consecutive failures.
    fn failed(&self, failure: &TransientFailure, is_piece: bool) -> u32 {
        let failures = self.outage.failed(failure, is_piece);
        let pause = failure
            .requested_pause
            .or(failure.slow)
            .unwrap_or(self.retry.first);
        let is_brief = pause.max(failure.lasted) < BRIEF;
        self.status.failed(&failure.reason, failures, is_brief);
        failures
    }

    /// Notes that the server works, whether it accepted this batch or not.
    fn answered(&self) {
        let failures = self.outage.ends();
        self.status.works(failures);
    }
}
