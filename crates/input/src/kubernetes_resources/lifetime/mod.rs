//! The lifetime of an object: the rules that turn a status into a start ([`start`]) and an end ([`end`]).
//!
//! Pure: the time at which something was seen is an argument.
//!
//! A pod is billed from the moment its first container started to the moment it stopped. Sources:
//! the Kubernetes API reference, `ContainerStatus`, `PodStatus` and `ObjectMeta`.

mod end;
mod start;
mod status;

use meterline_core::Node;

pub(super) use self::status::{created, is_resize_pending, seconds};
use super::resource_type::ResourceType;

/// The fields of an object that these rules read.
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

/// The lifetime of an object according to its own content, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lifetime {
    /// When it began to be billed; `None` while it has not.
    pub(super) start: Option<i64>,
    /// When it stopped, if the object records it.
    pub(super) end: Option<i64>,
}

/// How a watch learned of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletion {
    /// A current watch saw it happen, in this second.
    Observed(i64),
    /// It happened in a gap of the watch: the object was last known to exist at `since`, and was found gone at
    /// `now`.
    InGap {
        /// The last moment at which the watch was current.
        since: i64,
        /// The moment at which the deletion was noticed.
        now: i64,
    },
}

/// Returns the lifetime of `object` as far as its content shows it. `now` is the second in which it was seen.
pub(super) fn lifetime(
    object: Node<'_>,
    resource_type: ResourceType,
    include_pending: bool,
    now: i64,
) -> Lifetime {
    match resource_type {
        ResourceType::Pod => Lifetime {
            start: start::start(object, include_pending),
            end: end::end(object, now),
        },
        ResourceType::Node
        | ResourceType::PersistentVolume
        | ResourceType::PersistentVolumeClaim => Lifetime {
            start: created(object),
            end: None,
        },
    }
}

/// Returns when an object that was deleted stopped.
///
/// The end that the object itself records counts. Otherwise a current watch saw the deletion itself, which comes up
/// to a grace period after the request. If the deletion fell into a gap of the watch, the request or the last
/// recorded time of a container is the best that the server still has, and it cannot have been before the object was
/// last known to exist.
pub(super) fn deleted_at(object: Node<'_>, lifetime: Lifetime, deletion: Deletion) -> i64 {
    if let Some(end) = lifetime.end.or_else(|| end::stopped(object)) {
        return end;
    }
    match deletion {
        Deletion::Observed(now) => now,
        Deletion::InGap { since, now } => status::requested(object)
            .max(status::last_sign(object))
            .unwrap_or(since)
            .clamp(since.min(now), now),
    }
}

#[cfg(test)]
mod tests;
