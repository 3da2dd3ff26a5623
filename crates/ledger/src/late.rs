//! What was learned too late for its window.

use std::sync::Arc;

use crate::{
    entry::{LateEmission, LateSpan},
    interval::{UnixSeconds, Window},
    ledger::{Ledger, REMEMBERED},
    words::{Accounting, Content, Emission, Kind, Piece, Uid},
};

impl<C: Content> Ledger<C> {
    /// Takes what of `[start, end)` lies before `emitted` for late pieces.
    pub(crate) fn add_late(
        &mut self,
        uid: &Uid,
        (start, end): (UnixSeconds, UnixSeconds),
        content: &C,
        learned: UnixSeconds,
    ) {
        let end = end.min(self.head.emitted);
        if start >= end || self.accounting == Accounting::Nominal {
            return;
        }
        let span = LateSpan {
            end,
            content: content.clone(),
            learned,
        };
        self.head
            .late
            .entry(start)
            .or_default()
            .insert(Arc::clone(uid), span);
    }

    /// Cuts late spans of an object that lie beyond its end and were never handed out. Gives back
    /// what was cut off.
    ///
    /// Only spans of this object are looked at: at the end of each of many objects there may be many
    /// spans of the others.
    pub(crate) fn trim_late(
        &mut self,
        uid: &Uid,
        end: UnixSeconds,
    ) -> Vec<(UnixSeconds, UnixSeconds)> {
        let mut trimmed = Vec::new();
        self.head.late.retain(|start, spans| {
            if let Some(span) = spans.get_mut(uid)
                && span.end > end
            {
                let keep_until = end.max(*start);
                trimmed.push((keep_until, span.end));
                span.end = keep_until;
                if keep_until == *start {
                    spans.remove(uid);
                }
            }
            !spans.is_empty()
        });
        trimmed
    }

    pub(crate) fn next_late(&mut self) -> Option<Emission<C>> {
        let emission = match self.head.late_failed.pop_front() {
            Some(emission) => emission,
            None => self.gather_late()?,
        };
        let ticket = self.ticket();
        let handed = Emission {
            ticket,
            window: emission.window,
            kind: Kind::Late,
            pieces: emission.pieces.clone(),
        };
        self.head.late_in_flight.insert(ticket.0, emission);
        Some(handed)
    }

    /// The late pieces of the oldest window that has any.
    fn gather_late(&mut self) -> Option<LateEmission<C>> {
        let (&first, _) = self.head.late.first_key_value()?;
        let window = Window {
            start: self.interval.floor(first),
            end: self.interval.next_boundary(first),
        };
        let later = self.head.late.split_off(&window.end);
        let due = std::mem::replace(&mut self.head.late, later);
        let mut pieces = Vec::new();
        let mut learned = UnixSeconds::MIN;
        for (start, spans) in due {
            for (uid, span) in spans {
                learned = learned.max(span.learned);
                if span.end > window.end {
                    let rest = LateSpan {
                        end: span.end,
                        content: span.content.clone(),
                        learned: span.learned,
                    };
                    self.head
                        .late
                        .entry(window.end)
                        .or_default()
                        .insert(Arc::clone(&uid), rest);
                }
                pieces.push(Piece {
                    uid,
                    start,
                    end: span.end.min(window.end),
                    content: span.content,
                });
            }
        }
        pieces.sort_by(|a, b| (&a.uid, a.start).cmp(&(&b.uid, b.start)));
        self.count_handed_out(pieces.iter().map(Piece::seconds).sum());
        Some(LateEmission {
            window,
            pieces,
            learned,
        })
    }

    /// Drops what was learned late of the time before `until` and is in nobody's hands. Gives back
    /// what that was.
    pub(crate) fn give_up_late(&mut self, until: UnixSeconds) -> Vec<Piece<C>> {
        let head = &mut self.head;
        let later = head.late.split_off(&until);
        let mut lost = Vec::new();
        for (start, spans) in std::mem::replace(&mut head.late, later) {
            for (uid, span) in spans {
                lost.push(Piece {
                    uid: Arc::clone(&uid),
                    start,
                    end: span.end.min(until),
                    content: span.content.clone(),
                });
                if span.end > until {
                    head.late.entry(until).or_default().insert(uid, span);
                }
            }
        }
        let (given_up, kept) = std::mem::take(&mut head.late_failed)
            .into_iter()
            .partition::<Vec<_>, _>(|it| it.window.end <= until);
        head.late_failed = kept.into();
        // What was never handed out is from now on, and as lost.
        self.count_handed_out(lost.iter().map(Piece::seconds).sum());
        lost.extend(given_up.into_iter().flat_map(|it| it.pieces));
        lost
    }

    /// Somebody else has delivered all before `delivered`, and with it the window `passed` that was
    /// not handed out here. Late spans are dropped as well. But what was learned of only lately may
    /// have been news to the other too late: it is kept, and handed out if this ledger gets to do
    /// so. Twice sent is once billed. What had run for long when it was seen is not kept: a replica that
    /// starts sees everything lately, and would keep all of it for a minute.
    pub(crate) fn adopt_late(&mut self, delivered: UnixSeconds, passed: Window) {
        let is_old = |learned: UnixSeconds| learned.saturating_add(REMEMBERED) <= delivered;
        for spans in self.head.late.values_mut() {
            spans.retain(|_, span| !is_old(span.learned));
        }
        self.head.late.retain(|_, spans| !spans.is_empty());
        let failed = std::mem::take(&mut self.head.late_failed);
        let (delivered_by_others, kept) = failed
            .into_iter()
            .partition::<Vec<_>, _>(|it| is_old(it.learned));
        self.head.late_failed = kept.into();
        let passed_on = delivered_by_others
            .iter()
            .flat_map(|it| &it.pieces)
            .map(Piece::seconds)
            .fold(0, i64::saturating_add);
        self.count_handed_out(passed_on.saturating_neg());
        let mut kept = Vec::new();
        for (uid, entry) in self.entries.iter().filter(|(_, it)| !is_old(it.learned)) {
            for segment in &entry.segments {
                if let Some(span) = segment.clip(passed) {
                    kept.push((
                        Arc::clone(uid),
                        span,
                        segment.content.clone(),
                        entry.learned,
                    ));
                }
            }
        }
        for (uid, span, content, learned) in kept {
            self.add_late(&uid, span, &content, learned);
        }
    }
}
