//! What a pod reserves, read straight from its document.
//!
//! A total is the sum over `spec.containers` and those of `spec.initContainers` that run as long as
//! the pod does (`restartPolicy: Always`, sidecars). Where `spec.resources` sets a resource for the
//! pod as a whole, that is the total, as it is for the scheduler. What nobody sets counts 0.
//!
//! A value that cannot be read, or is negative, is an error that names its field: a bill is never
//! made from what was guessed. Only the resources that are asked for are read.

use std::collections::HashSet;

use meterline_core::{Node, Scalar};

use crate::{blank, quantity::Quantity};

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

/// What [`Totals`] reads of a pod.
pub(crate) const TOTALS: &[&str] = &[
    "spec.resources",
    "spec.containers.*.resources",
    "spec.initContainers.*.resources",
    "spec.initContainers.*.restartPolicy",
];

/// What [`gpu_type`] reads of a pod.
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
    /// The list and the position in it; none for the pod as a whole.
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

    /// An amount, or which field is at fault.
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

    /// The total of one resource.
    pub(crate) fn total(&self, section: Section, name: &str) -> Result<Quantity, String> {
        let of_pod = self.pod.section(section).and_then(|it| it.get(name));
        if let Some(value) = of_pod.filter(|value| !value.is_null()) {
            return self.pod.amount(section, name, value);
        }
        let mut sum = Quantity::ZERO;
        for container in &self.containers {
            let (section, value) = match container.section(section).and_then(|it| it.get(name)) {
                Some(value) => (section, value),
                // The API server has it so for devices; the field at fault is the limit.
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

    /// The number of GPUs.
    pub(crate) fn gpus(&self, section: Section) -> Result<Quantity, String> {
        let mut sum = Quantity::ZERO;
        // Names that are known from elsewhere are looked up in sets: a pod can have twenty thousand.
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

/// Which field is at fault, and why.
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

/// The amount in a field of `requests` or `limits`. The API server always writes text, people also
/// write numbers.
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

/// The product name of the pod's GPUs: its annotation `data.openmeter.io/gpu_type`, else what its
/// node selector or its required node affinity demands of the node label `nvidia.com/gpu.product`.
/// Affinity counts only if every alternative demands one and the same product. A blank is none.
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
