//! When an object lived: the rules that turn a status into a start and an end.
//!
//! Pure: the time at which something was seen comes in as an argument.
//!
//! A pod is billed from the moment its first container started to the moment it stopped. Sources:
//! the Kubernetes API reference, `ContainerStatus`, `PodStatus` and `ObjectMeta`.

mod end;

use meterline_core::Node;

use super::resource_type::ResourceType;

/// What is read of an object here.
pub(super) const READS: &[&str] = &[
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.annotations.kubernetes~1io/config~1mirror",
    "spec.restartPolicy",
    "spec.initContainers.*.name",
    "spec.initContainers.*.restartPolicy",
    "status.phase",
    "status.startTime",
    "status.conditions.*.type",
    "status.conditions.*.status",
    "status.conditions.*.lastTransitionTime",
    "status.containerStatuses.*.state",
    "status.containerStatuses.*.lastState",
    "status.initContainerStatuses.*.name",
    "status.initContainerStatuses.*.state",
    "status.initContainerStatuses.*.lastState",
];

/// What is known about an object's life from the object alone, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lifetime {
    /// When it began to be billed; `None` while it has not.
    pub(super) start: Option<i64>,
    /// When it stopped, if the object says so.
    pub(super) end: Option<i64>,
}

/// How a deletion was learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletion {
    /// As it happened, by a live watch, at this second.
    Observed(i64),
    /// Some time in a gap of the watch: it was last known to exist at `since`, and noticed at `now`.
    InGap {
        /// The last moment at which the watch was current.
        since: i64,
        /// The moment at which the deletion was noticed.
        now: i64,
    },
}

/// The life of `object` as far as its content tells. `now` is the second in which it was seen.
pub(super) fn life(
    object: Node<'_>,
    resource_type: ResourceType,
    include_pending: bool,
    now: i64,
) -> Lifetime {
    match resource_type {
        ResourceType::Pod => pod_life(object, include_pending, now),
        ResourceType::Node
        | ResourceType::PersistentVolume
        | ResourceType::PersistentVolumeClaim => Lifetime {
            start: created(object),
            end: None,
        },
    }
}

/// When the object was made.
pub(super) fn created(object: Node<'_>) -> Option<i64> {
    time(object.path(&["metadata", "creationTimestamp"]))
}

/// When an object that was deleted stopped.
///
/// What the object says of its own end counts. Else a live watch saw the deletion itself, which comes
/// up to a grace period after the request. If the deletion fell into a gap of the watch, that request
/// or the last sign of a container is the best the server still knows, and it cannot have been
/// before the object was last known to exist.
pub(super) fn deleted_at(object: Node<'_>, life: Lifetime, deletion: Deletion) -> i64 {
    if let Some(end) = life.end.or_else(|| end::stopped(object)) {
        return end;
    }
    match deletion {
        Deletion::Observed(now) => now,
        Deletion::InGap { since, now } => end::requested(object)
            .max(end::last_sign(object))
            .unwrap_or(since)
            .clamp(since.min(now), now),
    }
}

fn pod_life(pod: Node<'_>, include_pending: bool, now: i64) -> Lifetime {
    let status = pod.get("status");
    let phase = status
        .and_then(|it| it.get("phase"))
        .and_then(Node::as_str)
        .unwrap_or_default();
    let created = created(pod);
    let start = if include_pending {
        created
    } else {
        first_start(pod).or_else(|| {
            // A pod without any container status that is said to run: the kubelet has taken it.
            (phase == "Running" && containers(pod).next().is_none())
                .then(|| time(status.and_then(|it| it.get("startTime"))).or(created))
                .flatten()
        })
    };
    Lifetime {
        start: start.map(|start| mirrored(pod).map_or(start, |since| shown(start, since))),
        end: end::end(pod, phase, now),
    }
}

/// When a static pod that runs since `start` and is shown since `since` begins to be billed.
///
/// Somebody may delete the mirror of a static pod, and its kubelet makes another with a new UID of the
/// same containers: what ran before was billed with the mirror that went. So only what ran shortly
/// before a mirror is billed with it, as a kubelet shows a new static pod some seconds late.
fn shown(start: i64, since: i64) -> i64 {
    const LATE: i64 = 120;
    if since.saturating_sub(start) > LATE {
        since
    } else {
        start
    }
}

/// Since when the API server shows a static pod, if it is one.
fn mirrored(pod: Node<'_>) -> Option<i64> {
    pod.path(&["metadata", "annotations", "kubernetes.io/config.mirror"])?;
    created(pod)
}

/// The earliest start of a container that the status still knows, not before the pod was scheduled.
///
/// A status knows one run before the present one. From the second restart of its containers on, a pod
/// seems to have started later than it did. A ledger that knew it before keeps the first start. For one
/// that did not, nothing else in the object says it: `startTime` and the conditions `Initialized` and
/// `PodReadyToStartContainers` lie before the first start by as long as the images were pulled. Taken
/// instead they would make every ledger bill that time in addition, at the second restart.
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
    // Placed by the scheduler or, for a static pod, by the kubelet.
    Some(started.max(end::condition(pod, "PodScheduled", "True").unwrap_or(started)))
}

fn containers(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    pod.path(&["status", "containerStatuses"])
        .into_iter()
        .flat_map(Node::items)
}

/// The statuses of init containers that run beside the others for the pod's whole life.
fn sidecars(pod: Node<'_>) -> impl Iterator<Item = Node<'_>> {
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

fn time(node: Option<Node<'_>>) -> Option<i64> {
    node.and_then(Node::as_str).and_then(seconds)
}

/// Unix seconds of an RFC 3339 time, fractions cut off. Zero and negative times, with which the
/// API says "never", are none.
pub(super) fn seconds(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.timestamp())
        .filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests;
