//! Contents of a ledger that comes back under another configuration.
//!
//! What is kept of an object is what was read of it. When more is read, a content that was kept before
//! is *partial*: a bill must not be made of it as if what is missing were not there. As soon as the
//! object is seen again and has not been written to since, it is whole.

use std::{collections::HashSet, sync::Arc};

use crate::{
    entry::Entry,
    interval::UnixSeconds,
    ledger::Ledger,
    segment::Segment,
    types::{Content, Observation, Uid},
};

impl<C: Content> Ledger<C> {
    /// Has `change` change each content, once after [`Ledger::restore`]; it says whether it did.
    pub fn each_content(&mut self, change: &mut dyn FnMut(&mut C) -> bool) {
        let mut partial = HashSet::new();
        let mut each = |uid: &Uid, content: &mut C| {
            let is_changed = change(content);
            if content.is_partial() {
                partial.insert(Arc::clone(uid));
            }
            is_changed
        };
        for (uid, entry) in &mut self.entries {
            for segment in &mut entry.segments {
                if segment.change(|content| each(uid, content)) {
                    self.changed.insert(Arc::clone(uid));
                }
            }
        }
        self.checkpoint.each_late_content(&mut each);
        self.quarantine.each_content(&mut each);
        self.partial = partial;
        self.waiting = self.count_waiting();
    }

    /// Makes contents of an object whole that is seen as it has been since `content_since`.
    pub(crate) fn complete(&mut self, uid: &Uid, entry: &mut Entry<C>, seen: &Observation<C>) {
        if !self.partial.remove(uid) {
            return;
        }
        let Some(written) = seen.content_since.filter(|it| entry.written == Some(*it)) else {
            return;
        };
        self.mark_dirty(uid);
        if let Some(cut) = entry.complete(written, &seen.content) {
            self.close_at(cut, uid);
        }
        self.quarantine.complete(uid, written, &seen.content);
    }
}

impl<C: Content> Entry<C> {
    /// The content has been this since `written`. Returns the end of the segment that this closed, if
    /// any.
    fn complete(&mut self, written: UnixSeconds, content: &C) -> Option<UnixSeconds> {
        let last = self
            .segments
            .last_mut()
            .filter(|it| it.content().is_partial())?;
        if written <= last.start {
            last.replace(content.clone());
            return None;
        }
        if last.end.is_some_and(|end| end <= written) {
            return None;
        }
        // What it was before that nobody knows.
        let end = last.end.replace(written);
        self.segments
            .push(Segment::new(written, end, content.clone()));
        Some(written)
    }
}
