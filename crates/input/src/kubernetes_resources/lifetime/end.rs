//! When a pod stopped.
//!
//! The phase shows that a pod is over, but not since when. The containers have the time, if each of them does;
//! otherwise the conditions of the pod have it. All of it comes from the object alone, so that every replica and every restart
//! concludes the same.
//!
//! Sources beside the API reference: the kubelet's `TerminatePod` and `convertToAPIContainerStatuses` (a
//! container that it lost track of is `terminated` without times; one that waits for a restart is `waiting`)
//! and the API server's `BeforeDelete` (a further request for the deletion moves `deletionTimestamp` and
//! `deletionGracePeriodSeconds` together).

use meterline_core::Node;

use super::status::{
    condition, containers, grace, is_over, last_sign, phase, requested, sidecars, time,
};

/// Returns when a pod stopped, if its content shows that it has. `now` is used for a pod that is over and of
/// which no time is recorded.
pub(super) fn end(pod: Node<'_>, now: i64) -> Option<i64> {
    if is_over(phase(pod)) {
        let end = stopped(pod).or_else(|| all_finished(pod, true));
        return Some(end.or_else(|| recorded(pod)).unwrap_or(now));
    }
    // A kubelet starts nothing again in a pod that is being deleted. A finalizer may keep the pod, and not every
    // kubelet then sets a terminal phase.
    requested(pod).and_then(|_| stopped(pod))
}

/// Returns when the last container finished, if no container runs and none will be started again.
///
/// A pod whose containers are restarted keeps its reservation while it waits for the restart, up to five
/// minutes of back-off: it stopped when its deletion was requested, unless a container took longer.
pub(super) fn stopped(pod: Node<'_>) -> Option<i64> {
    let over = is_over(phase(pod));
    let finish = all_finished(pod, over)?;
    if !is_restarted(pod) {
        return Some(finish);
    }
    // The API server sets a grace period of 0 for a pod that is over. So this pod was over before the request.
    let request = requested(pod).filter(|_| !over || grace(pod) > 0);
    disrupted(pod)
        .max(request)
        .map(|request| request.max(finish))
}

/// Returns when the last container or sidecar finished, if that is recorded for each that ever ran.
///
/// For a container that waits, the run before counts only if the pod is `over`: otherwise the container may be
/// started again.
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

/// Whether the kubelet restarts containers that finish as these did.
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

/// Returns the recorded end of a pod whose containers do not have it: the node was lost, or the kubelet lost
/// track of them. A condition from before the last sign of a container does not count: a pod that never was
/// ready is not ready since its creation.
fn recorded(pod: Node<'_>) -> Option<i64> {
    let sign = last_sign(pod);
    let unready = condition(pod, "Ready", "False").max(condition(pod, "ContainersReady", "False"));
    let runs = |container: Node<'_>| container.path(&["state", "running"]).is_some();
    [disrupted(pod), unready, requested(pod)]
        .into_iter()
        .flatten()
        .find(|at| Some(*at) >= sign)
        // The last known time of a container whose status is still `running` is its start, and no end.
        .or_else(|| sign.filter(|_| !containers(pod).chain(sidecars(pod)).any(runs)))
}

/// Returns when the cluster decided to evict the pod: its node is gone, or other pods need its resources.
fn disrupted(pod: Node<'_>) -> Option<i64> {
    condition(pod, "DisruptionTarget", "True")
}
