//! The events that an output posts, and when a server treats one as a duplicate of another.

use std::sync::Arc;

use crate::fields::Located;

/// An output that posts events, and what is known about the events.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    /// The path of the component.
    pub(crate) path: String,
    pub(crate) url: Located<String>,
    pub(crate) to: String,
    pub(crate) account: String,
    pub(crate) event_type: Arc<str>,
    /// The `source` of the events, where it is known.
    pub(crate) source: Option<Arc<str>>,
}

impl Post {
    /// Whether the server treats an event of one output as a duplicate of one of the other.
    pub(crate) fn duplicates(&self, other: &Self) -> bool {
        // A duplicate has the same id and the same source.
        let sources = self.source.as_ref().zip(other.source.as_ref());
        self.to == other.to
            && self.event_type == other.event_type
            && sources.is_none_or(|(one, other)| one == other)
    }
}
