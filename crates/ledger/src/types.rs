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

/// What the outside says of one object at one moment.
#[derive(Debug, Clone)]
pub struct Observation<C> {
    /// Which object.
    pub uid: Uid,
    /// When it began to be billed; `None` while it has not.
    pub start: Option<UnixSeconds>,
    /// When it stopped; `None` while it goes on.
    pub end: Option<UnixSeconds>,
    /// What is billed. Equal contents are one segment.
    pub content: C,
    /// The newest write to the content, if that is known: when it took its present form, unless that was
    /// by taking something away.
    pub content_since: Option<UnixSeconds>,
    /// The second in which this was seen.
    pub observed_at: UnixSeconds,
    /// Since when the object is one to bill, if it ran before that: it got a label, or its namespace was
    /// added. Counts when it is seen for the first time or again.
    pub in_scope_since: Option<UnixSeconds>,
}

/// A stretch of time of one object, to become one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageInterval<C> {
    /// Which object.
    pub uid: Uid,
    /// The first second.
    pub start: UnixSeconds,
    /// The second after the last.
    pub end: UnixSeconds,
    /// What it was then.
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

/// Names a batch when it is settled. Each is settled once; whatever comes later is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryTag(pub(crate) u64);

/// What is billed of an object.
pub trait Content: Clone + PartialEq {
    /// Whose object it is, such as its namespace. Owners do not trust each other.
    fn owner(&self) -> &str;
    /// How many bytes it takes to keep it.
    fn weight(&self) -> usize;
    /// Whether something may be missing in it, as it was kept for another configuration.
    fn is_partial(&self) -> bool {
        false
    }
}

/// What is handed out at once: the pieces of one window.
#[derive(Debug, Clone)]
pub struct WindowBatch<C> {
    /// Says which batch ended how.
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
    /// They are those of a window.
    Window,
    /// They were learned of after their window had been handed out.
    Late,
    /// They were rejected before. They may be of several windows.
    Again,
}

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryResult<C> {
    /// All of it arrived.
    Delivered,
    /// It need not come again, and all of it arrived but for some pieces.
    Done {
        /// When this was learned.
        at: UnixSeconds,
        /// Pieces that did not arrive, as they were handed out, and what became of each.
        undelivered: Vec<(UsageInterval<C>, Fate)>,
    },
    /// It has to come again.
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
    /// It cannot arrive as things are. It is kept, and handed out again when that is asked for.
    Rejected(Refusal),
}

/// Why a piece was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One of a few words.
    pub cause: Arc<str>,
    /// What decided it: a label, or a place in the configuration.
    pub component: Arc<str>,
    /// What happened, for people.
    pub reason: Arc<str>,
    /// The customer, where that is known.
    #[serde(default)]
    pub subject: Option<Arc<str>>,
    /// Whether it may pass without anybody doing something: then it is handed out again by itself,
    /// after a minute and then ever more seldom, at least once an hour.
    pub may_pass: bool,
}

/// Figures for people.
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
    /// Rejected pieces that are no longer kept, for there were too many or they were too old.
    #[serde(default)]
    pub rejected_not_kept: u64,
    /// Object-seconds delivered in late batches, a part of the former.
    pub late_seconds: i64,
    /// Object-seconds handed out beyond an end that was learned too late.
    pub overbilled_seconds: i64,
    /// Object-seconds that could not be proved or came too late, and are not billed.
    #[serde(default)]
    pub lost_seconds: i64,
}
