//! Computes what a pod reserves, directly from its document.
//!
//! A total is the sum over `spec.containers` and the sidecars of `spec.initContainers`, which run as long
//! as the pod does (`restartPolicy: Always`). If `spec.resources` sets a resource for the whole pod, that
//! is the total, as it is for the scheduler. A resource that is not set counts as 0.
//!
//! A value that is malformed or negative is an error that names its field, because a bill must not
//! contain guesses. Only the requested resources are read.

use std::collections::HashSet;

use meterline_core::{Node, Scalar};

use crate::{blank, quantity::Quantity};

/// Requests or limits.
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

/// The paths that [`Totals`] reads of a pod.
pub(crate) const TOTALS: &[&str] = &[
    "spec.resources",
    "spec.containers.*.resources",
    "spec.initContainers.*.resources",
    "spec.initContainers.*.restartPolicy",
];

/// The paths that [`gpu_type`] reads of a pod.
pub(crate) const GPU_TYPE: &[&str] = &[
    "metadata.annotations.data~1openmeter~1io/gpu_type",
    "spec.nodeSelector.nvidia~1com/gpu~1product",
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
];

/// The resources of a pod's containers and of the pod as a whole.
#[derive(Debug, Default)]
pub(crate) struct Totals<'a> {
    containers: Vec<Resources<'a>>,
    pod: Resources<'a>,
}

/// The resources of a container, or of the pod as a whole.
#[derive(Debug, Default, Clone, Copy)]
struct Resources<'a> {
    requests: Option<Node<'a>>,
    limits: Option<Node<'a>>,
    /// The list and the index in it; `None` for the pod as a whole.
    place: Option<(&'static str, usize)>,
}

impl<'a> Resources<'a> {
    fn of(resources: Node<'a>, place: Option<(&'static str, usize)>) -> Self {
        Self {
            requests: resources.get(Section::Requests.key()),
            limits: resources.get(Section::Limits.key()),
            place,
        }
    }

    fn section(&self, section: Section) -> Option<Node<'a>> {
        match section {
            Section::Requests => self.requests,
            Section::Limits => self.limits,
        }
    }

    /// Parses an amount; an error names the field.
    fn amount(&self, section: Section, name: &str, value: Node<'_>) -> Result<Quantity, String> {
        amount(value).map_err(|reason| field(self.place, section, name, &reason))
    }
}

impl<'a> Totals<'a> {
    pub(crate) fn of(pod: Node<'a>) -> Self {
        let mut totals = Self::default();
        let Some(spec) = pod.get("spec") else {
            return totals;
        };
        for list in ["containers", "initContainers"] {
            let containers = spec.get(list);
            for (index, container) in containers.iter().flat_map(|it| it.items()).enumerate() {
                if (list == "containers" || is_sidecar(container))
                    && let Some(resources) = container.get("resources")
                {
                    let place = Some((list, index));
                    totals.containers.push(Resources::of(resources, place));
                }
            }
        }
        if let Some(resources) = spec.get("resources") {
            totals.pod = Resources::of(resources, None);
        }
        totals
    }

    /// Returns the total of one resource.
    pub(crate) fn total(&self, section: Section, name: &str) -> Result<Quantity, String> {
        let of_pod = self.pod.section(section).and_then(|it| it.get(name));
        if let Some(value) = of_pod.filter(|value| !value.is_null()) {
            return self.pod.amount(section, name, value);
        }
        let mut sum = Quantity::ZERO;
        for container in &self.containers {
            let (section, value) = match container.section(section).and_then(|it| it.get(name)) {
                Some(value) => (section, value),
                // For devices the API server uses the limit as the request, so an error names the
                // limit.
                None if section == Section::Requests && is_gpu(name) => {
                    match container.limits.and_then(|limits| limits.get(name)) {
                        Some(value) => (Section::Limits, value),
                        None => continue,
                    }
                }
                None => continue,
            };
            sum = sum.plus(&container.amount(section, name, value)?);
        }
        Ok(sum)
    }

    /// Returns the number of GPUs.
    pub(crate) fn gpus(&self, section: Section) -> Result<Quantity, String> {
        let mut sum = Quantity::ZERO;
        // Sets, because a pod can have twenty thousand resource names.
        let mut of_pod = HashSet::new();
        for (name, value) in gpu_fields(self.pod.section(section)) {
            if !value.is_null() {
                of_pod.insert(name);
                sum = sum.plus(&self.pod.amount(section, name, value)?);
            }
        }
        for container in &self.containers {
            for (name, value) in gpu_fields(container.section(section)) {
                if !of_pod.contains(name) {
                    sum = sum.plus(&container.amount(section, name, value)?);
                }
            }
            if section == Section::Requests {
                let mut limits = gpu_fields(container.limits).peekable();
                if limits.peek().is_none() {
                    continue;
                }
                let requested: HashSet<_> = gpu_fields(container.requests)
                    .map(|(name, _)| name)
                    .collect();
                for (name, value) in limits {
                    if !of_pod.contains(name) && !requested.contains(name) {
                        sum = sum.plus(&container.amount(Section::Limits, name, value)?);
                    }
                }
            }
        }
        Ok(sum)
    }
}

fn is_gpu(name: &str) -> bool {
    GPU_RESOURCES.contains(&name) || name.starts_with(GPU_SLICES)
}

fn gpu_fields<'a>(object: Option<Node<'a>>) -> impl Iterator<Item = (&'a str, Node<'a>)> {
    let fields = object.into_iter().flat_map(Node::entries);
    fields.filter(|(name, _)| is_gpu(name))
}

/// Formats an error of a field.
fn field(place: Option<(&str, usize)>, section: Section, name: &str, reason: &str) -> String {
    let place = match place {
        Some((list, index)) => format!("spec.{list}[{index}].resources"),
        None => "spec.resources".to_owned(),
    };
    let key = if name.contains(['.', '/']) {
        format!("[\"{name}\"]")
    } else {
        format!(".{name}")
    };
    format!("{place}.{}{key}: {reason}", section.key())
}

fn is_sidecar(container: Node<'_>) -> bool {
    container.get("restartPolicy").and_then(Node::as_str) == Some("Always")
}

/// Parses a field of `requests` or `limits`. The API server always writes text, but users may write
/// numbers.
fn amount(value: Node<'_>) -> Result<Quantity, String> {
    let parse = |text: &str| Quantity::parse(text).map_err(|error| error.to_string());
    let quantity = match value.scalar() {
        Some(Scalar::Null) => return Ok(Quantity::ZERO),
        Some(Scalar::Text(text) | Scalar::Number(text)) => parse(text)?,
        Some(Scalar::Integer(number)) => parse(&number.to_string())?,
        Some(Scalar::Unsigned(number)) => parse(&number.to_string())?,
        Some(Scalar::Float(number)) => parse(&number.to_string())?,
        Some(Scalar::Bool(_)) | None => return Err("is not a Kubernetes quantity".into()),
    };
    if quantity.is_negative() {
        return Err(format!("`{quantity}` is negative"));
    }
    Ok(quantity)
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
