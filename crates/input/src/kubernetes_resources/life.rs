//! When an object lived: the rules that turn a status into a start and an end.
//!
//! Pure: the time at which something was seen comes in as an argument.
//!
//! A pod is billed from the moment its first container started to the moment it stopped. Sources:
//! the Kubernetes API reference, `ContainerStatus`, `PodStatus` and `ObjectMeta`.

use meterline_core::Node;

use super::{object::seconds, resource_type::ResourceType};

/// What is known about an object's life from the object alone, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Life {
    /// When it began to be billed; `None` while it has not.
    pub(super) start: Option<i64>,
    /// When it stopped, if the object says so.
    pub(super) end: Option<i64>,
}

/// How a deletion was learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// As it happened, by a live watch, at this second.
    Live(i64),
    /// Some time in a gap of the watch: it was last known to exist at `since`, and noticed at `now`.
    Gap {
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
) -> Life {
    match resource_type {
        ResourceType::Pod => pod_life(object, include_pending, now),
        ResourceType::Node
        | ResourceType::PersistentVolume
        | ResourceType::PersistentVolumeClaim => Life {
            start: time(object.path(&["metadata", "creationTimestamp"])),
            end: None,
        },
    }
}

/// When an object that was deleted stopped.
///
/// What the object says of its own end counts. Else a live watch saw the deletion itself; its
/// `deletionTimestamp` would be the moment at which somebody asked for it. If the deletion fell
/// into a gap of the watch, that request is the best the server still knows, and it cannot have
/// been before the object was last known to exist.
pub(super) fn deleted_at(object: Node<'_>, life: Life, seen: Seen) -> i64 {
    if let Some(end) = life.end.or_else(|| all_containers_finished(object)) {
        return end;
    }
    match seen {
        Seen::Live(now) => now,
        Seen::Gap { since, now } => time(object.path(&["metadata", "deletionTimestamp"]))
            .unwrap_or(since)
            .clamp(since.min(now), now),
    }
}

fn pod_life(pod: Node<'_>, include_pending: bool, now: i64) -> Life {
    let status = pod.get("status");
    let phase = status
        .and_then(|it| it.get("phase"))
        .and_then(Node::as_str)
        .unwrap_or_default();
    let created = time(pod.path(&["metadata", "creationTimestamp"]));
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
    let over = matches!(phase, "Succeeded" | "Failed");
    Life {
        start,
        end: over.then(|| last_finish(pod).unwrap_or(now)),
    }
}

/// The earliest start of a container that the status still knows, not before the pod was scheduled.
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
    Some(scheduled(pod).map_or(started, |scheduled| started.max(scheduled)))
}

/// When the scheduler (or, for a static pod, the kubelet) placed the pod.
fn scheduled(pod: Node<'_>) -> Option<i64> {
    pod.path(&["status", "conditions"])?
        .items()
        .find(|condition| {
            let is = |key, value| condition.get(key).and_then(Node::as_str) == Some(value);
            is("type", "PodScheduled") && is("status", "True")
        })
        .and_then(|condition| time(condition.get("lastTransitionTime")))
}

/// When the last container of a pod that is over finished.
fn last_finish(pod: Node<'_>) -> Option<i64> {
    containers(pod)
        .chain(sidecars(pod))
        .flat_map(|container| {
            [
                time(container.path(&["state", "terminated", "finishedAt"])),
                time(container.path(&["lastState", "terminated", "finishedAt"])),
            ]
        })
        .flatten()
        .max()
}

/// When the last container finished, if every container of a deleted pod has.
fn all_containers_finished(pod: Node<'_>) -> Option<i64> {
    let all = containers(pod)
        .map(|container| time(container.path(&["state", "terminated", "finishedAt"])))
        .collect::<Option<Vec<_>>>()?;
    all.into_iter().max()
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

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_000;

    fn at(seconds: i64) -> String {
        chrono::DateTime::from_timestamp(seconds, 0)
            .unwrap()
            .to_rfc3339()
    }

    fn pod(value: &Value) -> Life {
        life(Document::from(value).root(), ResourceType::Pod, false, NOW)
    }

    fn running(started: i64) -> Value {
        json!({"state": {"running": {"startedAt": at(started)}}})
    }

    fn terminated(started: i64, finished: i64) -> Value {
        json!({"state": {"terminated": {"startedAt": at(started), "finishedAt": at(finished)}}})
    }

    #[test]
    fn a_pod_starts_with_its_first_container() {
        let life = pod(&json!({"status": {"phase": "Running",
            "containerStatuses": [running(120), running(100)]}}));
        assert_eq!(
            life,
            Life {
                start: Some(100),
                end: None
            }
        );
    }

    #[test]
    fn a_pending_pod_has_not_started() {
        let waiting = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
        let value = json!({"metadata": {"creationTimestamp": at(50)},
            "status": {"phase": "Pending", "containerStatuses": [waiting]}});
        assert_eq!(pod(&value), Life::default());
        let life = life(Document::from(&value).root(), ResourceType::Pod, true, NOW);
        assert_eq!(life.start, Some(50));
    }

    #[test]
    fn a_restarted_container_started_when_it_first_did() {
        let mut container = running(300);
        container["lastState"] = terminated(100, 290)["state"].clone();
        let life = pod(&json!({"status": {"phase": "Running", "containerStatuses": [container]}}));
        assert_eq!(
            life,
            Life {
                start: Some(100),
                end: None
            }
        );
    }

    #[test]
    fn a_pod_does_not_start_before_it_was_scheduled() {
        let life = pod(&json!({"status": {"phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(105)}],
            "containerStatuses": [running(100)]}}));
        assert_eq!(life.start, Some(105));
    }

    #[test]
    fn a_finished_pod_ends_with_its_last_container() {
        let life = pod(&json!({"status": {"phase": "Succeeded",
            "containerStatuses": [terminated(100, 200), terminated(100, 230)]}}));
        assert_eq!(
            life,
            Life {
                start: Some(100),
                end: Some(230)
            }
        );
    }

    #[test]
    fn a_sidecar_may_outlive_the_containers_and_an_init_container_does_not_count() {
        let mut sidecar = terminated(90, 240);
        sidecar["name"] = "proxy".into();
        let mut init = terminated(80, 999);
        init["name"] = "setup".into();
        let life = pod(&json!({
            "spec": {"initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"}]},
            "status": {"phase": "Succeeded", "containerStatuses": [terminated(100, 230)],
                "initContainerStatuses": [init, sidecar]}}));
        assert_eq!(
            life,
            Life {
                start: Some(100),
                end: Some(240)
            }
        );
    }

    #[test]
    fn a_pod_that_is_running_with_all_containers_stopped_goes_on() {
        let life = pod(&json!({"status": {"phase": "Running",
            "containerStatuses": [terminated(100, 200)]}}));
        assert_eq!(
            life,
            Life {
                start: Some(100),
                end: None
            }
        );
    }

    #[test]
    fn an_evicted_pod_that_never_started_has_no_life() {
        let life = pod(&json!({"status": {"phase": "Failed", "reason": "Evicted"}}));
        assert_eq!(
            life,
            Life {
                start: None,
                end: Some(NOW)
            }
        );
    }

    #[test]
    fn a_container_whose_times_are_unknown_is_passed_over() {
        let life = pod(&json!({"status": {"phase": "Failed",
            "containerStatuses": [{"state": {"terminated": {"startedAt": null, "finishedAt": null}}},
                {"state": {"terminated": {"startedAt": "1970-01-01T00:00:00Z"}}}]}}));
        assert_eq!(
            life,
            Life {
                start: None,
                end: Some(NOW)
            }
        );
    }

    #[test]
    fn a_running_pod_without_container_status_started_when_the_kubelet_took_it() {
        let life = pod(&json!({"metadata": {"creationTimestamp": at(90)},
            "status": {"phase": "Running", "startTime": at(95)}}));
        assert_eq!(life.start, Some(95));
    }

    #[test]
    fn other_objects_live_from_their_creation() {
        let node = Document::from(&json!({"metadata": {"creationTimestamp": at(70)}}));
        assert_eq!(
            life(node.root(), ResourceType::Node, false, NOW),
            Life {
                start: Some(70),
                end: None
            }
        );
    }

    #[test]
    fn a_deletion_that_a_live_watch_saw_happened_then() {
        let value = json!({"metadata": {"deletionTimestamp": at(500)},
            "status": {"phase": "Running", "containerStatuses": [running(100)]}});
        let document = Document::from(&value);
        let life = pod(&value);
        assert_eq!(deleted_at(document.root(), life, Seen::Live(530)), 530);
        let gap = |since, now| deleted_at(document.root(), life, Seen::Gap { since, now });
        assert_eq!(gap(490, 530), 500);
        assert_eq!(gap(510, 530), 510);
        assert_eq!(gap(400, 450), 450);
    }

    #[test]
    fn a_deleted_pod_whose_containers_all_finished_ended_then() {
        let value = json!({"status": {"phase": "Running",
            "containerStatuses": [terminated(100, 200), terminated(100, 210)]}});
        let document = Document::from(&value);
        assert_eq!(
            deleted_at(document.root(), pod(&value), Seen::Live(999)),
            210
        );
    }

    #[test]
    fn a_deleted_pod_without_any_status_ended_when_seen() {
        let document = Document::from(&json!({}));
        assert_eq!(
            deleted_at(document.root(), Life::default(), Seen::Live(7)),
            7
        );
    }
}
