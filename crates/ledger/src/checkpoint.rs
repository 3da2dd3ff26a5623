//! What of a ledger is persisted.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    entry::RecordChange,
    group::{GroupChange, GroupKey},
    interval::UnixSeconds,
    late::{BatchChanges, LateBatch, LateChanges, LateSpan, Spans},
    others::Others,
    seconds::{Tallies, UNPROVED, Unbilled},
    types::{Accounting, Stats, Uid, seconds_of},
    windows::{HandedOut, unsettled_seconds},
};

/// All of a ledger except its objects, late spans and batches, and rejected pieces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint<C> {
    pub(crate) horizon: UnixSeconds,
    pub(crate) emitted: UnixSeconds,
    pub(crate) watermark: UnixSeconds,
    /// Windows between watermark and `emitted`, by start.
    pub(crate) windows: BTreeMap<UnixSeconds, HandedOut>,
    /// Late spans, and the batches that are made of them. The state holds them next to the checkpoint; older
    /// versions of the state hold them here.
    #[serde(default = "BTreeMap::new", skip_serializing)]
    pub(crate) late: Spans<C>,
    #[serde(default = "BTreeMap::new", skip_serializing)]
    pub(crate) late_in_flight: BTreeMap<u64, LateBatch<C>>,
    #[serde(default = "VecDeque::new", skip_serializing)]
    pub(crate) late_failed: VecDeque<LateBatch<C>>,
    /// How time was billed last.
    #[serde(default)]
    pub(crate) accounting: Option<Accounting>,
    /// What of the time before `emitted` other replicas handed out.
    #[serde(default)]
    pub(crate) others: Others,
    pub(crate) stats: Stats,
    /// Unbilled time without the rejected pieces that are kept.
    #[serde(default)]
    pub(crate) unbilled: Tallies,
    /// Whether the statistics hold what was handed out. In older versions of the state they do not.
    #[serde(default)]
    pub(crate) counts_fates: bool,
}

impl<C> Checkpoint<C> {
    /// Adds what the state holds of late spans and batches outside the checkpoint.
    #[must_use]
    pub fn with_late(
        mut self,
        spans: impl IntoIterator<Item = ((Uid, UnixSeconds), LateSpan<C>)>,
        batches: impl IntoIterator<Item = LateBatch<C>>,
    ) -> Self {
        for ((uid, start), span) in spans {
            self.late.entry(start).or_default().insert(uid, span);
        }
        self.late_failed.extend(batches);
        self
    }

    /// Computes what an older version of the state does not hold: it counted everything that was settled as billed.
    pub(crate) fn count_what_was_handed_out(&mut self) {
        if self.counts_fates {
            return;
        }
        let late = self.late_in_flight.values().chain(&self.late_failed);
        let late = seconds_of(late.flat_map(|it| &it.pieces));
        let unsettled = unsettled_seconds(self.windows.values()).saturating_add(late);
        let stats = &mut self.stats;
        stats.handed_out_seconds = unsettled
            .saturating_add(stats.billed_seconds)
            .saturating_add(stats.lost_seconds);
        self.unbilled
            .add(Unbilled::Unproved, UNPROVED, "", stats.lost_seconds);
        self.counts_fates = true;
    }
}

/// What changed since the changes were last taken. Written in one transaction, it turns an older state into
/// the present one.
#[derive(Debug, Clone)]
pub struct Changes<C> {
    /// Objects that changed; `None` for one that need not be known any more.
    pub records: BTreeMap<Uid, Option<RecordChange<C>>>,
    /// Late spans that changed.
    pub late: LateChanges<C>,
    /// Late batches that changed.
    pub batches: BatchChanges<C>,
    /// Groups of rejected pieces that changed; `None` for one that is no longer kept.
    pub rejected: BTreeMap<GroupKey, Option<GroupChange<C>>>,
    /// The rest. It is small, and always complete.
    pub checkpoint: Checkpoint<C>,
}
