//! One request: which part of a chunk it sends, and with which time limit.

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

/// A request to be sent.
pub(crate) struct Attempt<'a> {
    /// The positions of the messages to send, if the request sends only a piece of the chunk.
    pub(crate) piece: Option<Range<usize>>,
    /// The short time limit, if there is one. Otherwise the writer applies its configured limit.
    limit: Option<Duration>,
    /// The right to send a request during an outage.
    pub(crate) gate: Option<Gate<'a>>,
    start: Instant,
}

/// Why a request failed.
pub(crate) enum Failed {
    /// A failure that may be transient, and that the messages may or may not have caused.
    Transient(TransientFailure),
    /// The server's verdict on the messages, and its reason.
    Verdict(Verdict, String),
}

/// A verdict on messages.
pub(crate) enum Verdict {
    TooLarge,
    Rejected,
    Dropped,
    /// The writer cannot make a request from the first message.
    Unsendable,
}

impl<'a> Attempt<'a> {
    /// Prepares the next request for a chunk. If the server hangs, the request may send only a piece of
    /// the chunk, and its time limit may be short.
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

    /// Whether a failure counts against the chunk: the request sends the whole chunk with the configured
    /// limit.
    pub(crate) fn is_try(&self) -> bool {
        self.piece.is_none() && self.limit.is_none()
    }

    /// Returns the time since the request was sent.
    pub(crate) fn lasted(&self) -> Duration {
        self.start.elapsed()
    }

    /// Sends the request.
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
            | WriteError::UnexpectedResponse { .. } => {
                Failed::Transient(TransientFailure::new(error, self.lasted()))
            }
            WriteError::TooLarge { reason } => Failed::Verdict(Verdict::TooLarge, reason),
            WriteError::Rejected { reason } => Failed::Verdict(Verdict::Rejected, reason),
            WriteError::Dropped { reason } => Failed::Verdict(Verdict::Dropped, reason),
            WriteError::Unsendable { reason } => Failed::Verdict(Verdict::Unsendable, reason),
        })
    }

    /// Returns the result of the writer; `None` if the short limit passes first.
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
