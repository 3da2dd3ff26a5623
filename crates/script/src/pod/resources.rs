//! The resources of a container, or of a pod as a whole, of which its spec and its status speak.
//!
//! Since Kubernetes 1.33 the resources of a running container can be changed. The spec then says what
//! somebody wants. In the status, `allocatedResources` says what the node granted, and `resources` what
//! the runtime really applied. Others cannot use the larger of these two, and that is the amount here: a
//! wish that was not granted costs nothing, and a reduction counts when the runtime has applied it.

use std::collections::{BTreeMap, BTreeSet};

use meterline_core::Node;

use super::amount::{Amounts, Holder, Indexed, Listed, Search};
use crate::{accelerators::is_extended, quantity::Quantity};

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

    /// The path of the section in a container.
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "resources.requests",
            Self::Limits => "resources.limits",
        }
    }
}

/// What spec and status say of a container, or of the pod as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resources<'a> {
    spec: Holder,
    desired: Option<Node<'a>>,
    status: Holder,
    allocated: Option<Node<'a>>,
    actual: Option<Node<'a>>,
}

impl<'a> Resources<'a> {
    /// From an object of the spec, and the object of the status that belongs to it.
    pub(super) fn of(spec: (Holder, Node<'a>), status: Option<(Holder, Node<'a>)>) -> Self {
        let field = |of: Node<'a>, key| of.get(key).filter(|it| it.is_object());
        Self {
            spec: spec.0,
            desired: field(spec.1, "resources"),
            status: status.map_or(spec.0, |(holder, _)| holder),
            allocated: status.and_then(|(_, node)| field(node, "allocatedResources")),
            actual: status.and_then(|(_, node)| field(node, "resources")),
        }
    }

    /// Whether the spec has an amount of a resource.
    pub(super) fn is_desired(&self, section: Section, name: &str) -> bool {
        let desired = self.desired.and_then(|it| it.get(section.key()));
        let desired = desired.and_then(|it| it.get(name));
        desired.is_some_and(|value| !value.is_null())
    }

    /// Returns the amount of one resource; `None` if there is none.
    pub(super) fn amount(&self, section: Section, name: &str) -> Result<Option<Quantity>, String> {
        self.stated(section).amount(name)
    }

    /// Returns the amounts of all wanted resources by name.
    pub(super) fn amounts(
        &self,
        section: Section,
        wanted: impl Fn(&str) -> bool,
    ) -> BTreeMap<&'a str, Result<Quantity, String>> {
        let stated = self.stated(section);
        let names: BTreeSet<_> = stated.names().filter(|name| wanted(name)).collect();
        if names.is_empty() {
            return BTreeMap::new();
        }
        // An index, because a pod can have twenty thousand resource names.
        let stated = stated.indexed();
        let amount = |name| Some((name, stated.amount(name).transpose()?));
        names.into_iter().filter_map(amount).collect()
    }

    /// Finds what states the amounts of a section.
    fn stated(&self, section: Section) -> Stated<Listed<'a>> {
        let list = |holder, resources: Option<Node<'a>>, section: Section| {
            let values = resources?.get(section.key()).filter(|it| it.is_object())?;
            Some(Listed::new(values, holder, section.field()))
        };
        let actual = list(self.status, self.actual, section);
        let desired = list(self.spec, self.desired, section);
        match section {
            Section::Requests => {
                let new = |it| Listed::new(it, self.status, "allocatedResources");
                // The API server sets the request of each container that has a limit. A status with
                // limits and without requests is not complete.
                let has_limits = self.actual.and_then(|it| it.get("limits")).is_some();
                let is_complete = self.actual.is_some() && !has_limits;
                Stated {
                    allocated: self.allocated.map(new),
                    actual,
                    desired,
                    limits: list(self.spec, self.desired, Section::Limits),
                    is_decided: self.allocated.is_some() || actual.is_some() || is_complete,
                }
            }
            Section::Limits => Stated {
                allocated: None,
                actual,
                desired,
                limits: None,
                is_decided: self.actual.is_some(),
            },
        }
    }
}

/// What states the amounts of one section.
struct Stated<T> {
    allocated: Option<T>,
    actual: Option<T>,
    desired: Option<T>,
    /// The desired limits, where they stand for requests that are missing.
    limits: Option<T>,
    /// Whether the status states all amounts that a resize can change.
    is_decided: bool,
}

impl<T: Search> Stated<Amounts<T>> {
    fn amount(&self, name: &str) -> Result<Option<Quantity>, String> {
        let of = |amounts: &Option<Amounts<T>>| match amounts {
            Some(amounts) => amounts.get(name),
            None => Ok(None),
        };
        let granted = of(&self.allocated)?.max(of(&self.actual)?);
        if granted.is_some() || (self.is_decided && can_be_resized(name)) {
            return Ok(granted);
        }
        match of(&self.desired)? {
            // For devices the API server uses the limit as the request.
            None if is_extended(name) => of(&self.limits),
            desired => Ok(desired),
        }
    }
}

impl<'a> Stated<Listed<'a>> {
    /// Returns the names of all resources that may have an amount.
    fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let of = |amounts: Option<Listed<'a>>| amounts.into_iter().flat_map(|it| it.names());
        let devices = of(self.limits).filter(|name| is_extended(name));
        of(self.allocated)
            .chain(of(self.actual))
            .chain(of(self.desired))
            .chain(devices)
    }

    fn indexed(&self) -> Stated<Indexed<'a>> {
        let of = |amounts: Option<Listed<'a>>| amounts.map(|it| it.indexed());
        Stated {
            allocated: of(self.allocated),
            actual: of(self.actual),
            desired: of(self.desired),
            limits: of(self.limits),
            is_decided: self.is_decided,
        }
    }
}

/// Whether a resize can change the amount of a resource. The spec of all others never changes, so it holds
/// where a status does not list them.
fn can_be_resized(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}
