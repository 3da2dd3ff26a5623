//! Computes what a pod reserves, by the rules of the scheduler:
//!
//! 1. The containers and sidecars run at the same time, so their amounts are added. A sidecar is an init
//!    container with `restartPolicy: Always`. Any other init container runs beside the sidecars before it,
//!    and what these need together is the least that the pod reserves, for its whole life.
//! 2. What `spec.resources` sets for the whole pod replaces that, for CPU, memory and huge pages.
//! 3. `spec.overhead` is added; to limits only where there is a limit.
//!
//! Each resource is computed on its own. A resource that is not set counts as 0. Ephemeral containers
//! reserve nothing.

use std::collections::BTreeMap;

use meterline_core::Node;

use super::{
    added::Added,
    amount::{Holder, Listed},
    resources::{Resources, Section},
};
use crate::{
    accelerators::{self, Accelerator, Unit},
    quantity::Quantity,
};

/// Whether a resource counts devices, by the table of accelerators and what is added to it.
fn is_device(name: &str, added: &Added) -> bool {
    match added.get(name) {
        Some(configured) => configured.unit != Unit::Share,
        None => accelerators::is_device(name),
    }
}

/// Returns how many devices these resources are, of which others than devices do not count. Those of one family count the
/// same devices, so the largest of them counts. `added` are resources that the table does not have.
pub(crate) fn device_count<'a>(
    amounts: impl IntoIterator<Item = (&'a str, Result<Quantity, String>)>,
    added: &Added,
) -> Result<Quantity, String> {
    let mut sum = Quantity::ZERO;
    let mut families: BTreeMap<&str, Quantity> = BTreeMap::new();
    for (name, amount) in amounts {
        if !is_device(name, added) {
            continue;
        }
        let amount = amount?;
        let row = Accelerator::of(name).filter(|_| !added.contains_key(name));
        match row.and_then(|row| row.family) {
            None => sum = sum.plus(&amount),
            Some(family) => {
                let largest = families.entry(family).or_insert(Quantity::ZERO);
                if amount > *largest {
                    *largest = amount;
                }
            }
        }
    }
    Ok(families.values().fold(sum, |sum, amount| sum.plus(amount)))
}

/// The kind of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Sidecar,
    Init,
}

/// A container with its resources.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(crate) name: Option<&'a str>,
    kind: Kind,
    resources: Resources<'a>,
}

impl<'a> Container<'a> {
    /// The word for its kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Container => "container",
            Kind::Sidecar => "sidecar",
            Kind::Init => "init",
        }
    }

    /// Returns the amount of one resource; `None` if there is none.
    pub(crate) fn amount(&self, section: Section, name: &str) -> Result<Option<Quantity>, String> {
        self.resources.amount(section, name)
    }

    /// Returns the amounts of all resources by name.
    pub(crate) fn amounts(&self, section: Section) -> BTreeMap<&'a str, Result<Quantity, String>> {
        self.resources.amounts(section, |_| true)
    }

    fn limit_or_request(&self, name: &str) -> Result<Option<Quantity>, String> {
        match self.amount(Section::Limits, name)? {
            None => self.amount(Section::Requests, name),
            limit => Ok(limit),
        }
    }
}

/// The resources of a pod's containers and of the pod as a whole.
#[derive(Debug, Default)]
pub(crate) struct Reserved<'a> {
    /// The containers, then the init containers, each in the order of the spec.
    containers: Vec<Container<'a>>,
    pod: Option<Resources<'a>>,
    overhead: Option<Listed<'a>>,
}

impl<'a> Reserved<'a> {
    pub(crate) fn of(pod: Node<'a>) -> Self {
        let mut reserved = Self::default();
        let Some(spec) = pod.get("spec") else {
            return reserved;
        };
        let status = pod.get("status");
        for (list, of_status) in [
            ("containers", "containerStatuses"),
            ("initContainers", "initContainerStatuses"),
        ] {
            let statuses = Statuses::of(status, of_status);
            let containers = spec.get(list);
            for (index, container) in containers.iter().flat_map(|it| it.items()).enumerate() {
                let name = container.get("name").and_then(Node::as_str);
                let holder = Holder {
                    part: "spec",
                    item: Some((list, index)),
                };
                let status = name.and_then(|name| statuses.get(name));
                reserved.containers.push(Container {
                    name,
                    kind: match list {
                        "containers" => Kind::Container,
                        _ if is_sidecar(container) => Kind::Sidecar,
                        _ => Kind::Init,
                    },
                    resources: Resources::of((holder, container), status),
                });
            }
        }
        let whole = |part| Holder { part, item: None };
        let status = status.map(|status| (whole("status"), status));
        reserved.pod = Some(Resources::of((whole("spec"), spec), status));
        let overhead = spec.get("overhead").filter(|it| it.is_object());
        reserved.overhead = overhead.map(|it| Listed::new(it, whole("spec"), "overhead"));
        reserved
    }

    pub(crate) fn containers(&self) -> &[Container<'a>] {
        &self.containers
    }

    /// Returns the container of any kind with this name.
    pub(crate) fn container(&self, name: &str) -> Option<&Container<'a>> {
        self.containers.iter().find(|it| it.name == Some(name))
    }

    /// Returns the total of one resource.
    pub(crate) fn total(&self, section: Section, name: &str) -> Result<Quantity, String> {
        let total = match self.of_pod(section, name)? {
            Some(total) => total,
            None => self.sum(|container| container.amount(section, name))?,
        };
        self.with_overhead(section, name, total)
    }

    /// Returns the total of the limit of each container, or of its request if it has no limit.
    pub(crate) fn limit_or_request(&self, name: &str) -> Result<Quantity, String> {
        let of_pod = match self.of_pod(Section::Limits, name)? {
            None => self.of_pod(Section::Requests, name)?,
            limit => limit,
        };
        let total = match of_pod {
            Some(total) => total,
            None => self.sum(|container| container.limit_or_request(name))?,
        };
        self.with_overhead(Section::Requests, name, total)
    }

    /// Returns the totals of all wanted resources by name.
    pub(crate) fn totals(
        &self,
        section: Section,
        wanted: impl Fn(&str) -> bool,
    ) -> BTreeMap<&'a str, Result<Quantity, String>> {
        let mut tallies: BTreeMap<&str, Result<Tally, String>> = BTreeMap::new();
        for container in &self.containers {
            for (name, amount) in container.resources.amounts(section, &wanted) {
                let tally = tallies.entry(name).or_insert_with(|| Ok(Tally::default()));
                match (&mut *tally, amount) {
                    (Ok(tally), Ok(amount)) => tally.add(container.kind, amount),
                    (Ok(_), Err(reason)) => *tally = Err(reason),
                    (Err(_), _) => {}
                }
            }
        }
        let names = self.overhead.into_iter().flat_map(|it| it.names());
        for name in names.filter(|name| wanted(name)) {
            tallies.entry(name).or_insert_with(|| Ok(Tally::default()));
        }
        let total = |name, tally: Result<Tally, String>| {
            tally.and_then(|tally| self.with_overhead(section, name, tally.total()))
        };
        let totals = tallies.into_iter();
        totals
            .map(|(name, tally)| (name, total(name, tally)))
            .collect()
    }

    /// Returns the number of GPUs: the sum of the totals of all resources that count accelerators. Of a family
    /// of resources, which offer the same silicon, the largest total counts. `added` are resources that the
    /// table does not have.
    pub(crate) fn gpus(&self, section: Section, added: &Added) -> Result<Quantity, String> {
        let is_device = |name: &str| is_device(name, added);
        device_count(self.totals(section, is_device), added)
    }

    /// Returns the amounts that are set for the whole pod, by name.
    pub(super) fn pod_amounts(
        &self,
        section: Section,
    ) -> BTreeMap<&'a str, Result<Quantity, String>> {
        let Some(pod) = &self.pod else {
            return BTreeMap::new();
        };
        pod.amounts(section, |name| {
            can_be_set(name) && pod.is_desired(section, name)
        })
    }

    /// Returns what is set for the whole pod.
    fn of_pod(&self, section: Section, name: &str) -> Result<Option<Quantity>, String> {
        match &self.pod {
            // Without it, the status of the pod states the sum of its containers.
            Some(pod) if can_be_set(name) && pod.is_desired(section, name) => {
                pod.amount(section, name)
            }
            _ => Ok(None),
        }
    }

    fn sum(
        &self,
        amount: impl Fn(&Container<'a>) -> Result<Option<Quantity>, String>,
    ) -> Result<Quantity, String> {
        let mut tally = Tally::default();
        for container in &self.containers {
            if let Some(amount) = amount(container)? {
                tally.add(container.kind, amount);
            }
        }
        Ok(tally.total())
    }

    fn with_overhead(
        &self,
        section: Section,
        name: &str,
        total: Quantity,
    ) -> Result<Quantity, String> {
        if section == Section::Limits && total == Quantity::ZERO {
            return Ok(total);
        }
        let overhead = match &self.overhead {
            Some(overhead) => overhead.get(name)?,
            None => None,
        };
        Ok(overhead.map_or(total.clone(), |overhead| total.plus(&overhead)))
    }
}

/// Adds up one resource over the containers of a pod, each list in order.
#[derive(Debug)]
struct Tally {
    /// All containers and sidecars.
    running: Quantity,
    /// The sidecars so far.
    sidecars: Quantity,
    /// The most that an init container and the sidecars before it need.
    peak: Quantity,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            running: Quantity::ZERO,
            sidecars: Quantity::ZERO,
            peak: Quantity::ZERO,
        }
    }
}

impl Tally {
    fn add(&mut self, kind: Kind, amount: Quantity) {
        match kind {
            Kind::Container => self.running = self.running.plus(&amount),
            Kind::Sidecar => {
                self.running = self.running.plus(&amount);
                self.sidecars = self.sidecars.plus(&amount);
            }
            Kind::Init => {
                let needed = self.sidecars.plus(&amount);
                if needed > self.peak {
                    self.peak = needed;
                }
            }
        }
    }

    fn total(self) -> Quantity {
        self.running.max(self.peak)
    }
}

/// The statuses of one list that state resources, sorted by the name of their container.
struct Statuses<'a>(Vec<(&'a str, Holder, Node<'a>)>);

impl<'a> Statuses<'a> {
    fn of(status: Option<Node<'a>>, list: &'static str) -> Self {
        let list_of = status.and_then(|it| it.get(list));
        let items = list_of.into_iter().flat_map(Node::items).enumerate();
        let states = |status: Node<'_>, key| status.get(key).is_some_and(Node::is_object);
        let mut statuses: Vec<_> = items
            .filter(|(_, it)| states(*it, "resources") || states(*it, "allocatedResources"))
            .filter_map(|(index, status)| {
                let holder = Holder {
                    part: "status",
                    item: Some((list, index)),
                };
                Some((status.get("name")?.as_str()?, holder, status))
            })
            .collect();
        statuses.sort_by_key(|(name, ..)| *name);
        Self(statuses)
    }

    fn get(&self, name: &str) -> Option<(Holder, Node<'a>)> {
        let behind = self.0.partition_point(|(it, ..)| *it <= name);
        let (found, holder, status) = self.0.get(behind.checked_sub(1)?)?;
        (*found == name).then_some((*holder, *status))
    }
}

/// Whether a pod can set an amount of this resource for all of its containers together.
fn can_be_set(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn is_sidecar(container: Node<'_>) -> bool {
    container.get("restartPolicy").and_then(Node::as_str) == Some("Always")
}
