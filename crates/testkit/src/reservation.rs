//! What a pod reserves, computed a second time: an oracle for the functions of mappings.
//!
//! It shares no code with them and works the other way round. From KEP-753: while an init container runs,
//! the sidecars before it run as well; afterwards all sidecars and containers run. So the oracle lists
//! these moments, adds up everything that each of them needs, and takes the largest need of each resource.
//! KEP-1287 gives the amounts of a container that is resized, KEP-2837 and KEP-5419 those of a whole pod.

pub mod quantity;
pub mod random;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use quantity::Amount;

/// The resources that count accelerators, besides `nvidia.com/mig-*`, `huawei.com/Ascend*` and those of
/// [`NEURON`].
const GPUS: &[&str] = &[
    "amd.com/gpu",
    "google.com/tpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "habana.ai/gaudi",
    "k8s.amazonaws.com/vgpu",
    "nvidia.com/gpu",
    "nvidia.com/gpu.shared",
];

/// The resources that count the same chips in different units: a pod has as many as the largest of them.
const NEURON: &[&str] = &[
    "aws.amazon.com/neuron",
    "aws.amazon.com/neuroncore",
    "aws.amazon.com/neurondevice",
];

/// An amount, or `None` if what it is computed from is malformed.
pub type Known = Option<Amount>;

/// Amounts by resource. A resource without an amount is missing.
pub type Need = BTreeMap<String, Known>;

/// One container of a pod.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// `container`, `sidecar` or `init`.
    pub kind: &'static str,
    /// What it requests.
    pub requests: Need,
    /// Its limits.
    pub limits: Need,
}

/// What a pod reserves.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// The containers, then the init containers.
    pub parts: Vec<Part>,
    pod_requests: Need,
    pod_limits: Need,
    overhead: Need,
}

impl Reservation {
    /// Computes what a pod reserves.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        let (spec, status) = (at(pod, "spec"), at(pod, "status"));
        let mut parts = Vec::new();
        for (list, statuses) in [
            ("containers", "containerStatuses"),
            ("initContainers", "initContainerStatuses"),
        ] {
            let by_name: BTreeMap<&str, &Value> = items(at(status, statuses))
                .filter_map(|status| Some((at(status, "name").as_str()?, status)))
                .collect();
            for container in items(at(spec, list)) {
                let name = at(container, "name").as_str().unwrap_or_default();
                let status = by_name.get(name).copied().unwrap_or(&Value::Null);
                parts.push(Part {
                    name: name.to_owned(),
                    kind: match (list, at(container, "restartPolicy").as_str()) {
                        ("containers", _) => "container",
                        (_, Some("Always")) => "sidecar",
                        _ => "init",
                    },
                    requests: requests(at(container, "resources"), status),
                    limits: limits(at(container, "resources"), status),
                });
            }
        }
        let of_pod = |section: &str, need: Need| -> Need {
            let set = amounts(at(at(spec, "resources"), section));
            need.into_iter()
                .filter(|(name, _)| set.contains_key(name) && may_be_set_for_pods(name))
                .collect()
        };
        Self {
            parts,
            pod_requests: of_pod("requests", requests(at(spec, "resources"), status)),
            pod_limits: of_pod("limits", limits(at(spec, "resources"), status)),
            overhead: amounts(at(spec, "overhead")),
        }
    }

    /// All resources that occur.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        let parts = self.parts.iter();
        let needs = parts.flat_map(|part| [&part.requests, &part.limits]);
        needs
            .chain([&self.pod_requests, &self.pod_limits, &self.overhead])
            .flat_map(|need| need.keys().map(String::as_str))
            .collect()
    }

    /// The request of the pod.
    #[must_use]
    pub fn request(&self, name: &str) -> Known {
        let total = match self.pod_requests.get(name) {
            Some(total) => total.clone(),
            None => self.most(|part| part.requests.get(name).cloned()),
        };
        self.plus_overhead(name, total)
    }

    /// The limit of the pod.
    #[must_use]
    pub fn limit(&self, name: &str) -> Known {
        let total = match self.pod_limits.get(name) {
            Some(total) => total.clone(),
            None => self.most(|part| part.limits.get(name).cloned()),
        };
        match total {
            Some(total) if total.is_zero() => Some(total),
            total => self.plus_overhead(name, total),
        }
    }

    /// The limit of the pod, with the request of each container without a limit.
    #[must_use]
    pub fn limit_or_request(&self, name: &str) -> Known {
        let of_pod = self.pod_limits.get(name);
        let total = match of_pod.or_else(|| self.pod_requests.get(name)) {
            Some(total) => total.clone(),
            None => self.most(|part| {
                let limit = part.limits.get(name);
                limit.or_else(|| part.requests.get(name)).cloned()
            }),
        };
        self.plus_overhead(name, total)
    }

    /// The GPUs that the pod requests.
    #[must_use]
    pub fn gpu_request(&self) -> Known {
        self.gpus(|name| self.request(name))
    }

    /// The GPUs that limit the pod.
    #[must_use]
    pub fn gpu_limit(&self) -> Known {
        self.gpus(|name| self.limit(name))
    }

    fn gpus(&self, total: impl Fn(&str) -> Known) -> Known {
        let names = self.names();
        let mut gpus = names.iter().filter(|name| is_gpu(name));
        let sum = gpus.try_fold(Amount::default(), |sum, name| Some(sum.plus(&total(name)?)))?;
        let mut chips = names.iter().filter(|name| NEURON.contains(name));
        let most = chips.try_fold(Amount::default(), |most, name| Some(most.max(total(name)?)))?;
        Some(sum.plus(&most))
    }

    /// The most that a moment of the pod's life needs of a resource.
    fn most(&self, of: impl Fn(&Part) -> Option<Known>) -> Known {
        let mut most = Amount::default();
        for moment in self.moments() {
            let mut needed = Amount::default();
            for part in moment {
                if let Some(amount) = of(part) {
                    needed = needed.plus(&amount?);
                }
            }
            most = most.max(needed);
        }
        Some(most)
    }

    /// What runs at the same time, for each moment at which something starts.
    fn moments(&self) -> Vec<Vec<&Part>> {
        let starts = self.parts.iter().filter(|part| part.kind != "container");
        let mut running: Vec<&Part> = Vec::new();
        let mut moments = Vec::new();
        for part in starts {
            let mut moment = running.clone();
            moment.push(part);
            if part.kind == "sidecar" {
                running.clone_from(&moment);
            }
            moments.push(moment);
        }
        running.extend(self.parts.iter().filter(|part| part.kind == "container"));
        moments.push(running);
        moments
    }

    fn plus_overhead(&self, name: &str, total: Known) -> Known {
        match self.overhead.get(name) {
            Some(overhead) => Some(total?.plus(overhead.as_ref()?)),
            None => total,
        }
    }
}

/// What a container or a pod requests: the larger of what is allocated and what is applied.
fn requests(resources: &Value, status: &Value) -> Need {
    let (desired, actual) = (at(resources, "requests"), at(status, "resources"));
    let mut need = larger(
        amounts(at(status, "allocatedResources")),
        amounts(at(actual, "requests")),
    );
    let is_stated = at(status, "allocatedResources").is_object()
        || at(actual, "requests").is_object()
        || (actual.is_object() && actual.get("limits").is_none());
    let mut wanted = amounts(desired);
    // The default of the API server, for devices.
    for (name, amount) in amounts(at(resources, "limits")) {
        if is_of_a_domain(&name) {
            wanted.entry(name).or_insert(amount);
        }
    }
    complete(&mut need, wanted, is_stated);
    need
}

/// What limits a container or a pod.
fn limits(resources: &Value, status: &Value) -> Need {
    let actual = at(status, "resources");
    let mut need = amounts(at(actual, "limits"));
    complete(
        &mut need,
        amounts(at(resources, "limits")),
        actual.is_object(),
    );
    need
}

/// Adds what is wanted of other resources. CPU and memory that a status leaves out were not granted.
fn complete(need: &mut Need, wanted: Need, is_stated: bool) {
    for (name, amount) in wanted {
        let is_refused = is_stated && ["cpu", "memory"].contains(&name.as_str());
        if !is_refused {
            need.entry(name).or_insert(amount);
        }
    }
}

fn larger(mut one: Need, other: Need) -> Need {
    for (name, amount) in other {
        let amount = match one.remove(&name) {
            // Nothing is larger than what is malformed.
            Some(before) => before.zip(amount).map(|(a, b)| a.max(b)),
            None => amount,
        };
        one.insert(name, amount);
    }
    one
}

/// Reads a resource list.
fn amounts(list: &Value) -> Need {
    let empty = Map::new();
    let entries = list.as_object().unwrap_or(&empty).iter();
    entries
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => String::new(),
            };
            (name.clone(), Amount::parse(&text))
        })
        .collect()
}

/// A field; null if it is missing.
fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&Value::Null)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn may_be_set_for_pods(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn is_gpu(name: &str) -> bool {
    let is_ascend = name.starts_with("huawei.com/Ascend") && !name.ends_with("-memory");
    let is_slice = name.starts_with("nvidia.com/mig-") && name != "nvidia.com/mig-";
    GPUS.contains(&name) || is_slice || is_ascend
}

/// Whether it is a resource of a device plugin.
fn is_of_a_domain(name: &str) -> bool {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    domain.is_some_and(|it| it != "kubernetes.io" && !it.ends_with(".kubernetes.io"))
}

#[cfg(test)]
mod tests;
