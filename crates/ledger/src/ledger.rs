//! The ledger: what ran when, what was handed out, and what arrived.

use std::{collections::HashSet, sync::Arc};

use crate::{
    budget::{Budget, Waiting},
    checkpoint::{Changes, Checkpoint},
    entry::{Entry, Record},
    group::{Group, GroupKey},
    interval::{Interval, UnixSeconds, Window},
    quarantine::Quarantine,
    seconds::{Seconds, Tally, Unbilled},
    timeline::Timeline,
    types::{
        Accounting, Content, DeliveryResult, DeliveryTag, Existing, Fate, Kind, Observation, Stats,
        Uid, UsageInterval, WindowBatch, seconds_of,
    },
    windows::{HandedOut, WindowState},
};

/// What ran when, what was handed out, and what arrived. The crate's documentation defines the terms.
///
/// ```
/// use meterline_ledger::{
///     Accounting, Content, DeliveryResult, Interval, Ledger, Observation, Times,
/// };
///
/// #[derive(Debug, Clone, PartialEq)]
/// struct Pod {
///     namespace: &'static str,
///     cores: u32,
/// }
///
/// impl Content for Pod {
///     fn owner(&self) -> &str {
///         self.namespace
///     }
///
///     fn weight(&self) -> usize {
///         size_of::<Self>()
///     }
/// }
///
/// let minute = Interval::new(60).unwrap();
/// let mut ledger = Ledger::new(minute, Accounting::Exact, 0);
/// ledger.apply(Observation {
///     uid: "a".into(),
///     start: Some(10),
///     end: None,
///     content: Pod { namespace: "default", cores: 2 },
///     content_since: None,
///     observed_at: 12,
///     in_scope_since: None,
///     times: Times::default(),
/// });
/// assert!(ledger.next(59).is_none(), "the window is not over");
///
/// let window = ledger.next(60).unwrap();
/// assert_eq!(window.pieces[0].seconds(), 50);
///
/// // A window that was not delivered is handed out again unchanged, and the watermark waits for it.
/// ledger.settle(window.tag, DeliveryResult::Failed);
/// let again = ledger.next(60).unwrap();
/// assert_eq!(again.pieces, window.pieces);
/// assert_eq!(ledger.watermark(), 0);
/// ledger.settle(again.tag, DeliveryResult::Delivered);
/// assert_eq!(ledger.watermark(), 60);
/// ```
#[derive(Debug, Clone)]
pub struct Ledger<C> {
    pub(crate) timeline: Timeline<C>,
    quarantine: Quarantine<C>,
    last_tag: u64,
}

impl<C: Content> Ledger<C> {
    /// An empty ledger. What lies before `horizon` is never billed.
    #[must_use]
    pub fn new(interval: Interval, accounting: Accounting, horizon: UnixSeconds) -> Self {
        Self {
            timeline: Timeline::new(interval, accounting, horizon),
            quarantine: Quarantine::default(),
            last_tag: 0,
        }
    }

    /// The ledger that was persisted. What had been handed out and was not settled is handed out again.
    /// Windows that were not handed out yet are cut by `interval`, whatever it was before. Rejected pieces
    /// are handed out again, because the configuration may have changed.
    #[must_use]
    pub fn restore(
        interval: Interval,
        accounting: Accounting,
        checkpoint: Checkpoint<C>,
        records: impl IntoIterator<Item = (Uid, Record<C>)>,
        rejected: impl IntoIterator<Item = (GroupKey, Group<C>)>,
    ) -> Self {
        Self {
            timeline: Timeline::restore(interval, accounting, checkpoint, records),
            quarantine: Quarantine::restore(rejected),
            last_tag: 0,
        }
    }

    /// What changed since this was last called, or since the ledger was made or restored.
    pub fn take_changes(&mut self) -> Changes<C> {
        let (late, batches) = self.timeline.late.take_changes();
        Changes {
            records: self.timeline.objects.take_changes(),
            late,
            batches,
            rejected: self.quarantine.take_changes(),
            checkpoint: self.timeline.checkpoint(),
        }
    }

    /// All that there is, as changes of an empty state.
    pub fn take_everything(&mut self) -> Changes<C> {
        self.timeline.objects.mark_all_dirty();
        self.timeline.late.mark_all_dirty();
        self.quarantine.mark_all_dirty();
        self.take_changes()
    }

    /// Calls `change` for each content, once after [`Ledger::restore`]; it returns whether it changed the
    /// content. A content is *partial* if it was kept for a configuration that read less: a bill must not be
    /// made of it as if nothing were missing. It is completed when the object is observed again and has not
    /// been written to since.
    pub fn each_content(&mut self, change: &mut dyn FnMut(&mut C) -> bool) {
        let mut partial = HashSet::new();
        let mut each = |uid: &Uid, content: &mut C| {
            let is_changed = change(content);
            if content.is_partial() {
                partial.insert(Arc::clone(uid));
            }
            is_changed
        };
        self.timeline.each_content(&mut each);
        self.quarantine.each_content(&mut each);
        self.timeline.set_partial(partial);
    }

    // --- learning -----------------------------------------------------------------------------

    /// Learns the state of an object.
    pub fn apply(&mut self, seen: Observation<C>) {
        if let Some(written) = self.timeline.objects.complete(&seen) {
            self.quarantine.complete(&seen.uid, written, &seen.content);
        }
        self.timeline.apply(seen);
    }

    /// Learns the state of an object, as [`Ledger::apply`] does, within the budget of its owner. `billed`
    /// returns the part of a content that the bill is made from: the id, the subject and all numbers, without
    /// labels. `None` means that this is not known.
    pub fn apply_within(
        &mut self,
        seen: Observation<C>,
        budget: Budget,
        billed: impl Fn(&C) -> Option<C>,
    ) -> Waiting {
        let uid = Arc::clone(&seen.uid);
        let before = self.timeline.objects.segments(&uid);
        self.apply(seen);
        self.timeline.join_newest(&uid, before, budget, billed)
    }

    /// Learns that an object no longer exists; a life that had not ended ended at `at`.
    pub fn deleted(&mut self, uid: &str, at: UnixSeconds) {
        self.timeline.deleted(uid, at);
    }

    /// Learns that an object has vanished at an unknown time: it was there at `seen`, and at `now` it is not.
    /// Its life ends at `seen`. What may lie between, and was not handed out by then, is counted as lost.
    /// Returns how many seconds that are.
    pub fn vanished(&mut self, uid: &str, seen: UnixSeconds, now: UnixSeconds) -> i64 {
        self.timeline.vanished(uid, seen, now)
    }

    /// Counts object-seconds of an owner that cannot be proved and are not billed.
    pub fn lose(&mut self, seconds: i64, owner: &str) {
        self.timeline.lose(seconds, owner);
    }

    // --- handing out --------------------------------------------------------------------------

    /// The next batch: first what failed, then what is late, then the next window if it ends at or before
    /// `complete_until`, then rejected pieces that are due by then, which must not delay others. `None` if
    /// there is nothing to hand out now.
    pub fn next(&mut self, complete_until: UnixSeconds) -> Option<WindowBatch<C>> {
        if let Some(window) = self.timeline.windows.failed() {
            return self.hand_out(window);
        }
        self.next_late()
            .or_else(|| self.next_window(complete_until))
            .or_else(|| self.next_rejected(complete_until))
    }

    fn next_window(&mut self, complete_until: UnixSeconds) -> Option<WindowBatch<C>> {
        // Windows in which nothing ran are delivered without being handed out, a bounded number at a time.
        for _ in 0..10_000 {
            let window = Window {
                start: self.timeline.windows.emitted,
                end: self.next_due(),
            };
            if window.end > complete_until || window.end <= window.start {
                return None;
            }
            self.timeline.windows.emitted = window.end;
            if let Some(batch) = self.hand_out(window) {
                return Some(batch);
            }
        }
        None
    }

    /// Hands out a window. One without pieces is delivered without being handed out.
    fn hand_out(&mut self, window: Window) -> Option<WindowBatch<C>> {
        let before = self.timeline.windows.by_start().get(&window.start).copied();
        let accounting = before.and_then(|it| it.accounting);
        let accounting = accounting.unwrap_or(self.timeline.accounting);
        let pieces = self.timeline.pieces(window, accounting);
        let seconds = seconds_of(&pieces);
        // A window that is handed out again has been counted.
        let counted = before.map_or(0, |it| it.seconds);
        self.timeline
            .counters
            .handed_out(seconds.saturating_sub(counted));
        let tag = (!pieces.is_empty()).then(|| self.tag());
        self.timeline.windows.record(HandedOut {
            window,
            state: tag.map_or(WindowState::Delivered, WindowState::InFlight),
            seconds,
            accounting: Some(accounting),
        });
        let Some(tag) = tag else {
            self.timeline.advance();
            return None;
        };
        Some(WindowBatch {
            tag,
            window,
            kind: Kind::Window,
            pieces,
        })
    }

    fn next_late(&mut self) -> Option<WindowBatch<C>> {
        let batch = match self.timeline.late.next_failed() {
            Some(batch) => batch,
            None => {
                let batch = self.timeline.late.gather(self.timeline.interval)?;
                self.timeline.counters.handed_out(seconds_of(&batch.pieces));
                batch
            }
        };
        let handed_out = WindowBatch {
            tag: self.tag(),
            window: batch.window,
            kind: Kind::Late,
            pieces: batch.pieces.clone(),
        };
        self.timeline.late.hand_out(handed_out.tag, batch);
        Some(handed_out)
    }

    fn next_rejected(&mut self, now: UnixSeconds) -> Option<WindowBatch<C>> {
        let tag = self.tag();
        let pieces = self.quarantine.next(now, tag)?;
        let first = pieces.first()?.start;
        Some(WindowBatch {
            tag,
            window: Window {
                start: self.timeline.interval.floor(first),
                end: self.timeline.interval.next_boundary(first),
            },
            kind: Kind::Again,
            pieces,
        })
    }

    fn tag(&mut self) -> DeliveryTag {
        self.last_tag = self.last_tag.wrapping_add(1);
        DeliveryTag(self.last_tag)
    }

    /// The pieces of a batch that is not settled yet.
    #[must_use]
    pub fn handed_out(&self, tag: DeliveryTag) -> Vec<UsageInterval<C>> {
        if let Some(batch) = self.timeline.late.in_flight(tag) {
            return batch.pieces.clone();
        }
        if let Some(group) = self.quarantine.handed_out(tag) {
            return group.to_pieces();
        }
        // A function of ledger and window: the same pieces as when it was handed out.
        self.timeline
            .windows
            .in_flight(tag)
            .map_or_else(Vec::new, |it| {
                let accounting = it.accounting.unwrap_or(self.timeline.accounting);
                self.timeline.pieces(it.window, accounting)
            })
    }

    // --- settling -----------------------------------------------------------------------------

    /// Learns how a batch ended.
    pub fn settle(&mut self, tag: DeliveryTag, result: DeliveryResult<C>) {
        if let Some(retried) = self.quarantine.settle(tag, &result) {
            self.timeline.counters.retried(&retried);
            return;
        }
        let is_failed = result == DeliveryResult::Failed;
        if let Some(seconds) = self.timeline.late.settle(tag, is_failed) {
            if !is_failed {
                let delivered = self.count_fates(seconds, result);
                self.timeline.counters.delivered_late(delivered);
            }
            return;
        }
        let state = if is_failed {
            WindowState::Failed
        } else {
            WindowState::Delivered
        };
        if let Some(seconds) = self.timeline.windows.settle(tag, state)
            && !is_failed
        {
            self.count_fates(seconds, result);
            self.timeline.advance();
        }
    }

    /// Counts what became of pieces that were handed out for the first time. Returns how many of their
    /// `seconds` were delivered.
    fn count_fates(&mut self, seconds: i64, result: DeliveryResult<C>) -> i64 {
        let mut delivered = seconds;
        if let DeliveryResult::Done { at, undelivered } = result {
            for (piece, fate) in undelivered {
                let seconds = piece.seconds();
                delivered = delivered.saturating_sub(seconds);
                match fate {
                    Fate::Dropped { place } => {
                        self.timeline
                            .counters
                            .dropped(seconds, &place, piece.content.owner());
                    }
                    Fate::Rejected(refusal) => {
                        self.timeline.counters.rejected(seconds);
                        let evicted = self.quarantine.add(piece, refusal, at);
                        self.timeline.counters.not_kept(&evicted);
                    }
                }
            }
        }
        self.timeline.counters.delivered(delivered);
        delivered
    }

    // --- taking over, and giving up -----------------------------------------------------------

    /// Up to where nothing has to be handed out again: the watermark, unless something was learned late that
    /// has not arrived. A replica that continues from here leaves no gap.
    #[must_use]
    pub fn safe_watermark(&self) -> UnixSeconds {
        self.timeline.safe_watermark()
    }

    /// Bills from `at` on, where another replica stopped. A ledger that has seen nothing yet may begin before
    /// its horizon; any other one moves only forward.
    pub fn begin_at(&mut self, at: UnixSeconds) {
        self.timeline.begin_at(at);
    }

    /// Another replica delivered all windows that end at or before `delivered`: this ledger does not hand
    /// them out any more. Does nothing if that is known already.
    pub fn adopt(&mut self, delivered: UnixSeconds) {
        self.timeline.adopt(delivered);
    }

    /// Adopts a watermark that no other ledger wrote. If `is_own`, this ledger wrote it, and may have been
    /// restored from an older state: what it handed out counts as delivered. Otherwise the writer is not
    /// known. Time before `delivered` that does not count as delivered is not handed out again and is counted
    /// in [`Stats::lost_seconds`]. Returns how many object-seconds that are.
    ///
    /// A new ledger has nothing to compare with. It begins at `delivered` if the watermark is its
    /// own, or else at the earlier of `delivered` and its horizon.
    pub fn adopt_unproved(&mut self, delivered: UnixSeconds, is_own: bool) -> i64 {
        self.timeline.adopt_unproved(delivered, is_own)
    }

    /// Gives up what ends at or before `until` and is not in flight: what is in flight may still arrive.
    /// Returns how many object-seconds that were; they are counted in [`Stats::lost_seconds`].
    pub fn give_up(&mut self, until: UnixSeconds) -> i64 {
        self.timeline.give_up(until)
    }

    // --- rejected pieces ----------------------------------------------------------------------

    /// Rejected pieces that are kept, in the order of their starts, beginning with the group `from`.
    pub fn rejected(
        &self,
        from: Option<&GroupKey>,
    ) -> impl Iterator<Item = (&GroupKey, &Group<C>)> {
        self.quarantine.from(from)
    }

    /// How many rejected pieces are kept.
    #[must_use]
    pub fn rejected_pieces(&self) -> usize {
        self.quarantine.pieces()
    }

    /// The length of all rejected pieces that are kept.
    #[must_use]
    pub fn rejected_seconds(&self) -> i64 {
        let seconds = self.quarantine.seconds();
        seconds.fold(0, |sum, (_, _, it)| sum.saturating_add(it))
    }

    /// Makes all rejected pieces due to be handed out again. Returns how many there are.
    pub fn retry_rejected(&mut self) -> usize {
        self.quarantine.retry()
    }

    /// Drops rejected pieces that end at or before `until`. They stay counted as rejected.
    pub fn forget_rejected(&mut self, until: UnixSeconds) {
        let evicted = self.quarantine.give_up(until);
        self.timeline.counters.not_kept(&evicted);
    }

    // --- figures ------------------------------------------------------------------------------

    /// The end of the last window of the unbroken run that was delivered.
    #[must_use]
    pub fn watermark(&self) -> UnixSeconds {
        self.timeline.windows.watermark
    }

    /// The length of windows.
    #[must_use]
    pub fn interval(&self) -> Interval {
        self.timeline.interval
    }

    /// The end of the next window.
    #[must_use]
    pub fn next_due(&self) -> UnixSeconds {
        self.timeline
            .interval
            .next_boundary(self.timeline.windows.emitted)
    }

    /// Whether an object is known and has not ended.
    #[must_use]
    pub fn is_running(&self, uid: &str) -> bool {
        self.timeline.is_running(uid)
    }

    /// The objects that existed when they were last observed.
    pub fn existing(&self) -> impl Iterator<Item = Existing<'_, C>> {
        let existing = self.timeline.objects.iter().filter(|(_, it)| it.exists);
        existing.map(|(uid, entry)| entry.existing(uid))
    }

    /// Statistics for display.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let is_open = |(_, entry): &(_, &Entry<C>)| entry.end.is_none();
        Stats {
            open: self.timeline.objects.iter().filter(is_open).count(),
            ..self.timeline.counters.stats
        }
    }

    /// Object-seconds by fate, of all time up to `now`.
    #[must_use]
    pub fn seconds(&self, now: UnixSeconds) -> Seconds {
        self.timeline.seconds(now)
    }

    /// Unbilled object-seconds by fate, reason and owner. Rejected pieces that are kept are counted by the
    /// reason for which they were rejected last.
    #[must_use]
    pub fn unbilled(&self) -> Vec<Tally> {
        let kept = self.quarantine.seconds();
        let kept = kept.map(|(owner, reason, seconds)| Tally {
            fate: Unbilled::Rejected,
            reason: Arc::clone(reason),
            owner: Arc::clone(owner),
            seconds,
        });
        self.timeline.counters.unbilled.list().chain(kept).collect()
    }
}
