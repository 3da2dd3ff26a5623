//! Tracks whether every request fails (an outage), and who may send a request meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use crate::{
    chunk::Chunk,
    failure::TransientFailure,
    probes::{Piece, Probes},
};

/// After this many consecutive failures, only one request at a time is sent; the other batches wait for
/// it.
const FAILURES_BEFORE_ONE_BY_ONE: u32 = 3;

/// The right to send a request during an outage, one at a time.
pub(crate) type Gate<'a> = MutexGuard<'a, ()>;

/// The consecutive failures of one output, across all batches.
#[derive(Default)]
pub(crate) struct Outage {
    failures: AtomicU32,
    retry_gate: Mutex<()>,
    probes: Probes,
}

impl Outage {
    /// Whether every request fails.
    pub(crate) fn is_on(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_BEFORE_ONE_BY_ONE
    }

    /// Waits for the right to send a request; returns `None` when the outage is over.
    pub(crate) async fn gate(&self) -> Option<Gate<'_>> {
        if !self.is_on() {
            return None;
        }
        let gate = self.retry_gate.lock().await;
        self.is_on().then_some(gate)
    }

    /// Returns the same right if it is free.
    pub(crate) fn try_gate(&self) -> Option<Gate<'_>> {
        self.retry_gate.try_lock().ok()
    }

    /// Returns the piece of a chunk to send instead of the whole, if a piece is due.
    pub(crate) fn piece(&self, chunk: &Chunk) -> Option<Piece> {
        let failures = self.failures.load(Ordering::Relaxed);
        self.probes
            .piece(chunk.len(), failures, |at| chunk.suspected_at(at))
    }

    /// Notes a failure; returns the number of consecutive failures.
    pub(crate) fn failed(&self, failure: &TransientFailure, is_piece: bool) -> u32 {
        self.probes.failed(failure, is_piece);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        failures.saturating_add(1)
    }

    /// Notes a response, which ends the consecutive failures; returns their number.
    pub(crate) fn ends(&self) -> u32 {
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures > 0 {
            self.probes.reset();
        }
        failures
    }
}
