//! The ledger that all parts of one input share, and how complete it is, behind one mutex.

mod owned;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use meterline_core::Node;
use meterline_ledger::{
    Budget, Changes, Completeness, DeliveryResult, DeliveryTag, Interval, Ledger, Observation, Uid,
    UnixSeconds, Waiting, WindowBatch,
};
use meterline_script::{Relation, Table};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use self::owned::with_owners;
use super::{
    device_slices::DeviceSlices,
    leader::claim::Signer,
    lookup_tables::LookupTables,
    object::{BilledObject, Known, KnownLife, Projection},
    options::Options,
    related::RelatedObjects,
    state::SeenUntil,
};

/// Whether this replica bills.
enum Leadership {
    /// It is the only one.
    Alone,
    /// Until this moment by its own clock; a moment in the past while it stands by.
    Until(Instant),
}

struct State {
    ledger: Ledger<BilledObject>,
    /// The metadata of other objects that contents have.
    related: RelatedObjects,
    /// The values of tables that contents have.
    tables: LookupTables,
    /// What drivers say of the devices that contents have.
    slices: DeviceSlices,
    completeness: Completeness,
    /// Grows with everything that may have changed the ledger.
    generation: u64,
    /// The generation up to which the state file has the ledger; `None` without a state file.
    written: Option<u64>,
    /// How far the view went the last time that it was complete.
    seen: SeenUntil,
    /// Objects of a restored ledger that no watch is known to see.
    unplaced: HashSet<Uid>,
    leadership: Leadership,
    /// The replica that was last seen to lead while this one stood by.
    leader: Arc<str>,
}

impl State {
    /// Adds the observed state of an object, whose content has what belongs to it: of each moment for an object that is
    /// new, and as it is now for one that is known, whose earlier contents have theirs.
    fn observe_joined(
        &mut self,
        mut observation: Observation<BilledObject>,
        bill: impl Fn(&BilledObject) -> Option<BilledObject>,
    ) -> Waiting {
        let budget = Budget::default();
        self.describe_devices(&mut observation);
        if self.ledger.knows(&observation.uid) {
            observation.content = self.joined_now(&observation.uid, observation.content);
            return self.ledger.apply_within(observation, budget, bill);
        }
        let start = observation.start.max(observation.in_scope_since);
        let start = start.unwrap_or(observation.observed_at);
        let mut changes = self.related.changes(&observation.content, start);
        changes.extend(self.tables.changes(start).into_iter().map(|(at, _)| at));
        let uid = Arc::clone(&observation.uid);
        observation.content = self.joined(observation.content, start);
        let mut waiting = self.ledger.apply_within(observation, budget, &bill);
        let Self {
            ledger,
            related,
            tables,
            ..
        } = self;
        for at in changes {
            let mut amend = |content: &BilledObject| {
                let joined = related.joined(content.clone(), at);
                let joined = tables.joined(&joined, at).unwrap_or(joined);
                // Another object may have changed.
                (joined != *content).then_some(joined)
            };
            let divided = ledger.amend(Some(&uid), at, budget, &bill, &mut amend);
            waiting = divided.last().map_or(waiting, |(_, waiting)| *waiting);
        }
        waiting
    }
}

/// A window that may be sent.
pub(super) struct DueWindow {
    pub(super) batch: WindowBatch<BilledObject>,
    /// The generation that the state file must have before the window is sent.
    pub(super) generation: u64,
}

/// See the module documentation.
pub(super) struct SharedLedger {
    state: Mutex<State>,
    projection: Arc<Projection>,
    max_backlog: i64,
    /// Something happened that may make a window ready.
    pub(super) changed: Notify,
    /// The state file has something to write.
    pub(super) dirty: Notify,
    /// Has a permit once the start of billing is known; see [`Self::is_open`].
    opened: Semaphore,
}

impl SharedLedger {
    pub(super) fn new(
        ledger: Ledger<BilledObject>,
        completeness: Completeness,
        options: &Options,
    ) -> Self {
        let mut related = RelatedObjects::new(options.projection.related.clone());
        let mut tables = LookupTables::new(&options.projection.tables);
        let mut slices = DeviceSlices::new(options.projection.slices.clone());
        for existing in ledger.existing() {
            if let Some(content) = existing.content {
                related.remember(content);
                tables.remember(content);
                slices.used(existing.uid, content, |_| true);
            }
        }
        for (uid, content) in ledger.newest_of_all() {
            related.belongs(uid, content, None, |uid| ledger.knows(uid));
        }
        Self {
            state: Mutex::new(State {
                ledger,
                related,
                tables,
                slices,
                completeness,
                generation: 0,
                written: options.has_state.then_some(0),
                seen: SeenUntil::default(),
                unplaced: HashSet::new(),
                leadership: if options.is_elected {
                    Leadership::Until(Instant::now())
                } else {
                    Leadership::Alone
                },
                leader: "another replica".into(),
            }),
            projection: Arc::clone(&options.projection),
            max_backlog: options.max_backlog,
            changed: Notify::new(),
            dirty: Notify::new(),
            opened: Semaphore::new(usize::from(!options.is_elected)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and has the state file follow.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        state.generation = state.generation.saturating_add(1);
        let outcome = change(&mut state);
        drop(state);
        self.dirty.notify_one();
        outcome
    }

    /// Reads the ledger. Must be quick: everything else waits.
    pub(super) fn with_ledger<T>(&self, read: impl FnOnce(&Ledger<BilledObject>) -> T) -> T {
        read(&self.state().ledger)
    }

    /// Adds the observed state of an object to the ledger. Returns the effect of the budget of its namespace.
    pub(super) fn observe(&self, observation: Observation<BilledObject>) -> Waiting {
        self.change(|state| {
            state.unplaced.remove(&observation.uid);
            let bill = |content: &BilledObject| content.bill(&self.projection);
            let State {
                related, tables, ..
            } = state;
            if related.is_nothing() && tables.is_nothing() && state.slices.is_nothing() {
                return state
                    .ledger
                    .apply_within(observation, Budget::default(), bill);
            }
            state.observe_owned(observation, bill)
        })
    }

    /// The metadata of an object that others belong to was seen at `now`, as it is since `since`. Returns the effect of
    /// the budgets on the objects whose time it divided, with their owners.
    pub(super) fn related(
        &self,
        (relation, name): (Relation, &str),
        object: Node<'_>,
        (since, now): (UnixSeconds, UnixSeconds),
    ) -> Vec<(Arc<str>, Waiting)> {
        let since = since.min(now);
        let is_news = |state: &mut State| state.related.learn((relation, name), object, since);
        // Most events of a node change nothing that is read.
        let Some(change) = is_news(&mut self.state()) else {
            return Vec::new();
        };
        self.change(|state| {
            let State { ledger, tables, .. } = state;
            let bill = |content: &BilledObject| content.bill(&self.projection);
            let metadata = change.metadata.root();
            let concerns = |content: &BilledObject| content.name_of(relation) == Some(name);
            let mut amend = |content: &BilledObject| {
                let is_news = content.related(relation).map(Node::raw) != Some(metadata.raw());
                let content = (concerns(content) && is_news)
                    .then(|| content.with_related(relation, Some(metadata)))?;
                Some(tables.joined(&content, change.since).unwrap_or(content))
            };
            let budget = Budget::default();
            let mut divided = ledger.amend(None, change.since, budget, bill, &mut amend);
            // The keys of tables may be among what changed.
            for (at, _) in tables.changes(change.since) {
                let mut amend = |content: &BilledObject| {
                    let joined = || tables.joined(content, at);
                    concerns(content).then(joined).flatten()
                };
                divided.extend(ledger.amend(None, at, budget, bill, &mut amend));
            }
            with_owners(ledger, divided)
        })
    }

    /// The file of a table was read, which contains this since `since`. Returns the effect of the budgets on the objects
    /// whose time it divided, with their owners, and whether an older content of the table was forgotten for it.
    pub(super) fn table(
        &self,
        name: &str,
        table: Arc<Table>,
        since: UnixSeconds,
    ) -> (Vec<(Arc<str>, Waiting)>, bool) {
        self.change(|state| {
            let State { ledger, tables, .. } = state;
            let Some(change) = tables.learn(name, table, since) else {
                return (Vec::new(), false);
            };
            let bill = |content: &BilledObject| content.bill(&self.projection);
            let budget = Budget::default();
            let mut divided = Vec::new();
            if change.is_first {
                let mut amend = |content: &BilledObject| {
                    let joined = || tables.joined_of(name, content, UnixSeconds::MIN);
                    LookupTables::lacks(content, name).then(joined).flatten()
                };
                divided = ledger.amend(None, UnixSeconds::MIN, budget, bill, &mut amend);
            }
            let mut amend = |content: &BilledObject| tables.joined_of(name, content, change.since);
            divided.extend(ledger.amend(None, change.since, budget, bill, &mut amend));
            (with_owners(ledger, divided), change.is_full)
        })
    }

    /// An object is gone since `at`.
    pub(super) fn deleted(&self, uid: &str, at: UnixSeconds) {
        self.change(|state| state.ledger.deleted(uid, at));
    }

    /// An object is gone, at an unknown time: it existed at `seen`, and at `now` it does not. It is billed until
    /// `seen`; the seconds between are counted.
    pub(super) fn vanished(&self, uid: &str, seen: UnixSeconds, now: UnixSeconds) {
        self.change(|state| state.ledger.vanished(uid, seen, now));
    }

    /// A watch has seen everything up to this resource version.
    pub(super) fn seen_version(&self, watch: &Arc<str>, version: u64) {
        let versions = &mut self.state().seen.versions;
        versions.insert(Arc::clone(watch), version);
    }

    /// A watch has a complete view, or no longer has one. Returns whether all watches have one.
    pub(super) fn synced(&self, watch: &str, is_synced: bool) -> bool {
        let mut state = self.state();
        state.completeness.synced(watch, is_synced);
        let is_complete = state.completeness.complete_until(i64::MAX).is_some();
        if is_synced && is_complete {
            state.related.all_listed();
            // Every watch has listed what exists, and these were not in any list.
            for uid in std::mem::take(&mut state.unplaced) {
                let seen = state.seen.at;
                state.ledger.deleted(&uid, seen);
            }
        }
        drop(state);
        if is_synced {
            self.changed.notify_one();
        }
        is_complete
    }

    /// The view of a watch was current at `at`.
    pub(super) fn alive(&self, watch: &str, at: UnixSeconds) {
        self.state().completeness.alive(watch, at);
        self.changed.notify_one();
    }

    /// The second up to which every watch is current; `None` while one has no complete view.
    pub(super) fn complete_until(&self) -> Option<UnixSeconds> {
        self.state().completeness.complete_until(i64::MAX)
    }

    /// The end of the next window.
    pub(super) fn next_due(&self) -> UnixSeconds {
        self.state().ledger.next_due()
    }

    /// The next window that may be made now, if there is one, and how many object-seconds were given up
    /// because they are older than `max_backlog`.
    pub(super) fn next(&self, now: UnixSeconds) -> (Option<DueWindow>, i64) {
        if !self.is_leader() {
            return (None, 0);
        }
        self.change(|state| {
            let Some(complete_until) = state.completeness.complete_until(now) else {
                return (None, 0);
            };
            let oldest = now.saturating_sub(self.max_backlog);
            state.ledger.forget_rejected(oldest);
            let lost = state.ledger.give_up(oldest);
            let batch = state.ledger.next(complete_until);
            let generation = state.generation;
            let window = batch.map(|batch| DueWindow { batch, generation });
            (window, lost)
        })
    }

    /// Settles a window that was handed out. `result` makes the result of its pieces.
    pub(super) fn settle(
        &self,
        tag: DeliveryTag,
        result: impl FnOnce(&Ledger<BilledObject>) -> DeliveryResult<BilledObject>,
    ) {
        self.change(|state| {
            let result = result(&state.ledger);
            state.ledger.settle(tag, result);
            let watermark = state.ledger.watermark();
            state.related.forget(watermark);
            state.tables.forget(watermark);
        });
    }

    /// Makes all rejected usage again. Returns how many pieces that are.
    pub(super) fn retry_rejected(&self) -> usize {
        let pieces = self.change(|state| state.ledger.retry_rejected());
        self.changed.notify_one();
        pieces
    }

    /// The length of windows.
    pub(super) fn interval(&self) -> Interval {
        self.state().ledger.interval()
    }

    /// Waits until it is known from which second on this ledger bills. Watches begin after that, because the
    /// ledger discards what lies before it.
    pub(super) async fn is_open(&self) {
        // The semaphore is never closed, and the permit is returned at once.
        let _ = self.opened.acquire().await;
    }

    /// According to the Lease, signed by `signer`, everything up to `delivered` was delivered. A leader ignores
    /// this. Returns how many object-seconds are counted as unproved because of it.
    pub(super) fn learn(&self, delivered: Option<UnixSeconds>, signer: Signer) -> i64 {
        let is_first = self.opened.available_permits() == 0;
        let learned = delivered.filter(|_| is_first || !self.is_leader());
        let lost = learned.map_or(0, |delivered| {
            self.change(|state| {
                let ledger = &mut state.ledger;
                let lost = match signer {
                    _ if !is_first && delivered <= ledger.watermark() => 0,
                    Signer::Another if is_first => {
                        ledger.begin_at(delivered);
                        0
                    }
                    Signer::Another => {
                        ledger.adopt(delivered);
                        0
                    }
                    Signer::ThisReplica => ledger.adopt_unproved(delivered, true),
                    Signer::Unknown => ledger.adopt_unproved(delivered, false),
                };
                state.forget_controllers();
                lost
            })
        });
        if is_first {
            self.opened.add_permits(1);
        }
        lost
    }

    /// Another replica leads.
    pub(super) fn is_led_by(&self, leader: &str) {
        let mut state = self.state();
        if state.leader.as_ref() != leader {
            state.leader = leader.into();
        }
    }

    /// The replica that leads instead of this one, if another one does.
    pub(super) fn leader(&self) -> Option<Arc<str>> {
        (!self.is_leader()).then(|| Arc::clone(&self.state().leader))
    }

    /// This replica leads until then.
    pub(super) fn lead_until(&self, until: Instant) {
        self.state().leadership = Leadership::Until(until);
        self.changed.notify_one();
    }

    /// Whether this replica bills.
    pub(super) fn is_leader(&self) -> bool {
        match self.state().leadership {
            Leadership::Alone => true,
            Leadership::Until(until) => Instant::now() < until,
        }
    }

    /// The second up to which nothing has to be sent again.
    pub(super) fn safe_watermark(&self) -> UnixSeconds {
        self.state().ledger.safe_watermark()
    }

    /// Returns what a restored ledger knows: for each watch the objects that existed, and the lives of those that
    /// no watch is known to see. `place` returns the watch that an object belongs to, if any.
    pub(super) fn restored(
        &self,
        seen: &SeenUntil,
        place: impl Fn(&Known) -> Option<Arc<str>>,
    ) -> (HashMap<Arc<str>, Vec<Known>>, HashMap<Uid, KnownLife>) {
        let mut placed: HashMap<_, Vec<_>> = HashMap::new();
        let mut lives = HashMap::new();
        self.change(|state| {
            state.seen = seen.clone();
            let mut elsewhere = Vec::new();
            for existing in state.ledger.existing() {
                let (uid, life) = (existing.uid, KnownLife::of(&existing));
                let Some(content) = existing.content else {
                    state.unplaced.insert(Arc::clone(uid));
                    lives.insert(Arc::clone(uid), life);
                    continue;
                };
                let known = Known::of(uid, content, life);
                match place(&known) {
                    Some(watch) => placed.entry(watch).or_default().push(known),
                    None => elsewhere.push(Arc::clone(uid)),
                }
            }
            for uid in elsewhere {
                // The configuration no longer watches it.
                state.ledger.deleted(&uid, seen.at);
            }
        });
        (placed, lives)
    }

    /// Returns what the state file has to write: the changes since the last call, or `everything`; their
    /// generation; and how far the view went.
    pub(super) fn take_changes(&self, everything: bool) -> (Changes<BilledObject>, u64, SeenUntil) {
        let mut state = self.state();
        if let Some(current) = state.completeness.complete_until(i64::MAX) {
            state.seen.at = state.seen.at.max(current);
        }
        let changes = if everything {
            state.ledger.take_everything()
        } else {
            state.ledger.take_changes()
        };
        (changes, state.generation, state.seen.clone())
    }

    /// The state file has everything up to this generation.
    pub(super) fn written(&self, generation: u64) {
        self.state().written = Some(generation);
        self.changed.notify_one();
    }

    /// Whether the state file has everything up to this generation, or there is none.
    pub(super) fn is_written(&self, generation: u64) -> bool {
        self.state().written.is_none_or(|it| it >= generation)
    }
}

mod slices;

#[cfg(test)]
mod attributed;
#[cfg(test)]
mod tests;
