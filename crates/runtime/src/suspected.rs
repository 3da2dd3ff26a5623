//! What the failures of messages are attributed to.

use std::sync::Arc;

use meterline_core::{Message, Part};

/// An object or, if a processor divided its messages, one part of each. The parts are different events, and
/// the server may fail on one of them only, so that the success of another proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Suspected {
    uid: Arc<str>,
    part: Option<Arc<Part>>,
}

impl Suspected {
    /// Returns what the failures of `message` are attributed to, if its object is known.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        Some(Self {
            uid: Arc::clone(&message.identity()?.uid),
            part: message.part().cloned(),
        })
    }
}

#[cfg(test)]
impl From<&str> for Suspected {
    fn from(uid: &str) -> Self {
        Self {
            uid: uid.into(),
            part: None,
        }
    }
}

#[cfg(test)]
impl From<String> for Suspected {
    fn from(uid: String) -> Self {
        uid.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Content, Identity};

    use super::*;

    #[test]
    fn parts_of_one_object_are_suspected_separately_and_in_every_window() {
        let parts = |start: i64| -> Vec<_> {
            let identity = Identity {
                about: "pod a/b".into(),
                uid: "u".into(),
                start,
                end: start + 1,
                cluster: None,
            };
            let contents = (0..2).map(|_| Content::Raw("{}".into())).collect();
            let whole = Message::raw("[]").with_identity(identity);
            let parts = whole.divide(contents);
            parts.filter_map(|it| Suspected::of(&it)).collect()
        };
        let (one, other) = (parts(1), parts(2));
        assert_eq!(one, other);
        assert_ne!(one[0], one[1]);
        assert_eq!(Suspected::of(&Message::raw("{}")), None);
    }
}
