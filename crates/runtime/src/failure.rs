//! Failures that may be transient, and the pause that each one requires.

use std::time::Duration;

use meterline_core::{Cause, WriteError};

/// The pause while the server refuses our credentials.
const UNAUTHORIZED: Duration = Duration::from_secs(10);
/// The pause before retrying a failure that only an operator can correct, such as a wrong URL.
pub(crate) const SLOW: Duration = Duration::from_secs(30);

/// A failure that may be transient.
pub(crate) struct TransientFailure {
    pub(crate) reason: String,
    /// The pause that the server requested.
    pub(crate) requested_pause: Option<Duration>,
    /// The pause that the failure requires while no other request succeeds.
    pub(crate) slow: Option<Duration>,
    /// How long the request took to fail.
    pub(crate) lasted: Duration,
    /// The cause of the rejection, if the message turns out to be at fault; `None` if it cannot be.
    pub(crate) cause: Option<Cause>,
    /// Whether the request had a shorter time limit than the configured one.
    pub(crate) is_cut_short: bool,
}

/// A failure that takes longer than this blocks other writes.
const LONG: Duration = Duration::from_secs(1);

impl TransientFailure {
    /// Whether the request took long to fail.
    pub(crate) fn is_slow(&self) -> bool {
        self.lasted > LONG
    }

    /// Returns the failure for an error of a request that took this long.
    pub(crate) fn new(error: WriteError, lasted: Duration) -> Self {
        let reason = error.to_string();
        let (requested_pause, slow, cause) = match error {
            WriteError::Failed { after, .. } => (after, None, Some(Cause::Poison)),
            WriteError::Unauthorized { .. } => (None, Some(UNAUTHORIZED), Some(Cause::Poison)),
            WriteError::UnexpectedResponse { .. } => (None, Some(SLOW), Some(Cause::Poison)),
            WriteError::Retry { after, .. } => (after, None, None),
            WriteError::TooLarge { .. } => (None, Some(SLOW), Some(Cause::TooLarge)),
            // These are verdicts on messages and not transient failures.
            WriteError::Rejected { .. }
            | WriteError::Dropped { .. }
            | WriteError::Unsendable { .. } => (None, Some(SLOW), None),
        };
        Self {
            reason,
            requested_pause,
            slow,
            lasted,
            cause,
            is_cut_short: false,
        }
    }

    /// Returns the failure of a search request that was not answered within its short time limit.
    pub(crate) fn cut_short(limit: Duration) -> Self {
        Self {
            reason: format!(
                "no answer within {limit:.1?}, the time limit while the event is searched for that the \
                 server does not answer"
            ),
            requested_pause: None,
            slow: None,
            lasted: limit,
            cause: Some(Cause::Poison),
            is_cut_short: true,
        }
    }
}
