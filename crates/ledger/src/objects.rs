//! The objects of the ledger, and which of them have to be written or removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use crate::{
    budget::{Budget, Usages, Waiting},
    entry::{Entry, KEPT_AFTER_DELETION, RecordChange},
    interval::{Span, UnixSeconds},
    segment::Segment,
    types::{Content, Observation, Uid, UsageInterval},
};

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Objects<C> {
    entries: BTreeMap<Uid, Entry<C>>,
    /// Objects of which something can be removed once the watermark has passed the second.
    expirations: BTreeMap<UnixSeconds, Vec<Uid>>,
    /// Objects that changed since the changes were last taken.
    changed: BTreeSet<Uid>,
    /// Objects that were restored with partial contents and have not been observed since.
    partial: HashSet<Uid>,
    /// How many segments wait, by owner.
    waiting: Usages,
}

impl<C> Default for Objects<C> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            expirations: BTreeMap::new(),
            changed: BTreeSet::new(),
            partial: HashSet::new(),
            waiting: Usages::default(),
        }
    }
}

impl<C: Content> Objects<C> {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Entry<C>> {
        self.entries.get(uid)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Uid, &Entry<C>)> {
        self.entries.iter()
    }

    /// Takes an entry out to change it; [`Objects::put`] puts it back.
    pub(crate) fn take(&mut self, uid: &str) -> Option<(Uid, Entry<C>)> {
        self.entries.remove_entry(uid)
    }

    pub(crate) fn put(&mut self, uid: Uid, entry: Entry<C>) {
        self.entries.insert(uid, entry);
    }

    pub(crate) fn mark_dirty(&mut self, uid: &Uid) {
        if !self.changed.contains(uid) {
            self.changed.insert(Arc::clone(uid));
        }
    }

    /// The owner of an object, if the object is known.
    pub(crate) fn owner(&self, uid: &str) -> Option<Arc<str>> {
        let segment = self.entries.get(uid)?.segments.last()?;
        Some(segment.content().owner().into())
    }

    /// Adds an entry that the state holds. [`Objects::finish_restore`] follows the last one.
    pub(crate) fn restore(&mut self, uid: Uid, entry: Entry<C>) {
        for end in entry.segments.iter().filter_map(|segment| segment.end) {
            self.expire_at(end, &uid);
        }
        if entry.end.is_some() {
            self.expire_at(entry.covered, &uid);
            self.expire_at(entry.covered.saturating_add(KEPT_AFTER_DELETION), &uid);
        }
        self.entries.insert(uid, entry);
    }

    /// Counts what waits after entries or contents were replaced.
    pub(crate) fn finish_restore(&mut self) {
        self.waiting = self.count_waiting();
    }

    // --- what is billed -----------------------------------------------------------------------

    /// The result of `billed` for each segment, in the order of UID and start.
    pub(crate) fn pieces(
        &self,
        billed: impl Fn(&Segment<C>) -> Option<Span>,
    ) -> Vec<UsageInterval<C>> {
        let mut pieces = Vec::new();
        for (uid, entry) in &self.entries {
            for segment in &entry.segments {
                if let Some((start, end)) = billed(segment) {
                    pieces.push(UsageInterval {
                        uid: Arc::clone(uid),
                        start,
                        end,
                        content: segment.content().clone(),
                    });
                }
            }
        }
        pieces
    }

    /// The sum of the results of `billed` for each segment.
    pub(crate) fn seconds(&self, billed: impl Fn(&Segment<C>) -> Option<Span>) -> i64 {
        let segments = self.entries.values().flat_map(|entry| &entry.segments);
        segments.filter_map(billed).fold(0, |sum, (start, end)| {
            sum.saturating_add(end.saturating_sub(start))
        })
    }

    /// Changes the contents of one object, or of all, from `at` on; see [`Entry::amend`]. Returns the objects that
    /// were divided.
    pub(crate) fn amend(
        &mut self,
        uid: Option<&str>,
        (at, emitted): (UnixSeconds, UnixSeconds),
        change: &mut dyn FnMut(&C) -> Option<C>,
    ) -> Vec<Uid> {
        let mut divided = Vec::new();
        let mut amended = Vec::new();
        let mut each = |uid: &Uid, entry: &mut Entry<C>, waiting: &mut Usages| {
            let is_changed;
            let border;
            (is_changed, border) = waiting.change(entry, |it| it.amend(at, emitted, change));
            if is_changed {
                amended.push(Arc::clone(uid));
            }
            if let Some(border) = border {
                divided.push((border, Arc::clone(uid)));
            }
        };
        match uid {
            Some(uid) => {
                if let Some((uid, mut entry)) = self.entries.remove_entry(uid) {
                    each(&uid, &mut entry, &mut self.waiting);
                    self.entries.insert(uid, entry);
                }
            }
            None => {
                for (uid, entry) in &mut self.entries {
                    each(uid, entry, &mut self.waiting);
                }
            }
        }
        for uid in &amended {
            self.mark_dirty(uid);
        }
        for (border, uid) in &divided {
            self.expire_at(*border, uid);
        }
        divided.into_iter().map(|(_, uid)| uid).collect()
    }

    // --- partial contents ---------------------------------------------------------------------

    /// Calls `change` for each content; it returns whether it changed the content.
    pub(crate) fn each_content(&mut self, change: &mut dyn FnMut(&Uid, &mut C) -> bool) {
        for (uid, entry) in &mut self.entries {
            for segment in &mut entry.segments {
                if segment.change(|content| change(uid, content)) {
                    self.changed.insert(Arc::clone(uid));
                }
            }
        }
    }

    /// These objects have partial contents, here or in what was handed out.
    pub(crate) fn set_partial(&mut self, partial: HashSet<Uid>) {
        self.partial = partial;
    }

    /// Completes the partial content of a known object. Returns since when its content has been as it is
    /// observed, if that is known.
    pub(crate) fn complete(&mut self, seen: &Observation<C>) -> Option<UnixSeconds> {
        let uid = &seen.uid;
        let entry = self.entries.get_mut(uid)?;
        if !self.partial.remove(uid) {
            return None;
        }
        let written = seen.content_since.filter(|it| entry.written == Some(*it))?;
        let before = entry.segments.len();
        let closed_at = entry.complete(written, &seen.content);
        self.waiting.grown(entry, before);
        self.mark_dirty(uid);
        if let Some(closed_at) = closed_at {
            self.expire_at(closed_at, uid);
        }
        Some(written)
    }

    // --- what waits ---------------------------------------------------------------------------

    /// How many segments an object has.
    pub(crate) fn segments(&self, uid: &str) -> usize {
        self.get(uid).map_or(0, |entry| entry.segments.len())
    }

    /// Counts the segments that an entry that was taken out has beyond the `before` that it had.
    pub(crate) fn grown(&mut self, entry: &Entry<C>, before: usize) {
        self.waiting.grown(entry, before);
    }

    /// Counts what waits of an object whose entry was taken out again after `change`.
    pub(crate) fn recount<T>(
        &mut self,
        entry: &mut Entry<C>,
        change: impl FnOnce(&mut Entry<C>) -> T,
    ) -> T {
        self.waiting.change(entry, change)
    }

    /// Ends the life of an object whose entry was taken out.
    pub(crate) fn close(&mut self, entry: &mut Entry<C>, end: UnixSeconds, emitted: UnixSeconds) {
        self.waiting
            .change(entry, |entry| entry.close(end, emitted));
    }

    /// Joins the two newest closed segments of an object if its owner is beyond the budget.
    pub(crate) fn join_newest(
        &mut self,
        uid: &Uid,
        budget: Budget,
        emitted: UnixSeconds,
        billed: impl Fn(&C) -> Option<C>,
    ) -> Waiting {
        let Some(entry) = self.entries.get_mut(uid) else {
            return Waiting::Within;
        };
        let (waiting, joined_at) = self.waiting.join_newest(entry, budget, emitted, billed);
        if let Some(border) = joined_at {
            self.cancel_expiration(border, uid);
        }
        waiting
    }

    /// What waits, counted from the entries.
    pub(crate) fn count_waiting(&self) -> Usages {
        let mut usages = Usages::default();
        for entry in self.entries.values() {
            usages.grown(entry, 0);
        }
        usages
    }

    /// What waits, as it is counted while it changes.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> &Usages {
        &self.waiting
    }

    // --- removing -----------------------------------------------------------------------------

    /// Something of the object can be removed once the watermark has passed `at`.
    pub(crate) fn expire_at(&mut self, at: UnixSeconds, uid: &Uid) {
        self.expirations
            .entry(at)
            .or_default()
            .push(Arc::clone(uid));
    }

    /// Removes one expiration of an object at `at`.
    fn cancel_expiration(&mut self, at: UnixSeconds, uid: &Uid) {
        let Some(expiring) = self.expirations.get_mut(&at) else {
            return;
        };
        if let Some(place) = expiring.iter().position(|it| it == uid) {
            expiring.swap_remove(place);
        }
        if expiring.is_empty() {
            self.expirations.remove(&at);
        }
    }

    /// Drops what lies behind the watermark.
    pub(crate) fn drop_delivered(&mut self, watermark: UnixSeconds) {
        while let Some(first) = self.expirations.first_entry() {
            if *first.key() > watermark {
                break;
            }
            for uid in first.remove() {
                let Some(entry) = self.entries.get_mut(&uid) else {
                    continue;
                };
                if !self.changed.contains(&uid) {
                    self.changed.insert(Arc::clone(&uid));
                }
                let is_ahead = |segment: &Segment<C>| segment.end.is_none_or(|end| end > watermark);
                self.waiting
                    .change(entry, |entry| entry.segments.retain(is_ahead));
                let is_expired = entry.covered.saturating_add(KEPT_AFTER_DELETION) <= watermark;
                if is_expired && !entry.exists && entry.end.is_some() {
                    self.entries.remove(&uid);
                }
            }
        }
    }

    // --- what is written ----------------------------------------------------------------------

    /// Returns the objects that changed, `None` for those that were removed, and marks them as written.
    pub(crate) fn take_changes(&mut self) -> BTreeMap<Uid, Option<RecordChange<C>>> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let record = |uid: Uid| {
            let record = self.entries.get_mut(&uid).map(Entry::take_change);
            (uid, record)
        };
        changed.map(record).collect()
    }

    /// Makes the next changes contain everything.
    pub(crate) fn mark_all_dirty(&mut self) {
        self.changed = self.entries.keys().cloned().collect();
        let segments = self.entries.values_mut().flat_map(|it| &mut it.segments);
        segments.for_each(Segment::mark_dirty);
    }
}
