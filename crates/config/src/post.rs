//! The events that an output posts, and when a server takes one for a repeat of another.

use std::sync::Arc;

use crate::fields::Located;

/// An output that posts events, and what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    /// The component.
    pub(crate) path: String,
    pub(crate) url: Located<String>,
    pub(crate) to: String,
    pub(crate) account: String,
    pub(crate) event_type: Arc<str>,
    /// The `source` of the events, where it is known.
    pub(crate) source: Option<Arc<str>>,
}

impl Post {
    /// Whether the server takes an event of the one for a repeat of one of the other.
    pub(crate) fn shadows(&self, other: &Self) -> bool {
        // A repeat has the same id and the same source.
        let sources = self.source.as_ref().zip(other.source.as_ref());
        self.to == other.to
            && self.event_type == other.event_type
            && sources.is_none_or(|(one, other)| one == other)
    }
}
