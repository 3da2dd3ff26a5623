//! Reads the status of a pod: what the API server and the kubelet recorded of it, and when.

use meterline_core::Node;

/// The statuses of the containers.
pub(super) fn containers(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    pod.path(&["status", "containerStatuses"])
        .into_iter()
        .flat_map(Node::items)
}

/// The statuses of sidecars: init containers that run beside the others for the pod's whole life.
pub(super) fn sidecars(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    let always: Vec<_> = pod
        .path(&["spec", "initContainers"])
        .into_iter()
        .flat_map(Node::items)
        .filter(|it| it.get("restartPolicy").and_then(Node::as_str) == Some("Always"))
        .filter_map(|it| it.get("name").and_then(Node::as_str))
        .collect();
    pod.path(&["status", "initContainerStatuses"])
        .into_iter()
        .flat_map(Node::items)
        .filter(move |it| {
            it.get("name")
                .and_then(Node::as_str)
                .is_some_and(|name| always.contains(&name))
        })
}

/// Unix seconds of a time.
pub(super) fn time(node: Option<Node<'_>>) -> Option<i64> {
    node.and_then(Node::as_str).and_then(seconds)
}

/// Unix seconds of an RFC 3339 time, rounded down. Zero and negative times, with which the API means "never", are
/// none.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.timestamp())
        .filter(|seconds| *seconds > 0)
}

/// Returns when the object was created.
pub(crate) fn created(object: Node<'_>) -> Option<i64> {
    time(object.path(&["metadata", "creationTimestamp"]))
}

/// Returns when the deletion was requested. `deletionTimestamp` is the end of the grace period that the
/// containers have to finish.
pub(super) fn requested(object: Node<'_>) -> Option<i64> {
    let deletion = time(object.path(&["metadata", "deletionTimestamp"]))?;
    Some(deletion.saturating_sub(grace(object)))
}

/// Returns the last second in which a container is known to have started or finished.
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

/// Whether a pod of this phase is over.
pub(super) fn is_over(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// The phase of a pod.
pub(super) fn phase(pod: Node<'_>) -> &str {
    pod.path(&["status", "phase"])
        .and_then(Node::as_str)
        .unwrap_or_default()
}

/// The seconds that containers are given to finish.
pub(super) fn grace(object: Node<'_>) -> i64 {
    object
        .path(&["metadata", "deletionGracePeriodSeconds"])
        .and_then(Node::as_i64)
        .unwrap_or_default()
        .max(0)
}

/// Whether the node of a pod has not granted a resize: it cannot at present, or never will.
pub(crate) fn is_resize_pending(pod: Node<'_>) -> bool {
    find_condition(pod, "PodResizePending", "True").is_some()
}

/// Returns since when a condition has this status, if it has.
pub(super) fn condition(pod: Node<'_>, name: &str, status: &str) -> Option<i64> {
    time(find_condition(pod, name, status)?.get("lastTransitionTime"))
}

/// Returns the condition of this name if it has this status.
fn find_condition<'a>(pod: Node<'a>, name: &str, status: &str) -> Option<Node<'a>> {
    let mut conditions = pod.path(&["status", "conditions"])?.items();
    conditions.find(|condition| {
        let is = |key, value| condition.get(key).is_some_and(|it| it.is_text(value));
        is("type", name) && is("status", status)
    })
}
