//! What the watches and the reader of one input share: the ledger, and how current it is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::Config;
use meterline_core::{HealthHandle, Metrics, Outcome, Settled};
use meterline_ledger::{
    Budget, Changes, Completeness, DeliveryResult, DeliveryTag, Interval, Ledger, Observation, Uid,
    UnixSeconds, WindowBatch,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tracing::{error, warn};

use super::{
    budgets::Budgets,
    clock::Clock,
    fates,
    leader::claim::Signer,
    metrics::LedgerMetrics,
    object::{BilledObject, Known, Projection},
    resource_type::ResourceType,
    state::SeenUntil,
};

/// How often it is told what is not billed.
const UNBILLED_EVERY: Duration = Duration::from_secs(1);

/// Whether this replica bills.
enum Leadership {
    /// It is the only one.
    Alone,
    /// Until then, by its own clock; the past while it stands by.
    Until(Instant),
}

struct State {
    ledger: Ledger<BilledObject>,
    completeness: Completeness,
    /// Grows with all that may have changed the ledger.
    generation: u64,
    /// Up to which generation the state file has it; none is needed without one.
    written: Option<u64>,
    /// How far the view went, the last time that it was complete.
    seen: SeenUntil,
    /// Objects of a restored ledger of which nobody knows which watch they belong to.
    unplaced: HashSet<Uid>,
    leadership: Leadership,
    /// Who was last seen to lead while this replica stood by.
    leader: Arc<str>,
    /// Why watches are not current, by watch.
    troubles: BTreeMap<Arc<str>, String>,
    overbilled_told: i64,
    not_kept_told: u64,
    /// When it was last told what is not billed.
    unbilled_told: Option<Instant>,
    /// As of when the view was complete, the last time that it was; before that, since when it is asked.
    current_until: Option<UnixSeconds>,
}

/// See the module documentation.
pub(super) struct SharedLedger {
    state: Mutex<State>,
    /// Something happened that may make a window ready.
    pub(super) changed: Notify,
    /// The state file has something to write.
    pub(super) dirty: Notify,
    pub(super) clock: Clock,
    pub(super) resource_type: ResourceType,
    pub(super) projection: Arc<Projection>,
    pub(super) label_selector: Option<String>,
    pub(super) include_pending: bool,
    pub(super) settle: Duration,
    max_backlog: i64,
    /// Has a permit once it is known from where on this ledger bills.
    opened: Semaphore,
    health: HealthHandle,
    /// Says what is not billed.
    billing: HealthHandle,
    metrics: LedgerMetrics,
    budgets: Budgets,
}

/// What [`SharedLedger::new`] needs to know beside the state.
pub(super) struct Options {
    pub(super) resource_type: ResourceType,
    pub(super) projection: Arc<Projection>,
    pub(super) label_selector: Option<String>,
    pub(super) include_pending: bool,
    pub(super) settle: Duration,
    pub(super) max_backlog: Duration,
    pub(super) clock: Clock,
    /// Whether there is a state file.
    pub(super) is_kept: bool,
    /// Whether there are other replicas, of which one bills.
    pub(super) is_elected: bool,
}

impl SharedLedger {
    pub(super) fn new(
        ledger: Ledger<BilledObject>,
        completeness: Completeness,
        options: Options,
        health: HealthHandle,
        billing: HealthHandle,
        metrics: &Metrics,
        label: &str,
    ) -> Self {
        health.not_ready("connecting to the API server");
        billing.ready("");
        Self {
            state: Mutex::new(State {
                ledger,
                completeness,
                generation: 0,
                written: options.is_kept.then_some(0),
                seen: SeenUntil::default(),
                unplaced: HashSet::new(),
                leadership: if options.is_elected {
                    Leadership::Until(Instant::now())
                } else {
                    Leadership::Alone
                },
                leader: "another replica".into(),
                troubles: BTreeMap::new(),
                overbilled_told: 0,
                not_kept_told: 0,
                unbilled_told: None,
                current_until: None,
            }),
            changed: Notify::new(),
            dirty: Notify::new(),
            clock: options.clock,
            resource_type: options.resource_type,
            projection: options.projection,
            label_selector: options.label_selector,
            include_pending: options.include_pending,
            settle: options.settle,
            opened: Semaphore::new(usize::from(!options.is_elected)),
            max_backlog: i64::try_from(options.max_backlog.as_secs()).unwrap_or(i64::MAX),
            health,
            billing,
            metrics: LedgerMetrics::new(metrics, label),
            budgets: Budgets::new(metrics, label),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's address and credentials as they are now.
    pub(super) async fn cluster(&self) -> Result<Config, String> {
        Config::infer()
            .await
            .map_err(|error| format!("no usable cluster configuration: {error}"))
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

    /// The ledger learns of an object's state.
    pub(super) fn observe(&self, observation: Observation<BilledObject>) {
        self.budgets.came(&observation.uid, &observation.content);
        let owner = meterline_ledger::Content::owner(&observation.content).to_owned();
        let waiting = self.change(|state| {
            state.unplaced.remove(&observation.uid);
            let bill = |content: &BilledObject| content.bill(&self.projection);
            state
                .ledger
                .apply_within(observation, Budget::default(), bill)
        });
        self.budgets.waits(&owner, waiting);
    }

    /// A watch has seen everything up to this resource version.
    pub(super) fn seen_version(&self, watch: &Arc<str>, version: u64) {
        self.state()
            .seen
            .versions
            .insert(Arc::clone(watch), version);
    }

    /// The ledger learns that an object is gone.
    pub(super) fn deleted(&self, uid: &str, at: UnixSeconds) {
        self.change(|state| state.ledger.deleted(uid, at));
    }

    /// An object is gone, and nobody can say since when: it was there at `seen`, and at `now` it is
    /// not. It is billed up to when it was seen; what may lie between is counted.
    pub(super) fn vanished(&self, uid: &str, seen: UnixSeconds, now: UnixSeconds) {
        self.change(|state| state.ledger.vanished(uid, seen, now));
    }

    /// Waits until it is known from where on this ledger bills. Watches begin after that: what they
    /// see is cut there.
    pub(super) async fn is_open(&self) {
        // The semaphore is never closed, and the permit goes back at once.
        let _ = self.opened.acquire().await;
    }

    /// All up to there was delivered, on this word of the Lease. Whoever leads knows by itself. Returns
    /// how many object-seconds are counted as unproved for it.
    pub(super) fn learn(&self, delivered: Option<UnixSeconds>, word: Signer) -> i64 {
        let is_first = self.opened.available_permits() == 0;
        let learned = delivered.filter(|_| is_first || !self.is_leader());
        let lost = learned.map_or(0, |delivered| {
            self.change(|state| {
                let ledger = &mut state.ledger;
                match word {
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
                    Signer::Unsigned => ledger.adopt_unproved(delivered, false),
                }
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

    /// Who leads instead of this replica, if another one does.
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

    /// Up to where nothing has to come again.
    pub(super) fn safe_watermark(&self) -> UnixSeconds {
        self.state().ledger.safe_watermark()
    }

    /// What a restored ledger knows: the objects that each watch has to look for. `place` says
    /// which watch an object belongs to, if any.
    pub(super) fn restored(
        &self,
        seen: &SeenUntil,
        place: impl Fn(&Known) -> Option<Arc<str>>,
    ) -> HashMap<Arc<str>, Vec<Known>> {
        let mut placed: HashMap<_, Vec<_>> = HashMap::new();
        self.change(|state| {
            state.seen = seen.clone();
            let mut elsewhere = Vec::new();
            for (uid, content) in state.ledger.existing() {
                let Some(content) = content else {
                    state.unplaced.insert(Arc::clone(uid));
                    continue;
                };
                let known = Known::of(uid, content);
                match place(&known) {
                    Some(watch) => placed.entry(watch).or_default().push(known),
                    None => elsewhere.push(Arc::clone(uid)),
                }
            }
            for uid in elsewhere {
                // No longer watched, as the configuration now says.
                state.ledger.deleted(&uid, seen.at);
            }
        });
        placed
    }

    /// What the state file has to write: changes since this was last called, or `everything`; their
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

    /// The state file has all up to this generation.
    pub(super) fn written(&self, generation: u64) {
        self.state().written = Some(generation);
        self.changed.notify_one();
    }

    /// Whether the state file has all up to this generation, or there is none.
    pub(super) fn is_written(&self, generation: u64) -> bool {
        self.state().written.is_none_or(|it| it >= generation)
    }

    /// A watch has a complete view, or no longer has one.
    pub(super) fn synced(&self, watch: &str, synced: bool) {
        let mut state = self.state();
        state.completeness.synced(watch, synced);
        if synced {
            state.troubles.remove(watch);
            // Ready is who has the whole view, and so bills.
            if state.completeness.complete_until(i64::MAX).is_some() {
                self.health.ready(if state.written.is_some() {
                    "watching"
                } else {
                    "watching; the ledger is in memory only and does not survive a restart"
                });
                // Every watch has listed what there is, and these were not among it.
                for uid in std::mem::take(&mut state.unplaced) {
                    let seen = state.seen.at;
                    state.ledger.deleted(&uid, seen);
                }
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A watch lost its view, for a reason that people should know.
    pub(super) fn unsynced(&self, watch: &Arc<str>, reason: &str) {
        let mut state = self.state();
        state.completeness.synced(watch, false);
        state.troubles.insert(Arc::clone(watch), reason.to_owned());
        let all: Vec<_> = state.troubles.values().map(String::as_str).collect();
        self.health.not_ready(all.join("; "));
        self.metrics.watch_errors.inc();
    }

    /// A watch was current at `at`.
    pub(super) fn alive(&self, watch: &str, at: UnixSeconds) {
        self.state().completeness.alive(watch, at);
        self.changed.notify_one();
    }

    /// The end of the next window.
    pub(super) fn next_due(&self) -> UnixSeconds {
        self.state().ledger.next_due()
    }

    /// The next window that may be made now, and the generation that the state file must have before
    /// the window goes out.
    pub(super) fn next(&self, now: UnixSeconds) -> Option<(WindowBatch<BilledObject>, u64)> {
        if !self.is_leader() {
            return None;
        }
        self.change(|state| {
            let complete_until = state.completeness.complete_until(now)?;
            let oldest = now.saturating_sub(self.max_backlog);
            state.ledger.forget_rejected(oldest);
            let lost = state.ledger.give_up(oldest);
            if lost > 0 {
                error!(
                    seconds = lost,
                    "windows older than `max_backlog` could not be delivered and are given up: these \
                     object-seconds are not billed"
                );
            }
            let window_batch = state.ledger.next(complete_until)?;
            Some((window_batch, state.generation))
        })
    }

    /// How the events of a window ended.
    pub(super) fn settle(&self, tag: DeliveryTag, outcomes: Settled) {
        let now = self.clock.seconds();
        self.change(|state| {
            let is_plain =
                outcomes.outcome == Outcome::Delivered && outcomes.undelivered.is_empty();
            self.metrics
                .windows
                .inc_by(u64::from(outcomes.outcome.is_settled()));
            let settled = if is_plain {
                DeliveryResult::Delivered
            } else {
                let pieces = state.ledger.handed_out(tag);
                fates::settled(pieces, outcomes, now)
            };
            state.ledger.settle(tag, settled);
        });
    }

    /// A window was not sent and has to come again.
    pub(super) fn withdraw(&self, tag: DeliveryTag) {
        self.change(|state| state.ledger.settle(tag, DeliveryResult::Failed));
    }

    /// Has what was rejected made again. Returns how many pieces that are.
    pub(super) fn retry_rejected(&self) -> usize {
        let pieces = self.change(|state| state.ledger.retry_rejected());
        self.changed.notify_one();
        pieces
    }

    /// The length of windows.
    pub(super) fn windows(&self) -> Interval {
        self.state().ledger.interval()
    }

    /// Looks at the ledger. Must be quick, for everything else waits.
    pub(super) fn with_ledger<T>(&self, look: impl FnOnce(&Ledger<BilledObject>) -> T) -> T {
        look(&self.state().ledger)
    }

    /// Brings the metrics of what became of all seconds up to date.
    pub(super) fn show(&self, metrics: &Metrics, label: &Arc<str>) {
        let now = self.clock.seconds();
        fates::show(&self.state().ledger, metrics, label, now);
    }

    /// Says on `/ready` what is not billed and why, and once of each piece more that is not kept.
    fn tell_of_unbilled(&self, state: &mut State) {
        if state
            .unbilled_told
            .is_some_and(|at| at.elapsed() < UNBILLED_EVERY)
        {
            return;
        }
        state.unbilled_told = Some(Instant::now());
        let summary = fates::summary(&state.ledger, self.resource_type);
        if summary.is_empty() {
            self.billing.ready("");
        } else {
            self.billing.ready(format!("not billed: {summary}"));
        }
        let not_kept = state.ledger.stats().rejected_not_kept;
        if not_kept > state.not_kept_told {
            error!(
                pieces = not_kept - state.not_kept_told,
                "there is too much that was rejected, or it is too old: the oldest of the namespace \
                 with most is no longer kept, and can not be delivered later"
            );
            state.not_kept_told = not_kept;
        }
    }

    /// Brings the metrics up to date and tells once of what cannot be taken back.
    pub(super) fn update_gauges(&self, now: UnixSeconds) {
        let mut state = self.state();
        self.tell_of_unbilled(&mut state);
        let stats = state.ledger.stats();
        let watermark = state.ledger.watermark();
        self.metrics.watermark.set(watermark);
        self.metrics
            .watermark_age
            .set(now.saturating_sub(watermark));
        self.metrics.open.set(clamp(stats.open));
        self.metrics.overbilled.set(clamp(stats.overbilled_seconds));
        self.metrics.late.set(clamp(stats.late_seconds));
        self.metrics.billed.set(clamp(stats.billed_seconds));
        self.metrics.lost.set(clamp(stats.lost_seconds));
        let current = state.completeness.complete_until(i64::MAX);
        let current = current.or(state.current_until).unwrap_or(now);
        state.current_until = Some(current);
        self.metrics
            .staleness
            .set(now.saturating_sub(current).max(0));
        let overbilled: i64 = clamp(stats.overbilled_seconds);
        if overbilled > state.overbilled_told {
            warn!(
                seconds = overbilled - state.overbilled_told,
                "an object ended before the end of a window that was already billed; \
                 these seconds cannot be taken back (a longer `settle` prevents this)"
            );
            state.overbilled_told = overbilled;
        }
    }
}

fn clamp<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
