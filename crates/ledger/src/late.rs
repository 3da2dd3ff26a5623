//! What was learned too late for its window.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    durable::Head,
    entry::{LateEmission, LateSpan},
    interval::{UnixSeconds, Window},
    ledger::{Ledger, REMEMBERED},
    words::{Accounting, Content, Emission, Kind, Piece, Uid},
};

/// What was learned late and is not as the state has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unsaved {
    /// Spans by start and object.
    pub(crate) spans: BTreeSet<(UnixSeconds, Uid)>,
    /// Emissions by number.
    pub(crate) emissions: BTreeSet<u64>,
}

/// Late spans by object and start, and `None` for what is no longer kept.
pub type LateChanges<C> = BTreeMap<(Uid, UnixSeconds), Option<LateSpan<C>>>;
/// Late emissions that were handed out, by number, and `None` for those that have arrived.
pub type EmissionChanges<C> = BTreeMap<u64, Option<LateEmission<C>>>;

impl<C: Clone> Head<C> {
    /// The same with what was learned late, which is kept beside it.
    #[must_use]
    pub fn with_late(
        mut self,
        spans: impl IntoIterator<Item = ((Uid, UnixSeconds), LateSpan<C>)>,
        emissions: impl IntoIterator<Item = LateEmission<C>>,
    ) -> Self {
        for ((uid, start), span) in spans {
            self.late.entry(start).or_default().insert(uid, span);
        }
        self.late_failed.extend(emissions);
        self
    }

    fn emissions(&self) -> impl Iterator<Item = &LateEmission<C>> {
        self.late_in_flight.values().chain(&self.late_failed)
    }

    /// A number that no emission has.
    fn free_number(&self) -> u64 {
        let most = self.emissions().map(|it| it.number).max();
        most.unwrap_or_default().saturating_add(1)
    }

    /// Gives numbers to emissions of a state that knew none.
    pub(crate) fn number_late(&mut self) {
        let mut free = self.free_number();
        for emission in self.late_failed.iter_mut().filter(|it| it.number == 0) {
            emission.number = free;
            self.unsaved.emissions.insert(free);
            free = free.saturating_add(1);
        }
    }

    fn insert_late(&mut self, start: UnixSeconds, uid: Uid, span: LateSpan<C>) {
        self.unsaved.spans.insert((start, Arc::clone(&uid)));
        self.late.entry(start).or_default().insert(uid, span);
    }

    pub(crate) fn touch_all_late(&mut self) {
        let spans = self.late.iter().flat_map(|(start, spans)| {
            let of = |uid: &Uid| (*start, Arc::clone(uid));
            spans.keys().map(of)
        });
        self.unsaved.spans.extend(spans);
        let numbers: Vec<_> = self.emissions().map(|it| it.number).collect();
        self.unsaved.emissions.extend(numbers);
    }

    pub(crate) fn take_late_changes(&mut self) -> (LateChanges<C>, EmissionChanges<C>) {
        let Unsaved { spans, emissions } = std::mem::take(&mut self.unsaved);
        let span = |(start, uid): (UnixSeconds, Uid)| {
            let span = self.late.get(&start).and_then(|it| it.get(&uid)).cloned();
            ((uid, start), span)
        };
        let spans = spans.into_iter().map(span).collect();
        let mut changes: EmissionChanges<C> = emissions.into_iter().map(|it| (it, None)).collect();
        for emission in self.emissions() {
            if let Some(change) = changes.get_mut(&emission.number) {
                *change = Some(emission.clone());
            }
        }
        (spans, changes)
    }

    /// Has `change` change each content; it says whether it did.
    pub(crate) fn each_late_content(&mut self, change: &mut dyn FnMut(&Uid, &mut C) -> bool) {
        for (start, spans) in &mut self.late {
            for (uid, span) in spans {
                if change(uid, &mut span.content) {
                    self.unsaved.spans.insert((*start, Arc::clone(uid)));
                }
            }
        }
        for emission in &mut self.late_failed {
            for piece in &mut emission.pieces {
                if change(&piece.uid, &mut piece.content) {
                    self.unsaved.emissions.insert(emission.number);
                }
            }
        }
    }
}

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
        self.head.insert_late(start, Arc::clone(uid), span);
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
        let unsaved = &mut self.head.unsaved;
        self.head.late.retain(|start, spans| {
            if let Some(span) = spans.get_mut(uid)
                && span.end > end
            {
                unsaved.spans.insert((*start, Arc::clone(uid)));
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
                self.head.unsaved.spans.insert((start, Arc::clone(&uid)));
                if span.end > window.end {
                    let rest = span.with(span.content.clone());
                    self.head.insert_late(window.end, Arc::clone(&uid), rest);
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
        let number = self.head.free_number();
        self.head.unsaved.emissions.insert(number);
        Some(LateEmission {
            number,
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
                head.unsaved.spans.insert((start, Arc::clone(&uid)));
                lost.push(Piece {
                    uid: Arc::clone(&uid),
                    start,
                    end: span.end.min(until),
                    content: span.content.clone(),
                });
                if span.end > until {
                    head.insert_late(until, uid, span);
                }
            }
        }
        let (given_up, kept) = std::mem::take(&mut head.late_failed)
            .into_iter()
            .partition::<Vec<_>, _>(|it| it.window.end <= until);
        head.late_failed = kept.into();
        let numbers = given_up.iter().map(|it| it.number);
        head.unsaved.emissions.extend(numbers);
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
        let unsaved = &mut self.head.unsaved;
        for (start, spans) in &mut self.head.late {
            for (uid, _) in spans.extract_if(.., |_, span| is_old(span.learned)) {
                unsaved.spans.insert((*start, uid));
            }
        }
        self.head.late.retain(|_, spans| !spans.is_empty());
        let failed = std::mem::take(&mut self.head.late_failed);
        let (delivered_by_others, kept) = failed
            .into_iter()
            .partition::<Vec<_>, _>(|it| is_old(it.learned));
        self.head.late_failed = kept.into();
        let numbers = delivered_by_others.iter().map(|it| it.number);
        self.head.unsaved.emissions.extend(numbers);
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
