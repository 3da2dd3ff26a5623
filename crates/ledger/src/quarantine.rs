//! Pieces that were rejected. They are kept so that they can be handed out again under their ids.
//!
//! Pieces of one object with the same content and the same cause form one *group*, so that an object
//! that is rejected for a day costs one content and a list of times. A group keeps its key for as long
//! as it has pieces. What is kept is bounded: beyond the bound the oldest group of the owner that holds
//! most is evicted, so that one tenant cannot evict the pieces of others. Evictions are counted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    group::{Group, GroupChange, GroupKey, Retried},
    interval::UnixSeconds,
    types::{Content, DeliveryResult, DeliveryTag, Fate, Refusal, Uid, UsageInterval},
};

/// The most bytes of contents, and the most pieces, that are kept.
const MOST_BYTES: usize = 64 << 20;
const MOST_PIECES: usize = 1_000_000;
/// The most groups that are handed out at once. They are likely to be rejected again, and must not
/// occupy an output.
const MOST_IN_FLIGHT: usize = 2;
/// The first pause, in seconds, before a group whose rejection may pass is tried again. It doubles each time that all of
/// the group is rejected again.
const FIRST_PAUSE: i64 = 60;
const LONGEST_PAUSE: i64 = 3_600;

/// What is kept of one owner.
#[derive(Debug, Clone, Default)]
struct Owned {
    weight: usize,
    /// In the order of their starts.
    groups: BTreeSet<GroupKey>,
    /// Object-seconds by cause.
    seconds: BTreeMap<Arc<str>, i64>,
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Quarantine<C> {
    groups: BTreeMap<GroupKey, Group<C>>,
    /// The group of each object that may take further pieces.
    open: HashMap<Uid, GroupKey>,
    /// When groups are tried again.
    due: BTreeSet<(UnixSeconds, GroupKey)>,
    in_flight: BTreeMap<u64, GroupKey>,
    pieces: usize,
    bytes: usize,
    owners: BTreeMap<Arc<str>, Owned>,
    /// Owners by how much is kept of them.
    by_weight: BTreeSet<(usize, Arc<str>)>,
    /// Groups that changed since the changes were last taken, and whether they are new.
    changed: BTreeMap<GroupKey, bool>,
}

impl<C> Default for Quarantine<C> {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            open: HashMap::new(),
            due: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            pieces: 0,
            bytes: 0,
            owners: BTreeMap::new(),
            by_weight: BTreeSet::new(),
            changed: BTreeMap::new(),
        }
    }
}

impl<C: Content> Quarantine<C> {
    /// The groups that the state holds. All are tried again, because their cause may have been fixed.
    pub(crate) fn restore(groups: impl IntoIterator<Item = (GroupKey, Group<C>)>) -> Self {
        let mut quarantine = Self::default();
        for (key, group) in groups {
            quarantine.insert(key, group, false);
        }
        quarantine.changed.clear();
        quarantine.retry();
        quarantine
    }

    pub(crate) fn from(
        &self,
        key: Option<&GroupKey>,
    ) -> impl Iterator<Item = (&GroupKey, &Group<C>)> {
        use std::ops::Bound;
        let from = key.map_or(Bound::Unbounded, Bound::Included);
        self.groups.range((from, Bound::Unbounded))
    }

    pub(crate) fn pieces(&self) -> usize {
        self.pieces
    }

    /// Object-seconds by owner and cause.
    pub(crate) fn seconds(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, i64)> {
        self.owners.iter().flat_map(|(owner, owned)| {
            let seconds = owned.seconds.iter();
            seconds.map(move |(cause, seconds)| (owner, cause, *seconds))
        })
    }

    pub(crate) fn take_changes(&mut self) -> BTreeMap<GroupKey, Option<GroupChange<C>>> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|(key, is_new)| {
                let group = self.groups.get(&key).cloned();
                (key, group.map(|group| GroupChange { group, is_new }))
            })
            .collect()
    }

    pub(crate) fn mark_all_dirty(&mut self) {
        let all = self.groups.keys().map(|key| (key.clone(), true));
        self.changed.extend(all);
    }

    /// Calls `change` for each content; it returns whether it changed the content.
    pub(crate) fn each_content(&mut self, change: &mut dyn FnMut(&Uid, &mut C) -> bool) {
        for key in self.groups.keys().cloned().collect::<Vec<_>>() {
            let Some(mut content) = self.groups.get(&key).map(|it| it.content.clone()) else {
                continue;
            };
            if change(&key.uid, &mut content) {
                self.change_content(&key, &content);
            }
        }
    }

    /// Completes partial contents of an object, whose content has been `content` since `written`.
    pub(crate) fn complete(&mut self, uid: &Uid, written: UnixSeconds, content: &C) {
        let partial = self.groups.iter().filter(|(_, group)| {
            let since = group.pieces.first().map(|(start, _)| *start);
            group.uid == *uid && group.content.is_partial() && since >= Some(written)
        });
        for key in partial.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.change_content(&key, content);
        }
    }

    fn change_content(&mut self, key: &GroupKey, content: &C) {
        if let Some(mut group) = self.remove(key) {
            group.content = content.clone();
            self.insert(key.clone(), group, true);
        }
    }

    fn mark_dirty(&mut self, key: &GroupKey, is_new: bool) {
        match self.changed.get_mut(key) {
            Some(known) => *known |= is_new,
            None => {
                self.changed.insert(key.clone(), is_new);
            }
        }
    }

    /// Keeps a piece. Returns the groups that were evicted for it.
    pub(crate) fn add(
        &mut self,
        piece: UsageInterval<C>,
        refusal: Refusal,
        at: UnixSeconds,
    ) -> Vec<Group<C>> {
        let open = self.open.get(&piece.uid).cloned();
        let fits = open.filter(|key| {
            self.groups
                .get(key)
                .is_some_and(|group| group.takes(&piece.content, &refusal))
                && !self.is_in_flight(key)
        });
        let found = fits.and_then(|key| self.remove(&key).map(|it| (key, it)));
        let is_new = found.is_none();
        let (key, mut group) = match found {
            Some(found) => found,
            None => {
                let key = GroupKey {
                    start: piece.start,
                    uid: Arc::clone(&piece.uid),
                };
                // A group with this key has the same first piece: the piece was handed out again.
                if self.groups.contains_key(&key) {
                    return Vec::new();
                }
                let group = Group {
                    uid: piece.uid,
                    content: piece.content,
                    next_try: refusal.may_pass.then(|| at.saturating_add(FIRST_PAUSE)),
                    refusal,
                    pieces: Vec::new(),
                    first_try: at,
                    last_try: at,
                    retries: 0,
                    failures: 0,
                };
                (key, group)
            }
        };
        let before = group
            .pieces
            .partition_point(|(start, _)| *start < piece.start);
        group.pieces.insert(before, (piece.start, piece.end));
        group.last_try = group.last_try.max(at);
        self.insert(key, group, is_new);
        self.evict()
    }

    fn is_in_flight(&self, key: &GroupKey) -> bool {
        self.in_flight.values().any(|it| it == key)
    }

    fn insert(&mut self, key: GroupKey, group: Group<C>, is_new: bool) {
        self.count(&key, &group, true);
        if let Some(at) = group.next_try {
            self.due.insert((at, key.clone()));
        }
        self.open.insert(Arc::clone(&group.uid), key.clone());
        self.mark_dirty(&key, is_new);
        self.groups.insert(key, group);
    }

    fn remove(&mut self, key: &GroupKey) -> Option<Group<C>> {
        let group = self.groups.remove(key)?;
        self.count(key, &group, false);
        if let Some(at) = group.next_try {
            self.due.remove(&(at, key.clone()));
        }
        if self.open.get(&group.uid) == Some(key) {
            self.open.remove(&group.uid);
        }
        self.mark_dirty(key, false);
        Some(group)
    }

    /// Counts a group that is added or removed.
    fn count(&mut self, key: &GroupKey, group: &Group<C>, is_added: bool) {
        let (weight, pieces, seconds) = (group.weight(), group.pieces.len(), group.seconds());
        let owner: Arc<str> = group.content.owner().into();
        let owned = self.owners.entry(Arc::clone(&owner)).or_default();
        self.by_weight.remove(&(owned.weight, Arc::clone(&owner)));
        let by_cause = owned
            .seconds
            .entry(Arc::clone(&group.refusal.cause))
            .or_default();
        if is_added {
            self.pieces = self.pieces.saturating_add(pieces);
            self.bytes = self.bytes.saturating_add(weight);
            owned.weight = owned.weight.saturating_add(weight);
            *by_cause = by_cause.saturating_add(seconds);
            owned.groups.insert(key.clone());
        } else {
            self.pieces = self.pieces.saturating_sub(pieces);
            self.bytes = self.bytes.saturating_sub(weight);
            owned.weight = owned.weight.saturating_sub(weight);
            *by_cause = by_cause.saturating_sub(seconds);
            owned.groups.remove(key);
        }
        if *by_cause == 0 {
            owned.seconds.remove(&group.refusal.cause);
        }
        if owned.groups.is_empty() {
            self.owners.remove(&owner);
        } else {
            self.by_weight.insert((owned.weight, owner));
        }
    }

    fn evict(&mut self) -> Vec<Group<C>> {
        let mut evicted = Vec::new();
        while self.bytes > MOST_BYTES || self.pieces > MOST_PIECES {
            let most = self.by_weight.last();
            let Some(owned) = most.and_then(|(_, owner)| self.owners.get(owner)) else {
                break;
            };
            // Few groups are in flight, so this scans few.
            let oldest = owned.groups.iter().find(|key| !self.is_in_flight(key));
            let Some(group) = oldest.cloned().and_then(|key| self.remove(&key)) else {
                break;
            };
            evicted.push(group);
        }
        evicted
    }

    /// Drops groups that end at or before `until`.
    pub(crate) fn give_up(&mut self, until: UnixSeconds) -> Vec<Group<C>> {
        let old: Vec<_> = self
            .groups
            .iter()
            // Groups are in the order of their starts.
            .take_while(|(key, _)| key.start < until)
            .filter(|(key, group)| {
                group.pieces.iter().all(|(_, end)| *end <= until) && !self.is_in_flight(key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        old.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Makes every group due now, and lets its pauses begin anew. Returns how many pieces they have.
    pub(crate) fn retry(&mut self) -> usize {
        for (key, group) in &mut self.groups {
            group.failures = 0;
            if let Some(at) = group.next_try.replace(UnixSeconds::MIN) {
                self.due.remove(&(at, key.clone()));
            }
            self.due.insert((UnixSeconds::MIN, key.clone()));
        }
        self.pieces
    }

    /// The pieces of the next group that is due, unless the most groups are in flight.
    pub(crate) fn next(
        &mut self,
        now: UnixSeconds,
        tag: DeliveryTag,
    ) -> Option<Vec<UsageInterval<C>>> {
        if self.in_flight.len() >= MOST_IN_FLIGHT {
            return None;
        }
        let (_, key) = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .find(|(_, key)| !self.is_in_flight(key))?
            .clone();
        let group = self.groups.get(&key)?;
        let pieces = group.to_pieces();
        self.in_flight.insert(tag.0, key);
        Some(pieces)
    }

    /// The group that was handed out with this tag.
    pub(crate) fn handed_out(&self, tag: DeliveryTag) -> Option<&Group<C>> {
        self.in_flight
            .get(&tag.0)
            .and_then(|key| self.groups.get(key))
    }

    /// Learns what became of a group that was handed out again. `None` if no group was handed out with this
    /// tag.
    pub(crate) fn settle(
        &mut self,
        tag: DeliveryTag,
        result: &DeliveryResult<C>,
    ) -> Option<Retried> {
        let key = self.in_flight.remove(&tag.0)?;
        let mut group = self.remove(&key)?;
        let (at, undelivered) = match result {
            // The group is as it was, and still due.
            DeliveryResult::Failed => {
                self.insert(key, group, false);
                return Some(Retried::default());
            }
            DeliveryResult::Delivered => (UnixSeconds::MIN, &[][..]),
            DeliveryResult::Done { at, undelivered } => (*at, undelivered.as_slice()),
        };
        let mut last = None;
        let mut dropped = Vec::new();
        let mut kept = Vec::new();
        for (piece, fate) in undelivered {
            match fate {
                Fate::Rejected(refusal) => {
                    kept.push((piece.start, piece.end));
                    last = Some(refusal);
                }
                Fate::Dropped { place } => {
                    let owner = piece.content.owner().into();
                    dropped.push((piece.seconds(), Arc::clone(place), owner));
                }
            }
        }
        let before = group.seconds();
        group.pieces = kept;
        let settled = before.saturating_sub(group.seconds());
        if let Some(refusal) = last {
            group.retries = group.retries.saturating_add(1);
            // Once a part of it is billed the cause has passed; while one event of an object is tried, others are denied.
            group.failures = match settled {
                0 => group.failures.saturating_add(1),
                _ => 0,
            };
            group.last_try = at;
            group.next_try = refusal.may_pass.then(|| {
                let doubled = 1_i64 << group.failures.min(6);
                at.saturating_add(FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE))
            });
            group.refusal = refusal.clone();
        }
        if !group.pieces.is_empty() {
            self.insert(key, group, false);
        }
        Some(Retried { settled, dropped })
    }
}
