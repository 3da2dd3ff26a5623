//! Changes of what belongs to the contents of objects, and not to the objects themselves.

use std::sync::Arc;

use crate::{
    budget::{Budget, Waiting},
    interval::UnixSeconds,
    ledger::Ledger,
    segment::Segment,
    types::{Content, Uid},
};

impl<C: Content> Ledger<C> {
    /// Learns that something changed at `at` that belongs to the contents of objects, and not to the objects
    /// themselves: `change` returns the content from then on in place of one, if it concerns that one. It applies
    /// to one object, or to all. What was handed out is not changed. Returns the effect of the budget on each
    /// object that this gave another segment; see [`Ledger::apply_within`].
    pub fn amend(
        &mut self,
        uid: Option<&str>,
        at: UnixSeconds,
        budget: Budget,
        billed: impl Fn(&C) -> Option<C>,
        change: &mut dyn FnMut(&C) -> Option<C>,
    ) -> Vec<(Uid, Waiting)> {
        let divided = self.timeline.amend(uid, at, change);
        let join = |uid: Uid| {
            let waiting = self.timeline.join_newest(&uid, 0, budget, &billed);
            (uid, waiting)
        };
        divided.into_iter().map(join).collect()
    }

    /// The owner of an object, while time of it is kept.
    #[must_use]
    pub fn owner(&self, uid: &str) -> Option<Arc<str>> {
        self.timeline.objects.owner(uid)
    }

    /// The newest content of an object, while time of it is kept.
    #[must_use]
    pub fn newest(&self, uid: &str) -> Option<&C> {
        let segment = self.timeline.objects.get(uid)?.segments.last()?;
        Some(segment.content())
    }

    /// The newest contents of all objects of which time is kept.
    pub fn newest_of_all(&self) -> impl Iterator<Item = (&Uid, &C)> {
        let objects = self.timeline.objects.iter();
        objects.filter_map(|(uid, it)| Some((uid, it.segments.last()?.content())))
    }

    /// Whether an object is known.
    #[must_use]
    pub fn knows(&self, uid: &str) -> bool {
        self.timeline.objects.get(uid).is_some()
    }

    /// The newest content that is kept of an object.
    #[must_use]
    pub fn content(&self, uid: &str) -> Option<&C> {
        let newest = self.timeline.objects.get(uid)?.segments.last();
        newest.map(Segment::content)
    }
}
