//! The lives of objects that are no pods. Their statuses have few times, so the writes that the API server recorded
//! stand for the moments that no field names.

use meterline_core::{Node, Scalar};
use meterline_ledger::Certainty;
use serde::Deserialize;

use super::{
    Lifetime,
    clock::Seen,
    end::End,
    status::{created, phase, time},
};
use crate::kubernetes_resources::resource_type::ResourceType;

/// The phase of a persistent volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(in crate::kubernetes_resources) enum VolumePhase {
    /// No claim has it, and it can be claimed.
    Available,
    /// A claim has it.
    Bound,
    /// Its claim is gone, and it is kept.
    Released,
    /// It could not be deleted after its claim was gone.
    Failed,
}

impl VolumePhase {
    /// The word in the status.
    fn word(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Bound => "Bound",
            Self::Released => "Released",
            Self::Failed => "Failed",
        }
    }
}

/// An object that costs from its creation until it is gone.
pub(super) fn existing(object: Node<'_>) -> Lifetime {
    Lifetime {
        start: created(object),
        ..Lifetime::default()
    }
}

/// A load balancer costs from its creation until it is gone or is none any more, if it ever got an address. One that
/// is being deleted exists until the cloud has deleted it, which a finalizer ensures.
pub(super) fn service(service: Node<'_>, seen: Seen) -> Lifetime {
    let spec = service.get("spec").and_then(|it| it.get("type"));
    if !spec.is_some_and(|it| it.is_text("LoadBalancer")) {
        return over(seen.writes.spec, seen);
    }
    let ingress = service.path(&["status", "loadBalancer", "ingress"]);
    let has_address = ingress.is_some_and(|it| it.items().next().is_some());
    Lifetime {
        since: became_load_balancer(service, seen),
        ..existing(service)
    }
    .if_begun(has_address)
}

/// Returns when a service became a load balancer, if its managed fields show that it was created as something else:
/// the part of the spec that was written with the creation does not contain the type.
fn became_load_balancer(service: Node<'_>, seen: Seen) -> Option<i64> {
    let created = created(service)?;
    let is_from_creation = seen.writes.untyped.is_some_and(|it| it <= created);
    let typed = seen.writes.typed.filter(|it| *it > created)?;
    is_from_creation.then(|| typed.min(seen.now))
}

/// A claim costs while it has a volume, from when it was bound until it is gone. A claim that a pod uses exists until
/// the pod is gone.
pub(super) fn claim(claim: Node<'_>, seen: Seen) -> Lifetime {
    match phase(claim) {
        "Bound" => since(claim, seen.writes.phase, seen),
        "Lost" => over(seen.writes.phase, seen),
        _ => Lifetime::default(),
    }
}

/// A volume costs while it is in this phase.
pub(super) fn volume(volume: Node<'_>, billed: VolumePhase, seen: Seen) -> Lifetime {
    let changed = time(volume.path(&["status", "lastPhaseTransitionTime"]));
    let changed = changed.or(seen.writes.phase);
    if phase(volume) == billed.word() {
        since(volume, changed, seen)
    } else {
        over(changed, seen)
    }
}

/// A snapshot costs from when it was taken, once it can be used.
pub(super) fn snapshot(snapshot: Node<'_>, seen: Seen) -> Lifetime {
    let status = snapshot.get("status");
    let is_ready = status.and_then(|it| it.get("readyToUse")?.scalar());
    let is_ready = matches!(is_ready, Some(Scalar::Bool(true)));
    let taken = time(status.and_then(|it| it.get("creationTime")));
    since(snapshot, taken, seen).if_begun(is_ready)
}

/// A claim of devices costs while it has some. A claim that the scheduler made for a resource of a pod costs nothing,
/// because the pod is billed for it, nor does access for administration, which leaves the device to others.
///
/// Nothing records when the devices were taken away, so the moment counts at which that is first seen.
pub(super) fn device_claim(claim: Node<'_>, seen: Seen) -> Lifetime {
    const OF_RESOURCE: &str = "resource.kubernetes.io/extended-resource-claim";
    let is_billed_by_pod = claim.path(&["metadata", "annotations", OF_RESOURCE]);
    if is_billed_by_pod.is_some() {
        return Lifetime::default();
    }
    let Some(allocation) = claim
        .path(&["status", "allocation"])
        .filter(|it| it.is_object())
    else {
        // One that never had devices has no end.
        return if seen.has_begun {
            over(seen.ended, seen)
        } else {
            Lifetime::default()
        };
    };
    let results = allocation.path(&["devices", "results"]);
    let mut results = results.into_iter().flat_map(Node::items);
    let is_admin = |result: Node<'_>| {
        let access = result.get("adminAccess").and_then(|it| it.scalar());
        matches!(access, Some(Scalar::Bool(true)))
    };
    let has_devices = results.any(|it| !is_admin(it));
    let allocated = time(allocation.get("allocationTimestamp")).or(seen.writes.allocation);
    since(claim, allocated, seen).if_begun(has_devices)
}

/// An object that costs since `at`, or else since its creation.
fn since(object: Node<'_>, at: Option<i64>, seen: Seen) -> Lifetime {
    let created = created(object);
    let at_least = |at: i64| at.min(seen.now).max(created.unwrap_or(at));
    Lifetime {
        start: at.map(at_least).or(created),
        is_start_assumed: at.is_none(),
        ..Lifetime::default()
    }
}

/// An object that costs nothing, and has not since `at`. Later writes move the time, so the first one that is seen is
/// the best.
fn over(at: Option<i64>, seen: Seen) -> Lifetime {
    let at = at.map_or(seen.now, |it| it.min(seen.now));
    Lifetime {
        end: Some(End::new(Certainty::Seen, at)),
        ..Lifetime::default()
    }
}

/// Returns since when an object costs again that had not since `ended`; `None` if it does not.
pub(super) fn again(
    ended: i64,
    lifetime: Lifetime,
    seen: Seen,
    resource_type: ResourceType,
) -> Option<i64> {
    if lifetime.end.is_some() {
        return None;
    }
    let changed = match resource_type {
        ResourceType::Service => seen.writes.spec.filter(|it| *it > ended),
        // The end is when it was seen, which may be later than the next begin.
        ResourceType::ResourceClaim => {
            let start = Some(lifetime.start?).filter(|_| !lifetime.is_start_assumed);
            start.map(|it| it.max(ended))
        }
        _ => Some(lifetime.start?).filter(|it| *it > ended),
    };
    Some(changed.map_or(seen.now, |it| it.min(seen.now)))
}

impl Lifetime {
    /// The same, or without a start if it has not begun.
    fn if_begun(self, has_begun: bool) -> Self {
        Self {
            start: self.start.filter(|_| has_begun),
            ..self
        }
    }
}
