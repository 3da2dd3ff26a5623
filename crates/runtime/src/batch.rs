//! A batch that is being written.

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    chunk::{Chunk, Chunks},
    evidence::Evidence,
    output_status::{OutputStatus, Tally},
    size_limit::Seen,
};

/// A batch that is being written.
pub(crate) struct Batch {
    pub(crate) chunks: Chunks,
    pub(crate) seen: Seen,
    pub(crate) tally: Tally,
}

impl Batch {
    /// Returns a batch without messages. `slot` is its right to have a request in flight.
    pub(crate) fn new(evidence: &Evidence, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            chunks: Chunks::new(evidence, slot),
            seen: Seen::default(),
            tally: Tally::default(),
        }
    }

    /// Halves a chunk of several messages and logs why; returns false for a single message.
    pub(crate) fn halve(&mut self, chunk: &mut Chunk, reason: &str, status: &OutputStatus) -> bool {
        if chunk.len() < 2 {
            return false;
        }
        status.bisects(chunk.len(), reason, &mut self.tally);
        self.chunks.halve(chunk);
        true
    }
}
