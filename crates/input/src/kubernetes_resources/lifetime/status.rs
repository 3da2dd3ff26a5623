//! Reads the status of a pod: what the API server and the kubelet recorded of it, and when.

use meterline_core::Node;

/// The statuses of the containers.
pub(super) fn containers(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    pod.path(&["status", "containerStatuses"])
        .into_iter()
        .flat_map(Node::items)
}

/// The statuses of init containers, with sidecars.
fn init_containers(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    pod.path(&["status", "initContainerStatuses"])
        .into_iter()
        .flat_map(Node::items)
}

/// The statuses of all containers, init containers and sidecars.
pub(super) fn all(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    containers(pod).chain(init_containers(pod))
}

/// The statuses of sidecars: init containers that run beside the others for the pod's whole life.
pub(super) fn sidecars(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    init_by_kind(pod, true)
}

/// The statuses of init containers that finish before the containers start.
pub(super) fn initializers(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    init_by_kind(pod, false)
}

fn init_by_kind(pod: Node<'_>, is_sidecar: bool) -> impl Iterator<Item = Node<'_>> {
    let always: Vec<_> = pod
        .path(&["spec", "initContainers"])
        .into_iter()
        .flat_map(Node::items)
        .filter(|it| it.get("restartPolicy").and_then(Node::as_str) == Some("Always"))
        .filter_map(|it| it.get("name").and_then(Node::as_str))
        .collect();
    init_containers(pod).filter(move |it| {
        let name = it.get("name").and_then(Node::as_str);
        name.is_some_and(|name| always.contains(&name)) == is_sidecar
    })
}

/// One run of a container, by the clock of the node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) started: Option<i64>,
    pub(super) finished: Option<i64>,
    /// Whether the status says that it goes on.
    pub(super) is_running: bool,
}

/// The run that the state of a container shows, and the one before it.
pub(super) fn runs(container: Node<'_>) -> impl Iterator<Item = Run> {
    [current(container), before(container)]
        .into_iter()
        .flatten()
}

/// The run that the state of a container shows; `None` while it waits.
pub(super) fn current(container: Node<'_>) -> Option<Run> {
    let state = container.get("state")?;
    if let Some(running) = state.get("running") {
        return Some(Run {
            started: time(running.get("startedAt")),
            finished: None,
            is_running: true,
        });
    }
    terminated(state)
}

/// The last run of a container that is known to be over before the present one.
pub(super) fn before(container: Node<'_>) -> Option<Run> {
    terminated(container.get("lastState")?)
}

fn terminated(state: Node<'_>) -> Option<Run> {
    let run = state.get("terminated")?;
    Some(Run {
        started: time(run.get("startedAt")),
        finished: time(run.get("finishedAt")),
        is_running: false,
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

/// Whether this is what the API server shows of a static pod.
pub(super) fn is_mirror(pod: Node<'_>) -> bool {
    pod.path(&["metadata", "annotations", "kubernetes.io/config.mirror"])
        .is_some()
}

/// Returns when the deletion was requested. `deletionTimestamp` is the end of the grace period that the
/// containers have to finish.
pub(super) fn requested(object: Node<'_>) -> Option<i64> {
    let deletion = time(object.path(&["metadata", "deletionTimestamp"]))?;
    Some(deletion.saturating_sub(grace(object)))
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

/// The seconds that containers are given to finish after the deletion was requested.
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
pub(super) fn find_condition<'a>(pod: Node<'a>, name: &str, status: &str) -> Option<Node<'a>> {
    let mut conditions = pod.path(&["status", "conditions"])?.items();
    conditions.find(|condition| {
        let is = |key, value| condition.get(key).is_some_and(|it| it.is_text(value));
        is("type", name) && is("status", status)
    })
}
