//! What the ledger keeps of one object: its life.

use serde::{Deserialize, Serialize};

use crate::{interval::UnixSeconds, others::Others, segment::Segment};

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
        if *last.content() == content {
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
