//! When a pod started.

use meterline_core::Node;

use super::status::{condition, containers, created, phase, time};

/// How many seconds after its start a kubelet may show a static pod.
const MIRROR_DELAY: i64 = 120;

/// Returns when a pod began to be billed; `None` while it has not.
pub(super) fn start(pod: Node<'_>, include_pending: bool) -> Option<i64> {
    let created = created(pod);
    let start = if include_pending {
        created
    } else {
        first_start(pod).or_else(|| {
            // A pod that runs and has no container status yet: the kubelet has accepted it.
            let is_accepted = phase(pod) == "Running" && containers(pod).next().is_none();
            is_accepted
                .then(|| time(pod.path(&["status", "startTime"])).or(created))
                .flatten()
        })
    }?;
    Some(mirrored_since(pod).map_or(start, |since| mirrored_start(start, since)))
}

/// Returns when a static pod began to be billed that runs since `start` and that the API server shows since
/// `since`.
///
/// A user may delete the mirror of a static pod. Its kubelet then creates another one with a new UID for the
/// same containers: what ran before was billed with the first mirror. So a mirror bills only what ran shortly
/// before it, because a kubelet shows a new static pod some seconds late.
fn mirrored_start(start: i64, since: i64) -> i64 {
    if since.saturating_sub(start) > MIRROR_DELAY {
        since
    } else {
        start
    }
}

/// Returns since when the API server shows a static pod, if it is one.
fn mirrored_since(pod: Node<'_>) -> Option<i64> {
    pod.path(&["metadata", "annotations", "kubernetes.io/config.mirror"])?;
    created(pod)
}

/// Returns the earliest start of a container that the status still contains, not before the pod was scheduled.
///
/// A status contains one run before the current one. From the second restart of its containers on, a pod seems to
/// have started later than it did. A ledger that knew the pod before keeps the first start. For another ledger
/// nothing else in the object records it: `startTime` and the conditions `Initialized` and
/// `PodReadyToStartContainers` lie before the first start by the time that the image pull took. If they were
/// used, every ledger would bill that time in addition, at the second restart.
fn first_start(pod: Node<'_>) -> Option<i64> {
    let started = containers(pod)
        .flat_map(|container| {
            [
                time(container.path(&["state", "running", "startedAt"])),
                time(container.path(&["state", "terminated", "startedAt"])),
                time(container.path(&["lastState", "terminated", "startedAt"])),
            ]
        })
        .flatten()
        .min()?;
    // The scheduler sets the condition or, for a static pod, the kubelet.
    Some(started.max(condition(pod, "PodScheduled", "True").unwrap_or(started)))
}
