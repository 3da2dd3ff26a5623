//! Whether every request fails, and who may send one while that is so.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use crate::{
    chunk::Chunk,
    failure::TransientFailure,
    probes::{Piece, Probes},
};

/// After this many failures in a row one request at a time is sent; the other batches wait for it.
const FAILURES_BEFORE_ONE_BY_ONE: u32 = 3;

/// The right to send the one request at a time while every request fails.
pub(crate) type Gate<'a> = MutexGuard<'a, ()>;

/// The failures in a row of one output, of whichever batch.
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

    /// Waits for the right to send a request; `None` when not every request fails any more.
    pub(crate) async fn gate(&self) -> Option<Gate<'_>> {
        if !self.is_on() {
            return None;
        }
        let gate = self.retry_gate.lock().await;
        self.is_on().then_some(gate)
    }

    /// The same right, if nobody holds it.
    pub(crate) fn try_gate(&self) -> Option<Gate<'_>> {
        self.retry_gate.try_lock().ok()
    }

    /// The piece of a chunk to send in place of the whole, if it is time for one.
    pub(crate) fn piece(&self, chunk: &Chunk) -> Option<Piece> {
        let failures = self.failures.load(Ordering::Relaxed);
        self.probes
            .piece(chunk.len(), failures, |at| chunk.object_at(at))
    }

    /// Notes a failure; returns how many there were in a row.
    pub(crate) fn failed(&self, failure: &TransientFailure, is_piece: bool) -> u32 {
        self.probes.failed(failure, is_piece);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        failures.saturating_add(1)
    }

    /// Notes an answer, which ends the row of failures; returns how many there were.
    pub(crate) fn ends(&self) -> u32 {
        let failures = self.failures.swap(0, Ordering::Relaxed);
        if failures > 0 {
            self.probes.reset();
        }
        failures
    }
}
