//! What goes into the ledger and what comes out of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::interval::{UnixSeconds, Window};

/// The UID of an object.
pub type Uid = Arc<str>;

/// How time is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accounting {
    /// The seconds that an object ran.
    Exact,
    /// A whole window for every object that ran when the window began.
    Nominal,
}

/// What is known of one object at one moment.
#[derive(Debug, Clone)]
pub struct Observation<C> {
    /// Which object.
    pub uid: Uid,
    /// When it started; `None` if it has not.
    pub start: Option<UnixSeconds>,
    /// When it ended; `None` if it is running.
    pub end: Option<UnixSeconds>,
    /// What is billed. Equal contents are one segment.
    pub content: C,
    /// The newest known write to the content: when it took its present form, unless something was removed
    /// from it.
    pub content_since: Option<UnixSeconds>,
    /// The second of the observation.
    pub observed_at: UnixSeconds,
    /// When the object came into scope, if it was running before: it got a label, or its namespace was
    /// added. It counts when the object is observed for the first time or again. An object that runs again
    /// after it had ended comes into scope when it runs again.
    pub in_scope_since: Option<UnixSeconds>,
    /// How far its times can be relied on.
    pub times: Times,
}

/// How far the times of an observation can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// How the start is known.
    pub start: Certainty,
    /// How the end is known.
    pub end: Certainty,
    /// By how many seconds the clock that recorded them is known to be ahead at least. They were corrected by
    /// that.
    pub ahead: i64,
}

/// How a time is known. The more certain is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub enum Certainty {
    /// Another time stands for it.
    Assumed,
    /// It had come by the second of the observation.
    Seen,
    /// It was recorded by somebody who saw its effect.
    Recorded,
    /// It was recorded where it happened.
    #[default]
    Exact,
}

impl Certainty {
    /// Whether a time that is known like this replaces one that is known like `known`. The second in which
    /// something was seen first is nearer to it than any later one, and so is what was assumed then.
    pub(crate) fn replaces(self, known: Self) -> bool {
        self > known || (self == known && self > Self::Seen)
    }
}

/// An object that existed when it was last observed.
#[derive(Debug)]
pub struct Existing<'a, C> {
    /// Which object.
    pub uid: &'a Uid,
    /// Its content then, if it is still known.
    pub content: Option<&'a C>,
    /// When it ended, if it has.
    pub end: Option<UnixSeconds>,
    /// See [`Observation::in_scope_since`].
    pub in_scope_since: Option<UnixSeconds>,
    /// See [`Times::ahead`].
    pub ahead: i64,
}

/// A span of time of one object, which becomes one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageInterval<C> {
    /// Which object.
    pub uid: Uid,
    /// The first second.
    pub start: UnixSeconds,
    /// The second after the last.
    pub end: UnixSeconds,
    /// Its content in that time.
    pub content: C,
}

impl<C> UsageInterval<C> {
    /// Its length.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.end.saturating_sub(self.start)
    }
}

/// The sum of their lengths.
pub(crate) fn seconds_of<'a, C: 'a>(pieces: impl IntoIterator<Item = &'a UsageInterval<C>>) -> i64 {
    let seconds = pieces.into_iter().map(UsageInterval::seconds);
    seconds.fold(0, i64::saturating_add)
}

/// Identifies a batch when it is settled. A batch is settled once; later calls are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryTag(pub(crate) u64);

/// What is billed of an object.
pub trait Content: Clone + PartialEq {
    /// The owner of the object, such as its namespace. An owner must not affect the bill of another.
    fn owner(&self) -> &str;
    /// How many bytes it occupies.
    fn weight(&self) -> usize;
    /// Whether something may be missing in it, because it was kept for another configuration.
    fn is_partial(&self) -> bool {
        false
    }
    /// Whether this is what the last write to the object asked for, and `earlier` is the same before it was
    /// granted. It then counts since the write, as far as that was not handed out, and not since it was
    /// observed: every replica knows the time of the write.
    fn is_grant(&self, earlier: &Self) -> bool {
        let _ = earlier;
        false
    }
    /// A part may record since when it is as it is. If it is another one in `earlier`: since when, and `earlier` with
    /// this part. Such a change counts since then, whatever else was written since and however late it is observed.
    fn dated_change(&self, earlier: &Self) -> Option<(UnixSeconds, Self)> {
        let _ = earlier;
        None
    }
    /// What this was before that part changed for the last time, as far as it shows, and when that was. It counts for an
    /// object that is observed for the first time.
    fn before_dated_change(&self) -> Option<(UnixSeconds, Self)> {
        None
    }
}

/// A batch of pieces that is handed out and settled as one.
#[derive(Debug, Clone)]
pub struct WindowBatch<C> {
    /// Identifies the batch when it is settled.
    pub tag: DeliveryTag,
    /// The window.
    pub window: Window,
    /// Why it is handed out.
    pub kind: Kind,
    /// In the order of UID and start.
    pub pieces: Vec<UsageInterval<C>>,
}

/// Why pieces are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They are the pieces of a window.
    Window,
    /// They were learned of after their window had been handed out.
    Late,
    /// They were rejected before. They may belong to several windows.
    Again,
}

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult<C> {
    /// All of it arrived.
    Delivered,
    /// It is not handed out again, and all of it arrived except some pieces.
    Done {
        /// When this was learned.
        at: UnixSeconds,
        /// Pieces that did not arrive, as they were handed out, and what became of each.
        undelivered: Vec<(UsageInterval<C>, Fate)>,
    },
    /// It has to be handed out again.
    Failed,
}

/// What became of a piece that was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was dropped on purpose.
    Dropped {
        /// Where: a label, or a place in the configuration.
        place: Arc<str>,
    },
    /// It cannot be delivered at present. It is kept, and handed out again on request.
    Rejected(Refusal),
}

/// Why a piece was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One of a fixed set of words.
    pub cause: Arc<str>,
    /// The component that rejected it: a label, or a place in the configuration.
    pub component: Arc<str>,
    /// A description of what happened.
    pub reason: Arc<str>,
    /// The customer, if known.
    #[serde(default)]
    pub subject: Option<Arc<str>>,
    /// Whether the cause may pass without intervention. Then the piece is handed out again automatically,
    /// after a minute and then at growing intervals of at most an hour.
    pub may_pass: bool,
}

/// Statistics for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Objects that run now.
    pub open: usize,
    /// Object-seconds that were handed out, each counted once, or that were counted as lost.
    #[serde(default)]
    pub handed_out_seconds: i64,
    /// Object-seconds delivered.
    pub billed_seconds: i64,
    /// Object-seconds rejected, and not delivered since.
    #[serde(default)]
    pub rejected_seconds: i64,
    /// Object-seconds dropped on purpose.
    #[serde(default)]
    pub dropped_seconds: i64,
    /// Rejected pieces that are no longer kept, because there were too many or they were too old.
    #[serde(default)]
    pub rejected_not_kept: u64,
    /// Object-seconds delivered in late batches. They are part of `billed_seconds`.
    pub late_seconds: i64,
    /// Object-seconds handed out after an end that was learned too late.
    pub overbilled_seconds: i64,
    /// Object-seconds that could not be proved or came too late, and are not billed.
    #[serde(default)]
    pub lost_seconds: i64,
}
