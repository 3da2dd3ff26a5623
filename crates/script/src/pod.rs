//! What a pod reserves, read straight from its document.
//!
//! A total is the sum over `spec.containers` and those of `spec.initContainers` that run as long as
//! the pod does (`restartPolicy: Always`, sidecars). Where `spec.resources` sets a resource for the
//! pod as a whole, that is the total, as it is for the scheduler. What nobody sets counts 0.
//!
//! A value that cannot be read, or is negative, is an error that names its field: a bill is never
//! made from what was guessed.

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

/// What a pod reserves of everything, read once for all questions about it.
#[derive(Debug, Default)]
pub(crate) struct Totals(Vec<Total>);

#[derive(Debug)]
struct Total {
    section: Section,
    resource: String,
    /// Billionths; or which field cannot be read, which matters only to who asks for this resource.
    nanos: Result<i128, String>,
}

impl Totals {
    pub(crate) fn of(pod: Node<'_>) -> Self {
        let mut totals = Self::default();
        let Some(spec) = pod.get("spec") else {
            return totals;
        };
        for list in ["containers", "initContainers"] {
            let containers = spec.get(list);
            for (index, container) in containers.iter().flat_map(|it| it.items()).enumerate() {
                if list == "containers" || is_sidecar(container) {
                    totals.add_container(container, (list, index));
                }
            }
        }
        if let Some(resources) = spec.get("resources") {
            totals.set_for_pod(resources);
        }
        totals
    }

    /// The total of one resource.
    pub(crate) fn total(&self, section: Section, resource: &str) -> Result<Quantity, String> {
        self.sum(section, |name| name == resource)
    }

    /// The number of GPUs.
    pub(crate) fn gpus(&self, section: Section) -> Result<Quantity, String> {
        self.sum(section, is_gpu)
    }

    fn sum(&self, section: Section, is_meant: impl Fn(&str) -> bool) -> Result<Quantity, String> {
        let mut sum = 0_i128;
        for total in &self.0 {
            if total.section == section && is_meant(&total.resource) {
                sum = sum.saturating_add(total.nanos.clone()?);
            }
        }
        Ok(Quantity::from_nanos(sum))
    }

    fn add_container(&mut self, container: Node<'_>, place: (&str, usize)) {
        let Some(resources) = container.get("resources") else {
            return;
        };
        let requests = resources.get("requests");
        let limits = resources.get("limits");
        for (name, value) in fields(requests) {
            self.add(Section::Requests, name, amount(value), place);
        }
        for (name, value) in fields(limits) {
            self.add(Section::Limits, name, amount(value), place);
            let is_requested = requests.is_some_and(|it| it.get(name).is_some());
            if is_gpu(name) && !is_requested {
                // The API server has it so for devices; the field at fault is the limit.
                let amount = amount(value)
                    .map_err(|reason| field(Some(place), Section::Limits, name, &reason));
                self.add_named(Section::Requests, name, amount);
            }
        }
    }

    fn add(
        &mut self,
        section: Section,
        name: &str,
        amount: Result<i128, String>,
        place: (&str, usize),
    ) {
        let amount = amount.map_err(|reason| field(Some(place), section, name, &reason));
        self.add_named(section, name, amount);
    }

    fn add_named(&mut self, section: Section, name: &str, amount: Result<i128, String>) {
        let known = self
            .0
            .iter_mut()
            .find(|total| total.section == section && total.resource == name);
        match known {
            Some(total) => {
                total.nanos = match (&total.nanos, amount) {
                    (Ok(sum), Ok(more)) => Ok(sum.saturating_add(more)),
                    (Ok(_), Err(reason)) => Err(reason),
                    (Err(first), _) => Err(first.clone()),
                };
            }
            None => self.0.push(Total {
                section,
                resource: name.to_owned(),
                nanos: amount,
            }),
        }
    }

    fn set_for_pod(&mut self, resources: Node<'_>) {
        for section in [Section::Requests, Section::Limits] {
            for (name, value) in fields(resources.get(section.key())) {
                if value.is_null() {
                    continue;
                }
                self.0
                    .retain(|total| total.section != section || total.resource != name);
                let amount = amount(value).map_err(|reason| field(None, section, name, &reason));
                self.add_named(section, name, amount);
            }
        }
    }
}

fn is_gpu(name: &str) -> bool {
    GPU_RESOURCES.contains(&name) || name.starts_with(GPU_SLICES)
}

fn fields<'a>(object: Option<Node<'a>>) -> impl Iterator<Item = (&'a str, Node<'a>)> {
    object.into_iter().flat_map(Node::entries)
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
        return Err(format!("`{quantity}` is negative"));
    }
    Ok(quantity.nanos())
}

/// The product name of the pod's GPUs: its annotation `data.openmeter.io/gpu_type`, else what its
/// node selector or its required node affinity demands of the node label `nvidia.com/gpu.product`.
/// Affinity counts only if every alternative demands one and the same product.
pub(crate) fn gpu_type(pod: Node<'_>) -> Option<&str> {
    let annotation = pod.path(&["metadata", "annotations", "data.openmeter.io/gpu_type"]);
    let spec = pod.get("spec");
    let selector = || spec?.path(&["nodeSelector", GPU_PRODUCT]);
    text(annotation)
        .or_else(|| text(selector()))
        .or_else(|| required_product(spec?))
}

fn text(node: Option<Node<'_>>) -> Option<&str> {
    node.and_then(Node::as_str).filter(|text| !text.is_empty())
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
