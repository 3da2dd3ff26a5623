//! What of a ledger is kept where a crash does not reach, and how a ledger comes back from it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    entry::{Entry, HandedOut, LateEmission, LateSpan, WindowState},
    interval::{Interval, UnixSeconds, Window},
    ledger::{Ledger, REMEMBERED},
    words::{Accounting, Piece, Stats, Uid},
};

/// All of a ledger but its objects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head<C> {
    pub(crate) horizon: UnixSeconds,
    /// End of the last window that was handed out. What lies before is never changed, only added to.
    pub(crate) emitted: UnixSeconds,
    /// End of the last window of the unbroken run that was delivered.
    pub(crate) watermark: UnixSeconds,
    /// Windows between watermark and `emitted`, by start.
    pub(crate) windows: BTreeMap<UnixSeconds, HandedOut>,
    /// Spans that were learned of too late for their windows, by start and UID.
    pub(crate) late: BTreeMap<UnixSeconds, BTreeMap<Uid, LateSpan<C>>>,
    pub(crate) late_in_flight: BTreeMap<u64, LateEmission<C>>,
    pub(crate) late_failed: VecDeque<LateEmission<C>>,
    pub(crate) stats: Stats,
}

impl<C> Head<C> {
    pub(crate) fn new(horizon: UnixSeconds) -> Self {
        Self {
            horizon,
            emitted: horizon,
            watermark: horizon,
            windows: BTreeMap::new(),
            late: BTreeMap::new(),
            late_in_flight: BTreeMap::new(),
            late_failed: VecDeque::new(),
            stats: Stats::default(),
        }
    }
}

/// All that is kept of one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record<C>(pub(crate) Entry<C>);

/// What changed since it was last asked for. Written as one, it makes of an older state the present
/// one.
#[derive(Debug, Clone)]
pub struct Changes<C> {
    /// Objects that changed; `None` for one that need not be known any more.
    pub records: BTreeMap<Uid, Option<Record<C>>>,
    /// The rest, whole.
    pub head: Head<C>,
}

impl<C: Clone + PartialEq> Ledger<C> {
    /// What changed since this was last called, or since the ledger was made or restored.
    pub fn take_changes(&mut self) -> Changes<C> {
        let changed = std::mem::take(&mut self.changed);
        let record = |uid: Uid| {
            let record = self.entries.get(&uid).cloned().map(Record);
            (uid, record)
        };
        Changes {
            records: changed.into_iter().map(record).collect(),
            head: self.head.clone(),
        }
    }

    /// All that there is, as changes of an empty state.
    pub fn take_everything(&mut self) -> Changes<C> {
        self.changed = self.entries.keys().cloned().collect();
        self.take_changes()
    }

    /// The ledger that was kept. What had been handed out and was not settled comes again. Windows
    /// that were not handed out yet are cut by `interval`, whatever it was before.
    #[must_use]
    pub fn restore(
        interval: Interval,
        accounting: Accounting,
        mut head: Head<C>,
        records: impl IntoIterator<Item = (Uid, Record<C>)>,
    ) -> Self {
        for window in head.windows.values_mut() {
            if matches!(window.state, WindowState::InFlight(_)) {
                window.state = WindowState::Failed;
            }
        }
        let in_flight = std::mem::take(&mut head.late_in_flight);
        head.late_failed.extend(in_flight.into_values());
        let mut ledger = Self::from_parts(interval, accounting, head);
        for (uid, Record(entry)) in records {
            for end in entry.segments.iter().filter_map(|segment| segment.end) {
                ledger.close_at(end, &uid);
            }
            if entry.end.is_some() {
                ledger.close_at(entry.covered, &uid);
                ledger.close_at(entry.covered.saturating_add(REMEMBERED), &uid);
            }
            ledger.entries.insert(uid, entry);
        }
        ledger.forget();
        ledger
    }

    /// The objects that existed when they were last heard of, with what they were then, if that is
    /// still known.
    pub fn existing(&self) -> impl Iterator<Item = (&Uid, Option<&C>)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.exists)
            .map(|(uid, entry)| (uid, entry.segments.last().map(|segment| &segment.content)))
    }

    /// Up to where nothing has to come again: the watermark, unless something was learned late that
    /// has not arrived. Whoever goes on from here leaves no hole.
    #[must_use]
    pub fn safe_watermark(&self) -> UnixSeconds {
        let head = &self.head;
        let learned = head.late.keys().map(|start| self.interval.floor(*start));
        let handed_out = head.late_in_flight.values().chain(&head.late_failed);
        learned
            .chain(handed_out.map(|it| it.window.start))
            .fold(head.watermark, UnixSeconds::min)
    }

    /// Bills from `at` on, where somebody else stopped. For a ledger that has seen nothing yet, `at`
    /// may lie before its horizon; any other one moves only forward.
    pub fn begin_at(&mut self, at: UnixSeconds) {
        if self.has_past() {
            self.adopt(at);
        } else {
            self.head = Head::new(at);
        }
    }

    /// Whether it knows of any object or has handed out anything.
    pub(crate) fn has_past(&self) -> bool {
        !self.entries.is_empty() || self.head.emitted != self.head.horizon
    }

    /// Somebody else delivered all windows that end at or before `delivered`: they are not made
    /// here any more. Does nothing when that is known already.
    pub fn adopt(&mut self, delivered: UnixSeconds) {
        if delivered <= self.head.watermark {
            return;
        }
        let passed = Window {
            start: self.head.emitted,
            end: delivered,
        };
        self.pass(delivered);
        self.adopt_late(delivered, passed);
        self.forget();
    }

    /// Moves on to `until`, whatever became of what lies before.
    pub(crate) fn pass(&mut self, until: UnixSeconds) {
        let head = &mut self.head;
        head.watermark = until;
        head.emitted = head.emitted.max(until);
        head.windows.retain(|_, it| it.window.end > until);
    }

    /// Gives up what ends at or before `until` and is in nobody's hands: what is handed out may still
    /// arrive. Gives back how many object-seconds that were; they are counted in
    /// [`Stats::lost_seconds`].
    pub fn give_up(&mut self, until: UnixSeconds) -> i64 {
        let until = self.interval.floor(until);
        if until <= self.head.watermark {
            return 0;
        }
        let mut lost = self.give_up_late(until);
        for handed_out in self.head.windows.values_mut() {
            if handed_out.window.end <= until && handed_out.state == WindowState::Failed {
                handed_out.state = WindowState::Delivered;
                lost = lost.saturating_add(handed_out.seconds);
            }
        }
        if self.head.emitted < until {
            let window = Window {
                start: self.head.emitted,
                end: until,
            };
            let seconds = self.pieces(window).iter().map(Piece::seconds).sum();
            let given_up = HandedOut {
                window,
                state: WindowState::Delivered,
                seconds,
            };
            self.head.windows.insert(window.start, given_up);
            self.head.emitted = until;
            lost = lost.saturating_add(seconds);
        }
        self.lose(lost);
        self.advance();
        lost
    }

    /// Counts object-seconds that cannot be proved and are not billed.
    pub fn lose(&mut self, seconds: i64) {
        let sum = self.head.stats.lost_seconds.saturating_add(seconds.max(0));
        self.head.stats.lost_seconds = sum;
    }

    pub(crate) fn touch(&mut self, uid: &Uid) {
        if !self.changed.contains(uid) {
            self.changed.insert(Arc::clone(uid));
        }
    }
}
