//! What ran when, and up to where it was handed out.

mod corrections;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use crate::{
    budget::{Budget, Waiting},
    checkpoint::Checkpoint,
    entry::{Entry, KEPT_AFTER_DELETION, Record},
    interval::{Interval, Span, UnixSeconds, Window},
    late::{Late, LateSpan, is_old},
    objects::Objects,
    others::Others,
    seconds::{Counters, Seconds, TOO_OLD, UNPROVED},
    types::{Accounting, Certainty, Content, Observation, Uid, UsageInterval, seconds_of},
    windows::{HandedOut, WindowState, Windows, unsettled_seconds},
};

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Timeline<C> {
    pub(crate) interval: Interval,
    pub(crate) accounting: Accounting,
    pub(crate) windows: Windows,
    pub(crate) objects: Objects<C>,
    pub(crate) late: Late<C>,
    /// What of the time before `emitted` other replicas handed out.
    others: Others,
    pub(crate) counters: Counters,
}

impl<C: Content> Timeline<C> {
    // --- persisting ---------------------------------------------------------------------------

    pub(crate) fn new(interval: Interval, accounting: Accounting, horizon: UnixSeconds) -> Self {
        Self {
            interval,
            accounting,
            windows: Windows::new(horizon),
            objects: Objects::default(),
            late: Late::default(),
            others: Others::default(),
            counters: Counters::default(),
        }
    }

    /// See [`Ledger::restore`](crate::Ledger::restore).
    pub(crate) fn restore(
        interval: Interval,
        accounting: Accounting,
        mut checkpoint: Checkpoint<C>,
        records: impl IntoIterator<Item = (Uid, Record<C>)>,
    ) -> Self {
        checkpoint.count_what_was_handed_out();
        let Checkpoint {
            horizon,
            emitted,
            watermark,
            windows,
            ..
        } = checkpoint;
        let mut objects = Objects::default();
        for (uid, Record(mut entry)) in records {
            if checkpoint.accounting == Some(Accounting::Nominal)
                && entry.cover_whole_window(interval, emitted)
            {
                // The next restore may not know how time was billed by then.
                objects.mark_dirty(&uid);
            }
            objects.restore(uid, entry);
        }
        objects.finish_restore();
        objects.drop_delivered(watermark);
        let mut failed = checkpoint.late_failed;
        failed.extend(checkpoint.late_in_flight.into_values());
        Self {
            interval,
            accounting,
            windows: Windows::restore(horizon, emitted, watermark, windows),
            objects,
            late: Late::restore(checkpoint.late, failed),
            others: checkpoint.others,
            counters: Counters {
                stats: checkpoint.stats,
                unbilled: checkpoint.unbilled,
            },
        }
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint<C> {
        Checkpoint {
            horizon: self.windows.horizon,
            emitted: self.windows.emitted,
            watermark: self.windows.watermark,
            windows: self.windows.by_start().clone(),
            late: BTreeMap::new(),
            late_in_flight: BTreeMap::new(),
            late_failed: VecDeque::new(),
            accounting: Some(self.accounting),
            others: self.others.clone(),
            stats: self.counters.stats,
            unbilled: self.counters.unbilled.clone(),
            counts_fates: true,
        }
    }

    // --- learning -----------------------------------------------------------------------------

    /// Learns the state of an object.
    pub(crate) fn apply(&mut self, seen: Observation<C>) {
        let Some((uid, mut entry)) = self.objects.take(&seen.uid) else {
            return self.first_seen(seen);
        };
        let emitted = self.windows.emitted;
        if !entry.exists {
            entry.exists = true;
            self.objects.mark_dirty(&uid);
        }
        if let Some((earlier, content)) = entry.start_learned(&seen, self.windows.horizon, emitted)
        {
            self.objects.mark_dirty(&uid);
            self.add_late(&uid, earlier, &content, seen.observed_at);
        }
        self.start_replaced(&uid, &mut entry, &seen);
        if seen.times.ahead > entry.ahead {
            entry.ahead = seen.times.ahead;
            self.objects.mark_dirty(&uid);
        }
        let before = entry.segments.len();
        if let Some(resumed) = entry.resume(&seen, emitted, &self.others) {
            self.resumed(&uid, resumed, &seen);
        }
        let learned = entry.content_learned(&seen, emitted);
        if learned.is_changed {
            self.objects.mark_dirty(&uid);
        }
        for closed_at in learned.closed_at {
            self.objects.expire_at(closed_at, &uid);
        }
        self.objects.grown(&entry, before);
        if let Some(end) = seen.end {
            self.end_seen(&uid, &mut entry, end, &seen);
        }
        self.objects.put(uid, entry);
    }

    /// See [`Ledger::deleted`](crate::Ledger::deleted).
    pub(crate) fn deleted(&mut self, uid: &str, at: UnixSeconds) {
        let Some((uid, mut entry)) = self.objects.take(uid) else {
            return;
        };
        entry.exists = false;
        self.objects.mark_dirty(&uid);
        if entry.end.is_none() {
            self.close(&uid, &mut entry, at);
            entry.end_is = Certainty::Seen;
        }
        self.objects
            .expire_at(entry.covered.saturating_add(KEPT_AFTER_DELETION), &uid);
        self.objects.put(uid, entry);
        self.objects.drop_delivered(self.windows.watermark);
    }

    /// See [`Ledger::vanished`](crate::Ledger::vanished).
    pub(crate) fn vanished(&mut self, uid: &str, seen: UnixSeconds, now: UnixSeconds) -> i64 {
        let mut lost = 0;
        if self.is_running(uid) {
            lost = now.saturating_sub(seen.max(self.windows.emitted)).max(0);
            let owner = self.objects.owner(uid);
            self.lose(lost, owner.as_deref().unwrap_or_default());
        }
        self.deleted(uid, seen);
        lost
    }

    /// Counts object-seconds of an owner that cannot be proved and are not billed.
    pub(crate) fn lose(&mut self, seconds: i64, owner: &str) {
        let seconds = seconds.max(0);
        self.counters.handed_out(seconds);
        self.counters.lost(seconds, UNPROVED, owner);
    }

    /// Whether an object is known and has not ended.
    pub(crate) fn is_running(&self, uid: &str) -> bool {
        let entry = self.objects.get(uid);
        entry.is_some_and(|entry| entry.end.is_none())
    }

    fn first_seen(&mut self, seen: Observation<C>) {
        let Some(mut entry) = Entry::begin(&seen, self.windows.horizon) else {
            return;
        };
        let (uid, emitted) = (Arc::clone(&seen.uid), self.windows.emitted);
        let (mut from, until) = (entry.first, entry.end.unwrap_or(emitted));
        let turned = entry.turned(&seen);
        if let Some((at, before)) = &turned {
            self.add_late(&uid, (from, until.min(*at)), before, seen.observed_at);
            self.objects.expire_at(*at, &uid);
            from = *at;
        }
        self.add_late(&uid, (from, until), &seen.content, seen.observed_at);
        entry.start_segments(emitted, turned, seen.content);
        self.objects.grown(&entry, 1);
        if let Some(end) = entry.end {
            self.objects.expire_at(end, &uid);
        }
        self.objects.mark_dirty(&uid);
        self.objects.put(uid, entry);
    }

    /// Adds what of `[start, end)` lies before `emitted` to the late spans.
    fn add_late(&mut self, uid: &Uid, (start, end): Span, content: &C, learned: UnixSeconds) {
        let end = end.min(self.windows.emitted);
        if start >= end || self.accounting == Accounting::Nominal {
            return;
        }
        let span = LateSpan {
            end,
            content: content.clone(),
            learned,
        };
        self.late.insert(start, Arc::clone(uid), span);
    }

    /// Joins the two newest closed segments of an object if its owner is beyond the budget, and the object
    /// has more segments than the `before` that it had.
    pub(crate) fn join_newest(
        &mut self,
        uid: &Uid,
        before: usize,
        budget: Budget,
        billed: impl Fn(&C) -> Option<C>,
    ) -> Waiting {
        // Nothing waits behind a segment that is the first of its object.
        if self.objects.segments(uid) <= before.max(1) {
            return Waiting::Within;
        }
        self.objects
            .join_newest(uid, budget, self.windows.emitted, billed)
    }

    /// See [`Ledger::amend`](crate::Ledger::amend).
    pub(crate) fn amend(
        &mut self,
        uid: Option<&str>,
        at: UnixSeconds,
        change: &mut dyn FnMut(&C) -> Option<C>,
    ) -> Vec<Uid> {
        let emitted = self.windows.emitted;
        self.objects.amend(uid, (at, emitted), change)
    }

    /// Calls `change` for each content; it returns whether it changed the content.
    pub(crate) fn each_content(&mut self, change: &mut dyn FnMut(&Uid, &mut C) -> bool) {
        self.objects.each_content(change);
        self.late.each_content(change);
    }

    /// These objects have partial contents, after [`Timeline::each_content`] was called.
    pub(crate) fn set_partial(&mut self, partial: HashSet<Uid>) {
        self.objects.set_partial(partial);
        self.objects.finish_restore();
    }

    // --- what is billed -----------------------------------------------------------------------

    /// The pieces of a window: a function of the lives, the window and how it is billed alone.
    pub(crate) fn pieces(&self, window: Window, accounting: Accounting) -> Vec<UsageInterval<C>> {
        self.objects
            .pieces(|segment| segment.billed(window, accounting))
    }

    /// What the windows of a span would be made of, in one piece per segment; the last may be cut off.
    fn pieces_over(&self, span: Window) -> Vec<UsageInterval<C>> {
        self.objects
            .pieces(|segment| segment.billed_over(span, self.accounting, self.interval))
    }

    /// Object-seconds by fate, of all time up to `now`.
    pub(crate) fn seconds(&self, now: UnixSeconds) -> Seconds {
        let span = Window {
            start: self.windows.emitted,
            end: now,
        };
        let ahead = self
            .objects
            .seconds(|segment| segment.billed_over(span, self.accounting, self.interval))
            .saturating_add(self.late.seconds());
        let unsettled = unsettled_seconds(self.windows.by_start().values())
            .saturating_add(self.late.unsettled_seconds());
        let stats = &self.counters.stats;
        Seconds {
            ran: stats.handed_out_seconds.saturating_add(ahead),
            delivered: stats.billed_seconds,
            rejected: stats.rejected_seconds,
            dropped: stats.dropped_seconds,
            waiting: unsettled.saturating_add(ahead),
            unproved: stats.lost_seconds,
        }
    }

    /// Moves the watermark, and drops what lies behind it.
    pub(crate) fn advance(&mut self) {
        self.windows.advance();
        self.objects.drop_delivered(self.windows.watermark);
    }

    // --- taking over, and giving up -----------------------------------------------------------

    /// See [`Ledger::safe_watermark`](crate::Ledger::safe_watermark).
    pub(crate) fn safe_watermark(&self) -> UnixSeconds {
        let late = self.late.first_window(self.interval);
        late.map_or(self.windows.watermark, |it| it.min(self.windows.watermark))
    }

    /// See [`Ledger::begin_at`](crate::Ledger::begin_at).
    pub(crate) fn begin_at(&mut self, at: UnixSeconds) {
        if self.has_past() {
            return self.adopt(at);
        }
        self.windows = Windows::new(at);
        self.late = Late::default();
        self.others = Others::default();
        self.counters = Counters::default();
    }

    /// Whether the ledger knows of any object or has handed out anything.
    fn has_past(&self) -> bool {
        !self.objects.is_empty() || self.windows.emitted != self.windows.horizon
    }

    /// See [`Ledger::adopt`](crate::Ledger::adopt).
    pub(crate) fn adopt(&mut self, delivered: UnixSeconds) {
        if delivered <= self.windows.watermark {
            return;
        }
        let passed = Window {
            start: self.windows.emitted,
            end: delivered,
        };
        self.pass(delivered);
        self.adopt_late(delivered, passed);
        self.objects.drop_delivered(self.windows.watermark);
    }

    /// Moves on to `until`, regardless of the state of earlier windows.
    fn pass(&mut self, until: UnixSeconds) {
        self.others.add(self.windows.emitted, until);
        // The other replica counts what was in flight here.
        let unsettled = self.windows.pass(until);
        self.counters.handed_out(unsettled.saturating_neg());
    }

    /// See [`Ledger::adopt_unproved`](crate::Ledger::adopt_unproved).
    pub(crate) fn adopt_unproved(&mut self, delivered: UnixSeconds, is_own: bool) -> i64 {
        let emitted = self.windows.emitted;
        if !self.has_past() {
            self.begin_at(if is_own {
                delivered
            } else {
                delivered.min(emitted)
            });
            return 0;
        }
        if delivered <= self.windows.watermark {
            return 0;
        }
        if is_own && delivered <= emitted {
            self.adopt(delivered);
            return 0;
        }
        let is_open = |state| state != WindowState::Delivered;
        let mut lost = self.give_up_for(UNPROVED, delivered, is_open);
        // Windows that were cut by another interval end elsewhere.
        let rest = Window {
            start: self.windows.emitted,
            end: delivered,
        };
        if rest.start < rest.end {
            for piece in self.pieces_over(rest) {
                self.lose(piece.seconds(), piece.content.owner());
                lost = lost.saturating_add(piece.seconds());
            }
        }
        self.pass(delivered);
        self.objects.drop_delivered(self.windows.watermark);
        lost
    }

    /// See [`Ledger::give_up`](crate::Ledger::give_up).
    pub(crate) fn give_up(&mut self, until: UnixSeconds) -> i64 {
        self.give_up_for(TOO_OLD, until, |state| state == WindowState::Failed)
    }

    /// Gives up for this reason, with the windows that are in a state that is `lost`.
    fn give_up_for(
        &mut self,
        reason: &str,
        until: UnixSeconds,
        lost: impl Fn(WindowState) -> bool,
    ) -> i64 {
        let until = self.interval.floor(until);
        if until <= self.windows.watermark {
            return 0;
        }
        let (mut pieces, never_handed_out) = self.late.give_up(until);
        self.counters.handed_out(never_handed_out);
        for it in self.windows.give_up(until, lost) {
            let accounting = it.accounting.unwrap_or(self.accounting);
            pieces.extend(self.pieces(it.window, accounting));
        }
        if self.windows.emitted < until {
            let window = Window {
                start: self.windows.emitted,
                end: until,
            };
            let rest = self.pieces_over(window);
            let seconds = seconds_of(&rest);
            self.counters.handed_out(seconds);
            self.windows.record(HandedOut {
                window,
                state: WindowState::Delivered,
                seconds,
                accounting: Some(self.accounting),
            });
            self.windows.emitted = until;
            pieces.extend(rest);
        }
        for piece in &pieces {
            let owner = piece.content.owner();
            self.counters.lost(piece.seconds(), reason, owner);
        }
        self.advance();
        seconds_of(&pieces)
    }

    /// Another replica has delivered everything before `delivered`, and with it the window `passed`, which
    /// was not handed out here. The other replica may have learned too late of what was learned here only
    /// recently: this is kept, and handed out late if this ledger becomes the one that does so. If both hand
    /// it out, it has the same id and is billed once. An object that had been running for long when it was
    /// observed is not kept: a replica that starts observes everything late, and would keep all of it for a
    /// minute.
    fn adopt_late(&mut self, delivered: UnixSeconds, passed: Window) {
        let handed_over = self.late.adopt(delivered);
        self.counters.handed_out(handed_over.saturating_neg());
        let mut kept = Vec::new();
        let recent = self.objects.iter();
        for (uid, entry) in recent.filter(|(_, it)| !is_old(it.learned, delivered)) {
            for segment in &entry.segments {
                if let Some(span) = segment.clip(passed) {
                    let content = segment.content().clone();
                    kept.push((Arc::clone(uid), span, content, entry.learned));
                }
            }
        }
        for (uid, span, content, learned) in kept {
            self.add_late(&uid, span, &content, learned);
        }
    }
}
