//! Reads what a pod reserves, and the products of its devices, directly from its document.

mod added;
mod amount;
mod compare;
mod devices;
mod fraction;
mod mig;
mod product;
mod reserved;
mod resources;
mod unknown;

pub(crate) use added::{Added, Configured};
pub(crate) use amount::parse as parse_amount;
pub use compare::{compare_reserved, granted};
pub(crate) use devices::{Device, devices};
pub(crate) use fraction::Fraction;
pub(crate) use mig::fraction as mig_fraction;
pub(crate) use product::{GPU_TYPE, gpu_type};
pub(crate) use reserved::{Container, Reserved, device_count};
pub(crate) use resources::Section;
pub use unknown::{UNKNOWN_DEVICES, UnknownDevice, unknown_devices};

/// The paths that limits are read from, and more.
macro_rules! limits_and {
    ($($more:literal),*) => {
        &[
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
            $($more),*
        ]
    };
}

/// The paths that requests are read from, and more: a node allocates requests only.
macro_rules! requests_and {
    ($($more:literal),*) => {
        limits_and!(
            "status.allocatedResources",
            "status.containerStatuses.*.allocatedResources",
            "status.initContainerStatuses.*.allocatedResources"
            $(, $more)*
        )
    };
}

/// The paths that the requests of a pod or of a container are read from.
pub(crate) const REQUESTS: &[&str] = requests_and!();

/// The paths that the number of GPUs that a pod requests is read from.
pub(crate) const GPU_REQUESTS: &[&str] = requests_and!("devices().counts~");

/// The paths that the devices of a pod are read from, and the labels of its node.
pub(crate) const DEVICES: &[&str] = requests_and!(
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    "spec.nodeSelector",
    "devices().counts~",
    "node_labels().amd~1com/gpu~1product-name",
    "node_labels().amd~1com/gpu~1vram",
    "node_labels().beta~1amd~1com/gpu~1product-name",
    "node_labels().beta~1amd~1com/gpu~1vram",
    "node_labels().cloud~1google~1com/gke-accelerator",
    "node_labels().cloud~1google~1com/gke-gpu-partition-size",
    "node_labels().cloud~1google~1com/gke-gpu-sharing-strategy",
    "node_labels().cloud~1google~1com/gke-max-shared-clients-per-gpu",
    "node_labels().cloud~1google~1com/gke-tpu-accelerator",
    "node_labels().eks~1amazonaws~1com/instance-gpu-name",
    "node_labels().gpu~1intel~1com/memory",
    "node_labels().gpu~1intel~1com/product",
    "node_labels().k8s~1amazonaws~1com/accelerator",
    "node_labels().karpenter~1k8s~1aws/instance-accelerator-name",
    "node_labels().karpenter~1k8s~1aws/instance-gpu-name",
    "node_labels().nvidia~1com/gpu~1memory",
    "node_labels().nvidia~1com/gpu~1product",
    "node_labels().nvidia~1com/gpu~1replicas",
    "node_labels().nvidia~1com/gpu~1sharing-strategy",
    "node_labels().nvidia~1com/mig-^^"
);

/// The paths that the limits of a pod or of a container are read from.
pub(crate) const LIMITS: &[&str] = limits_and!();

/// The paths that the number of GPUs that a pod is limited to is read from.
pub(crate) const GPU_LIMITS: &[&str] = limits_and!("devices().counts~");

#[cfg(test)]
mod tests;
