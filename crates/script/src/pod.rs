//! Reads what a pod reserves, and the product of its GPUs, directly from its document.

mod amount;
mod compare;
mod reserved;
mod resources;

use meterline_core::Node;

use crate::blank;

pub use compare::{compare_reserved, granted};
pub(crate) use reserved::{Container, Reserved};
pub(crate) use resources::Section;

/// The resources that count whole GPUs. Other resources of these vendors, such as
/// `gpu.intel.com/millicores` and `gpu.intel.com/memory.max`, are shares of the same device and would
/// count it twice.
pub(crate) const GPU_RESOURCES: &[&str] = &[
    "nvidia.com/gpu",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
];

/// The prefix of slices of an NVIDIA GPU, such as `nvidia.com/mig-1g.5gb`. Each slice is a device.
pub(crate) const GPU_SLICES: &str = "nvidia.com/mig-";

/// The node label that names a GPU's product.
const GPU_PRODUCT: &str = "nvidia.com/gpu.product";

/// The paths that the requests of a pod or of a container are read from.
pub(crate) const REQUESTS: &[&str] = &[
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
];

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

/// The paths that [`gpu_type`] reads of a pod.
pub(crate) const GPU_TYPE: &[&str] = &[
    "metadata.annotations.data~1openmeter~1io/gpu_type",
    "spec.nodeSelector.nvidia~1com/gpu~1product",
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
];

fn is_gpu(name: &str) -> bool {
    GPU_RESOURCES.contains(&name) || name.starts_with(GPU_SLICES)
}

/// Returns the product name of the pod's GPUs: its annotation `data.openmeter.io/gpu_type`, else the
/// value of the node label `nvidia.com/gpu.product` that its node selector or required node affinity
/// demands. Affinity counts only if all alternatives demand the same product. Blank values are ignored.
pub(crate) fn gpu_type(pod: Node<'_>) -> Option<&str> {
    let annotation = pod.path(&["metadata", "annotations", "data.openmeter.io/gpu_type"]);
    let spec = pod.get("spec");
    let selector = || spec?.path(&["nodeSelector", GPU_PRODUCT]);
    text(annotation)
        .or_else(|| text(selector()))
        .or_else(|| required_product(spec?))
}

fn text(node: Option<Node<'_>>) -> Option<&str> {
    node.and_then(Node::as_str).and_then(blank::trimmed)
}

fn required_product(spec: Node<'_>) -> Option<&str> {
    let terms = spec.path(&[
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
    ])?;
    let mut product = None;
    for term in terms.items() {
        let demanded = term.get("matchExpressions")?.items().find_map(demanded)?;
        if *product.get_or_insert(demanded) != demanded {
            return None;
        }
    }
    product
}

/// Returns the product if a match expression admits exactly one.
fn demanded(expression: Node<'_>) -> Option<&str> {
    let text = |key| expression.get(key).and_then(Node::as_str);
    if text("key") != Some(GPU_PRODUCT) || text("operator") != Some("In") {
        return None;
    }
    let mut values = expression.get("values")?.items();
    let first = values.next()?.as_str()?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests;
