//! Why a message was rejected.

use std::sync::Arc;

/// Why a message cannot be delivered: one of a fixed set, so that metrics stay bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A processor, such as a mapping, failed on it.
    Processing,
    /// It does not match a JSON Schema.
    Schema,
    /// It cannot be written as JSON.
    Encoding,
    /// No output matches it, or a condition failed.
    Unroutable,
    /// The sink rejected it.
    Refused,
    /// It is too large for the sink, even alone.
    TooLarge,
    /// The sink fails whenever it is sent, while it accepts others. It is retried at long intervals.
    Poison,
    /// The configured limit of retries was reached.
    GivenUp,
}

impl Cause {
    /// Its name in metrics and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Processing => "processing_error",
            Self::Schema => "schema_violation",
            Self::Encoding => "not_json",
            Self::Unroutable => "no_output",
            Self::Refused => "refused_by_sink",
            Self::TooLarge => "too_large",
            Self::Poison => "poison",
            Self::GivenUp => "given_up",
        }
    }

    /// What the operator can do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Processing => "fix the mapping; the event is made again at the next start",
            Self::Schema => {
                "fix the mapping or the schema; the event is made again at the next start"
            }
            Self::Encoding => "fix the mapping, its result is not JSON",
            Self::Unroutable => "add an output or a `switch` case that accepts it",
            Self::Refused => "fix the mapping or the meter, then retry it",
            Self::TooLarge => {
                "make the event smaller or raise the limit of the sink, then retry it"
            }
            Self::Poison => "check the log of the sink; the event is retried at long intervals",
            Self::GivenUp => "raise the limits of `retry`, then retry it",
        }
    }

    /// Whether the cause may pass without intervention.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Poison | Self::TooLarge | Self::GivenUp)
    }
}

/// Why one message was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of reason.
    pub cause: Cause,
    /// The component that rejected it: a label, or a place in the configuration.
    pub component: Arc<str>,
    /// What happened, for people, without a final period.
    pub reason: Arc<str>,
    /// The customer, if the message was an event already.
    pub subject: Option<Arc<str>>,
}

impl Rejection {
    /// A rejection of a message whose subject is not known.
    #[must_use]
    pub fn new(cause: Cause, component: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self {
            cause,
            component: component.into(),
            reason: reason.into(),
            subject: None,
        }
    }
}
