//! The clock of a pod's node, and how its times become times of the API server.
//!
//! The kubelet writes `startTime`, the times of containers and most conditions by the clock of its node, which may
//! be wrong. The API server and the scheduler write the rest: the creation, `PodScheduled`, the times in managed
//! fields. All times of one node are moved by the same number of seconds, so that lengths stay as they were
//! measured.
//!
//! Nothing runs on a node before the pod was created and scheduled: an earlier time shows that the clock is behind.
//! Nothing is reported before it happened: a later time than that of the report shows that the clock is ahead. A
//! clock that contradicts neither is taken to be right.

use meterline_core::Node;

use super::{
    status::{all, condition, created, is_mirror, runs, time},
    writes::Writes,
};

/// Two times that were rounded to seconds may differ by this much without meaning anything.
const ROUNDING: i64 = 1;

/// What is known of the moment at which an object was seen, in Unix seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::kubernetes_resources) struct Seen {
    /// When it was seen.
    pub(in crate::kubernetes_resources) now: i64,
    /// When its parts were written, as far as the API server recorded it.
    pub(in crate::kubernetes_resources) writes: Writes,
    /// By how many seconds the clock of its node is known to be ahead at least.
    pub(in crate::kubernetes_resources) ahead: i64,
    /// Whether it was billed before.
    pub(in crate::kubernetes_resources) has_begun: bool,
    /// When it had ended, if that is known already.
    pub(in crate::kubernetes_resources) ended: Option<i64>,
}

/// Converts the times of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeClock {
    /// What is added to the times of the node.
    offset: i64,
    /// When the pod was created; `None` if that bounds nothing.
    created: Option<i64>,
    /// When the status was reported, or else seen.
    seen: i64,
    /// Whether the API server recorded when the status was reported.
    pub(super) is_reported: bool,
}

/// The times of a node that its clock is judged by.
#[derive(Default)]
struct Times {
    /// When the first container started.
    started: Option<i64>,
    /// When the kubelet accepted the pod.
    accepted: Option<i64>,
    /// The latest time.
    latest: Option<i64>,
}

impl Times {
    fn of(pod: Node<'_>) -> Self {
        let accepted = time(pod.path(&["status", "startTime"]));
        let mut times = Self {
            started: None,
            accepted,
            latest: accepted,
        };
        for run in all(pod).flat_map(runs) {
            let started = run.started;
            times.started = times.started.into_iter().chain(started).min();
            times.latest = times.latest.max(started).max(run.finished);
        }
        times
    }

    /// The least that has to be added, by what happened first.
    fn least(&self, created: Option<i64>, scheduled: Option<i64>, most: i64) -> Option<i64> {
        let anchor = created.max(scheduled);
        let before = |anchor: Option<i64>, time: Option<i64>| Some(anchor?.saturating_sub(time?));
        let by_start = before(anchor, self.started);
        // Some kubelets take the creation for `startTime`. So a `startTime` from before the pod was scheduled says
        // something only if a container started before that as well.
        let is_behind = by_start.is_some_and(|it| it > 0);
        let bound = if is_behind { anchor } else { created };
        let by_acceptance = before(bound, self.accepted)
            .filter(|it| *it <= 0 || (*it > ROUNDING && *it <= most.max(0)));
        by_start.max(by_acceptance)
    }
}

impl NodeClock {
    /// The clock of the node of this pod.
    pub(super) fn of(pod: Node<'_>, seen: Seen) -> Self {
        let reported = seen.writes.phase;
        let at = reported.map_or(seen.now, |it| it.min(seen.now));
        let times = Times::of(pod);
        // A static pod runs before the API server shows it, and its kubelet sets the condition.
        let is_mirror = is_mirror(pod);
        let created = created(pod).filter(|_| !is_mirror);
        let scheduled = condition(pod, "PodScheduled", "True").filter(|_| !is_mirror);
        let most = times.latest.map_or(0, |latest| at.saturating_sub(latest));
        let least = times.least(created, scheduled, most);
        let most = if most < -ROUNDING { most } else { most.max(0) };
        let most = if seen.ahead > 0 {
            most.min(seen.ahead.saturating_neg())
        } else {
            most
        };
        let offset = match least {
            // A clock that was set in between is brought as far as the later time allows.
            Some(least) if least > most => least.min(most.max(0)),
            Some(least) => 0.clamp(least, most),
            None => most.min(0),
        };
        Self {
            offset,
            created,
            seen: at,
            is_reported: reported.is_some(),
        }
    }

    /// A time of the node as a time of the API server, not before the pod was created and not after it was seen.
    pub(super) fn at(&self, time: i64) -> i64 {
        self.within(time.saturating_add(self.offset))
    }

    /// A time of the API server, not before the pod was created and not after it was seen.
    pub(super) fn within(&self, time: i64) -> i64 {
        let time = if time > self.seen.saturating_add(ROUNDING) {
            self.seen
        } else {
            time
        };
        time.max(self.created.unwrap_or(time))
    }

    /// When the status was reported, as far as the API server recorded it, or else when it was seen.
    pub(super) fn seen(&self) -> i64 {
        self.seen
    }

    /// By how many seconds the clock is ahead at least.
    pub(super) fn ahead(&self) -> i64 {
        self.offset.saturating_neg().max(0)
    }
}
