//! Moments in the life of a pod, by the clock of the API server.

use meterline_core::Node;

use super::{
    clock::NodeClock,
    status::{all, before, condition, created, current, find_condition, is_mirror, time},
};

/// Returns the last second in which a container is known to have started or finished.
pub(super) fn last_sign(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let current = all(pod).filter_map(current);
    let current = current.flat_map(|run| [run.started, run.finished]);
    let before = all(pod).filter_map(before).map(|run| run.finished);
    let last = current.chain(before).flatten().max();
    last.map(|it| clock.at(it))
}

/// Returns when the cluster decided to evict the pod: its node is gone, or other pods need the room.
pub(super) fn disrupted(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let condition = find_condition(pod, "DisruptionTarget", "True")?;
    let at = time(condition.get("lastTransitionTime"))?;
    let is_of_node = condition
        .get("reason")
        .is_some_and(|it| it.is_text("TerminationByKubelet"));
    Some(if is_of_node {
        clock.at(at)
    } else {
        clock.within(at)
    })
}

/// Returns what stands for the start of a container that ran since an unknown time: when the kubelet accepted the
/// pod, or else when it was scheduled, or else when it was created.
pub(super) fn stand_in(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let accepted = time(pod.path(&["status", "startTime"])).map(|it| clock.at(it));
    accepted
        .or_else(|| scheduled(pod, clock))
        .or_else(|| created(pod))
}

/// Returns when the pod was bound to its node, as the scheduler recorded it or, for a static pod, the kubelet.
pub(super) fn scheduled(pod: Node<'_>, clock: &NodeClock) -> Option<i64> {
    let at = condition(pod, "PodScheduled", "True")?;
    Some(if is_mirror(pod) {
        clock.at(at)
    } else {
        clock.within(at)
    })
}
