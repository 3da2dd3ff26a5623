//! When a pod stopped.
//!
//! A phase says that a pod is over, but not since when. The containers say it, where each of them
//! does; else it is what was recorded of the pod as a whole. Whatever is said here comes from the
//! object alone, so that every replica and every restart says the same.
//!
//! What was read beside the API reference: the kubelet's `TerminatePod` and
//! `convertToAPIContainerStatuses` (a container that it lost sight of is `terminated` without times;
//! one that waits to be restarted is `waiting`) and the API server's `BeforeDelete` (whoever asks again
//! for a deletion moves `deletionTimestamp` and `deletionGracePeriodSeconds` together).

use meterline_core::Node;

use super::{containers, sidecars, time};

/// When a pod stopped, if it says that it has. `now` is the last resort: for a pod that is over and of
/// which nothing at all is recorded.
pub(super) fn end(pod: Node<'_>, phase: &str, now: i64) -> Option<i64> {
    if is_over(phase) {
        let end = stopped(pod).or_else(|| all_finished(pod, true));
        return Some(end.or_else(|| recorded(pod)).unwrap_or(now));
    }
    // Nothing is started again in a pod that is being deleted. It may be kept by a finalizer, and
    // not every kubelet then says that it is over.
    requested(pod).and_then(|_| stopped(pod))
}

/// When the last container finished, if no container runs and none will be started again.
///
/// A pod whose containers are restarted keeps its reservation while it waits for that, up to five
/// minutes of back-off: it stopped when it was asked to, unless a container took longer.
pub(super) fn stopped(pod: Node<'_>) -> Option<i64> {
    let over = pod
        .path(&["status", "phase"])
        .and_then(Node::as_str)
        .is_some_and(is_over);
    let finish = all_finished(pod, over)?;
    if !is_restarted(pod) {
        return Some(finish);
    }
    // The API server lets nobody wait for a pod that is over. So this one was over before.
    let asked = requested(pod).filter(|_| !over || grace(pod) > 0);
    disrupted(pod).max(asked).map(|asked| asked.max(finish))
}

/// When somebody asked for the deletion. `deletionTimestamp` is when the time is up that the
/// containers are given to finish.
pub(super) fn requested(object: Node<'_>) -> Option<i64> {
    let deletion = time(object.path(&["metadata", "deletionTimestamp"]))?;
    Some(deletion.saturating_sub(grace(object)))
}

/// The last second in which a container is known to have started or finished.
pub(super) fn last_sign(pod: Node<'_>) -> Option<i64> {
    containers(pod)
        .chain(sidecars(pod))
        .flat_map(|container| {
            [
                time(container.path(&["state", "running", "startedAt"])),
                time(container.path(&["state", "terminated", "startedAt"])),
                time(container.path(&["state", "terminated", "finishedAt"])),
                time(container.path(&["lastState", "terminated", "finishedAt"])),
            ]
        })
        .flatten()
        .max()
}

fn is_over(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn grace(object: Node<'_>) -> i64 {
    object
        .path(&["metadata", "deletionGracePeriodSeconds"])
        .and_then(Node::as_i64)
        .unwrap_or_default()
        .max(0)
}

/// When the last container or sidecar finished, if each that ever ran says when it did.
///
/// The one before counts for a container that waits only if the pod is `over`, since nothing else
/// says that it waits in vain.
fn all_finished(pod: Node<'_>, over: bool) -> Option<i64> {
    let mut last = None;
    for container in containers(pod).chain(sidecars(pod)) {
        let current = ["running", "terminated"]
            .iter()
            .find_map(|key| container.path(&["state", key]));
        let run = match current {
            None if over => container.path(&["lastState", "terminated"]),
            current => Some(current?),
        };
        if let Some(run) = run {
            last = last.max(Some(time(run.get("finishedAt"))?));
        }
    }
    last
}

/// Whether containers that finish as the last ones did are started again.
fn is_restarted(pod: Node<'_>) -> bool {
    match pod.path(&["spec", "restartPolicy"]).and_then(Node::as_str) {
        Some("Always") => true,
        Some("OnFailure") => containers(pod).any(|container| {
            container
                .path(&["state", "terminated", "exitCode"])
                .and_then(Node::as_i64)
                .is_some_and(|code| code != 0)
        }),
        _ => false,
    }
}

/// What is recorded of the end of a pod whose containers do not say it: the node was lost, or the
/// kubelet lost sight of them. Nothing counts that was before the last sign of a container: a pod
/// that never was ready is not ready since it was made.
fn recorded(pod: Node<'_>) -> Option<i64> {
    let sign = last_sign(pod);
    let unready = condition(pod, "Ready", "False").max(condition(pod, "ContainersReady", "False"));
    let runs = |container: Node<'_>| container.path(&["state", "running"]).is_some();
    [disrupted(pod), unready, requested(pod)]
        .into_iter()
        .flatten()
        .find(|at| Some(*at) >= sign)
        // Where a container is said to run still, its last sign is its start.
        .or_else(|| sign.filter(|_| !containers(pod).chain(sidecars(pod)).any(runs)))
}

/// When the pod was to go for a reason of the cluster: its node is gone, others need the room.
fn disrupted(pod: Node<'_>) -> Option<i64> {
    condition(pod, "DisruptionTarget", "True")
}

/// Since when a condition has this status, if it has.
pub(super) fn condition(pod: Node<'_>, name: &str, status: &str) -> Option<i64> {
    pod.path(&["status", "conditions"])?
        .items()
        .find(|condition| {
            let is = |key, value| condition.get(key).is_some_and(|it| it.is_text(value));
            is("type", name) && is("status", status)
        })
        .and_then(|condition| time(condition.get("lastTransitionTime")))
}
