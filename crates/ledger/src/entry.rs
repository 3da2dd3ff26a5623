//! What the ledger keeps of one object: its life.

use serde::{Deserialize, Serialize};

use crate::{
    interval::{Interval, Span, UnixSeconds},
    others::Others,
    segment::{Segment, SegmentChange},
    types::{Certainty, Content, Existing, Observation, Uid},
};

/// How long, in seconds behind the watermark, the ledger keeps an object that was deleted. If the
/// object turns out to be running after all, its life continues where it stopped.
pub(crate) const KEPT_AFTER_DELETION: i64 = 60;

/// The life of one object. The state holds one per object, so fields without a value are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry<C> {
    /// The start of the life, as far back as it is billed.
    pub(crate) first: UnixSeconds,
    /// The end of the life, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<UnixSeconds>,
    /// How many seconds of a life that has ended were counted as overbilled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) overbilled: i64,
    /// Up to where a life that has ended was or will be handed out; after its end if the end was learned
    /// too late.
    pub(crate) covered: UnixSeconds,
    /// Late spans that were not handed out because they lay after the end of the life. If the life turns
    /// out to continue, they are still to be billed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trimmed: Vec<Span>,
    /// Contiguous and in order. Segments behind the watermark are dropped. Older versions of the state hold
    /// the segments here.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub(crate) segments: Vec<Segment<C>>,
    /// Whether the object still exists. An ended life is kept for as long, so that an object that is
    /// observed again is not billed again.
    pub(crate) exists: bool,
    /// When the object was first observed or, if it had been running for long by then, when it started.
    /// Every replica has observed it since then.
    pub(crate) learned: UnixSeconds,
    /// The newest known time of a write to the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written: Option<UnixSeconds>,
    /// Nothing before this is billed, because the object was not in scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_scope_since: Option<UnixSeconds>,
    /// How the start is known.
    #[serde(default, skip_serializing_if = "is_exact")]
    pub(crate) start_is: Certainty,
    /// How the end is known.
    #[serde(default, skip_serializing_if = "is_exact")]
    pub(crate) end_is: Certainty,
    /// By how many seconds the clock that recorded its times is known to be ahead at least.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) ahead: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_exact(certainty: &Certainty) -> bool {
    *certainty == Certainty::Exact
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(seconds: &i64) -> bool {
    *seconds == 0
}

/// What a life that continues after all changes.
pub(crate) struct Resumed {
    /// How many of the seconds that had been counted as overbilled were right.
    pub(crate) right: i64,
    /// What was not handed out while the life counted as ended.
    pub(crate) missed: Vec<Span>,
}

/// The effect of an observation on the content.
#[derive(Default)]
pub(crate) struct ContentLearned {
    /// Whether the entry changed.
    pub(crate) is_changed: bool,
    /// The ends of the segments that were closed.
    pub(crate) closed_at: Vec<UnixSeconds>,
}

impl<C: Content> Entry<C> {
    /// The life of an object that is observed for the first time, without segments; `None` if nothing of it
    /// is billed.
    pub(crate) fn begin(seen: &Observation<C>, horizon: UnixSeconds) -> Option<Self> {
        let start = seen.start?;
        // An object that has been running for long is known to the other replicas, whenever this one
        // observes it.
        let is_news = start.saturating_add(KEPT_AFTER_DELETION) > seen.observed_at;
        let learned = if is_news { seen.observed_at } else { start };
        let start = start.max(horizon);
        let first = seen.in_scope_since.map_or(start, |since| start.max(since));
        if seen.end.is_some_and(|end| end <= first) {
            return None;
        }
        Some(Self {
            first,
            end: seen.end,
            overbilled: 0,
            covered: seen.end.unwrap_or(first),
            trimmed: Vec::new(),
            segments: Vec::new(),
            exists: true,
            learned,
            written: seen.content_since,
            in_scope_since: seen.in_scope_since,
            start_is: seen.times.start,
            end_is: seen.times.end,
            ahead: seen.times.ahead,
        })
    }

    /// Adds the first segments: what of the life lies after `emitted`. Before `turned` the content was another one.
    pub(crate) fn start_segments(
        &mut self,
        emitted: UnixSeconds,
        turned: Option<(UnixSeconds, C)>,
        content: C,
    ) {
        let mut from = self.first.max(emitted);
        if let Some((at, before)) = turned.filter(|(at, _)| from < *at) {
            self.segments.push(Segment::new(from, Some(at), before));
            from = at;
        }
        if self.end.is_none_or(|end| from < end) {
            // Most objects have one segment at a time, and a list that grows has room for four.
            self.segments.reserve_exact(1);
            self.segments.push(Segment::new(from, self.end, content));
        }
    }

    /// Returns when in its life the content became what is observed first, and what it was before.
    pub(crate) fn turned(&self, seen: &Observation<C>) -> Option<(UnixSeconds, C)> {
        let (at, before) = seen.content.before_dated_change()?;
        let at = at.min(seen.observed_at);
        let is_within = self.first < at && self.end.is_none_or(|end| at < end);
        is_within.then_some((at, before))
    }

    /// What is known of an object that exists.
    pub(crate) fn existing<'a>(&'a self, uid: &'a Uid) -> Existing<'a, C> {
        Existing {
            uid,
            content: self.segments.last().map(Segment::content),
            end: self.end,
            in_scope_since: self.in_scope_since,
            ahead: self.ahead,
        }
    }

    /// All but its segments.
    fn life(&self) -> Self {
        Self {
            trimmed: self.trimmed.clone(),
            segments: Vec::new(),
            ..*self
        }
    }

    /// The later of `at` and the time when the object came into scope.
    fn in_scope(&self, at: UnixSeconds) -> UnixSeconds {
        self.in_scope_since.map_or(at, |since| at.max(since))
    }

    /// Moves the start back if the life began earlier than was known. Returns what lies before the start
    /// that was known, and its content. An assumption about the start of a known life does not count.
    pub(crate) fn start_learned(
        &mut self,
        seen: &Observation<C>,
        horizon: UnixSeconds,
        emitted: UnixSeconds,
    ) -> Option<(Span, C)> {
        let start = seen.start?.max(self.in_scope(horizon));
        if start >= self.first || seen.times.start < self.start_is {
            return None;
        }
        let known = std::mem::replace(&mut self.first, start);
        let content = self
            .segments
            .first()
            .map_or(&seen.content, Segment::content);
        let content = content.clone();
        if known > emitted
            && let Some(segment) = self.segments.first_mut()
        {
            // Nothing of it has been handed out, so the segment may begin earlier.
            segment.start = start.max(emitted);
        }
        Some(((start, known), content))
    }

    /// Replaces a start that was assumed by a later one that is known. Returns what was or will be handed out
    /// before that start.
    pub(crate) fn start_replaced(
        &mut self,
        seen: &Observation<C>,
        emitted: UnixSeconds,
    ) -> Option<Span> {
        if seen.times.start <= self.start_is {
            return None;
        }
        let start = seen.start?;
        self.start_is = seen.times.start;
        if start <= self.first {
            return None;
        }
        if self.first < emitted {
            let end = self.end.unwrap_or(start).max(self.first);
            return Some((self.first, start.min(end)));
        }
        let start = self.end.map_or(start, |end| start.min(end));
        self.first = start;
        self.covered = self.covered.max(start);
        self.segments
            .retain(|it| it.end.is_none_or(|end| end > start));
        if let Some(segment) = self.segments.first_mut() {
            segment.start = segment.start.max(start);
        }
        None
    }

    /// Continues an ended life if the object is running after all: where it stopped, or where the object
    /// came into scope again.
    pub(crate) fn resume(
        &mut self,
        seen: &Observation<C>,
        emitted: UnixSeconds,
        others: &Others,
    ) -> Option<Resumed> {
        if seen.end.is_some() || seen.start.is_none() {
            return None;
        }
        self.reopen(seen, emitted, others)
    }

    /// Continues an ended life: where it stopped, or where the object came into scope again.
    pub(crate) fn reopen(
        &mut self,
        seen: &Observation<C>,
        emitted: UnixSeconds,
        others: &Others,
    ) -> Option<Resumed> {
        let end = self.end.take()?;
        self.end_is = Certainty::Exact;
        self.in_scope_since = self.in_scope_since.max(seen.in_scope_since);
        let trimmed = std::mem::take(&mut self.trimmed);
        // What lies between the end and the time from which it is in scope again remains overbilled.
        let again = self.in_scope(end);
        let until_again = |(from, to): Span| (from, to.min(again));
        let wrong = trimmed
            .iter()
            .map(|span| others.without(until_again(*span)))
            .fold(
                others.without(until_again((end, self.covered))),
                i64::saturating_sub,
            );
        let wrong = wrong.clamp(0, self.overbilled.max(0));
        let mut missed: Vec<_> = trimmed
            .into_iter()
            .map(|(from, to)| (self.in_scope(from), to))
            .collect();
        let again = self.in_scope(self.covered);
        missed.push((again, emitted));
        let from = again.max(emitted);
        match self.segments.last_mut() {
            Some(last) if last.end == Some(from) && *last.content() == seen.content => {
                last.end = None;
            }
            _ => self
                .segments
                .push(Segment::new(from, None, seen.content.clone())),
        }
        Some(Resumed {
            right: std::mem::take(&mut self.overbilled).saturating_sub(wrong),
            missed,
        })
    }

    /// Starts a segment if the content changed. A change is dated by when it was written, which is the same
    /// for every replica. A write that was known long before the change did not make it: removing a label
    /// leaves no time in an object. Then the change is dated by when it was observed, in which two replicas
    /// may differ by a moment.
    pub(crate) fn content_learned(
        &mut self,
        seen: &Observation<C>,
        emitted: UnixSeconds,
    ) -> ContentLearned {
        let mut learned = ContentLearned::default();
        let known = self.written;
        if seen.content_since > known {
            self.written = seen.content_since;
            learned.is_changed = true;
        }
        let Some(last) = self.segments.last_mut().filter(|_| self.end.is_none()) else {
            return learned;
        };
        if *last.content() == seen.content {
            return learned;
        }
        learned.is_changed = true;
        learned.closed_at.extend(self.part_learned(seen, emitted));
        let Some(last) = self.segments.last_mut() else {
            return learned;
        };
        if *last.content() == seen.content {
            return learned;
        }
        // Two writes in one second have the same time.
        let is_grant = seen.content_since == known && seen.content.is_grant(last.content());
        let made_it = |since: &UnixSeconds| {
            is_grant || Some(*since) > known || seen.observed_at <= since.saturating_add(1)
        };
        let at = seen
            .content_since
            .filter(made_it)
            .map_or(seen.observed_at, |since| since.min(seen.observed_at))
            .max(emitted);
        if at <= last.start {
            last.replace(seen.content.clone());
        } else {
            last.end = Some(at);
            self.segments
                .push(Segment::new(at, None, seen.content.clone()));
            learned.closed_at.push(at);
        }
        learned
    }

    /// Divides the last segment where a part of the content became what is observed, if that part records when it did:
    /// not before the segment, because two changes have the order in which they are observed. Returns where.
    fn part_learned(&mut self, seen: &Observation<C>, emitted: UnixSeconds) -> Option<UnixSeconds> {
        let last = self.segments.last_mut()?;
        let (since, content) = seen.content.dated_change(last.content())?;
        let at = since.min(seen.observed_at).max(emitted);
        if at <= last.start {
            last.replace(content);
            return None;
        }
        last.end = Some(at);
        self.segments.push(Segment::new(at, None, content));
        Some(at)
    }

    /// Completes a partial last segment whose content has been `content` since `written`. Returns the end of
    /// the segment that this closed, if any.
    pub(crate) fn complete(&mut self, written: UnixSeconds, content: &C) -> Option<UnixSeconds> {
        let last = self
            .segments
            .last_mut()
            .filter(|it| it.content().is_partial())?;
        if written <= last.start {
            last.replace(content.clone());
            return None;
        }
        if last.end.is_some_and(|end| end <= written) {
            return None;
        }
        // What the content was before that is not known.
        let end = last.end.replace(written);
        self.segments
            .push(Segment::new(written, end, content.clone()));
        Some(written)
    }

    /// Changes the contents from `at` on that were not handed out before `emitted`. `change` returns the new content
    /// in place of one, if it has one. Returns whether anything changed, and where a segment was divided.
    pub(crate) fn amend(
        &mut self,
        at: UnixSeconds,
        emitted: UnixSeconds,
        change: &mut dyn FnMut(&C) -> Option<C>,
    ) -> (bool, Option<UnixSeconds>) {
        let at = at.max(emitted);
        let (mut is_changed, mut divided) = (false, None);
        for segment in &mut self.segments {
            if segment.end.is_some_and(|end| end <= at) {
                continue;
            }
            let Some(content) = change(segment.content()) else {
                continue;
            };
            is_changed = true;
            if at <= segment.start {
                segment.replace(content);
            } else {
                // The segments are in order and do not overlap, so this happens once.
                let end = segment.end.replace(at);
                divided = Some(Segment::new(at, end, content));
            }
        }
        if let Some(segment) = divided {
            let place = self.segments.partition_point(|it| it.start < at);
            self.segments.insert(place, segment);
            return (true, Some(at));
        }
        (is_changed, None)
    }

    /// How many seconds after the end of an ended life were or will be handed out, and not by another
    /// replica.
    pub(crate) fn overbilled_seconds(&self, others: &Others) -> i64 {
        let end = self.end.unwrap_or(self.covered);
        self.trimmed
            .iter()
            .map(|span| others.without(*span))
            .fold(others.without((end, self.covered)), i64::saturating_sub)
    }

    /// Ends the life at `end`, or ends it earlier. What lies before `emitted` was handed out and is not changed.
    pub(crate) fn close(&mut self, end: UnixSeconds, emitted: UnixSeconds) {
        let end = end.max(self.first);
        let border = if self.first < emitted {
            end.max(emitted)
        } else {
            end
        };
        // Nothing is handed out after the end that was known.
        let border = self.end.map_or(border, |_| border.min(self.covered));
        self.segments.retain(|segment| segment.start < border);
        for segment in &mut self.segments {
            if segment.end.is_none_or(|it| it > border) {
                segment.end = Some(border);
            }
        }
        self.end = Some(end);
        self.covered = border;
    }

    /// For a life that ended while whole windows were billed: all of its last window was handed out. Returns
    /// whether this changed the entry.
    pub(crate) fn cover_whole_window(&mut self, interval: Interval, emitted: UnixSeconds) -> bool {
        let whole = interval.ceil(self.covered).min(emitted);
        let is_changed = self.end.is_some() && self.covered < whole;
        if is_changed {
            self.covered = whole;
        }
        is_changed
    }

    /// Returns what the state has to write of it, and marks that as written.
    pub(crate) fn take_change(&mut self) -> RecordChange<C> {
        let first = self.segments.first().map(|it| it.start);
        let last = self.segments.last().map(|it| it.start);
        let mut segments = Vec::new();
        let mut after = UnixSeconds::MIN;
        for segment in &mut self.segments {
            segments.extend(segment.take_change(after));
            after = segment.end.unwrap_or(after);
        }
        RecordChange {
            life: Record(self.life()),
            starts: first.zip(last),
            segments,
        }
    }
}

/// All that the state holds of one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record<C>(pub(crate) Entry<C>);

impl<C> Record<C> {
    /// Combines the life of [`RecordChange::life`] with the segments that the state holds, in order: start,
    /// end and content of each.
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordChange<C> {
    /// All but its segments.
    pub life: Record<C>,
    /// Where its first and its last segment start, if it has any. Segments of the state that start before
    /// the first or after the last no longer exist.
    pub starts: Option<(UnixSeconds, UnixSeconds)>,
    /// Segments that are new or changed, in order.
    pub segments: Vec<SegmentChange<C>>,
}
