//! What the ledger keeps: the life of one object, and what was handed out of it.

use serde::{Deserialize, Serialize};

use crate::{
    interval::{Interval, UnixSeconds, Window},
    others::Others,
    types::{Accounting, DeliveryTag, UsageInterval},
};

/// A stretch of unchanged content. The last one of a life that goes on has no end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Segment<C> {
    pub(crate) start: UnixSeconds,
    pub(crate) end: Option<UnixSeconds>,
    /// Of this module alone: whoever changes it has to have it written.
    content: C,
    /// Start and end as the state has them, while it has the content.
    #[serde(skip)]
    saved: Option<(UnixSeconds, Option<UnixSeconds>)>,
}

impl<C> Segment<C> {
    /// One that the state does not have yet.
    pub(crate) fn new(start: UnixSeconds, end: Option<UnixSeconds>, content: C) -> Self {
        Self {
            start,
            end,
            content,
            saved: None,
        }
    }

    /// One as the state has it.
    pub(crate) fn saved(start: UnixSeconds, end: Option<UnixSeconds>, content: C) -> Self {
        Self {
            saved: Some((start, end)),
            ..Self::new(start, end, content)
        }
    }

    pub(crate) fn content(&self) -> &C {
        &self.content
    }

    pub(crate) fn replace(&mut self, content: C) {
        self.content = content;
        self.mark_dirty();
    }

    /// Has `change` change the content; it says whether it did.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut C) -> bool) -> bool {
        let is_changed = change(&mut self.content);
        if is_changed {
            self.mark_dirty();
        }
        is_changed
    }

    /// The state is to get all of it.
    pub(crate) fn mark_dirty(&mut self) {
        self.saved = None;
    }

    /// What the state has to write of it. Afterwards it is taken for written.
    pub(crate) fn take_change(&mut self) -> Option<SegmentChange<C>>
    where
        C: Clone,
    {
        let is = (self.start, self.end);
        let was = self.saved.replace(is);
        let has_content = was.is_some_and(|(start, _)| start == self.start);
        (was != Some(is)).then(|| SegmentChange {
            start: self.start,
            end: self.end,
            content: (!has_content).then(|| self.content.clone()),
        })
    }

    /// The part of it that lies in a window.
    pub(crate) fn clip(&self, window: Window) -> Option<(UnixSeconds, UnixSeconds)> {
        let start = self.start.max(window.start);
        let end = self.end.map_or(window.end, |end| end.min(window.end));
        (start < end).then_some((start, end))
    }

    /// What is billed of it in one window.
    pub(crate) fn billed(
        &self,
        window: Window,
        accounting: Accounting,
    ) -> Option<(UnixSeconds, UnixSeconds)> {
        match accounting {
            Accounting::Exact => self.clip(window),
            Accounting::Nominal => {
                let ran_at_start =
                    self.start <= window.start && self.end.is_none_or(|end| window.start < end);
                ran_at_start.then_some((window.start, window.end))
            }
        }
    }

    /// What is billed of it in all windows of a stretch, of which the last may be cut off.
    pub(crate) fn billed_over(
        &self,
        stretch: Window,
        accounting: Accounting,
        interval: Interval,
    ) -> Option<(UnixSeconds, UnixSeconds)> {
        if accounting == Accounting::Exact {
            return self.clip(stretch);
        }
        let (start, end) = self.clip(stretch)?;
        let start = if start == stretch.start {
            start
        } else {
            interval.ceil(start)
        };
        let end = interval.ceil(end).min(stretch.end);
        (start < end).then_some((start, end))
    }
}

/// A segment that is not as the state has it. What the state has of the object between its start and its
/// end is no longer there: segments do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentChange<C> {
    /// The first second, by which the state finds it.
    pub start: UnixSeconds,
    /// The second after the last, if it is over.
    pub end: Option<UnixSeconds>,
    /// The content; `None` where the state has a segment with this start and this content.
    pub content: Option<C>,
}

/// What is remembered of one object. One is written for each object, so what is not there is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry<C> {
    /// The start of the life, as far back as it is billed.
    pub(crate) first: UnixSeconds,
    /// The end of the life, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<UnixSeconds>,
    /// So many seconds of a life that is over were counted as overbilled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) overbilled: i64,
    /// Up to where a life that is over was handed out or will be; beyond its end when the end was
    /// learned too late.
    pub(crate) covered: UnixSeconds,
    /// Of a life that is over, what would have been handed out late and was beyond its end: should it
    /// turn out to go on, this is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trimmed: Vec<(UnixSeconds, UnixSeconds)>,
    /// Contiguous, in order; what the watermark has passed is dropped. Older states have them here.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub(crate) segments: Vec<Segment<C>>,
    /// Whether the object still exists. The memory of a life that is over is kept as long, so that
    /// it is not billed again when it is seen again.
    pub(crate) exists: bool,
    /// When it was first seen or, if it had run for long by then, when it started: since then it is no
    /// news to anybody.
    pub(crate) learned: UnixSeconds,
    /// The newest time of a write to the content that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written: Option<UnixSeconds>,
    /// Nothing before this is billed, for the object was none to bill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_scope_since: Option<UnixSeconds>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(seconds: &i64) -> bool {
    *seconds == 0
}

impl<C: Clone + PartialEq> Entry<C> {
    /// A life that begins at `first`, has not ended, and is seen at `learned`.
    pub(crate) fn new(first: UnixSeconds, learned: UnixSeconds) -> Self {
        Self {
            first,
            end: None,
            overbilled: 0,
            covered: first,
            trimmed: Vec::new(),
            segments: Vec::new(),
            exists: true,
            learned,
            written: None,
            in_scope_since: None,
        }
    }

    /// All but its segments.
    pub(crate) fn life(&self) -> Self {
        Self {
            trimmed: self.trimmed.clone(),
            segments: Vec::new(),
            ..*self
        }
    }

    /// The later of `at` and when it came to be one to bill.
    pub(crate) fn in_scope(&self, at: UnixSeconds) -> UnixSeconds {
        self.in_scope_since.map_or(at, |since| at.max(since))
    }

    /// The content changed at `at`, which lies not before `emitted`. Gives back the end of the
    /// segment that this closed, if any.
    pub(crate) fn change(&mut self, at: UnixSeconds, content: C) -> Option<UnixSeconds> {
        let last = self.segments.last_mut()?;
        if last.content == content {
            return None;
        }
        if at <= last.start {
            last.replace(content);
            return None;
        }
        last.end = Some(at);
        self.segments.push(Segment::new(at, None, content));
        Some(at)
    }

    /// So many seconds of a life that is over were handed out beyond its end, or will be, and not by
    /// others.
    pub(crate) fn beyond(&self, others: &Others) -> i64 {
        let end = self.end.unwrap_or(self.covered);
        self.trimmed
            .iter()
            .map(|stretch| others.without(*stretch))
            .fold(others.without((end, self.covered)), i64::saturating_sub)
    }

    /// The life ended at `end`. Nothing before `emitted` is touched: it was handed out.
    pub(crate) fn close(&mut self, end: UnixSeconds, emitted: UnixSeconds) {
        let end = end.max(self.first);
        let border = if self.first < emitted {
            end.max(emitted)
        } else {
            end
        };
        self.segments.retain(|segment| segment.start < border);
        for segment in &mut self.segments {
            if segment.end.is_none_or(|it| it > border) {
                segment.end = Some(border);
            }
        }
        self.end = Some(end);
        self.covered = border;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WindowState {
    InFlight(DeliveryTag),
    Failed,
    /// Or given up: nothing more comes of it.
    Delivered,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HandedOut {
    pub(crate) window: Window,
    pub(crate) state: WindowState,
    pub(crate) seconds: i64,
    /// How it is billed, whatever is configured when it comes again. Older states do not say.
    #[serde(default)]
    pub(crate) accounting: Option<Accounting>,
}

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
