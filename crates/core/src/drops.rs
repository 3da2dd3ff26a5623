//! Which messages were dropped on purpose, and where.

use std::sync::Arc;

use crate::Message;

/// Messages that processors dropped on purpose, each with the place in the configuration that dropped it.
#[derive(Debug, Default)]
pub struct Drops(Vec<Drop>);

/// One message that was dropped on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// The number of the message in the input's batch from which it was made, if the input numbered them.
    pub origin: Option<u32>,
    /// The component that dropped it: a label, or a place in the configuration.
    pub place: Arc<str>,
}

impl Drops {
    /// Records that `message` was dropped at `place`.
    pub fn note(&mut self, message: &Message, place: &Arc<str>) {
        self.0.push(Drop {
            origin: message.origin(),
            place: Arc::clone(place),
        });
    }

    /// Adds the entries of another list.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// All entries, in the order in which they were dropped.
    pub fn iter(&self) -> impl Iterator<Item = &Drop> {
        self.0.iter()
    }

    /// Where the message with this origin was dropped, if it was.
    #[must_use]
    pub fn place_of(&self, origin: u32) -> Option<&Arc<str>> {
        self.0
            .iter()
            .find(|drop| drop.origin == Some(origin))
            .map(|drop| &drop.place)
    }
}
