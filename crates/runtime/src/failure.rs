//! Failures that may be transient, and the pause that each of them needs.

use std::time::Duration;

use meterline_core::{Cause, WriteError};

/// The pause while the server refuses us.
const UNAUTHORIZED: Duration = Duration::from_secs(10);
/// The pause before what only a person can mend is tried again, such as a wrong URL.
pub(crate) const SLOW: Duration = Duration::from_secs(30);

/// A failure that may pass.
pub(crate) struct TransientFailure {
    pub(crate) reason: String,
    /// The pause that the server asked for.
    pub(crate) asked: Option<Duration>,
    /// The pause that the failure calls for, where others are not taken meanwhile.
    pub(crate) slow: Option<Duration>,
    /// How long it took to fail.
    pub(crate) lasted: Duration,
    /// What a message is set aside for if the failure is its doing; `None` where it cannot be.
    pub(crate) cause: Option<Cause>,
    /// It was not given the configured time limit, but a shorter one.
    pub(crate) is_cut_short: bool,
}

/// What takes longer to fail keeps others from being written.
const LONG: Duration = Duration::from_secs(1);

impl TransientFailure {
    /// Whether it took long to fail.
    pub(crate) fn is_slow(&self) -> bool {
        self.lasted > LONG
    }

    /// Of what failed after so long.
    pub(crate) fn new(error: WriteError, lasted: Duration) -> Self {
        let reason = error.to_string();
        let (asked, slow, cause) = match error {
            WriteError::Failed { after, .. } => (after, None, Some(Cause::Poison)),
            WriteError::Unauthorized { .. } => (None, Some(UNAUTHORIZED), Some(Cause::Poison)),
            WriteError::Strange { .. } => (None, Some(SLOW), Some(Cause::Poison)),
            WriteError::Retry { after, .. } => (after, None, None),
            WriteError::TooLarge { .. } => (None, Some(SLOW), Some(Cause::TooLarge)),
            // What is said of messages, which is no failure.
            WriteError::Rejected { .. }
            | WriteError::Dropped { .. }
            | WriteError::Unsendable { .. } => (None, Some(SLOW), None),
        };
        Self {
            reason,
            asked,
            slow,
            lasted,
            cause,
            is_cut_short: false,
        }
    }

    /// A request that was to show which message makes the server hang was not answered within this time.
    pub(crate) fn cut_short(limit: Duration) -> Self {
        Self {
            reason: format!(
                "no answer within {limit:.1?}, the time limit while the event is searched for that the \
                 server does not answer"
            ),
            asked: None,
            slow: None,
            lasted: limit,
            cause: Some(Cause::Poison),
            is_cut_short: true,
        }
    }
}
