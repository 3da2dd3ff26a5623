//! How many segments of one owner may wait.
//!
//! Each change of content starts a segment, which is kept until its time was delivered. While the sink
//! is unavailable, an owner decides how many segments wait. Beyond a budget, the segment that a change
//! closed is joined to the one before it, whose content stays, if both are billed the same and nothing of
//! the later one was handed out. So no second moves to an event that was handed out, and no id changes.
//! Segments that are billed differently are never joined, however many wait; of their contents only what
//! is billed is kept.
//!
//! Only segments that are followed by another one of the same object count: the last one of an object is
//! its present state.

use std::collections::HashMap;

use crate::{entry::Entry, interval::UnixSeconds, segment::Segment, types::Content};

/// How much may wait of one owner before segments are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Segments.
    pub segments: usize,
    /// Bytes of their contents, each counted in each segment that has it.
    pub bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            segments: 10_000,
            bytes: 64 << 20,
        }
    }
}

/// The effect of a budget on an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The owner is within it, or nothing more waits than before.
    Within,
    /// Two segments were joined.
    Joined,
    /// One more waits, beyond the budget: it cannot be joined to the one before.
    Beyond,
}

/// How much waits of one owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    segments: usize,
    bytes: usize,
}

impl Usage {
    /// How much waits of an object after its first `from` segments.
    fn of<C: Content>(segments: &[Segment<C>], from: usize) -> Self {
        let inner = segments.len().saturating_sub(1);
        let mut usage = Self::default();
        for segment in segments.get(from..inner).unwrap_or_default() {
            usage.segments += 1;
            usage.bytes += segment.content().weight();
        }
        usage
    }
}

/// How much waits, by owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usages(HashMap<Box<str>, Usage>);

impl Usages {
    fn add(&mut self, owner: &str, more: Usage) {
        if more.segments == 0 {
            return;
        }
        if !self.0.contains_key(owner) {
            self.0.insert(owner.into(), Usage::default());
        }
        if let Some(usage) = self.0.get_mut(owner) {
            usage.segments = usage.segments.saturating_add(more.segments);
            usage.bytes = usage.bytes.saturating_add(more.bytes);
        }
    }

    fn remove(&mut self, owner: &str, less: Usage) {
        let Some(usage) = self.0.get_mut(owner).filter(|_| less.segments > 0) else {
            return;
        };
        usage.segments = usage.segments.saturating_sub(less.segments);
        usage.bytes = usage.bytes.saturating_sub(less.bytes);
        if usage.segments == 0 {
            self.0.remove(owner);
        }
    }

    fn is_beyond(&self, owner: &str, budget: Budget) -> bool {
        self.0
            .get(owner)
            .is_some_and(|usage| usage.segments > budget.segments || usage.bytes > budget.bytes)
    }

    /// Counts the segments that an object has beyond the `before` that it had. None was removed, and only the
    /// content of the last one changed.
    pub(crate) fn grown<C: Content>(&mut self, entry: &Entry<C>, before: usize) {
        if let Some(last) = entry
            .segments
            .last()
            .filter(|_| entry.segments.len() > before)
        {
            let more = Usage::of(&entry.segments, before.saturating_sub(1));
            self.add(last.content().owner(), more);
        }
    }

    /// Counts what waits of an object again after `change`.
    pub(crate) fn change<C: Content, T>(
        &mut self,
        entry: &mut Entry<C>,
        change: impl FnOnce(&mut Entry<C>) -> T,
    ) -> T {
        let before = Usage::of(&entry.segments, 0);
        if let Some(last) = entry.segments.last() {
            self.remove(last.content().owner(), before);
        }
        let outcome = change(entry);
        if let Some(last) = entry.segments.last() {
            self.add(last.content().owner(), Usage::of(&entry.segments, 0));
        }
        outcome
    }

    /// Joins the two newest closed segments of an object if its owner is beyond the budget. Returns the
    /// effect and, if they were joined, where they met.
    pub(crate) fn join_newest<C: Content>(
        &mut self,
        entry: &mut Entry<C>,
        budget: Budget,
        emitted: UnixSeconds,
        billed: impl Fn(&C) -> Option<C>,
    ) -> (Waiting, Option<UnixSeconds>) {
        let Some((last, over)) = entry.segments.split_last_mut() else {
            return (Waiting::Within, None);
        };
        let owner = last.content().owner();
        if !self.is_beyond(owner, budget) {
            return (Waiting::Within, None);
        }
        let (earlier, later) = match over {
            [.., earlier, later] => (Some(earlier), later),
            [later] => (None, later),
            [] => return (Waiting::Within, None),
        };
        // What lies before was handed out, and is never changed.
        let is_open = emitted <= later.start && !later.content().is_partial();
        let Some(bill) = is_open.then(|| billed(later.content())).flatten() else {
            return (Waiting::Beyond, None);
        };
        let removed = Usage {
            segments: 1,
            bytes: later.content().weight(),
        };
        let is_same = |earlier: &&mut Segment<C>| {
            earlier.end == Some(later.start)
                && !earlier.content().is_partial()
                && billed(earlier.content()).is_some_and(|it| it == bill)
        };
        self.remove(owner, removed);
        let Some(earlier) = earlier.filter(is_same) else {
            later.replace(bill);
            let left = Usage {
                bytes: later.content().weight(),
                ..removed
            };
            self.add(owner, left);
            return (Waiting::Beyond, None);
        };
        let border = later.start;
        earlier.end = later.end;
        let at = entry.segments.len().saturating_sub(2);
        entry.segments.remove(at);
        (Waiting::Joined, Some(border))
    }
}
