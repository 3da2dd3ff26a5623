//! Every object-second has one fate, and the books say how many have which.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    group::Group,
    interval::{UnixSeconds, Window},
    ledger::Ledger,
    types::{Content, DeliveryResult, DeliveryTag, Fate, Kind, UsageInterval},
    windows::WindowState,
};

/// So many owners of unbilled time are told apart. When another one comes, the one with least, which is
/// not that one, is counted for [`OTHER`]: whoever has many owners cannot hide what others lose.
const MOST_OWNERS: usize = 256;

/// Stands for all owners that are not told apart.
pub const OTHER: &str = "other";

/// Object-seconds by fate. `ran` is the sum of all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seconds {
    /// What ran, as far as is known, and is for this ledger to bill. Seconds that were handed out
    /// before an earlier end was learned are among them; they are counted in
    /// [`Stats::overbilled_seconds`](crate::Stats::overbilled_seconds) as well. Where whole windows are
    /// billed ([`Accounting::Nominal`](crate::Accounting::Nominal)), what ran is those windows, and
    /// what runs within one only is nothing.
    pub ran: i64,
    /// What arrived.
    pub delivered: i64,
    /// What cannot arrive as things are: a mapping failed, or the sink refused it.
    pub rejected: i64,
    /// What the configuration drops on purpose.
    pub dropped: i64,
    /// What was not handed out yet, or is on its way.
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

/// Unbilled time by owner, fate and reason. Of reasons there are only as many as a configuration has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Tally>", into = "Vec<Tally>")]
pub(crate) struct Tallies {
    owners: BTreeMap<Arc<str>, Owned>,
    /// How often something was added.
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
    /// Why, in a word or by the place in the configuration.
    pub reason: Arc<str>,
    /// Whose objects these are; [`OTHER`] stands for those that are not told apart.
    pub owner: Arc<str>,
    /// How much.
    pub seconds: i64,
}

impl From<Vec<Tally>> for Tallies {
    fn from(list: Vec<Tally>) -> Self {
        let mut tallies = Self::default();
        // They were bounded when they were counted, and come back as they were.
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

    /// Counts the owner with least, of several the one that did not get more for longest, for [`OTHER`].
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

impl<C: Content> Ledger<C> {
    /// Object-seconds by fate, of all time up to `now`.
    #[must_use]
    pub fn seconds(&self, now: UnixSeconds) -> Seconds {
        let checkpoint = &self.checkpoint;
        let not_handed_out = self.ahead(now).saturating_add(self.late_seconds());
        let windows = checkpoint
            .windows
            .values()
            .filter(|it| it.state != WindowState::Delivered)
            .map(|it| it.seconds);
        let late = checkpoint
            .late_in_flight
            .values()
            .chain(&checkpoint.late_failed)
            .flat_map(|it| &it.pieces)
            .map(UsageInterval::seconds);
        let on_the_way = windows.chain(late).fold(0, i64::saturating_add);
        Seconds {
            ran: checkpoint
                .stats
                .handed_out_seconds
                .saturating_add(not_handed_out),
            delivered: checkpoint.stats.billed_seconds,
            rejected: checkpoint.stats.rejected_seconds,
            dropped: checkpoint.stats.dropped_seconds,
            waiting: on_the_way.saturating_add(not_handed_out),
            unproved: checkpoint.stats.lost_seconds,
        }
    }

    /// Object-seconds beyond what was handed out.
    fn ahead(&self, now: UnixSeconds) -> i64 {
        let window = Window {
            start: self.checkpoint.emitted,
            end: now,
        };
        self.entries
            .values()
            .flat_map(|entry| &entry.segments)
            .filter_map(|segment| segment.billed_over(window, self.accounting, self.interval))
            .fold(0, |sum, (start, end)| {
                sum.saturating_add(end.saturating_sub(start))
            })
    }

    fn late_seconds(&self) -> i64 {
        self.checkpoint
            .late
            .iter()
            .flat_map(|(start, spans)| spans.values().map(move |it| it.end.saturating_sub(*start)))
            .fold(0, i64::saturating_add)
    }

    /// Unbilled object-seconds by fate, reason and owner. Those of rejected pieces that are kept are
    /// counted by the reason for which they were rejected last.
    #[must_use]
    pub fn unbilled(&self) -> Vec<Tally> {
        let kept = self.quarantine.seconds();
        let kept = kept.map(|(owner, reason, seconds)| Tally {
            fate: Unbilled::Rejected,
            reason: Arc::clone(reason),
            owner: Arc::clone(owner),
            seconds,
        });
        self.checkpoint.unbilled.list().chain(kept).collect()
    }

    /// Rejected pieces that are kept, in the order of their starts, from the group `from` on.
    pub fn rejected(
        &self,
        from: Option<&crate::GroupKey>,
    ) -> impl Iterator<Item = (&crate::GroupKey, &Group<C>)> {
        self.quarantine.from(from)
    }

    /// How many rejected pieces are kept.
    #[must_use]
    pub fn rejected_pieces(&self) -> usize {
        self.quarantine.pieces()
    }

    /// How long the rejected pieces that are kept are together.
    #[must_use]
    pub fn rejected_seconds(&self) -> i64 {
        let seconds = self.quarantine.seconds();
        seconds.fold(0, |sum, (_, _, it)| sum.saturating_add(it))
    }

    /// Has all rejected pieces handed out again. Gives back how many.
    pub fn retry_rejected(&mut self) -> usize {
        self.quarantine.retry()
    }

    /// Forgets rejected pieces that end at or before `until`. They stay counted as rejected.
    pub fn forget_rejected(&mut self, until: UnixSeconds) {
        let old = self.quarantine.give_up(until);
        self.count_not_kept(&old);
    }

    /// The pieces of a batch that is not settled yet.
    #[must_use]
    pub fn handed_out(&self, tag: DeliveryTag) -> Vec<UsageInterval<C>> {
        if let Some(batch) = self.checkpoint.late_in_flight.get(&tag.0) {
            return batch.pieces.clone();
        }
        if let Some(group) = self.quarantine.handed_out(tag) {
            return group.to_pieces();
        }
        let window = self
            .tags
            .get(&tag.0)
            .and_then(|start| self.checkpoint.windows.get(start));
        // A function of ledger and window: the same pieces as when it was handed out.
        window.map_or_else(Vec::new, |it| {
            self.pieces(it.window, it.accounting.unwrap_or(self.accounting))
        })
    }

    /// Rejected pieces that are due are handed out again.
    pub(crate) fn next_again(&mut self, now: UnixSeconds) -> Option<crate::WindowBatch<C>> {
        let tag = self.tag();
        let pieces = self.quarantine.next(now, tag)?;
        let first = pieces.first()?;
        Some(crate::WindowBatch {
            tag,
            window: Window {
                start: self.interval.floor(first.start),
                end: self.interval.next_boundary(first.start),
            },
            kind: Kind::Again,
            pieces,
        })
    }

    /// Counts what became of pieces that were handed out for the first time: of all `seconds`, and of
    /// those that were not delivered.
    pub(crate) fn count_fates(&mut self, seconds: i64, settled: DeliveryResult<C>) {
        let mut delivered = seconds;
        if let DeliveryResult::Done { at, undelivered } = settled {
            for (piece, fate) in undelivered {
                delivered = delivered.saturating_sub(piece.seconds());
                self.count_undelivered(piece, fate, at);
            }
        }
        let stats = &mut self.checkpoint.stats;
        stats.billed_seconds = stats.billed_seconds.saturating_add(delivered);
    }

    fn count_undelivered(&mut self, piece: UsageInterval<C>, fate: Fate, at: UnixSeconds) {
        let seconds = piece.seconds();
        let stats = &mut self.checkpoint.stats;
        match fate {
            Fate::Dropped { place } => {
                stats.dropped_seconds = stats.dropped_seconds.saturating_add(seconds);
                let owner = piece.content.owner();
                self.checkpoint
                    .unbilled
                    .add(Unbilled::Dropped, &place, owner, seconds);
            }
            Fate::Rejected(refusal) => {
                stats.rejected_seconds = stats.rejected_seconds.saturating_add(seconds);
                let gone = self.quarantine.add(piece, refusal, at);
                self.count_not_kept(&gone);
            }
        }
    }

    /// Rejected pieces that are no longer kept stay rejected.
    pub(crate) fn count_not_kept(&mut self, gone: &[Group<C>]) {
        for group in gone {
            let pieces = group.pieces.len() as u64;
            let stats = &mut self.checkpoint.stats;
            stats.rejected_not_kept = stats.rejected_not_kept.saturating_add(pieces);
            self.checkpoint.unbilled.add(
                Unbilled::Rejected,
                &group.refusal.cause,
                group.content.owner(),
                group.seconds(),
            );
        }
    }

    /// Learns what became of rejected pieces that were handed out again. `false` if the tag is not
    /// one of those.
    pub(crate) fn settle_again(&mut self, tag: DeliveryTag, settled: &DeliveryResult<C>) -> bool {
        let Some((key, mut group)) = self.quarantine.take_back(tag) else {
            return false;
        };
        let (at, undelivered) = match settled {
            // As it was: it is due still.
            DeliveryResult::Failed => {
                self.quarantine.keep(key, group, None, UnixSeconds::MIN);
                return true;
            }
            DeliveryResult::Delivered => (UnixSeconds::MIN, &[][..]),
            DeliveryResult::Done { at, undelivered } => (*at, undelivered.as_slice()),
        };
        let mut last = None;
        let mut dropped = 0_i64;
        let mut kept = Vec::new();
        for (piece, fate) in undelivered {
            match fate {
                Fate::Rejected(refusal) => {
                    kept.push((piece.start, piece.end));
                    last = Some(refusal.clone());
                }
                Fate::Dropped { place } => {
                    dropped = dropped.saturating_add(piece.seconds());
                    let owner = piece.content.owner();
                    self.checkpoint
                        .unbilled
                        .add(Unbilled::Dropped, place, owner, piece.seconds());
                }
            }
        }
        let before = group.seconds();
        group.pieces = kept;
        let settled = before.saturating_sub(group.seconds());
        let stats = &mut self.checkpoint.stats;
        stats.rejected_seconds = stats.rejected_seconds.saturating_sub(settled);
        stats.dropped_seconds = stats.dropped_seconds.saturating_add(dropped);
        let delivered = settled.saturating_sub(dropped);
        stats.billed_seconds = stats.billed_seconds.saturating_add(delivered);
        self.quarantine.keep(key, group, last, at);
        true
    }
}
