//! What a script omitted or truncated without failing.

/// The kind of loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// A number that is no valid metric: malformed, negative or beyond the range of floats.
    Metric,
    /// Text or fields beyond the limits for values from annotations and the like.
    Text,
}

/// Something that was omitted or truncated, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The kind.
    pub loss: Loss,
    /// What was omitted or truncated and why, without a final dot.
    pub text: String,
}

/// The notes of one run, without duplicates.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Note>);

impl Notes {
    /// The limit: more than the metrics of a pod.
    const MAX: usize = 32;

    pub(crate) fn add(&mut self, loss: Loss, text: String) {
        let note = Note { loss, text };
        if self.0.len() < Self::MAX && !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Note> {
        self.0
    }
}
