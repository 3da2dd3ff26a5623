//! A span of time in which an object ran with unchanged content.

use serde::{Deserialize, Serialize};

use crate::{
    interval::{Interval, Span, UnixSeconds, Window},
    types::Accounting,
};

/// A span of unchanged content. The last segment of a life that has not ended has no end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Segment<C> {
    pub(crate) start: UnixSeconds,
    pub(crate) end: Option<UnixSeconds>,
    /// Private to this module, because a change has to be written.
    content: C,
    /// Start and end as the state holds them, while it holds the content.
    #[serde(skip)]
    saved: Option<(UnixSeconds, Option<UnixSeconds>)>,
}

impl<C> Segment<C> {
    /// A segment that the state does not hold yet.
    pub(crate) fn new(start: UnixSeconds, end: Option<UnixSeconds>, content: C) -> Self {
        Self {
            start,
            end,
            content,
            saved: None,
        }
    }

    /// A segment that the state holds.
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

    /// Calls `change` with the content; it returns whether it changed the content.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut C) -> bool) -> bool {
        let is_changed = change(&mut self.content);
        if is_changed {
            self.mark_dirty();
        }
        is_changed
    }

    /// Marks all of it to be written.
    pub(crate) fn mark_dirty(&mut self) {
        self.saved = None;
    }

    /// Returns what the state has to write of it, and marks that as written. The segment before ends at
    /// `after`.
    pub(crate) fn take_change(&mut self, after: UnixSeconds) -> Option<SegmentChange<C>>
    where
        C: Clone,
    {
        let is = (self.start, self.end);
        let was = self.saved.replace(is);
        let has_content = was.is_some_and(|(start, _)| start == self.start);
        (was != Some(is)).then(|| SegmentChange {
            after,
            start: self.start,
            end: self.end,
            content: (!has_content).then(|| self.content.clone()),
        })
    }

    /// The part of it that lies in a window.
    pub(crate) fn clip(&self, window: Window) -> Option<Span> {
        let start = self.start.max(window.start);
        let end = self.end.map_or(window.end, |end| end.min(window.end));
        (start < end).then_some((start, end))
    }

    /// What is billed of it in one window.
    pub(crate) fn billed(&self, window: Window, accounting: Accounting) -> Option<Span> {
        match accounting {
            Accounting::Exact => self.clip(window),
            Accounting::Nominal => {
                let ran_at_start =
                    self.start <= window.start && self.end.is_none_or(|end| window.start < end);
                ran_at_start.then_some((window.start, window.end))
            }
        }
    }

    /// What is billed of it in all windows of a span, of which the last may be cut off.
    pub(crate) fn billed_over(
        &self,
        span: Window,
        accounting: Accounting,
        interval: Interval,
    ) -> Option<Span> {
        if accounting == Accounting::Exact {
            return self.clip(span);
        }
        let (start, end) = self.clip(span)?;
        let start = if start == span.start {
            start
        } else {
            interval.ceil(start)
        };
        let end = interval.ceil(end).min(span.end);
        (start < end).then_some((start, end))
    }
}

/// A segment that the state does not hold as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentChange<C> {
    /// The end of the segment before, or the beginning of time. Other segments that the state holds of the
    /// object from here to the end of this one no longer exist.
    pub after: UnixSeconds,
    /// The first second: its key in the state.
    pub start: UnixSeconds,
    /// The second after the last, if it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<UnixSeconds>,
    /// The content; `None` if the state holds a segment with this start and this content.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub content: Option<C>,
}

/// Without it, serde would want a default content.
const fn none<C>() -> Option<C> {
    None
}
