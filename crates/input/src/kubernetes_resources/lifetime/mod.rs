//! The lifetime of an object: the rules that turn the status of a pod into a start ([`start`]) and an end ([`end`]),
//! and those of other objects ([`kinds`]).
//!
//! Pure: the time at which something was seen is an argument.
//!
//! Which start of a pod counts is configured ([`BilledFrom`]); it stopped when its last container did. The times of
//! its node are brought to the clock of the API server ([`clock`]). Sources: the Kubernetes API reference,
//! `ContainerStatus`, `PodStatus` and `ObjectMeta`.

mod clock;
mod end;
mod kinds;
mod moments;
mod start;
mod status;
mod writes;

use meterline_core::Node;
use meterline_ledger::Certainty;

use self::clock::NodeClock;
pub(super) use self::{
    clock::Seen,
    end::End,
    kinds::VolumePhase,
    start::BilledFrom,
    status::{created, is_resize_pending, seconds},
    writes::Writes,
};
use super::resource_type::ResourceType;

/// The fields of an object that these rules read.
pub(super) const READS: &[&str] = &[
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.annotations.kubernetes~1io/config~1mirror",
    "metadata.annotations.resource~1kubernetes~1io/extended-resource-claim~",
    "spec.restartPolicy",
    "spec.terminationGracePeriodSeconds",
    "spec.nodeName",
    "spec.type",
    "spec.containers.*.name",
    "spec.containers.*.restartPolicy",
    "spec.containers.*.restartPolicyRules~",
    "spec.initContainers.*.name",
    "spec.initContainers.*.restartPolicy",
    "status.allocation.allocationTimestamp",
    "status.allocation.devices.results.*.adminAccess",
    "status.phase",
    "status.startTime",
    "status.creationTime",
    "status.lastPhaseTransitionTime",
    "status.loadBalancer.ingress.*~",
    "status.readyToUse",
    "status.conditions.*.type",
    "status.conditions.*.status",
    "status.conditions.*.reason",
    "status.conditions.*.lastTransitionTime",
    "status.containerStatuses.*.name",
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
    /// Whether no start is recorded, so that another time stands for it.
    pub(super) is_start_assumed: bool,
    /// When it stopped, if the object records it.
    pub(super) end: Option<End>,
    /// Since when it is billed, if it shows that it was something else before.
    pub(super) since: Option<i64>,
    /// By how many seconds the clock of its node is ahead at least.
    pub(super) ahead: i64,
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

/// Returns the lifetime of `object` as far as its content shows it.
pub(super) fn lifetime(
    object: Node<'_>,
    resource_type: ResourceType,
    from: BilledFrom,
    seen: Seen,
) -> Lifetime {
    match resource_type {
        ResourceType::Pod => {
            let clock = NodeClock::of(object, seen);
            let start = start::start(object, from, &clock);
            Lifetime {
                start: start.map(|it| it.at),
                is_start_assumed: start.is_some_and(|it| it.is_assumed),
                end: end::end(object, &clock),
                since: None,
                ahead: clock.ahead(),
            }
        }
        ResourceType::Service => kinds::service(object, seen),
        ResourceType::PersistentVolumeClaim => kinds::claim(object, seen),
        ResourceType::PersistentVolume => match from {
            BilledFrom::InPhase(phase) => kinds::volume(object, phase, seen),
            _ => kinds::existing(object),
        },
        ResourceType::VolumeSnapshot => kinds::snapshot(object, seen),
        ResourceType::ResourceClaim => kinds::device_claim(object, seen),
        ResourceType::Node
        | ResourceType::Namespace
        | ResourceType::ResourceSlice
        | ResourceType::Deployment
        | ResourceType::StatefulSet
        | ResourceType::DaemonSet
        | ResourceType::Job
        | ResourceType::CronJob => kinds::existing(object),
    }
}

/// Returns when an object that was deleted stopped.
///
/// The end that the object itself records counts. Otherwise a current watch saw the deletion itself, which comes up
/// to a grace period after the request. If the deletion fell into a gap of the watch, the request or the last
/// recorded time of a container is the best that the server still has, and it cannot have been before the object was
/// last known to exist.
pub(super) fn deleted_at(
    object: Node<'_>,
    lifetime: Lifetime,
    seen: Seen,
    deletion: Deletion,
) -> End {
    let known = lifetime.end.filter(|it| it.certainty > Certainty::Assumed);
    let clock = NodeClock::of(object, seen);
    let stopped = || end::stopped(object, &clock).map(|at| End::new(Certainty::Exact, at));
    if let Some(end) = known.or_else(stopped) {
        return end;
    }
    let at = match deletion {
        Deletion::Observed(now) => now,
        Deletion::InGap { since, now } => status::requested(object)
            .max(moments::last_sign(object, &clock))
            .unwrap_or(since)
            .clamp(since.min(now), now),
    };
    let assumed = lifetime.end.map_or(at, |it| it.at);
    End::new(Certainty::Seen, at.min(assumed))
}

/// Returns since when an object is billed again that had ended at `ended`; `None` if it ran through, or is not.
pub(super) fn again(
    object: Node<'_>,
    resource_type: ResourceType,
    ended: i64,
    lifetime: Lifetime,
    seen: Seen,
) -> Option<i64> {
    if resource_type != ResourceType::Pod {
        return kinds::again(ended, lifetime, seen, resource_type);
    }
    let clock = NodeClock::of(object, seen);
    end::again(object, ended, lifetime.end, &clock)
}

/// Returns when a pod had ended that runs again, and since when it does, if its status still shows both.
pub(super) fn earlier_end(object: Node<'_>, lifetime: Lifetime, seen: Seen) -> Option<(i64, i64)> {
    let clock = NodeClock::of(object, seen);
    let ended = end::over_before(object, &clock)?;
    let again = end::again(object, ended, lifetime.end, &clock)?;
    (lifetime.start? < ended && ended < again).then_some((ended, again))
}

#[cfg(test)]
mod tests;
