//! The projection of objects: the fields that the pipeline reads, within a budget.
//!
//! A tenant decides the size of values that the pipeline reads by a prefix of their key, or because it reads
//! everything. Beyond the budget ([`MOST_BYTES`]) the largest of these values are left out. Values that are read
//! by name are never left out, nor what an object reserves.

use std::sync::Arc;

use meterline_core::{Document, Limits, Parts, Reads};
use meterline_script::{Relation, granted};

use crate::kubernetes_resources::{lifetime, resource_type::ResourceType};

/// How many bytes of one object are kept: of the billed fields, whose changes start a new segment, and of the
/// rest, such as a pod's status. Each part has its own budget, so that a change of the one never changes what is
/// left out of the other.
pub(crate) const MOST_BYTES: [usize; 2] = [192 << 10, 64 << 10];

/// The billed fields; for pods without the status.
const BILLED: &[&str] = &["metadata.labels", "metadata.annotations", "spec"];
const BILLED_STATUS: &[&str] = &["status.capacity", "status.allocatable", "status.phase"];

/// The fields that metrics are made from, however a mapping reads them.
const MEASURED: &[&str] = &[
    "metadata.uid",
    "spec.capacity",
    "spec.containers.*.name",
    "spec.containers.*.resources",
    "spec.initContainers.*.name",
    "spec.initContainers.*.resources",
    "spec.initContainers.*.restartPolicy",
    "spec.nodeName",
    "spec.overhead",
    "spec.resources",
    "spec.storageClassName",
    "status.allocatable",
    "status.capacity",
    "status.phase",
];

/// What is kept of objects of one type: what the pipeline reads, and the identity of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Projection {
    /// What is kept.
    pub(crate) kept: Reads,
    /// What is parsed when an object arrives.
    pub(crate) seen: Reads,
    /// What is never left out.
    needed: Reads,
    /// The billed fields.
    billed: Reads,
    /// The fields that determine the bill.
    pub(crate) billed_by: Reads,
    /// Whether a write to the status counts as a change of what is billed.
    pub(crate) has_billed_status: bool,
    /// What is read of the metadata of other objects.
    pub(crate) related: Vec<(Relation, Reads)>,
}

impl Projection {
    /// For a pipeline that reads these fields of each object.
    pub(crate) fn of(reads: &Reads, resource_type: ResourceType) -> Self {
        let mut kept = reads.clone();
        kept.join(&Reads::of(&[
            "metadata.name",
            "metadata.namespace",
            "metadata.resourceVersion",
        ]));
        if resource_type == ResourceType::Pod {
            // Only pods have containers.
            kept.join(&Reads::of(&["spec.containers.*~"]));
        }
        let related = related(reads);
        if related
            .iter()
            .any(|(relation, _)| *relation == Relation::Node)
        {
            kept.join(&Reads::of(&["spec.nodeName"]));
        }
        let mut seen = kept.clone();
        seen.join(&Reads::of(&["metadata.uid"]));
        seen.join(&Reads::of(lifetime::READS));
        let billed_by = kept.named();
        let mut needed = billed_by.clone();
        needed.join(&Reads::of(MEASURED));
        needed.join(&Reads::of(&granted()));
        let mut billed = Reads::of(BILLED);
        if resource_type != ResourceType::Pod {
            billed.join(&Reads::of(BILLED_STATUS));
        }
        Self {
            kept,
            seen,
            needed,
            billed,
            billed_by,
            has_billed_status: resource_type != ResourceType::Pod,
            related,
        }
    }

    /// For objects whose metadata belongs to what is billed, and of which this is read.
    pub(crate) fn of_related(reads: &Reads, resource_type: ResourceType) -> Self {
        let mut metadata = Reads::default();
        match reads {
            Reads::All => metadata = Reads::of(&["metadata.labels", "metadata.annotations"]),
            Reads::Parts(_) => metadata.add_all(&[meterline_core::Step::Key("metadata")], reads),
        }
        Self {
            has_billed_status: false,
            ..Self::of(&metadata, resource_type)
        }
    }

    /// Everything.
    pub(crate) fn everything() -> Self {
        Self::of(&Reads::All, ResourceType::Pod)
    }

    /// Returns the values that are read by name, without fields of which only the presence is read.
    pub(crate) fn values(&self) -> Reads {
        let paths = self.kept.named().paths();
        let values = paths.iter().filter(|it| !it.ends_with('~'));
        Reads::of(&values.map(String::as_str).collect::<Vec<_>>())
    }

    /// Returns what is kept of this document, and how many values are left out because it exceeds its budget.
    pub(crate) fn keep(&self, document: &Document) -> (Document, usize) {
        let limits = Limits {
            first: &self.billed,
            bytes: MOST_BYTES,
        };
        document.project(&self.kept).within(limits, &self.needed)
    }
}

/// What is read of the metadata of other objects. A pipeline that reads everything of an object reads only what it
/// names of others.
fn related(reads: &Reads) -> Vec<(Relation, Reads)> {
    let Reads::Parts(Parts { keys, .. }) = reads else {
        return Vec::new();
    };
    let of = |relation: Relation| Some((relation, keys.get(relation.key())?.clone()));
    Relation::ALL.into_iter().filter_map(of).collect()
}

tokio::task_local! {
    /// The projection of the task that reads from the API server. `kube` parses objects by itself and takes no
    /// arguments for it.
    pub(crate) static PROJECTION: Arc<Projection>;
}

/// Parses objects by this projection while `work` runs.
pub(crate) async fn keeping<T>(projection: Arc<Projection>, work: impl Future<Output = T>) -> T {
    PROJECTION.scope(projection, work).await
}
