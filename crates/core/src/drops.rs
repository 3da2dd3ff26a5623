//! Which messages were dropped on purpose, and where.

use std::{collections::HashMap, sync::Arc};

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

    /// Where messages were dropped, by their origins. Of several parts of one message, the first one counts.
    #[must_use]
    pub fn places(&self) -> HashMap<u32, &Arc<str>> {
        let mut places = HashMap::new();
        for drop in &self.0 {
            if let Some(origin) = drop.origin {
                places.entry(origin).or_insert(&drop.place);
            }
        }
        places
    }
}
