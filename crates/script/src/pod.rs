//! Reads what a pod reserves, and the products of its devices, directly from its document.

mod amount;
mod compare;
mod devices;
mod product;
mod reserved;
mod resources;

pub use compare::{compare_reserved, granted};
pub(crate) use devices::{Added, Configured, Device, devices};
pub(crate) use product::{GPU_TYPE, gpu_type};
pub(crate) use reserved::{Container, Reserved};
pub(crate) use resources::Section;

/// The paths that requests are read from, and more.
macro_rules! requests_and {
    ($($more:literal),*) => {
        &[
            "spec.containers.*.name",
            "spec.containers.*.resources",
            "spec.initContainers.*.name",
            "spec.initContainers.*.resources",
            "spec.initContainers.*.restartPolicy",
            "spec.overhead",
            "spec.resources",
            "status.allocatedResources",
            "status.containerStatuses.*.allocatedResources",
            "status.containerStatuses.*.name",
            "status.containerStatuses.*.resources",
            "status.initContainerStatuses.*.allocatedResources",
            "status.initContainerStatuses.*.name",
            "status.initContainerStatuses.*.resources",
            "status.resources",
            $($more),*
        ]
    };
}

/// The paths that the requests of a pod or of a container are read from.
pub(crate) const REQUESTS: &[&str] = requests_and!();

/// The paths that the devices of a pod are read from.
pub(crate) const DEVICES: &[&str] = requests_and!(
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    "spec.nodeSelector"
);

/// The paths that the limits of a pod or of a container are read from. A node allocates requests only.
pub(crate) const LIMITS: &[&str] = &[
    "spec.containers.*.name",
    "spec.containers.*.resources",
    "spec.initContainers.*.name",
    "spec.initContainers.*.resources",
    "spec.initContainers.*.restartPolicy",
    "spec.overhead",
    "spec.resources",
    "status.containerStatuses.*.name",
    "status.containerStatuses.*.resources",
    "status.initContainerStatuses.*.name",
    "status.initContainerStatuses.*.resources",
    "status.resources",
];

#[cfg(test)]
mod tests;
