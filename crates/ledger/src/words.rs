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
pub struct Piece<C> {
    /// Which object.
    pub uid: Uid,
    /// The first second.
    pub start: UnixSeconds,
    /// The second after the last.
    pub end: UnixSeconds,
    /// What it was then.
    pub content: C,
}

impl<C> Piece<C> {
    /// Its length.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.end.saturating_sub(self.start)
    }
}

/// Names an emission when it is settled. Each is settled once; whatever comes later is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub(crate) u64);

/// What is handed out at once: the pieces of one window.
#[derive(Debug, Clone)]
pub struct Emission<C> {
    /// Says which emission ended how.
    pub ticket: Ticket,
    /// The window.
    pub window: Window,
    /// Whether these are pieces that were learned of after their window had been handed out.
    pub late: bool,
    /// In the order of UID and start.
    pub pieces: Vec<Piece<C>>,
}

/// How an emission ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It need not come again.
    Delivered,
    /// It has to come again.
    Failed,
}

/// Figures for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Objects that run now.
    pub open: usize,
    /// Object-seconds delivered.
    pub billed_seconds: i64,
    /// Object-seconds delivered in late emissions, a part of the former.
    pub late_seconds: i64,
    /// Object-seconds handed out beyond an end that was learned too late.
    pub overbilled_seconds: i64,
    /// Object-seconds that could not be proved or came too late, and are not billed.
    #[serde(default)]
    pub lost_seconds: i64,
}
