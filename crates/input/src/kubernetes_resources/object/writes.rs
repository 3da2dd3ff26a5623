//! Reads from its managed fields when an object was last written.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};

use crate::kubernetes_resources::lifetime::{Writes, seconds};

/// One entry of `metadata.managedFields`: who wrote which fields when.
#[derive(Debug, Deserialize)]
pub(super) struct ManagedFields<'a> {
    #[serde(default, borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    subresource: Option<Cow<'a, str>>,
    #[serde(default, rename = "fieldsV1")]
    fields: Option<Fields>,
}

impl ManagedFields<'_> {
    fn is_status(&self) -> bool {
        self.subresource.as_deref() == Some("status")
    }

    fn has(&self, part: fn(&Fields) -> bool) -> bool {
        self.fields.as_ref().is_some_and(part)
    }
}

#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(default, rename = "f:metadata")]
    metadata: Option<IgnoredAny>,
    #[serde(default, rename = "f:spec")]
    spec: Option<SpecFields>,
    #[serde(default, rename = "f:status")]
    status: Option<StatusFields>,
}

#[derive(Debug, Deserialize)]
struct SpecFields {
    #[serde(default, rename = "f:type")]
    of_type: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct StatusFields {
    #[serde(default, rename = "f:phase")]
    phase: Option<IgnoredAny>,
    #[serde(default, rename = "f:containerStatuses")]
    containers: Option<IgnoredAny>,
    #[serde(default, rename = "f:initContainerStatuses")]
    init_containers: Option<IgnoredAny>,
    #[serde(default, rename = "f:allocation")]
    allocation: Option<IgnoredAny>,
}

impl StatusFields {
    fn says_what_runs(&self) -> bool {
        self.phase.is_some() || self.containers.is_some() || self.init_containers.is_some()
    }
}

/// Returns when the parts of an object were written, by the last write of each writer. The kubelet's writes to a pod's
/// status say nothing about when a billed field changed.
pub(super) fn last_writes(entries: &[ManagedFields<'_>]) -> Writes {
    fn times(
        entries: &[ManagedFields<'_>],
        of: impl Fn(&ManagedFields<'_>) -> bool,
    ) -> impl Iterator<Item = i64> {
        let entries = entries.iter().filter(move |entry| of(entry));
        entries.filter_map(|entry| seconds(entry.time.as_deref()?))
    }
    let newest = |of: fn(&ManagedFields<'_>) -> bool| times(entries, of).max();
    let of_spec = |is_type: bool| {
        let of = move |entry: &ManagedFields<'_>| {
            let spec = entry.fields.as_ref().and_then(|it| it.spec.as_ref());
            !entry.is_status() && spec.is_some_and(|it| it.of_type.is_some() == is_type)
        };
        times(entries, of).min()
    };
    Writes {
        content: newest(|entry| {
            !entry.is_status() && entry.has(|it| it.metadata.is_some() || it.spec.is_some())
        }),
        spec: newest(|entry| !entry.is_status() && entry.has(|it| it.spec.is_some())),
        typed: of_spec(true),
        untyped: of_spec(false),
        status: newest(|entry| entry.is_status() && entry.has(|it| it.status.is_some())),
        allocation: newest(|entry| {
            entry.has(|it| it.status.as_ref().is_some_and(|it| it.allocation.is_some()))
        }),
        phase: newest(|entry| {
            let says_what_runs =
                |it: &Fields| it.status.as_ref().is_some_and(StatusFields::says_what_runs);
            entry.is_status() && entry.has(says_what_runs)
        }),
    }
}
