//! The ledger: what ran when, what was handed out, and what arrived.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    budget::Usages,
    durable::Checkpoint,
    entry::Entry,
    interval::{Interval, UnixSeconds, Window},
    quarantine::Quarantine,
    segment::Segment,
    types::{
        Accounting, Content, DeliveryResult, DeliveryTag, Kind, Observation, Stats, Uid,
        UsageInterval, WindowBatch,
    },
    windows::{HandedOut, WindowState},
};

/// How long, in seconds behind the watermark, an object that is gone is remembered: should it turn
/// out to run after all, its life goes on where it stopped.
pub(crate) const REMEMBERED: i64 = 60;

/// See the crate's documentation.
#[derive(Debug, Clone)]
pub struct Ledger<C> {
    pub(crate) interval: Interval,
    pub(crate) accounting: Accounting,
    pub(crate) checkpoint: Checkpoint<C>,
    pub(crate) entries: BTreeMap<Uid, Entry<C>>,
    pub(crate) quarantine: Quarantine<C>,
    /// Objects that have something to forget once the watermark passes that second.
    pub(crate) expirations: BTreeMap<UnixSeconds, Vec<Uid>>,
    pub(crate) tags: HashMap<u64, UnixSeconds>,
    next_tag: u64,
    /// Entries that are not as they were when the changes were last taken.
    pub(crate) changed: BTreeSet<Uid>,
    /// Objects that came back with contents that are not whole, and were not seen since.
    pub(crate) partial: HashSet<Uid>,
    /// How much waits.
    pub(crate) waiting: Usages,
}

impl<C: Content> Ledger<C> {
    /// An empty ledger. What lies before `horizon` is never billed.
    #[must_use]
    pub fn new(interval: Interval, accounting: Accounting, horizon: UnixSeconds) -> Self {
        Self::from_parts(interval, accounting, Checkpoint::new(horizon))
    }

    pub(crate) fn from_parts(
        interval: Interval,
        accounting: Accounting,
        mut checkpoint: Checkpoint<C>,
    ) -> Self {
        checkpoint.accounting = Some(accounting);
        Self {
            interval,
            accounting,
            checkpoint,
            entries: BTreeMap::new(),
            quarantine: Quarantine::default(),
            expirations: BTreeMap::new(),
            tags: HashMap::new(),
            next_tag: 0,
            changed: BTreeSet::new(),
            partial: HashSet::new(),
            waiting: Usages::default(),
        }
    }

    /// The end of the last window of the unbroken run that was delivered.
    #[must_use]
    pub fn watermark(&self) -> UnixSeconds {
        self.checkpoint.watermark
    }

    /// The end of the last window that was handed out.
    #[must_use]
    pub fn emitted(&self) -> UnixSeconds {
        self.checkpoint.emitted
    }

    /// The length of windows.
    #[must_use]
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// The end of the window that comes next.
    #[must_use]
    pub fn next_due(&self) -> UnixSeconds {
        self.interval.next_boundary(self.checkpoint.emitted)
    }

    /// Whether an object is known and its life goes on.
    #[must_use]
    pub fn is_running(&self, uid: &str) -> bool {
        self.entries
            .get(uid)
            .is_some_and(|entry| entry.end.is_none())
    }

    /// Whose an object is, if it is known.
    pub(crate) fn owner(&self, uid: &str) -> Option<Arc<str>> {
        let segment = self.entries.get(uid)?.segments.last()?;
        Some(segment.content().owner().into())
    }

    /// Figures for people.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            open: self.entries.values().filter(|it| it.end.is_none()).count(),
            ..self.checkpoint.stats
        }
    }

    // --- learning -----------------------------------------------------------------------------

    /// Learns the state of an object.
    pub fn apply(&mut self, observation: Observation<C>) {
        let uid = Arc::clone(&observation.uid);
        match self.entries.remove(&uid) {
            None => self.first_seen(observation),
            Some(mut entry) => {
                if !entry.exists {
                    entry.exists = true;
                    self.mark_dirty(&uid);
                }
                let before = entry.segments.len();
                self.complete(&uid, &mut entry, &observation);
                self.start_learned(&uid, &mut entry, &observation);
                self.seen_again(&uid, &mut entry, &observation);
                self.content_learned(&uid, &mut entry, &observation);
                self.waiting.grown(&entry, before);
                if let Some(end) = observation.end {
                    self.end_learned(&uid, &mut entry, end);
                }
                self.entries.insert(uid, entry);
            }
        }
    }

    /// Learns that an object no longer exists; a life that went on ended at `at`.
    pub fn deleted(&mut self, uid: &str, at: UnixSeconds) {
        let Some((uid, mut entry)) = self.entries.remove_entry(uid) else {
            return;
        };
        entry.exists = false;
        self.mark_dirty(&uid);
        self.end_learned(&uid, &mut entry, at);
        self.close_at(entry.covered.saturating_add(REMEMBERED), &uid);
        self.entries.insert(uid, entry);
        self.forget();
    }

    fn first_seen(&mut self, observation: Observation<C>) {
        let Some(start) = observation.start else {
            return;
        };
        // What has run for long is no news: others have known it, whoever sees it only now.
        let is_news = start.saturating_add(REMEMBERED) > observation.observed_at;
        let learned = if is_news {
            observation.observed_at
        } else {
            start
        };
        let start = start.max(self.checkpoint.horizon);
        let start = observation
            .in_scope_since
            .map_or(start, |since| start.max(since));
        if observation.end.is_some_and(|end| end <= start) {
            return;
        }
        let uid = observation.uid;
        let mut entry = Entry::new(start, learned);
        entry.written = observation.content_since;
        entry.in_scope_since = observation.in_scope_since;
        self.add_late(
            &uid,
            (start, observation.end.unwrap_or(self.checkpoint.emitted)),
            &observation.content,
            observation.observed_at,
        );
        let from = start.max(self.checkpoint.emitted);
        if observation.end.is_none_or(|end| from < end) {
            let content = observation.content;
            entry
                .segments
                .push(Segment::new(from, observation.end, content));
        }
        if let Some(end) = observation.end {
            entry.end = Some(end);
            entry.covered = end;
            self.close_at(end, &uid);
        }
        self.mark_dirty(&uid);
        self.entries.insert(uid, entry);
    }

    /// The life began earlier than was known.
    fn start_learned(&mut self, uid: &Uid, entry: &mut Entry<C>, seen: &Observation<C>) {
        let horizon = entry.in_scope(self.checkpoint.horizon);
        let Some(start) = seen.start.map(|start| start.max(horizon)) else {
            return;
        };
        if start >= entry.first {
            return;
        }
        self.mark_dirty(uid);
        let known = entry.first;
        entry.first = start;
        let content = entry
            .segments
            .first()
            .map_or(&seen.content, |it| it.content())
            .clone();
        self.add_late(uid, (start, known), &content, seen.observed_at);
        if known > self.checkpoint.emitted
            && let Some(segment) = entry.segments.first_mut()
        {
            // Nothing of it has been handed out, so it may simply begin earlier.
            segment.start = start.max(self.checkpoint.emitted);
        }
    }

    /// An object that was taken for gone runs after all: its life goes on where it stopped, or where it
    /// came to be one to bill again.
    fn seen_again(&mut self, uid: &Uid, entry: &mut Entry<C>, seen: &Observation<C>) {
        if entry.end.is_none() || seen.end.is_some() || seen.start.is_none() {
            return;
        }
        self.mark_dirty(uid);
        // What had been handed out beyond the supposed end was right.
        self.count_overbilled(std::mem::take(&mut entry.overbilled).saturating_neg());
        entry.end = None;
        entry.in_scope_since = entry.in_scope_since.max(seen.in_scope_since);
        for (from, to) in std::mem::take(&mut entry.trimmed) {
            let stretch = (entry.in_scope(from), to);
            self.add_late(uid, stretch, &seen.content, seen.observed_at);
        }
        let again = entry.in_scope(entry.covered);
        let missed = (again, self.checkpoint.emitted);
        self.add_late(uid, missed, &seen.content, seen.observed_at);
        let from = again.max(self.checkpoint.emitted);
        match entry.segments.last_mut() {
            Some(last) if last.end == Some(from) && *last.content() == seen.content => {
                last.end = None
            }
            _ => entry
                .segments
                .push(Segment::new(from, None, seen.content.clone())),
        }
    }

    /// A change is dated by when it was written, which is the same for every replica. A write that was
    /// known long before the change did not make it: taking a label away leaves no time in an object.
    /// Then it is dated by when it was seen, in which two replicas may differ by a moment.
    fn content_learned(&mut self, uid: &Uid, entry: &mut Entry<C>, seen: &Observation<C>) {
        let known = entry.written;
        if seen.content_since > known {
            entry.written = seen.content_since;
            self.mark_dirty(uid);
        }
        let last = entry.segments.last();
        if entry.end.is_some() || last.is_none_or(|last| *last.content() == seen.content) {
            return;
        }
        self.mark_dirty(uid);
        // Two writes in one second have the same time.
        let made_it = |since: &UnixSeconds| {
            Some(*since) > known || seen.observed_at <= since.saturating_add(1)
        };
        let at = seen
            .content_since
            .filter(made_it)
            .map_or(seen.observed_at, |since| since.min(seen.observed_at))
            .max(self.checkpoint.emitted);
        if let Some(cut) = entry.change(at, seen.content.clone()) {
            self.close_at(cut, uid);
        }
    }

    fn end_learned(&mut self, uid: &Uid, entry: &mut Entry<C>, end: UnixSeconds) {
        if entry.end.is_some() {
            return;
        }
        self.mark_dirty(uid);
        let emitted = self.checkpoint.emitted;
        self.waiting
            .change(entry, |entry| entry.close(end, emitted));
        entry.trimmed = self.trim_late(uid, end.max(entry.first));
        if self.accounting == Accounting::Exact {
            entry.overbilled = entry.beyond(&self.checkpoint.others);
            self.count_overbilled(entry.overbilled);
        }
        self.close_at(entry.covered, uid);
    }

    fn count_overbilled(&mut self, seconds: i64) {
        let sum = self
            .checkpoint
            .stats
            .overbilled_seconds
            .saturating_add(seconds);
        self.checkpoint.stats.overbilled_seconds = sum.max(0);
    }

    // --- handing out --------------------------------------------------------------------------

    /// The next batch: what failed first, then what was late, then the next window if it ends at or
    /// before `complete_until`, then what was rejected and is due by then: it must not keep others
    /// waiting. `None` when there is nothing to hand out now.
    pub fn next(&mut self, complete_until: UnixSeconds) -> Option<WindowBatch<C>> {
        let failed = self
            .checkpoint
            .windows
            .values()
            .find(|it| it.state == WindowState::Failed)
            .map(|it| it.window);
        if let Some(window) = failed {
            return self.hand_out(window);
        }
        if let Some(batch) = self.next_late() {
            return Some(batch);
        }
        self.next_window(complete_until)
            .or_else(|| self.next_again(complete_until))
    }

    fn next_window(&mut self, complete_until: UnixSeconds) -> Option<WindowBatch<C>> {
        // Windows in which nothing ran are delivered as they are, a bounded number at a time.
        for _ in 0..10_000 {
            let window = Window {
                start: self.checkpoint.emitted,
                end: self.next_due(),
            };
            if window.end > complete_until || window.end <= window.start {
                return None;
            }
            self.checkpoint.emitted = window.end;
            if let Some(batch) = self.hand_out(window) {
                return Some(batch);
            }
        }
        None
    }

    /// Hands out a window; one without pieces is delivered by that.
    fn hand_out(&mut self, window: Window) -> Option<WindowBatch<C>> {
        let before = self.checkpoint.windows.get(&window.start).copied();
        let accounting = before.and_then(|it| it.accounting);
        let accounting = accounting.unwrap_or(self.accounting);
        let pieces = self.pieces(window, accounting);
        let seconds = pieces.iter().map(UsageInterval::seconds).sum::<i64>();
        // One that comes again was counted.
        let counted = before.map_or(0, |it| it.seconds);
        self.count_handed_out(seconds.saturating_sub(counted));
        let state = if pieces.is_empty() {
            WindowState::Delivered
        } else {
            WindowState::InFlight(self.tag())
        };
        self.checkpoint.windows.insert(
            window.start,
            HandedOut {
                window,
                state,
                seconds,
                accounting: Some(accounting),
            },
        );
        let WindowState::InFlight(tag) = state else {
            self.advance();
            return None;
        };
        self.tags.insert(tag.0, window.start);
        Some(WindowBatch {
            tag,
            window,
            kind: Kind::Window,
            pieces,
        })
    }

    /// The pieces of a window: a function of the ledger, the window and how it is billed alone.
    pub(crate) fn pieces(&self, window: Window, accounting: Accounting) -> Vec<UsageInterval<C>> {
        self.pieces_by(|segment| segment.billed(window, accounting))
    }

    /// What the windows of a stretch would be made of, in one piece a segment; the last may be cut off.
    pub(crate) fn pieces_over(&self, stretch: Window) -> Vec<UsageInterval<C>> {
        self.pieces_by(|segment| segment.billed_over(stretch, self.accounting, self.interval))
    }

    fn pieces_by(
        &self,
        billed: impl Fn(&Segment<C>) -> Option<(UnixSeconds, UnixSeconds)>,
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

    pub(crate) fn tag(&mut self) -> DeliveryTag {
        self.next_tag = self.next_tag.wrapping_add(1);
        DeliveryTag(self.next_tag)
    }

    // --- settling -----------------------------------------------------------------------------

    /// Learns how a batch ended.
    pub fn settle(&mut self, tag: DeliveryTag, settled: DeliveryResult<C>) {
        if self.settle_again(tag, &settled) {
            return;
        }
        if let Some(batch) = self.checkpoint.late_in_flight.remove(&tag.0) {
            if settled == DeliveryResult::Failed {
                self.checkpoint.late_failed.push_back(batch);
                return;
            }
            self.checkpoint.unsaved.batches.insert(batch.number);
            let seconds = batch.pieces.iter().map(UsageInterval::seconds).sum();
            let before = self.checkpoint.stats.billed_seconds;
            self.count_fates(seconds, settled);
            let stats = &mut self.checkpoint.stats;
            let delivered = stats.billed_seconds.saturating_sub(before);
            stats.late_seconds = stats.late_seconds.saturating_add(delivered);
            return;
        }
        let Some(window) = self
            .tags
            .remove(&tag.0)
            .and_then(|start| self.checkpoint.windows.get_mut(&start))
            .filter(|it| it.state == WindowState::InFlight(tag))
        else {
            return;
        };
        if settled == DeliveryResult::Failed {
            window.state = WindowState::Failed;
            return;
        }
        window.state = WindowState::Delivered;
        let seconds = window.seconds;
        self.count_fates(seconds, settled);
        self.advance();
    }

    /// Counts object-seconds that this ledger hands out, or no longer does if negative.
    pub(crate) fn count_handed_out(&mut self, seconds: i64) {
        let stats = &mut self.checkpoint.stats;
        stats.handed_out_seconds = stats.handed_out_seconds.saturating_add(seconds);
    }

    /// Moves the watermark over the windows that were delivered without a gap.
    pub(crate) fn advance(&mut self) {
        while let Some(first) = self.checkpoint.windows.first_entry() {
            if first.get().state != WindowState::Delivered {
                break;
            }
            self.checkpoint.watermark = first.remove().window.end;
        }
        self.forget();
    }

    pub(crate) fn close_at(&mut self, at: UnixSeconds, uid: &Uid) {
        self.expirations
            .entry(at)
            .or_default()
            .push(Arc::clone(uid));
    }

    /// Drops what lies behind the watermark.
    pub(crate) fn forget(&mut self) {
        while let Some(first) = self.expirations.first_entry() {
            if *first.key() > self.checkpoint.watermark {
                break;
            }
            for uid in first.remove() {
                let Some(entry) = self.entries.get_mut(&uid) else {
                    continue;
                };
                let watermark = self.checkpoint.watermark;
                if !self.changed.contains(&uid) {
                    self.changed.insert(Arc::clone(&uid));
                }
                let is_ahead = |segment: &Segment<C>| segment.end.is_none_or(|end| end > watermark);
                self.waiting
                    .change(entry, |entry| entry.segments.retain(is_ahead));
                let forgotten = entry.covered.saturating_add(REMEMBERED) <= watermark;
                if forgotten && !entry.exists && entry.end.is_some() {
                    self.entries.remove(&uid);
                }
            }
        }
    }
}
