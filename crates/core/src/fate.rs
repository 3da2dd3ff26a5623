//! Why a message was rejected.

use std::sync::Arc;

/// Why a message cannot be delivered: one of a few words, so that metrics stay bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A processor failed for it, such as a mapping.
    Processing,
    /// It is not what a JSON Schema asks for.
    Schema,
    /// It cannot be written as JSON.
    Encoding,
    /// No output is meant for it, or whether one is could not be decided.
    Unroutable,
    /// The sink refused it by a verdict of its own.
    Refused,
    /// It is too large for the sink, even alone.
    TooLarge,
    /// The sink fails whenever it is sent, while it takes others. It is tried again with long pauses.
    Poison,
    /// It was tried as often, or as long, as the configuration allows.
    GivenUp,
}

impl Cause {
    /// The word of it, for metrics and JSON.
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

    /// What a person does about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Processing => "mend the mapping; the event is made again at the next start",
            Self::Schema => {
                "mend the mapping or the schema; the event is made again at the next start"
            }
            Self::Encoding => "mend the mapping, its result is no JSON",
            Self::Unroutable => "add a case to the output that takes it",
            Self::Refused => "mend the mapping or the meter, then retry it",
            Self::TooLarge => "make the event smaller or have the sink take more, then retry it",
            Self::Poison => "look at the sink's log; the event is tried again with long pauses",
            Self::GivenUp => "raise the limits of `retry`, then retry it",
        }
    }

    /// Whether it may pass without anybody doing something.
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
    /// The component that decided it: a label, or a place in the configuration.
    pub component: Arc<str>,
    /// What happened, for people, without a final dot.
    pub reason: Arc<str>,
    /// The customer, if the message was an event by then.
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
