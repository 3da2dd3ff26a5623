//! What a pod reserves, read straight from its document.
//!
//! A total is the sum over `spec.containers` and those of `spec.initContainers` that run as long as
//! the pod does (`restartPolicy: Always`, sidecars). Where `spec.resources` sets a resource for the
//! pod as a whole, that is the total, as it is for the scheduler. What nobody sets counts 0.
//!
//! A value that cannot be read, or is negative, is an error that names its field: a bill is never
//! made from what was guessed.

use std::fmt::Write;

use meterline_core::{Node, Scalar};

use crate::quantity::Quantity;

/// Which of the two amounts of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Requests,
    Limits,
}

impl Section {
    fn key(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// The resources that count whole GPUs. Others of the same vendors (`gpu.intel.com/millicores`,
/// `gpu.intel.com/memory.max`) are shares of the same device and would count it twice.
pub(crate) const GPU_RESOURCES: &[&str] = &[
    "nvidia.com/gpu",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
];

/// Slices of an NVIDIA GPU, each a device of its own: `nvidia.com/mig-1g.5gb` and so on.
pub(crate) const GPU_SLICES: &str = "nvidia.com/mig-";

/// The node label that names a GPU's product.
const GPU_PRODUCT: &str = "nvidia.com/gpu.product";

/// The total of one resource.
pub(crate) fn total(pod: Node<'_>, section: Section, resource: &str) -> Result<Quantity, String> {
    sum(pod, section, false, &|name| name == resource)
}

/// The number of GPUs. A container that sets only a limit requests as much, as the API server has
/// it for devices.
pub(crate) fn gpus(pod: Node<'_>, section: Section) -> Result<Quantity, String> {
    sum(pod, section, true, &|name| {
        GPU_RESOURCES.contains(&name) || name.starts_with(GPU_SLICES)
    })
}

fn sum(
    pod: Node<'_>,
    section: Section,
    limits_stand_in: bool,
    is_meant: &dyn Fn(&str) -> bool,
) -> Result<Quantity, String> {
    let Some(spec) = pod.get("spec") else {
        return Ok(Quantity::default());
    };
    let mut total = 0_i128;
    let mut add = |name: &str, value: Node<'_>, place: &dyn Fn() -> String| {
        let nanos = amount(value).map_err(|reason| {
            let key = if name.contains(['.', '/']) {
                format!("[\"{name}\"]")
            } else {
                format!(".{name}")
            };
            format!("{}{key}: {reason}", place())
        })?;
        total = total.saturating_add(nanos);
        Ok::<(), String>(())
    };
    let for_pod = spec.path(&["resources", section.key()]);
    for (name, value) in for_pod.iter().flat_map(|it| it.entries()) {
        if is_meant(name) && !value.is_null() {
            add(name, value, &|| format!("spec.resources.{}", section.key()))?;
        }
    }
    let is_set_for_pod = |name| {
        for_pod
            .and_then(|it| it.get(name))
            .is_some_and(|it| !it.is_null())
    };
    for list in ["containers", "initContainers"] {
        let containers = spec.get(list);
        for (index, container) in containers.iter().flat_map(|it| it.items()).enumerate() {
            if list == "initContainers" && !is_sidecar(container) {
                continue;
            }
            let Some(resources) = container.get("resources") else {
                continue;
            };
            let own = resources.get(section.key());
            for (name, value) in own.iter().flat_map(|it| it.entries()) {
                if is_meant(name) && !is_set_for_pod(name) {
                    add(name, value, &|| field(list, index, section))?;
                }
            }
            if limits_stand_in && section == Section::Requests {
                let limits = resources.get(Section::Limits.key());
                for (name, value) in limits.iter().flat_map(|it| it.entries()) {
                    let is_requested = own.is_some_and(|own| own.get(name).is_some());
                    if is_meant(name) && !is_requested && !is_set_for_pod(name) {
                        add(name, value, &|| field(list, index, Section::Limits))?;
                    }
                }
            }
        }
    }
    Ok(Quantity::from_nanos(total))
}

fn field(list: &str, index: usize, section: Section) -> String {
    format!("spec.{list}[{index}].resources.{}", section.key())
}

fn is_sidecar(container: Node<'_>) -> bool {
    container.get("restartPolicy").and_then(Node::as_str) == Some("Always")
}

/// The billionths in a field of `requests` or `limits`. The API server always writes text, people
/// also write numbers.
fn amount(value: Node<'_>) -> Result<i128, String> {
    let parse = |text: &str| Quantity::parse(text).map_err(|error| error.to_string());
    let quantity = match value.scalar() {
        Some(Scalar::Null) => return Ok(0),
        Some(Scalar::Text(text)) => parse(text)?,
        Some(Scalar::Integer(number)) => parse(&number.to_string())?,
        Some(Scalar::Unsigned(number)) => parse(&number.to_string())?,
        Some(Scalar::Float(number)) => parse(&number.to_string())?,
        Some(Scalar::Bool(_)) | None => return Err("is not a Kubernetes quantity".into()),
    };
    if quantity.nanos() < 0 {
        let mut reason = String::new();
        let _ = write!(reason, "`{quantity}` is negative");
        return Err(reason);
    }
    Ok(quantity.nanos())
}

/// The product name of the pod's GPUs: its annotation `data.openmeter.io/gpu_type`, else what its
/// node selector or its required node affinity demands of the node label `nvidia.com/gpu.product`.
/// Affinity counts only if every alternative demands one and the same product.
pub(crate) fn gpu_type(pod: Node<'_>) -> Option<&str> {
    let annotation = ["metadata", "annotations", "data.openmeter.io/gpu_type"];
    let selector = ["spec", "nodeSelector", GPU_PRODUCT];
    let text = |path: &[&str]| {
        pod.path(path)
            .and_then(Node::as_str)
            .filter(|text| !text.is_empty())
    };
    text(&annotation)
        .or_else(|| text(&selector))
        .or_else(|| required_product(pod))
}

fn required_product(pod: Node<'_>) -> Option<&str> {
    let terms = pod.path(&[
        "spec",
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

/// The one product that a match expression admits.
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
