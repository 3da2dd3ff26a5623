//! Every object-second has one fate. The counters hold how many have which.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    group::{Group, Retried},
    types::{Content, Stats},
};

/// The reason of time that cannot be proved.
pub(crate) const UNPROVED: &str = "no_proof";
/// The reason of time that came too late.
pub(crate) const TOO_OLD: &str = "max_backlog";

/// The most owners of unbilled time that are counted separately. When another owner is added, the one with
/// the least unbilled time is counted as [`OTHER`]. A tenant with many owners cannot hide the losses of others.
const MOST_OWNERS: usize = 256;

/// Stands for all owners that are not counted separately.
pub const OTHER: &str = "other";

/// Object-seconds by fate. `ran` is the sum of all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seconds {
    /// What ran, as far as is known, and is billed by this ledger. It includes seconds that were handed out
    /// before an earlier end was learned; they are also counted in
    /// [`Stats::overbilled_seconds`](crate::Stats::overbilled_seconds). If whole windows are billed
    /// ([`Accounting::Nominal`](crate::Accounting::Nominal)), these windows are what ran, and an object
    /// that runs within one window only does not count.
    pub ran: i64,
    /// What arrived.
    pub delivered: i64,
    /// What cannot be delivered at present: a mapping failed, or the sink refused it.
    pub rejected: i64,
    /// What the configuration drops on purpose.
    pub dropped: i64,
    /// What was not handed out yet, or is in flight.
    pub waiting: i64,
    /// What may have run but cannot be proved, or came too late.
    pub unproved: i64,
}

/// Why time is not billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unbilled {
    /// It was rejected.
    Rejected,
    /// It was dropped on purpose.
    Dropped,
    /// It cannot be proved, or came too late.
    Unproved,
}

/// Unbilled time by owner, fate and reason. The configuration bounds the number of reasons.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Tally>", into = "Vec<Tally>")]
pub(crate) struct Tallies {
    owners: BTreeMap<Arc<str>, Owned>,
    /// How many times something was added.
    added: u64,
}

/// Unbilled time of one owner.
#[derive(Debug, Clone, Default)]
struct Owned {
    seconds: BTreeMap<(Unbilled, Arc<str>), i64>,
    /// The number of what was added last.
    last: u64,
}

/// Unbilled time of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Its fate.
    pub fate: Unbilled,
    /// Why: a word, or a place in the configuration.
    pub reason: Arc<str>,
    /// The owner; [`OTHER`] for all that are not counted separately.
    pub owner: Arc<str>,
    /// Object-seconds.
    pub seconds: i64,
}

impl From<Vec<Tally>> for Tallies {
    fn from(list: Vec<Tally>) -> Self {
        let mut tallies = Self::default();
        // They were bounded when they were counted, so they are taken as they are.
        for it in list {
            tallies.count(it.fate, &it.reason, &it.owner, it.seconds);
        }
        tallies
    }
}

impl From<Tallies> for Vec<Tally> {
    fn from(tallies: Tallies) -> Self {
        tallies.list().collect()
    }
}

impl Tallies {
    pub(crate) fn add(&mut self, fate: Unbilled, reason: &str, owner: &str, seconds: i64) {
        if seconds == 0 {
            return;
        }
        if !self.owners.contains_key(owner) && self.owners.len() > MOST_OWNERS {
            self.merge_least();
        }
        self.count(fate, reason, owner, seconds);
    }

    fn count(&mut self, fate: Unbilled, reason: &str, owner: &str, seconds: i64) {
        self.added = self.added.saturating_add(1);
        let owned = self.owners.entry(owner.into()).or_default();
        owned.last = self.added;
        let sum = owned.seconds.entry((fate, reason.into())).or_default();
        *sum = sum.saturating_add(seconds);
    }

    /// Counts the owner with the least as [`OTHER`]; of several, the one that was added to least recently.
    fn merge_least(&mut self) {
        let owners = self.owners.iter().filter(|(it, _)| it.as_ref() != OTHER);
        let least = owners.min_by_key(|(_, owned)| {
            let seconds = owned.seconds.values();
            (
                seconds.fold(0, |sum: i64, it| sum.saturating_add(*it)),
                owned.last,
            )
        });
        let Some(owner) = least.map(|(owner, _)| Arc::clone(owner)) else {
            return;
        };
        let owned = self.owners.remove(&owner).unwrap_or_default();
        for ((fate, reason), seconds) in owned.seconds {
            self.add(fate, &reason, OTHER, seconds);
        }
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = Tally> + '_ {
        self.owners.iter().flat_map(|(owner, owned)| {
            owned
                .seconds
                .iter()
                .map(move |((fate, reason), seconds)| Tally {
                    fate: *fate,
                    reason: Arc::clone(reason),
                    owner: Arc::clone(owner),
                    seconds: *seconds,
                })
        })
    }
}

/// What the ledger counts of the time that it handed out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) stats: Stats,
    /// Unbilled time without the rejected pieces that are kept.
    pub(crate) unbilled: Tallies,
}

impl Counters {
    /// Counts object-seconds that this ledger hands out, or no longer does if negative.
    pub(crate) fn handed_out(&mut self, seconds: i64) {
        add(&mut self.stats.handed_out_seconds, seconds);
    }

    /// Counts object-seconds that were delivered.
    pub(crate) fn delivered(&mut self, seconds: i64) {
        add(&mut self.stats.billed_seconds, seconds);
    }

    /// Counts object-seconds that were delivered in a late batch.
    pub(crate) fn delivered_late(&mut self, seconds: i64) {
        add(&mut self.stats.late_seconds, seconds);
    }

    /// Counts object-seconds of an owner that were handed out and are lost.
    pub(crate) fn lost(&mut self, seconds: i64, reason: &str, owner: &str) {
        add(&mut self.stats.lost_seconds, seconds);
        self.unbilled
            .add(Unbilled::Unproved, reason, owner, seconds);
    }

    /// Counts object-seconds of an owner that were dropped on purpose.
    pub(crate) fn dropped(&mut self, seconds: i64, place: &str, owner: &str) {
        add(&mut self.stats.dropped_seconds, seconds);
        self.unbilled.add(Unbilled::Dropped, place, owner, seconds);
    }

    /// Counts object-seconds that were rejected.
    pub(crate) fn rejected(&mut self, seconds: i64) {
        add(&mut self.stats.rejected_seconds, seconds);
    }

    /// Counts what became of rejected pieces that were handed out again.
    pub(crate) fn retried(&mut self, retried: &Retried) {
        self.rejected(retried.settled.saturating_neg());
        let mut delivered = retried.settled;
        for (seconds, place, owner) in &retried.dropped {
            delivered = delivered.saturating_sub(*seconds);
            self.dropped(*seconds, place, owner);
        }
        self.delivered(delivered);
    }

    /// Counts rejected pieces that are no longer kept. They stay rejected.
    pub(crate) fn not_kept<C: Content>(&mut self, evicted: &[Group<C>]) {
        for group in evicted {
            let pieces = group.pieces.len() as u64;
            let stats = &mut self.stats;
            stats.rejected_not_kept = stats.rejected_not_kept.saturating_add(pieces);
            self.unbilled.add(
                Unbilled::Rejected,
                &group.refusal.cause,
                group.content.owner(),
                group.seconds(),
            );
        }
    }

    /// Counts object-seconds that were handed out after an end that was learned too late, or no longer does
    /// if negative.
    pub(crate) fn overbilled(&mut self, seconds: i64) {
        add(&mut self.stats.overbilled_seconds, seconds);
        self.stats.overbilled_seconds = self.stats.overbilled_seconds.max(0);
    }
}

fn add(sum: &mut i64, seconds: i64) {
    *sum = sum.saturating_add(seconds);
}
