//! What was learned too late for its window.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    entry::KEPT_AFTER_DELETION,
    interval::{Interval, Span, UnixSeconds, Window},
    types::{Content, DeliveryTag, Uid, UsageInterval, seconds_of},
};

/// A span of time of an object that was learned of too late for its windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateSpan<C> {
    /// The second after the last.
    pub end: UnixSeconds,
    /// What is billed.
    pub content: C,
    /// When the span was learned of.
    pub learned: UnixSeconds,
}

impl<C> LateSpan<C> {
    /// The same span with another content.
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
    /// Its key in the state; 0 in older versions of the state.
    #[serde(default)]
    pub(crate) number: u64,
    pub(crate) window: Window,
    pub(crate) pieces: Vec<UsageInterval<C>>,
    /// When the last of it was learned of.
    pub(crate) learned: UnixSeconds,
}

impl<C> LateBatch<C> {
    /// The same batch with contents made from its own.
    ///
    /// # Errors
    /// The first error of `content`.
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

/// Late spans by object and start, and `None` for those that are no longer kept.
pub type LateChanges<C> = BTreeMap<(Uid, UnixSeconds), Option<LateSpan<C>>>;
/// Late batches that were handed out, by number, and `None` for those that have arrived.
pub type BatchChanges<C> = BTreeMap<u64, Option<LateBatch<C>>>;

/// Late spans by start and object.
pub(crate) type Spans<C> = BTreeMap<UnixSeconds, BTreeMap<Uid, LateSpan<C>>>;

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Late<C> {
    spans: Spans<C>,
    in_flight: BTreeMap<u64, LateBatch<C>>,
    failed: VecDeque<LateBatch<C>>,
    /// Spans that changed since the changes were last taken.
    changed_spans: BTreeSet<(UnixSeconds, Uid)>,
    /// Numbers of batches that changed since the changes were last taken.
    changed_batches: BTreeSet<u64>,
}

impl<C> Default for Late<C> {
    fn default() -> Self {
        Self {
            spans: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            failed: VecDeque::new(),
            changed_spans: BTreeSet::new(),
            changed_batches: BTreeSet::new(),
        }
    }
}

impl<C: Content> Late<C> {
    /// What the state holds. All batches are handed out again; those without a number get one.
    pub(crate) fn restore(spans: Spans<C>, failed: VecDeque<LateBatch<C>>) -> Self {
        let mut late = Self {
            spans,
            failed,
            ..Self::default()
        };
        let mut free = late.free_number();
        for batch in late.failed.iter_mut().filter(|it| it.number == 0) {
            batch.number = free;
            late.changed_batches.insert(free);
            free = free.saturating_add(1);
        }
        late
    }

    fn batches(&self) -> impl Iterator<Item = &LateBatch<C>> {
        self.in_flight.values().chain(&self.failed)
    }

    /// A number that no batch has.
    fn free_number(&self) -> u64 {
        let most = self.batches().map(|it| it.number).max();
        most.unwrap_or_default().saturating_add(1)
    }

    pub(crate) fn insert(&mut self, start: UnixSeconds, uid: Uid, span: LateSpan<C>) {
        self.changed_spans.insert((start, Arc::clone(&uid)));
        self.spans.entry(start).or_default().insert(uid, span);
    }

    /// Cuts the spans of an object that lie after its end and were never handed out. Returns what was cut
    /// off.
    ///
    /// Only spans of this object are examined: when many objects end, there may be many spans of others.
    pub(crate) fn trim(&mut self, uid: &Uid, end: UnixSeconds) -> Vec<Span> {
        let mut trimmed = Vec::new();
        let changed = &mut self.changed_spans;
        self.spans.retain(|start, spans| {
            if let Some(span) = spans.get_mut(uid)
                && span.end > end
            {
                changed.insert((*start, Arc::clone(uid)));
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

    // --- handing out --------------------------------------------------------------------------

    /// The first batch that failed.
    pub(crate) fn next_failed(&mut self) -> Option<LateBatch<C>> {
        self.failed.pop_front()
    }

    /// The late pieces of the oldest window that has any, which are handed out for the first time.
    pub(crate) fn gather(&mut self, interval: Interval) -> Option<LateBatch<C>> {
        let (&first, _) = self.spans.first_key_value()?;
        let window = Window {
            start: interval.floor(first),
            end: interval.next_boundary(first),
        };
        let later = self.spans.split_off(&window.end);
        let due = std::mem::replace(&mut self.spans, later);
        let mut pieces = Vec::new();
        let mut learned = UnixSeconds::MIN;
        for (start, spans) in due {
            for (uid, span) in spans {
                learned = learned.max(span.learned);
                self.changed_spans.insert((start, Arc::clone(&uid)));
                if span.end > window.end {
                    let rest = span.with(span.content.clone());
                    self.insert(window.end, Arc::clone(&uid), rest);
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
        let number = self.free_number();
        self.changed_batches.insert(number);
        Some(LateBatch {
            number,
            window,
            pieces,
            learned,
        })
    }

    /// Records that a batch is in flight.
    pub(crate) fn hand_out(&mut self, tag: DeliveryTag, batch: LateBatch<C>) {
        self.in_flight.insert(tag.0, batch);
    }

    /// The batch that is in flight with this tag.
    pub(crate) fn in_flight(&self, tag: DeliveryTag) -> Option<&LateBatch<C>> {
        self.in_flight.get(&tag.0)
    }

    /// The batch with this tag is no longer in flight. If it failed, it is handed out again.
    pub(crate) fn settle(&mut self, tag: DeliveryTag, is_failed: bool) -> Option<i64> {
        let batch = self.in_flight.remove(&tag.0)?;
        let seconds = seconds_of(&batch.pieces);
        if is_failed {
            self.failed.push_back(batch);
        } else {
            self.changed_batches.insert(batch.number);
        }
        Some(seconds)
    }

    // --- counting -----------------------------------------------------------------------------

    /// Object-seconds that were not handed out yet.
    pub(crate) fn seconds(&self) -> i64 {
        let spans = self.spans.iter();
        spans
            .flat_map(|(start, spans)| spans.values().map(move |it| it.end.saturating_sub(*start)))
            .fold(0, i64::saturating_add)
    }

    /// Object-seconds that were handed out and are not settled.
    pub(crate) fn unsettled_seconds(&self) -> i64 {
        seconds_of(self.batches().flat_map(|it| &it.pieces))
    }

    /// The start of the first window of which something late has not arrived.
    pub(crate) fn first_window(&self, interval: Interval) -> Option<UnixSeconds> {
        let waiting = self.spans.keys().map(|start| interval.floor(*start));
        waiting
            .chain(self.batches().map(|it| it.window.start))
            .min()
    }

    // --- giving up ----------------------------------------------------------------------------

    /// Drops what was learned late of the time before `until` and is not in flight. Returns it, and how many
    /// object-seconds of it were never handed out.
    pub(crate) fn give_up(&mut self, until: UnixSeconds) -> (Vec<UsageInterval<C>>, i64) {
        let later = self.spans.split_off(&until);
        let mut lost = Vec::new();
        for (start, spans) in std::mem::replace(&mut self.spans, later) {
            for (uid, span) in spans {
                self.changed_spans.insert((start, Arc::clone(&uid)));
                lost.push(UsageInterval {
                    uid: Arc::clone(&uid),
                    start,
                    end: span.end.min(until),
                    content: span.content.clone(),
                });
                if span.end > until {
                    self.insert(until, uid, span);
                }
            }
        }
        let never_handed_out = seconds_of(&lost);
        let given_up = self.drop_failed(|it| it.window.end <= until);
        lost.extend(given_up.into_iter().flat_map(|it| it.pieces));
        (lost, never_handed_out)
    }

    /// Another replica has delivered everything before `delivered`. Drops late spans and batches as well,
    /// unless they are so recent that the other replica may have learned of them too late. Returns the
    /// object-seconds of the batches that were dropped.
    pub(crate) fn adopt(&mut self, delivered: UnixSeconds) -> i64 {
        for (start, spans) in &mut self.spans {
            let old = |_: &Uid, span: &mut LateSpan<C>| is_old(span.learned, delivered);
            for (uid, _) in spans.extract_if(.., old) {
                self.changed_spans.insert((*start, uid));
            }
        }
        self.spans.retain(|_, spans| !spans.is_empty());
        let dropped = self.drop_failed(|it| is_old(it.learned, delivered));
        seconds_of(dropped.iter().flat_map(|it| &it.pieces))
    }

    fn drop_failed(&mut self, dropped: impl Fn(&LateBatch<C>) -> bool) -> Vec<LateBatch<C>> {
        let (dropped, kept) = std::mem::take(&mut self.failed)
            .into_iter()
            .partition::<Vec<_>, _>(dropped);
        self.failed = kept.into();
        self.changed_batches
            .extend(dropped.iter().map(|it| it.number));
        dropped
    }

    // --- what is written ----------------------------------------------------------------------

    /// Makes the next changes contain everything.
    pub(crate) fn mark_all_dirty(&mut self) {
        let spans = self.spans.iter().flat_map(|(start, spans)| {
            let of = |uid: &Uid| (*start, Arc::clone(uid));
            spans.keys().map(of)
        });
        self.changed_spans.extend(spans);
        let numbers: Vec<_> = self.batches().map(|it| it.number).collect();
        self.changed_batches.extend(numbers);
    }

    /// Returns what changed, and marks it as written.
    pub(crate) fn take_changes(&mut self) -> (LateChanges<C>, BatchChanges<C>) {
        let span = |(start, uid): (UnixSeconds, Uid)| {
            let span = self.spans.get(&start).and_then(|it| it.get(&uid)).cloned();
            ((uid, start), span)
        };
        let spans = std::mem::take(&mut self.changed_spans);
        let spans = spans.into_iter().map(span).collect();
        let batches = std::mem::take(&mut self.changed_batches);
        let mut changes: BatchChanges<C> = batches.into_iter().map(|it| (it, None)).collect();
        for batch in self.batches() {
            if let Some(change) = changes.get_mut(&batch.number) {
                *change = Some(batch.clone());
            }
        }
        (spans, changes)
    }

    /// Calls `change` for each content; it returns whether it changed the content.
    pub(crate) fn each_content(&mut self, change: &mut dyn FnMut(&Uid, &mut C) -> bool) {
        for (start, spans) in &mut self.spans {
            for (uid, span) in spans {
                if change(uid, &mut span.content) {
                    self.changed_spans.insert((*start, Arc::clone(uid)));
                }
            }
        }
        for batch in &mut self.failed {
            for piece in &mut batch.pieces {
                if change(&piece.uid, &mut piece.content) {
                    self.changed_batches.insert(batch.number);
                }
            }
        }
    }

    /// The objects that have spans.
    #[cfg(test)]
    pub(crate) fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.spans.values().flat_map(|it| it.keys())
    }
}

/// Whether a replica that has delivered everything before `delivered` knew what was `learned` here by then.
pub(crate) fn is_old(learned: UnixSeconds, delivered: UnixSeconds) -> bool {
    learned.saturating_add(KEPT_AFTER_DELETION) <= delivered
}
