//! What is kept of objects: what the pipeline reads, within a bound.
//!
//! A tenant decides how much there is of what is read by the start of its key, or because everything is
//! read. Beyond the bound ([`MOST_BYTES`]) the largest of these values are left out. What is read by its
//! name is never left out, nor what an object reserves.

use std::sync::Arc;

use meterline_core::{Document, Limits, Reads};

use crate::kubernetes_resources::{lifetime, resource_type::ResourceType};

/// The most bytes that are kept of one object: of what is billed, of which a change starts a new segment,
/// and of the rest, such as a pod's status. Each has a bound of its own, so that a change of the one
/// never changes what is left out of the other.
pub(crate) const MOST_BYTES: [usize; 2] = [192 << 10, 64 << 10];

/// What of objects is billed, and of a pod no status.
const BILLED: &[&str] = &["metadata.labels", "metadata.annotations", "spec"];
const BILLED_STATUS: &[&str] = &["status.capacity", "status.allocatable", "status.phase"];

/// What metrics are made from, however a mapping comes to it.
const MEASURED: &[&str] = &[
    "metadata.uid",
    "spec.capacity",
    "spec.containers.*.resources",
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

/// What is kept of objects of one type: what the pipeline reads, and by what an object is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Projection {
    /// What is kept.
    pub(crate) kept: Reads,
    /// What is seen when an object comes.
    pub(crate) seen: Reads,
    /// What is never left out.
    needed: Reads,
    /// What of an object is billed.
    billed: Reads,
    /// What of that is no label.
    pub(crate) billed_by: Reads,
}

impl Projection {
    /// For a pipeline that reads this of each object.
    pub(crate) fn of(reads: &Reads, resource_type: ResourceType) -> Self {
        let mut kept = reads.clone();
        kept.join(&Reads::of(&[
            "metadata.name",
            "metadata.namespace",
            "metadata.resourceVersion",
        ]));
        if resource_type == ResourceType::Pod {
            // That there are containers tells a pod from anything else.
            kept.join(&Reads::of(&["spec.containers.*~"]));
        }
        let mut seen = kept.clone();
        seen.join(&Reads::of(&["metadata.uid"]));
        seen.join(&Reads::of(lifetime::READS));
        let billed_by = kept.named();
        let mut needed = billed_by.clone();
        needed.join(&Reads::of(MEASURED));
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
        }
    }

    /// Everything.
    pub(crate) fn everything() -> Self {
        Self::of(&Reads::All, ResourceType::Pod)
    }

    /// The values that are read by name, without those of which it counts only that they are there.
    pub(crate) fn values(&self) -> Reads {
        let paths = self.kept.named().paths();
        let values = paths.iter().filter(|it| !it.ends_with('~'));
        Reads::of(&values.map(String::as_str).collect::<Vec<_>>())
    }

    /// What is kept of this, and of how many values that is not all for there is too much.
    pub(crate) fn keep(&self, document: &Document) -> (Document, usize) {
        let limits = Limits {
            first: &self.billed,
            bytes: MOST_BYTES,
        };
        document.project(&self.kept).within(limits, &self.needed)
    }
}

tokio::task_local! {
    /// What the task that reads from the API server keeps of objects. `kube` parses them by itself, so
    /// it cannot be handed this.
    pub(crate) static PROJECTION: Arc<Projection>;
}

/// Parses objects by this projection while `work` runs.
pub(crate) async fn keeping<T>(projection: Arc<Projection>, work: impl Future<Output = T>) -> T {
    PROJECTION.scope(projection, work).await
}
