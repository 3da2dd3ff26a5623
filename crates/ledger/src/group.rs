//! Rejected pieces that have everything in common except their times.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    interval::UnixSeconds,
    types::{Content, Refusal, Uid, UsageInterval},
};

/// The most pieces in one group, which is written and handed out as one.
const MOST_IN_GROUP: usize = 64;

/// The key of a group: the start of its first piece when it was created, and its object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    pub(crate) start: UnixSeconds,
    pub(crate) uid: Uid,
}

impl std::fmt::Display for GroupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.start, self.uid)
    }
}

impl std::str::FromStr for GroupKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (start, uid) = text.split_once('/').ok_or(())?;
        Ok(Self {
            start: start.parse().map_err(drop)?,
            uid: uid.into(),
        })
    }
}

/// Rejected pieces of one object that have content and cause in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group<C> {
    /// The object.
    pub uid: Uid,
    /// What was to be billed.
    pub content: C,
    /// Why it was not billed at the last try.
    pub refusal: Refusal,
    /// Start and end of each piece, in the order of the starts.
    pub pieces: Vec<(UnixSeconds, UnixSeconds)>,
    /// When the first piece was rejected for the first time.
    pub first_try: UnixSeconds,
    /// When a piece was tried last.
    pub last_try: UnixSeconds,
    /// How often the group as a whole was tried again.
    pub retries: u32,
    /// How often in a row all of it was rejected again, since the start and the last retry on request. The pause
    /// before the next try follows from it.
    #[serde(skip)]
    pub failures: u32,
    /// When it is tried again automatically, if it is.
    pub next_try: Option<UnixSeconds>,
}

impl<C> Group<C> {
    /// The same with another content.
    #[must_use]
    pub fn with<D>(self, content: D) -> Group<D> {
        Group {
            uid: self.uid,
            content,
            refusal: self.refusal,
            pieces: self.pieces,
            first_try: self.first_try,
            last_try: self.last_try,
            retries: self.retries,
            failures: self.failures,
            next_try: self.next_try,
        }
    }

    /// The length of all pieces together.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.pieces
            .iter()
            .map(|(start, end)| end.saturating_sub(*start))
            .fold(0, i64::saturating_add)
    }
}

impl<C: Content> Group<C> {
    /// The pieces that are handed out.
    pub(crate) fn to_pieces(&self) -> Vec<UsageInterval<C>> {
        let piece = |(start, end): &(UnixSeconds, UnixSeconds)| UsageInterval {
            uid: Arc::clone(&self.uid),
            start: *start,
            end: *end,
            content: self.content.clone(),
        };
        self.pieces.iter().map(piece).collect()
    }

    pub(crate) fn weight(&self) -> usize {
        let per_piece = std::mem::size_of::<(UnixSeconds, UnixSeconds)>();
        let Refusal {
            cause,
            component,
            reason,
            subject,
            ..
        } = &self.refusal;
        let subject = subject.as_ref().map_or(0, |it| it.len());
        [cause.len(), component.len(), reason.len(), subject]
            .into_iter()
            .fold(self.content.weight(), usize::saturating_add)
            .saturating_add(self.pieces.len().saturating_mul(per_piece))
            .saturating_add(std::mem::size_of::<Self>())
    }

    pub(crate) fn takes(&self, content: &C, refusal: &Refusal) -> bool {
        self.pieces.len() < MOST_IN_GROUP
            && self.refusal.cause == refusal.cause
            && self.refusal.component == refusal.component
            && self.content == *content
    }
}

/// What changed of a group.
#[derive(Debug, Clone)]
pub struct GroupChange<C> {
    /// The group as it is now.
    pub group: Group<C>,
    /// Whether the content changed as well; it does not while a group keeps its key.
    pub is_new: bool,
}

/// What became of a group that was handed out again.
#[derive(Debug, Default)]
pub(crate) struct Retried {
    /// Object-seconds that are no longer rejected.
    pub(crate) settled: i64,
    /// Those of them that were dropped on purpose: object-seconds, place and owner.
    pub(crate) dropped: Vec<(i64, Arc<str>, Arc<str>)>,
}
