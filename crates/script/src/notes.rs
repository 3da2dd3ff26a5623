//! What a script left out or cut of a message that it did not fail for.

/// What was left out or cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// A number that a metric cannot have: malformed, negative or beyond the range of floats.
    Metric,
    /// Text, or fields, beyond what an event takes from annotations and the like.
    Text,
}

/// Something that was left out or cut, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind of thing.
    pub loss: Loss,
    /// Which one and why, without a final dot.
    pub text: String,
}

/// The notes of one run. A script that asks for the same a thousand times makes no thousand notes.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Note>);

impl Notes {
    /// As many as the metrics of a pod and some.
    const MOST: usize = 32;

    pub(crate) fn add(&mut self, loss: Loss, text: String) {
        let note = Note { loss, text };
        if self.0.len() < Self::MOST && !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Note> {
        self.0
    }
}
