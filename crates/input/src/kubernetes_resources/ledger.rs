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
    leader::claim::Word,
    metrics::Gauges,
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

struct Books {
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
pub(super) struct Shared {
    books: Mutex<Books>,
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
    gauges: Gauges,
    budgets: Budgets,
}

/// What [`Shared::new`] needs to know beside the books.
pub(super) struct Subject {
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

impl Shared {
    pub(super) fn new(
        ledger: Ledger<BilledObject>,
        completeness: Completeness,
        subject: Subject,
        health: HealthHandle,
        billing: HealthHandle,
        metrics: &Metrics,
        label: &str,
    ) -> Self {
        health.not_ready("connecting to the API server");
        billing.ready("");
        Self {
            books: Mutex::new(Books {
                ledger,
                completeness,
                generation: 0,
                written: subject.is_kept.then_some(0),
                seen: SeenUntil::default(),
                unplaced: HashSet::new(),
                leadership: if subject.is_elected {
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
            clock: subject.clock,
            resource_type: subject.resource_type,
            projection: subject.projection,
            label_selector: subject.label_selector,
            include_pending: subject.include_pending,
            settle: subject.settle,
            opened: Semaphore::new(usize::from(!subject.is_elected)),
            max_backlog: i64::try_from(subject.max_backlog.as_secs()).unwrap_or(i64::MAX),
            health,
            billing,
            gauges: Gauges::new(metrics, label),
            budgets: Budgets::new(metrics, label),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's address and credentials as they are now.
    pub(super) async fn cluster(&self) -> Result<Config, String> {
        Config::infer()
            .await
            .map_err(|error| format!("no usable cluster configuration: {error}"))
    }

    /// Changes the books, and has the state file follow.
    fn change<T>(&self, change: impl FnOnce(&mut Books) -> T) -> T {
        let mut books = self.books();
        books.generation = books.generation.saturating_add(1);
        let outcome = change(&mut books);
        drop(books);
        self.dirty.notify_one();
        outcome
    }

    /// The ledger learns of an object's state.
    pub(super) fn observe(&self, observation: Observation<BilledObject>) {
        self.budgets.came(&observation.uid, &observation.content);
        let owner = meterline_ledger::Content::owner(&observation.content).to_owned();
        let waiting = self.change(|books| {
            books.unplaced.remove(&observation.uid);
            let bill = |content: &BilledObject| content.bill(&self.projection);
            books
                .ledger
                .apply_within(observation, Budget::default(), bill)
        });
        self.budgets.waits(&owner, waiting);
    }

    /// A watch has seen everything up to this resource version.
    pub(super) fn seen_version(&self, watch: &Arc<str>, version: u64) {
        self.books()
            .seen
            .versions
            .insert(Arc::clone(watch), version);
    }

    /// The ledger learns that an object is gone.
    pub(super) fn deleted(&self, uid: &str, at: UnixSeconds) {
        self.change(|books| books.ledger.deleted(uid, at));
    }

    /// An object is gone, and nobody can say since when: it was there at `seen`, and at `now` it is
    /// not. It is billed up to when it was seen; what may lie between is counted.
    pub(super) fn vanished(&self, uid: &str, seen: UnixSeconds, now: UnixSeconds) {
        self.change(|books| books.ledger.vanished(uid, seen, now));
    }

    /// Waits until it is known from where on this ledger bills. Watches begin after that: what they
    /// see is cut there.
    pub(super) async fn is_open(&self) {
        // The semaphore is never closed, and the permit goes back at once.
        let _ = self.opened.acquire().await;
    }

    /// All up to there was delivered, on this word of the Lease. Whoever leads knows by itself. Returns
    /// how many object-seconds are counted as unproved for it.
    pub(super) fn learn(&self, delivered: Option<UnixSeconds>, word: Word) -> i64 {
        let is_first = self.opened.available_permits() == 0;
        let learned = delivered.filter(|_| is_first || !self.is_leader());
        let lost = learned.map_or(0, |delivered| {
            self.change(|books| {
                let ledger = &mut books.ledger;
                match word {
                    _ if !is_first && delivered <= ledger.watermark() => 0,
                    Word::Anothers if is_first => {
                        ledger.begin_at(delivered);
                        0
                    }
                    Word::Anothers => {
                        ledger.adopt(delivered);
                        0
                    }
                    Word::Own => ledger.adopt_unproved(delivered, true),
                    Word::Nobodys => ledger.adopt_unproved(delivered, false),
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
        let mut books = self.books();
        if books.leader.as_ref() != leader {
            books.leader = leader.into();
        }
    }

    /// Who leads instead of this replica, if another one does.
    pub(super) fn leader(&self) -> Option<Arc<str>> {
        (!self.is_leader()).then(|| Arc::clone(&self.books().leader))
    }

    /// This replica leads until then.
    pub(super) fn lead_until(&self, until: Instant) {
        self.books().leadership = Leadership::Until(until);
        self.changed.notify_one();
    }

    /// Whether this replica bills.
    pub(super) fn is_leader(&self) -> bool {
        match self.books().leadership {
            Leadership::Alone => true,
            Leadership::Until(until) => Instant::now() < until,
        }
    }

    /// Up to where nothing has to come again.
    pub(super) fn safe_watermark(&self) -> UnixSeconds {
        self.books().ledger.safe_watermark()
    }

    /// What a restored ledger knows: the objects that each watch has to look for. `place` says
    /// which watch an object belongs to, if any.
    pub(super) fn restored(
        &self,
        seen: &SeenUntil,
        place: impl Fn(&Known) -> Option<Arc<str>>,
    ) -> HashMap<Arc<str>, Vec<Known>> {
        let mut placed: HashMap<_, Vec<_>> = HashMap::new();
        self.change(|books| {
            books.seen = seen.clone();
            let mut elsewhere = Vec::new();
            for (uid, content) in books.ledger.existing() {
                let Some(content) = content else {
                    books.unplaced.insert(Arc::clone(uid));
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
                books.ledger.deleted(&uid, seen.at);
            }
        });
        placed
    }

    /// What the state file has to write: changes since this was last called, or `everything`; their
    /// generation; and how far the view went.
    pub(super) fn take_changes(&self, everything: bool) -> (Changes<BilledObject>, u64, SeenUntil) {
        let mut books = self.books();
        if let Some(current) = books.completeness.complete_until(i64::MAX) {
            books.seen.at = books.seen.at.max(current);
        }
        let changes = if everything {
            books.ledger.take_everything()
        } else {
            books.ledger.take_changes()
        };
        (changes, books.generation, books.seen.clone())
    }

    /// The state file has all up to this generation.
    pub(super) fn written(&self, generation: u64) {
        self.books().written = Some(generation);
        self.changed.notify_one();
    }

    /// Whether the state file has all up to this generation, or there is none.
    pub(super) fn is_written(&self, generation: u64) -> bool {
        self.books().written.is_none_or(|it| it >= generation)
    }

    /// A watch has a complete view, or no longer has one.
    pub(super) fn synced(&self, watch: &str, synced: bool) {
        let mut books = self.books();
        books.completeness.synced(watch, synced);
        if synced {
            books.troubles.remove(watch);
            // Ready is who has the whole view, and so bills.
            if books.completeness.complete_until(i64::MAX).is_some() {
                self.health.ready(if books.written.is_some() {
                    "watching"
                } else {
                    "watching; the ledger is in memory only and does not survive a restart"
                });
                // Every watch has listed what there is, and these were not among it.
                for uid in std::mem::take(&mut books.unplaced) {
                    let seen = books.seen.at;
                    books.ledger.deleted(&uid, seen);
                }
            }
        }
        drop(books);
        self.changed.notify_one();
    }

    /// A watch lost its view, for a reason that people should know.
    pub(super) fn unsynced(&self, watch: &Arc<str>, reason: &str) {
        let mut books = self.books();
        books.completeness.synced(watch, false);
        books.troubles.insert(Arc::clone(watch), reason.to_owned());
        let all: Vec<_> = books.troubles.values().map(String::as_str).collect();
        self.health.not_ready(all.join("; "));
        self.gauges.watch_errors.inc();
    }

    /// A watch was current at `at`.
    pub(super) fn alive(&self, watch: &str, at: UnixSeconds) {
        self.books().completeness.alive(watch, at);
        self.changed.notify_one();
    }

    /// The end of the next window.
    pub(super) fn next_due(&self) -> UnixSeconds {
        self.books().ledger.next_due()
    }

    /// The next window that may be made now, and the generation that the state file must have before
    /// the window goes out.
    pub(super) fn next(&self, now: UnixSeconds) -> Option<(WindowBatch<BilledObject>, u64)> {
        if !self.is_leader() {
            return None;
        }
        self.change(|books| {
            let complete_until = books.completeness.complete_until(now)?;
            let oldest = now.saturating_sub(self.max_backlog);
            books.ledger.forget_rejected(oldest);
            let lost = books.ledger.give_up(oldest);
            if lost > 0 {
                error!(
                    seconds = lost,
                    "windows older than `max_backlog` could not be delivered and are given up: these \
                     object-seconds are not billed"
                );
            }
            let window_batch = books.ledger.next(complete_until)?;
            Some((window_batch, books.generation))
        })
    }

    /// How the events of a window ended.
    pub(super) fn settle(&self, tag: DeliveryTag, outcomes: Settled) {
        let now = self.clock.seconds();
        self.change(|books| {
            let is_plain =
                outcomes.outcome == Outcome::Delivered && outcomes.undelivered.is_empty();
            self.gauges
                .windows
                .inc_by(u64::from(outcomes.outcome.is_settled()));
            let settled = if is_plain {
                DeliveryResult::Delivered
            } else {
                let pieces = books.ledger.handed_out(tag);
                fates::settled(pieces, outcomes, now)
            };
            books.ledger.settle(tag, settled);
        });
    }

    /// A window was not sent and has to come again.
    pub(super) fn withdraw(&self, tag: DeliveryTag) {
        self.change(|books| books.ledger.settle(tag, DeliveryResult::Failed));
    }

    /// Has what was rejected made again. Returns how many pieces that are.
    pub(super) fn retry_rejected(&self) -> usize {
        let pieces = self.change(|books| books.ledger.retry_rejected());
        self.changed.notify_one();
        pieces
    }

    /// The length of windows.
    pub(super) fn windows(&self) -> Interval {
        self.books().ledger.interval()
    }

    /// Looks at the ledger. Must be quick, for everything else waits.
    pub(super) fn with_ledger<T>(&self, look: impl FnOnce(&Ledger<BilledObject>) -> T) -> T {
        look(&self.books().ledger)
    }

    /// Brings the metrics of what became of all seconds up to date.
    pub(super) fn show(&self, metrics: &Metrics, label: &Arc<str>) {
        let now = self.clock.seconds();
        fates::show(&self.books().ledger, metrics, label, now);
    }

    /// Says on `/ready` what is not billed and why, and once of each piece more that is not kept.
    fn tell_of_unbilled(&self, books: &mut Books) {
        if books
            .unbilled_told
            .is_some_and(|at| at.elapsed() < UNBILLED_EVERY)
        {
            return;
        }
        books.unbilled_told = Some(Instant::now());
        let summary = fates::summary(&books.ledger, self.resource_type);
        if summary.is_empty() {
            self.billing.ready("");
        } else {
            self.billing.ready(format!("not billed: {summary}"));
        }
        let not_kept = books.ledger.stats().rejected_not_kept;
        if not_kept > books.not_kept_told {
            error!(
                pieces = not_kept - books.not_kept_told,
                "there is too much that was rejected, or it is too old: the oldest of the namespace \
                 with most is no longer kept, and can not be delivered later"
            );
            books.not_kept_told = not_kept;
        }
    }

    /// Brings the metrics up to date and tells once of what cannot be taken back.
    pub(super) fn update_gauges(&self, now: UnixSeconds) {
        let mut books = self.books();
        self.tell_of_unbilled(&mut books);
        let stats = books.ledger.stats();
        let watermark = books.ledger.watermark();
        self.gauges.watermark.set(watermark);
        self.gauges.watermark_age.set(now.saturating_sub(watermark));
        self.gauges.open.set(clamp(stats.open));
        self.gauges.overbilled.set(clamp(stats.overbilled_seconds));
        self.gauges.late.set(clamp(stats.late_seconds));
        self.gauges.billed.set(clamp(stats.billed_seconds));
        self.gauges.lost.set(clamp(stats.lost_seconds));
        let current = books.completeness.complete_until(i64::MAX);
        let current = current.or(books.current_until).unwrap_or(now);
        books.current_until = Some(current);
        self.gauges
            .staleness
            .set(now.saturating_sub(current).max(0));
        let overbilled: i64 = clamp(stats.overbilled_seconds);
        if overbilled > books.overbilled_told {
            warn!(
                seconds = overbilled - books.overbilled_told,
                "an object ended before the end of a window that was already billed; \
                 these seconds cannot be taken back (a longer `settle` prevents this)"
            );
            books.overbilled_told = overbilled;
        }
    }
}

fn clamp<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
