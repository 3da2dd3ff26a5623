//! What was learned too late for its window.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    durable::Checkpoint,
    interval::{UnixSeconds, Window},
    ledger::{Ledger, REMEMBERED},
    types::{Accounting, Content, Kind, Uid, UsageInterval, WindowBatch},
};

/// A stretch of time of an object that was learned of too late for its windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateSpan<C> {
    /// The second after the last.
    pub end: UnixSeconds,
    /// What is billed.
    pub content: C,
    /// When it was learned of.
    pub learned: UnixSeconds,
}

impl<C> LateSpan<C> {
    /// The same with another content.
    #[must_use]
    pub fn with<D>(&self, content: D) -> LateSpan<D> {
        LateSpan {
            end: self.end,
            content,
            learned: self.learned,
        }
    }
}

/// A late batch that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateBatch<C> {
    /// By which the state finds it; states before that was so have none.
    #[serde(default)]
    pub(crate) number: u64,
    pub(crate) window: Window,
    pub(crate) pieces: Vec<UsageInterval<C>>,
    /// When the last of it was learned of.
    pub(crate) learned: UnixSeconds,
}

impl<C> LateBatch<C> {
    /// The same with contents that are made of its own.
    ///
    /// # Errors
    /// The first that one cannot be made.
    pub fn try_map<D, E>(
        self,
        mut content: impl FnMut(C) -> Result<D, E>,
    ) -> Result<LateBatch<D>, E> {
        let pieces = self.pieces.into_iter().map(|piece| {
            Ok(UsageInterval {
                content: content(piece.content)?,
                uid: piece.uid,
                start: piece.start,
                end: piece.end,
            })
        });
        Ok(LateBatch {
            pieces: pieces.collect::<Result<_, E>>()?,
            number: self.number,
            window: self.window,
            learned: self.learned,
        })
    }
}

/// What was learned late and is not as the state has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unsaved {
    /// Spans by start and object.
    pub(crate) spans: BTreeSet<(UnixSeconds, Uid)>,
    /// Emissions by number.
    pub(crate) batches: BTreeSet<u64>,
}

/// Late spans by object and start, and `None` for what is no longer kept.
pub type LateChanges<C> = BTreeMap<(Uid, UnixSeconds), Option<LateSpan<C>>>;
/// Late batches that were handed out, by number, and `None` for those that have arrived.
pub type BatchChanges<C> = BTreeMap<u64, Option<LateBatch<C>>>;

impl<C: Clone> Checkpoint<C> {
    /// The same with what was learned late, which is kept beside it.
    #[must_use]
    pub fn with_late(
        mut self,
        spans: impl IntoIterator<Item = ((Uid, UnixSeconds), LateSpan<C>)>,
        batches: impl IntoIterator<Item = LateBatch<C>>,
    ) -> Self {
        for ((uid, start), span) in spans {
            self.late.entry(start).or_default().insert(uid, span);
        }
        self.late_failed.extend(batches);
        self
    }

    fn batches(&self) -> impl Iterator<Item = &LateBatch<C>> {
        self.late_in_flight.values().chain(&self.late_failed)
    }

    /// A number that no batch has.
    fn free_number(&self) -> u64 {
        let most = self.batches().map(|it| it.number).max();
        most.unwrap_or_default().saturating_add(1)
    }

    /// Gives numbers to batches of a state that knew none.
    pub(crate) fn number_late(&mut self) {
        let mut free = self.free_number();
        for batch in self.late_failed.iter_mut().filter(|it| it.number == 0) {
            batch.number = free;
            self.unsaved.batches.insert(free);
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
        let numbers: Vec<_> = self.batches().map(|it| it.number).collect();
        self.unsaved.batches.extend(numbers);
    }

    pub(crate) fn take_late_changes(&mut self) -> (LateChanges<C>, BatchChanges<C>) {
        let Unsaved { spans, batches } = std::mem::take(&mut self.unsaved);
        let span = |(start, uid): (UnixSeconds, Uid)| {
            let span = self.late.get(&start).and_then(|it| it.get(&uid)).cloned();
            ((uid, start), span)
        };
        let spans = spans.into_iter().map(span).collect();
        let mut changes: BatchChanges<C> = batches.into_iter().map(|it| (it, None)).collect();
        for batch in self.batches() {
            if let Some(change) = changes.get_mut(&batch.number) {
                *change = Some(batch.clone());
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
        for batch in &mut self.late_failed {
            for piece in &mut batch.pieces {
                if change(&piece.uid, &mut piece.content) {
                    self.unsaved.batches.insert(batch.number);
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
        let end = end.min(self.checkpoint.emitted);
        if start >= end || self.accounting == Accounting::Nominal {
            return;
        }
        let span = LateSpan {
            end,
            content: content.clone(),
            learned,
        };
        self.checkpoint.insert_late(start, Arc::clone(uid), span);
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
        let unsaved = &mut self.checkpoint.unsaved;
        self.checkpoint.late.retain(|start, spans| {
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

    pub(crate) fn next_late(&mut self) -> Option<WindowBatch<C>> {
        let batch = match self.checkpoint.late_failed.pop_front() {
            Some(batch) => batch,
            None => self.gather_late()?,
        };
        let tag = self.tag();
        let handed = WindowBatch {
            tag,
            window: batch.window,
            kind: Kind::Late,
            pieces: batch.pieces.clone(),
        };
        self.checkpoint.late_in_flight.insert(tag.0, batch);
        Some(handed)
    }

    /// The late pieces of the oldest window that has any.
    fn gather_late(&mut self) -> Option<LateBatch<C>> {
        let (&first, _) = self.checkpoint.late.first_key_value()?;
        let window = Window {
            start: self.interval.floor(first),
            end: self.interval.next_boundary(first),
        };
        let later = self.checkpoint.late.split_off(&window.end);
        let due = std::mem::replace(&mut self.checkpoint.late, later);
        let mut pieces = Vec::new();
        let mut learned = UnixSeconds::MIN;
        for (start, spans) in due {
            for (uid, span) in spans {
                learned = learned.max(span.learned);
                self.checkpoint
                    .unsaved
                    .spans
                    .insert((start, Arc::clone(&uid)));
                if span.end > window.end {
                    let rest = span.with(span.content.clone());
                    self.checkpoint
                        .insert_late(window.end, Arc::clone(&uid), rest);
                }
                pieces.push(UsageInterval {
                    uid,
                    start,
                    end: span.end.min(window.end),
                    content: span.content,
                });
            }
        }
        pieces.sort_by(|a, b| (&a.uid, a.start).cmp(&(&b.uid, b.start)));
        self.count_handed_out(pieces.iter().map(UsageInterval::seconds).sum());
        let number = self.checkpoint.free_number();
        self.checkpoint.unsaved.batches.insert(number);
        Some(LateBatch {
            number,
            window,
            pieces,
            learned,
        })
    }

    /// Drops what was learned late of the time before `until` and is in nobody's hands. Gives back
    /// what that was.
    pub(crate) fn give_up_late(&mut self, until: UnixSeconds) -> Vec<UsageInterval<C>> {
        let checkpoint = &mut self.checkpoint;
        let later = checkpoint.late.split_off(&until);
        let mut lost = Vec::new();
        for (start, spans) in std::mem::replace(&mut checkpoint.late, later) {
            for (uid, span) in spans {
                checkpoint.unsaved.spans.insert((start, Arc::clone(&uid)));
                lost.push(UsageInterval {
                    uid: Arc::clone(&uid),
                    start,
                    end: span.end.min(until),
                    content: span.content.clone(),
                });
                if span.end > until {
                    checkpoint.insert_late(until, uid, span);
                }
            }
        }
        let (given_up, kept) = std::mem::take(&mut checkpoint.late_failed)
            .into_iter()
            .partition::<Vec<_>, _>(|it| it.window.end <= until);
        checkpoint.late_failed = kept.into();
        let numbers = given_up.iter().map(|it| it.number);
        checkpoint.unsaved.batches.extend(numbers);
        // What was never handed out is from now on, and as lost.
        self.count_handed_out(lost.iter().map(UsageInterval::seconds).sum());
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
        let unsaved = &mut self.checkpoint.unsaved;
        for (start, spans) in &mut self.checkpoint.late {
            for (uid, _) in spans.extract_if(.., |_, span| is_old(span.learned)) {
                unsaved.spans.insert((*start, uid));
            }
        }
        self.checkpoint.late.retain(|_, spans| !spans.is_empty());
        let failed = std::mem::take(&mut self.checkpoint.late_failed);
        let (delivered_by_others, kept) = failed
            .into_iter()
            .partition::<Vec<_>, _>(|it| is_old(it.learned));
        self.checkpoint.late_failed = kept.into();
        let numbers = delivered_by_others.iter().map(|it| it.number);
        self.checkpoint.unsaved.batches.extend(numbers);
        let passed_on = delivered_by_others
            .iter()
            .flat_map(|it| &it.pieces)
            .map(UsageInterval::seconds)
            .fold(0, i64::saturating_add);
        self.count_handed_out(passed_on.saturating_neg());
        let mut kept = Vec::new();
        for (uid, entry) in self.entries.iter().filter(|(_, it)| !is_old(it.learned)) {
            for segment in &entry.segments {
                if let Some(span) = segment.clip(passed) {
                    kept.push((
                        Arc::clone(uid),
                        span,
                        segment.content().clone(),
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
