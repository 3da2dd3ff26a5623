//! One request: what is sent of a chunk, and within which time limit.

use std::ops::Range;

use meterline_core::{Message, WriteError, Writer};
use tokio::time::{Duration, Instant, timeout};

use crate::{
    chunk::Chunk,
    evidence::Evidence,
    failure::TransientFailure,
    outage::{Gate, Outage},
    search_limit::{SHORTEST, SearchLimit},
};

/// A request that is to be sent.
pub(crate) struct Attempt<'a> {
    /// The places of the messages that are sent, if it is a piece of the chunk.
    pub(crate) piece: Option<Range<usize>>,
    /// The time limit, if it is a short one; else the writer has its configured one.
    limit: Option<Duration>,
    /// The right to send it while every request fails.
    pub(crate) gate: Option<Gate<'a>>,
    start: Instant,
}

/// Why a request did not succeed.
pub(crate) enum Failed {
    /// May pass, and may or may not be the messages' doing.
    Transient(TransientFailure),
    /// Says something of the messages, for this reason.
    Verdict(Verdict, String),
}

/// What is said of messages.
pub(crate) enum Verdict {
    TooLarge,
    Rejected,
    Dropped,
    /// No request can be made of the first one.
    Unsendable,
}

impl<'a> Attempt<'a> {
    /// The next request for a chunk. Where the server hangs it may be a piece of it, and the limit may be a
    /// short one.
    pub(crate) fn new(
        chunk: &Chunk,
        gate: Option<Gate<'a>>,
        outage: &Outage,
        evidence: &Evidence,
        search_limit: &SearchLimit,
    ) -> Self {
        let piece = gate.as_ref().and_then(|_| outage.piece(chunk));
        let least = match &piece {
            Some(piece) => piece.limit,
            None => chunk.is_searched(evidence).then_some(SHORTEST),
        };
        Self {
            piece: piece.map(|piece| piece.range),
            limit: least.map(|least| least.max(search_limit.get())),
            gate,
            start: Instant::now(),
        }
    }

    /// Whether its failure counts as one of the chunk: it is all of it, within the configured limit.
    pub(crate) fn is_try(&self) -> bool {
        self.piece.is_none() && self.limit.is_none()
    }

    /// How long ago it was sent.
    pub(crate) fn lasted(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sends it.
    pub(crate) async fn send(&self, writer: &dyn Writer, chunk: &Chunk) -> Result<(), Failed> {
        let range = self.piece.clone().unwrap_or(0..chunk.len());
        let messages = chunk.messages.get(range).unwrap_or(&chunk.messages);
        let error = match self.write(writer, messages).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => error,
            None => {
                return Err(Failed::Transient(TransientFailure::cut_short(
                    self.lasted(),
                )));
            }
        };
        Err(match error {
            WriteError::Retry { .. }
            | WriteError::Failed { .. }
            | WriteError::Unauthorized { .. }
            | WriteError::Strange { .. } => {
                Failed::Transient(TransientFailure::new(error, self.lasted()))
            }
            WriteError::TooLarge { reason } => Failed::Verdict(Verdict::TooLarge, reason),
            WriteError::Rejected { reason } => Failed::Verdict(Verdict::Rejected, reason),
            WriteError::Dropped { reason } => Failed::Verdict(Verdict::Dropped, reason),
            WriteError::Unsendable { reason } => Failed::Verdict(Verdict::Unsendable, reason),
        })
    }

    /// What the writer returns; nothing if the short limit has passed before.
    async fn write(
        &self,
        writer: &dyn Writer,
        messages: &[Message],
    ) -> Option<Result<(), WriteError>> {
        let write = writer.write(messages);
        match self.limit {
            None => Some(write.await),
            Some(limit) => timeout(limit, write).await.ok(),
        }
    }
}
