//! Reads from its managed fields when an object was last written.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};

use crate::kubernetes_resources::lifetime::seconds;

/// When parts of an object were last written, as far as the server recorded it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Writes {
    /// Metadata or spec.
    pub(super) content: Option<i64>,
    /// The status.
    pub(super) status: Option<i64>,
    /// The phase of a pod or the statuses of its containers, by whoever wrote them last.
    pub(super) containers: Option<i64>,
}

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
    spec: Option<IgnoredAny>,
    #[serde(default, rename = "f:status")]
    status: Option<StatusFields>,
}

#[derive(Debug, Deserialize)]
struct StatusFields {
    #[serde(default, rename = "f:phase")]
    phase: Option<IgnoredAny>,
    #[serde(default, rename = "f:containerStatuses")]
    containers: Option<IgnoredAny>,
    #[serde(default, rename = "f:initContainerStatuses")]
    init_containers: Option<IgnoredAny>,
}

impl StatusFields {
    fn says_what_runs(&self) -> bool {
        self.phase.is_some() || self.containers.is_some() || self.init_containers.is_some()
    }
}

/// Returns the newest times at which metadata or spec, the status, and what it says of containers were written. The
/// kubelet's writes to a pod's status say nothing about when a billed field changed.
pub(super) fn newest_writes(entries: &[ManagedFields<'_>]) -> Writes {
    let newest = |of: fn(&ManagedFields<'_>) -> bool| {
        entries
            .iter()
            .filter(|entry| of(entry))
            .filter_map(|entry| seconds(entry.time.as_deref()?))
            .max()
    };
    Writes {
        content: newest(|entry| {
            !entry.is_status() && entry.has(|it| it.metadata.is_some() || it.spec.is_some())
        }),
        status: newest(|entry| entry.is_status() && entry.has(|it| it.status.is_some())),
        containers: newest(|entry| {
            let says_what_runs =
                |it: &Fields| it.status.as_ref().is_some_and(StatusFields::says_what_runs);
            entry.is_status() && entry.has(says_what_runs)
        }),
    }
}
