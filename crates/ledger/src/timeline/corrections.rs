//! Starts and ends that are known better than before.

use super::Timeline;
use crate::{
    entry::{Entry, Resumed},
    interval::UnixSeconds,
    types::{Accounting, Content, Observation, Uid},
};

impl<C: Content> Timeline<C> {
    /// Replaces a start that was assumed, if the observation knows better.
    pub(super) fn start_replaced(
        &mut self,
        uid: &Uid,
        entry: &mut Entry<C>,
        seen: &Observation<C>,
    ) {
        if seen.start.is_none() || seen.times.start <= entry.start_is {
            return;
        }
        self.objects.mark_dirty(uid);
        let emitted = self.windows.emitted;
        let too_early = self
            .objects
            .recount(entry, |entry| entry.start_replaced(seen, emitted));
        if let Some(too_early) = too_early.filter(|_| self.accounting == Accounting::Exact) {
            self.counters.overbilled(self.others.without(too_early));
        }
    }

    /// Bills what a life that continues after all missed.
    pub(super) fn resumed(&mut self, uid: &Uid, resumed: Resumed, seen: &Observation<C>) {
        self.objects.mark_dirty(uid);
        self.counters.overbilled(resumed.right.saturating_neg());
        for missed in resumed.missed {
            self.add_late(uid, missed, &seen.content, seen.observed_at);
        }
    }

    /// An observation shows an end. It replaces one that is known if it is as certain: what was not handed out is
    /// billed up to the new end, and what was is counted as overbilled, or completed by a late piece.
    pub(super) fn end_seen(
        &mut self,
        uid: &Uid,
        entry: &mut Entry<C>,
        end: UnixSeconds,
        seen: &Observation<C>,
    ) {
        let (end, certainty) = (end.max(entry.first), seen.times.end);
        match entry.end {
            None => self.close(uid, entry, end),
            Some(known) if known == end => {
                if certainty <= entry.end_is {
                    return;
                }
                self.objects.mark_dirty(uid);
            }
            Some(_) if !certainty.replaces(entry.end_is) => return,
            Some(known) => {
                let before = entry.segments.len();
                if known < end
                    && let Some(resumed) = entry.reopen(seen, self.windows.emitted, &self.others)
                {
                    self.objects.grown(entry, before);
                    self.resumed(uid, resumed, seen);
                }
                self.close(uid, entry, end);
            }
        }
        entry.end_is = certainty;
    }

    /// Ends a life, or ends it earlier than was known.
    pub(super) fn close(&mut self, uid: &Uid, entry: &mut Entry<C>, end: UnixSeconds) {
        self.objects.mark_dirty(uid);
        self.objects.close(entry, end, self.windows.emitted);
        let trimmed = self.late.trim(uid, end.max(entry.first));
        entry.trimmed.extend(trimmed);
        if self.accounting == Accounting::Exact {
            let before = entry.overbilled;
            entry.overbilled = entry.overbilled_seconds(&self.others);
            self.counters
                .overbilled(entry.overbilled.saturating_sub(before));
        }
        self.objects.expire_at(entry.covered, uid);
    }
}
