//! The projection of objects: the fields that the pipeline reads, within a budget.
//!
//! A tenant decides the size of values that the pipeline reads by a prefix of their key, or because it reads
//! everything. Beyond the budget ([`MOST_BYTES`]) the largest of these values are left out. Values that are read
//! by name are never left out, nor what an object reserves.

use std::sync::Arc;

use meterline_core::{Document, Limits, Node, Parts, Reads, Step};
use meterline_script::{LOOKUP, NODE_READY, Relation, SliceReads, granted};

use super::{
    metadata::metadata,
    owner::{self, Owner},
};
use crate::kubernetes_resources::{lifetime, resource_type::ResourceType};

/// How many bytes of one object are kept: of the billed fields, whose changes start a new segment, and of the
/// rest, such as a pod's status. Each part has its own budget, so that a change of the one never changes what is
/// left out of the other.
pub(crate) const MOST_BYTES: [usize; 2] = [192 << 10, 64 << 10];
/// The same of a controller. Each of its pods has its metadata, and tenants write them.
const MOST_BYTES_OF_CONTROLLERS: [usize; 2] = [32 << 10, 32 << 10];

/// The billed fields; for pods without the status.
const BILLED: &[&str] = &["metadata.labels", "metadata.annotations", "spec"];

/// The fields of the status of other objects whose changes start a new segment.
pub(super) const BILLED_STATUS: [&str; 7] = [
    "allocatable",
    "allocation",
    "capacity",
    "currentVolumeAttributesClassName",
    "loadBalancer",
    "phase",
    "restoreSize",
];

/// The fields that metrics are made from, however a mapping reads them.
const MEASURED: &[&str] = &[
    "metadata.uid",
    "spec.capacity",
    "spec.claimRef",
    "spec.containers.*.name",
    "spec.containers.*.resources",
    "spec.initContainers.*.name",
    "spec.initContainers.*.resources",
    "spec.initContainers.*.restartPolicy",
    "spec.loadBalancerClass",
    "spec.nodeName",
    "spec.overhead",
    "spec.resources",
    "spec.providerID",
    "spec.storageClassName",
    "spec.type",
    "spec.volumeName",
    "status.allocatable",
    "status.capacity",
    "status.currentVolumeAttributesClassName",
    "status.loadBalancer.ingress.*~",
    "status.phase",
    "status.readyToUse",
    "status.restoreSize",
];

/// A table that the pipeline looks values up in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedTable {
    /// Its name, or `table:` and its path.
    pub(crate) name: Arc<str>,
    /// The places of the keys in objects; see [`meterline_script::key_at`].
    pub(crate) places: Vec<Box<str>>,
}

/// What is kept of objects of one type: what the pipeline reads, and the identity of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Projection {
    /// What is kept.
    pub(crate) kept: Reads,
    /// What of it the pipeline reads. An object that was kept by an earlier configuration has to have this.
    pub(crate) read: Reads,
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
    /// What is read of the metadata of a node by `node()`, if the objects are nodes: it is their own.
    own: Option<Reads>,
    /// What is read of `owner()`.
    owner: Option<Reads>,
    /// How many bytes of one object are kept; see [`MOST_BYTES`].
    most_bytes: [usize; 2],
    /// Whether contents say whether the node is ready.
    pub(super) has_readiness: bool,
    /// The tables in which values are looked up.
    pub(crate) tables: Vec<WantedTable>,
    /// What is read of the devices of claims, if the objects are claims.
    pub(crate) slices: Option<SliceReads>,
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
        let mut related = related(reads);
        let own = match resource_type {
            ResourceType::Node => take(&mut related, Relation::Node),
            _ => None,
        };
        let owner = owner_reads(&mut related, resource_type);
        for (relation, _) in &related {
            kept.join(&Reads::of(name_of(*relation, resource_type)));
        }
        let mut seen = kept.clone();
        if let Some(own) = &own {
            seen.add_all(&[Step::Key("metadata")], own);
        }
        if owner.is_some() {
            seen.join(&Reads::of(owner::READS));
        }
        seen.join(&Reads::of(&["metadata.uid"]));
        seen.join(&Reads::of(lifetime::READS));
        let mut billed_by = kept.named();
        let mut needed = billed_by.clone();
        needed.join(&Reads::of(MEASURED));
        needed.join(&Reads::of(&granted()));
        if let Reads::Parts(parts) = &mut billed_by {
            // Tenants write it, and a change of one controller concerns all of its pods: it is a label.
            parts.keys.remove(Relation::Owner.key());
        }
        let mut billed = Reads::of(BILLED);
        if resource_type != ResourceType::Pod {
            for key in BILLED_STATUS {
                billed.add(&[Step::Key("status"), Step::Key(key)]);
            }
        }
        Self {
            read: kept.clone(),
            kept,
            seen,
            needed,
            billed,
            billed_by,
            has_billed_status: resource_type != ResourceType::Pod,
            related,
            own,
            owner,
            most_bytes: if resource_type.is_controller() {
                MOST_BYTES_OF_CONTROLLERS
            } else {
                MOST_BYTES
            },
            has_readiness: resource_type == ResourceType::Node && reads_readiness(reads),
            tables: tables(reads),
            slices: SliceReads::of(reads).filter(|_| resource_type == ResourceType::ResourceClaim),
        }
    }

    /// The same with a part that is kept although the pipeline does not read it.
    pub(crate) fn keeping(mut self, more: &Reads) -> Self {
        for reads in [&mut self.kept, &mut self.seen, &mut self.needed] {
            reads.join(more);
        }
        self
    }

    /// For objects whose metadata belongs to what is billed, and of which this is read.
    pub(crate) fn of_related(reads: &Reads, resource_type: ResourceType) -> Self {
        let mut metadata = Reads::default();
        match reads {
            Reads::All => metadata = Reads::of(&["metadata.labels", "metadata.annotations"]),
            Reads::Parts(_) => metadata.add_all(&[Step::Key("metadata")], reads),
        }
        Self {
            has_billed_status: false,
            ..Self::of(&metadata, resource_type)
        }
    }

    /// For slices, of whose devices this is read. Names of attributes may have the domain of the driver.
    pub(crate) fn of_slices(reads: &SliceReads) -> Self {
        let mut parts = Reads::of(&[
            "spec.devices.*.allowMultipleAllocations",
            "spec.devices.*.capacity",
            "spec.devices.*.name",
            "spec.driver",
            "spec.pool.generation",
            "spec.pool.name",
        ]);
        for (driver, attributes) in &reads.attributes {
            for attribute in attributes {
                for name in [attribute.clone(), format!("{driver}/{attribute}")] {
                    let path = ["spec", "devices", "*", "attributes", &name, "string"];
                    parts.add(&path.map(|it| match it {
                        "*" => Step::Item,
                        key => Step::Key(key),
                    }));
                }
            }
        }
        Self {
            has_billed_status: false,
            ..Self::of(&parts, ResourceType::ResourceSlice)
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

    /// Returns what `node()` is of a node.
    pub(super) fn own(&self, node: &Document) -> Option<Document> {
        let reads = self.own.as_ref()?;
        let name = node.root().path(&["metadata", "name"]);
        let name = name.and_then(Node::as_str).unwrap_or_default();
        Some(metadata(name, node.root()).project(reads))
    }

    /// Returns what `owner()` is of an object without the metadata of the controller, and by which these are found if
    /// they are read.
    pub(super) fn owner(&self, object: Node<'_>) -> Option<(Document, Option<Document>)> {
        let reads = self.owner.as_ref()?;
        let owner = Owner::of(object)?;
        let namespace = object.path(&["metadata", "namespace"]);
        let namespace = namespace.and_then(Node::as_str).unwrap_or_default();
        let is_wanted = self.related.iter().any(|(it, _)| *it == Relation::Owner);
        let key = is_wanted.then(|| owner.key(namespace)).flatten();
        let key = key.map(|it| Document::from(&serde_json::Value::from(it)));
        Some((owner.document().project(reads), key))
    }

    /// Returns what is kept of this document, and how many values are left out because it exceeds its budget.
    pub(crate) fn keep(&self, document: &Document) -> (Document, usize) {
        let limits = Limits {
            first: &self.billed,
            bytes: self.most_bytes,
        };
        document.project(&self.kept).within(limits, &self.needed)
    }
}

/// Removes what is read of the metadata of one kind of other objects.
fn take(related: &mut Vec<(Relation, Reads)>, relation: Relation) -> Option<Reads> {
    let place = related.iter().position(|(it, _)| *it == relation)?;
    Some(related.remove(place).1)
}

/// Returns what is read of `owner()`. Of that only metadata of the controllers of pods has to be watched.
fn owner_reads(related: &mut Vec<(Relation, Reads)>, resource_type: ResourceType) -> Option<Reads> {
    let reads = take(related, Relation::Owner)?;
    let metadata = owner::metadata_reads(&reads);
    if resource_type == ResourceType::Pod && !metadata.is_nothing() {
        related.push((Relation::Owner, metadata));
    }
    Some(reads)
}

/// The paths of the name of another object, beside the namespace of the object itself.
fn name_of(relation: Relation, resource_type: ResourceType) -> &'static [&'static str] {
    match (relation, resource_type) {
        (Relation::Node, _) => &["spec.nodeName"],
        (Relation::Owner, _) => &[owner::KEY],
        // The namespace of the claim that a volume has or had.
        (Relation::Namespace, ResourceType::PersistentVolume) => &["spec.claimRef.namespace"],
        (Relation::Namespace, _) => &[],
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

/// Whether mappings call `node_ready()`. A pipeline that reads everything of an object reads of what no object has only
/// what it names.
fn reads_readiness(reads: &Reads) -> bool {
    matches!(reads, Reads::Parts(parts) if parts.keys.contains_key(NODE_READY))
}

/// The tables in which values are looked up, with the places of the keys.
fn tables(reads: &Reads) -> Vec<WantedTable> {
    fn keys(reads: &Reads) -> impl Iterator<Item = (&String, &Reads)> {
        let parts = match reads {
            Reads::Parts(parts) => Some(&parts.keys),
            Reads::All => None,
        };
        parts.into_iter().flatten()
    }
    let lookups = keys(reads).filter(|(key, _)| *key == LOOKUP);
    let tables = lookups.flat_map(|(_, tables)| keys(tables));
    let wanted = tables.map(|(name, places)| WantedTable {
        name: name.as_str().into(),
        places: keys(places).map(|(it, _)| it.as_str().into()).collect(),
    });
    wanted.collect()
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
