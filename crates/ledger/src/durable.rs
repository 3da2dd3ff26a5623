//! What of a ledger is kept where a crash does not reach, and how a ledger comes back from it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    entry::Entry,
    group::{Group, GroupChange, GroupKey},
    interval::{Interval, UnixSeconds, Window},
    late::{BatchChanges, LateBatch, LateChanges, LateSpan, Unsaved},
    ledger::{Ledger, REMEMBERED},
    others::Others,
    quarantine::Quarantine,
    seconds::{Tallies, Unbilled},
    segment::{Segment, SegmentChange},
    types::{Accounting, Content, Stats, Uid, UsageInterval},
    windows::{HandedOut, WindowState},
};

/// All of a ledger but its objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint<C> {
    pub(crate) horizon: UnixSeconds,
    /// End of the last window that was handed out. What lies before is never changed, only added to.
    pub(crate) emitted: UnixSeconds,
    /// End of the last window of the unbroken run that was delivered.
    pub(crate) watermark: UnixSeconds,
    /// Windows between watermark and `emitted`, by start.
    pub(crate) windows: BTreeMap<UnixSeconds, HandedOut>,
    /// Spans that were learned of too late for their windows, by start and UID. They and the batches
    /// that are made of them are kept beside the head; older states have them here.
    #[serde(default = "BTreeMap::new", skip_serializing)]
    pub(crate) late: BTreeMap<UnixSeconds, BTreeMap<Uid, LateSpan<C>>>,
    #[serde(default = "BTreeMap::new", skip_serializing)]
    pub(crate) late_in_flight: BTreeMap<u64, LateBatch<C>>,
    #[serde(default = "VecDeque::new", skip_serializing)]
    pub(crate) late_failed: VecDeque<LateBatch<C>>,
    #[serde(skip)]
    pub(crate) unsaved: Unsaved,
    /// How was billed last.
    #[serde(default)]
    pub(crate) accounting: Option<Accounting>,
    /// What of the time before `emitted` others handed out.
    #[serde(default)]
    pub(crate) others: Others,
    pub(crate) stats: Stats,
    /// Unbilled time that no rejected piece stands for.
    #[serde(default)]
    pub(crate) unbilled: Tallies,
    /// Whether the statistics say what was handed out. Older states do not.
    #[serde(default)]
    pub(crate) counts_fates: bool,
}

impl<C> Checkpoint<C> {
    pub(crate) fn new(horizon: UnixSeconds) -> Self {
        Self {
            horizon,
            emitted: horizon,
            watermark: horizon,
            windows: BTreeMap::new(),
            late: BTreeMap::new(),
            late_in_flight: BTreeMap::new(),
            late_failed: VecDeque::new(),
            unsaved: Unsaved::default(),
            accounting: None,
            others: Others::default(),
            stats: Stats::default(),
            unbilled: Tallies::default(),
            counts_fates: true,
        }
    }

    /// All but what was learned late.
    fn without_late(&self) -> Self {
        Self {
            horizon: self.horizon,
            emitted: self.emitted,
            watermark: self.watermark,
            windows: self.windows.clone(),
            late: BTreeMap::new(),
            late_in_flight: BTreeMap::new(),
            late_failed: VecDeque::new(),
            unsaved: Unsaved::default(),
            accounting: self.accounting,
            others: self.others.clone(),
            stats: self.stats,
            unbilled: self.unbilled.clone(),
            counts_fates: self.counts_fates,
        }
    }

    /// Works out what an older state does not say: it counted as billed whatever was settled.
    fn count_what_was_handed_out(&mut self) {
        if self.counts_fates {
            return;
        }
        let windows = self
            .windows
            .values()
            .filter(|it| it.state != WindowState::Delivered)
            .map(|it| it.seconds);
        let late = self
            .late_in_flight
            .values()
            .chain(&self.late_failed)
            .flat_map(|it| &it.pieces)
            .map(UsageInterval::seconds);
        let on_the_way = windows.chain(late).fold(0, i64::saturating_add);
        let stats = &mut self.stats;
        stats.handed_out_seconds = on_the_way
            .saturating_add(stats.billed_seconds)
            .saturating_add(stats.lost_seconds);
        self.unbilled
            .add(Unbilled::Unproved, UNPROVED, "", self.stats.lost_seconds);
        self.counts_fates = true;
    }
}

/// The reason of time that cannot be proved.
pub(crate) const UNPROVED: &str = "no_proof";
/// The reason of time that came too late.
const TOO_OLD: &str = "max_backlog";

/// All that is kept of one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record<C>(pub(crate) Entry<C>);

impl<C> Record<C> {
    /// Of the life of [`RecordChange::life`] and what the state has of its segments, in order: start, end
    /// and content of each.
    #[must_use]
    pub fn with_segments(
        mut self,
        segments: impl IntoIterator<Item = (UnixSeconds, Option<UnixSeconds>, C)>,
    ) -> Self {
        let segments = segments
            .into_iter()
            .map(|(start, end, content)| Segment::saved(start, end, content));
        self.0.segments = segments.collect();
        self
    }
}

/// What changed of one object.
#[derive(Debug, Clone)]
pub struct RecordChange<C> {
    /// All but its segments.
    pub life: Record<C>,
    /// Where its first and its last segment start, if it has any. What the state has before and behind
    /// is no longer there.
    pub starts: Option<(UnixSeconds, UnixSeconds)>,
    /// Segments that are new or changed, in order.
    pub segments: Vec<SegmentChange<C>>,
}

/// What changed since it was last asked for. Written as one, it makes of an older state the present
/// one.
#[derive(Debug, Clone)]
pub struct Changes<C> {
    /// Objects that changed; `None` for one that need not be known any more.
    pub records: BTreeMap<Uid, Option<RecordChange<C>>>,
    /// What was learned late.
    pub late: LateChanges<C>,
    /// What of that was handed out.
    pub batches: BatchChanges<C>,
    /// Groups of rejected pieces that changed; `None` for one that is no longer kept.
    pub rejected: BTreeMap<GroupKey, Option<GroupChange<C>>>,
    /// The rest, whole, and small.
    pub checkpoint: Checkpoint<C>,
}

impl<C: Content> Entry<C> {
    /// What the state has to write of it. Afterwards it is taken for written.
    fn take_change(&mut self) -> RecordChange<C> {
        let first = self.segments.first().map(|it| it.start);
        let last = self.segments.last().map(|it| it.start);
        RecordChange {
            life: Record(self.life()),
            starts: first.zip(last),
            segments: self
                .segments
                .iter_mut()
                .filter_map(Segment::take_change)
                .collect(),
        }
    }
}

impl<C: Content> Ledger<C> {
    /// What changed since this was last called, or since the ledger was made or restored.
    pub fn take_changes(&mut self) -> Changes<C> {
        let changed = std::mem::take(&mut self.changed);
        let record = |uid: Uid| {
            let record = self.entries.get_mut(&uid).map(Entry::take_change);
            (uid, record)
        };
        let records = changed.into_iter().map(record).collect();
        let (late, batches) = self.checkpoint.take_late_changes();
        Changes {
            records,
            late,
            batches,
            rejected: self.quarantine.take_changes(),
            checkpoint: self.checkpoint.without_late(),
        }
    }

    /// All that there is, as changes of an empty state.
    pub fn take_everything(&mut self) -> Changes<C> {
        self.changed = self.entries.keys().cloned().collect();
        let segments = self.entries.values_mut().flat_map(|it| &mut it.segments);
        segments.for_each(Segment::mark_dirty);
        self.checkpoint.touch_all_late();
        self.quarantine.touch_all();
        self.take_changes()
    }

    /// The ledger that was kept. What had been handed out and was not settled comes again. Windows
    /// that were not handed out yet are cut by `interval`, whatever it was before. What was rejected is
    /// handed out again, for the configuration may be another one.
    #[must_use]
    pub fn restore(
        interval: Interval,
        accounting: Accounting,
        mut checkpoint: Checkpoint<C>,
        records: impl IntoIterator<Item = (Uid, Record<C>)>,
        rejected: impl IntoIterator<Item = (GroupKey, Group<C>)>,
    ) -> Self {
        checkpoint.count_what_was_handed_out();
        for window in checkpoint.windows.values_mut() {
            if matches!(window.state, WindowState::InFlight(_)) {
                window.state = WindowState::Failed;
            }
        }
        let in_flight = std::mem::take(&mut checkpoint.late_in_flight);
        checkpoint.late_failed.extend(in_flight.into_values());
        checkpoint.number_late();
        // Of a life that ended within a window all of that was billed, and must not be again.
        let were_whole = checkpoint.accounting == Some(Accounting::Nominal);
        let mut ledger = Self::from_parts(interval, accounting, checkpoint);
        ledger.quarantine = Quarantine::restore(rejected);
        for (uid, Record(mut entry)) in records {
            if were_whole && entry.end.is_some() {
                let whole = interval.ceil(entry.covered).min(ledger.checkpoint.emitted);
                if entry.covered < whole {
                    entry.covered = whole;
                    // The next to come back may not know how was billed by then.
                    ledger.mark_dirty(&uid);
                }
            }
            for end in entry.segments.iter().filter_map(|segment| segment.end) {
                ledger.close_at(end, &uid);
            }
            if entry.end.is_some() {
                ledger.close_at(entry.covered, &uid);
                ledger.close_at(entry.covered.saturating_add(REMEMBERED), &uid);
            }
            ledger.entries.insert(uid, entry);
        }
        ledger.waiting = ledger.count_waiting();
        ledger.forget();
        ledger
    }

    /// The objects that existed when they were last heard of, with what they were then, if that is
    /// still known.
    pub fn existing(&self) -> impl Iterator<Item = (&Uid, Option<&C>)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.exists)
            .map(|(uid, entry)| (uid, entry.segments.last().map(|segment| segment.content())))
    }

    /// Up to where nothing has to come again: the watermark, unless something was learned late that
    /// has not arrived. Whoever goes on from here leaves no hole.
    #[must_use]
    pub fn safe_watermark(&self) -> UnixSeconds {
        let checkpoint = &self.checkpoint;
        let learned = checkpoint
            .late
            .keys()
            .map(|start| self.interval.floor(*start));
        let handed_out = checkpoint
            .late_in_flight
            .values()
            .chain(&checkpoint.late_failed);
        learned
            .chain(handed_out.map(|it| it.window.start))
            .fold(checkpoint.watermark, UnixSeconds::min)
    }

    /// Bills from `at` on, where somebody else stopped. For a ledger that has seen nothing yet, `at`
    /// may lie before its horizon; any other one moves only forward.
    pub fn begin_at(&mut self, at: UnixSeconds) {
        if self.has_past() {
            self.adopt(at);
        } else {
            let accounting = self.checkpoint.accounting;
            self.checkpoint = Checkpoint {
                accounting,
                ..Checkpoint::new(at)
            };
        }
    }

    /// Whether it knows of any object or has handed out anything.
    pub(crate) fn has_past(&self) -> bool {
        !self.entries.is_empty() || self.checkpoint.emitted != self.checkpoint.horizon
    }

    /// Somebody else delivered all windows that end at or before `delivered`: they are not made
    /// here any more. Does nothing when that is known already.
    pub fn adopt(&mut self, delivered: UnixSeconds) {
        if delivered <= self.checkpoint.watermark {
            return;
        }
        let passed = Window {
            start: self.checkpoint.emitted,
            end: delivered,
        };
        self.pass(delivered);
        self.adopt_late(delivered, passed);
        self.forget();
    }

    /// Moves on to `until`, whatever became of what lies before.
    pub(crate) fn pass(&mut self, until: UnixSeconds) {
        let checkpoint = &mut self.checkpoint;
        checkpoint.others.add(checkpoint.emitted, until);
        checkpoint.watermark = until;
        checkpoint.emitted = checkpoint.emitted.max(until);
        // What was on its way here is for the other to count.
        let on_the_way = checkpoint
            .windows
            .values()
            .filter(|it| it.window.end <= until && it.state != WindowState::Delivered)
            .map(|it| it.seconds)
            .fold(0, i64::saturating_add);
        checkpoint.windows.retain(|_, it| it.window.end > until);
        self.count_handed_out(on_the_way.saturating_neg());
    }

    /// Gives up what ends at or before `until` and is in nobody's hands: what is handed out may still
    /// arrive. Gives back how many object-seconds that were; they are counted in
    /// [`Stats::lost_seconds`].
    pub fn give_up(&mut self, until: UnixSeconds) -> i64 {
        self.give_up_for(TOO_OLD, until, |state| state == WindowState::Failed)
    }

    /// The same for this reason, with the windows that are in a state that is `lost`.
    pub(crate) fn give_up_for(
        &mut self,
        reason: &str,
        until: UnixSeconds,
        lost: impl Fn(WindowState) -> bool,
    ) -> i64 {
        let until = self.interval.floor(until);
        if until <= self.checkpoint.watermark {
            return 0;
        }
        let mut pieces = self.give_up_late(until);
        let mut given_up = Vec::new();
        for handed_out in self.checkpoint.windows.values_mut() {
            if handed_out.window.end <= until && lost(handed_out.state) {
                handed_out.state = WindowState::Delivered;
                given_up.push(*handed_out);
            }
        }
        pieces.extend(given_up.into_iter().flat_map(|it| {
            let accounting = it.accounting.unwrap_or(self.accounting);
            self.pieces(it.window, accounting)
        }));
        if self.checkpoint.emitted < until {
            let window = Window {
                start: self.checkpoint.emitted,
                end: until,
            };
            let rest = self.pieces_over(window);
            let seconds = rest.iter().map(UsageInterval::seconds).sum();
            self.count_handed_out(seconds);
            let handed_out = HandedOut {
                window,
                state: WindowState::Delivered,
                seconds,
                accounting: Some(self.accounting),
            };
            self.checkpoint.windows.insert(window.start, handed_out);
            self.checkpoint.emitted = until;
            pieces.extend(rest);
        }
        let mut sum = 0_i64;
        for piece in pieces {
            sum = sum.saturating_add(piece.seconds());
            self.count_lost(piece.seconds(), reason, piece.content.owner());
        }
        self.advance();
        sum
    }

    /// Counts object-seconds of an owner that cannot be proved and are not billed.
    pub fn lose(&mut self, seconds: i64, owner: &str) {
        let seconds = seconds.max(0);
        self.count_handed_out(seconds);
        self.count_lost(seconds, UNPROVED, owner);
    }

    /// An object is gone, and nobody can say since when: it was there at `seen`, and at `now` it is not.
    /// It ends when it was seen. What may lie between, and was not handed out by then, counts as lost.
    /// Returns how many seconds that are.
    pub fn vanished(&mut self, uid: &str, seen: UnixSeconds, now: UnixSeconds) -> i64 {
        let mut lost = 0;
        if self.is_running(uid) {
            lost = now.saturating_sub(seen.max(self.checkpoint.emitted)).max(0);
            let owner = self.owner(uid);
            self.lose(lost, owner.as_deref().unwrap_or_default());
        }
        self.deleted(uid, seen);
        lost
    }

    fn count_lost(&mut self, seconds: i64, reason: &str, owner: &str) {
        let sum = self.checkpoint.stats.lost_seconds.saturating_add(seconds);
        self.checkpoint.stats.lost_seconds = sum;
        self.checkpoint
            .unbilled
            .add(Unbilled::Unproved, reason, owner, seconds);
    }

    pub(crate) fn mark_dirty(&mut self, uid: &Uid) {
        if !self.changed.contains(uid) {
            self.changed.insert(Arc::clone(uid));
        }
    }
}
