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
    /// What distinguishes events of this type for one usage, if anything.
    pub(crate) key: Option<Arc<str>>,
    /// The `source` of the events, where it is known.
    pub(crate) source: Option<Arc<str>>,
}

impl Post {
    /// The id of the events as a mapping writes it.
    pub(crate) fn id(&self) -> String {
        match (&*self.event_type, &self.key) {
            ("", None) => "event_id()".to_owned(),
            (event_type, None) => format!("event_id({event_type:?})"),
            (event_type, Some(key)) => format!("event_id({event_type:?}, {key:?})"),
        }
    }

    /// Whether the server treats an event of one output as a duplicate of one of the other.
    pub(crate) fn duplicates(&self, other: &Self) -> bool {
        // A duplicate has the same id and the same source.
        let sources = self.source.as_ref().zip(other.source.as_ref());
        self.to == other.to
            && (&self.event_type, &self.key) == (&other.event_type, &other.key)
            && sources.is_none_or(|(one, other)| one == other)
    }
}
