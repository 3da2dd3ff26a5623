//! What the ledger keeps of an object.

use std::{cmp::Ordering, sync::Arc};

use meterline_core::{Document, Node, Reads, Scalar};
use meterline_script::{CLAIM_DEVICES, LOOKUP, NODE_READY, Relation, compare_reserved};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use super::{
    owner,
    projection::{BILLED_STATUS, Projection},
    readiness::Readiness,
};

/// The billed content of an object: equal contents are one segment. Clones share the document.
#[derive(Debug, Clone)]
pub(crate) struct BilledObject {
    /// What is kept of the object.
    pub(crate) document: Document,
    /// How many values were left out because the object exceeds its budget.
    pub(crate) cut: usize,
    /// Whether the node had not granted a resize when the object was observed before.
    pub(crate) was_pending: bool,
    /// Whether the node is ready, if it was observed just now and the pipeline reads it.
    readiness: Option<Box<Readiness>>,
    /// What the pipeline read when the object was kept, if the pipeline reads more now: the rest is missing.
    kept_for: Option<Arc<Reads>>,
}

impl From<Document> for BilledObject {
    fn from(document: Document) -> Self {
        Self {
            document,
            cut: 0,
            was_pending: false,
            readiness: None,
            kept_for: None,
        }
    }
}

impl BilledObject {
    /// Keeps the part of an object that the projection selects.
    pub(crate) fn of(seen: &Document, projection: &Projection) -> Self {
        let (document, cut) = projection.keep(seen);
        let mut content = Self {
            document,
            cut,
            was_pending: false,
            readiness: projection
                .has_readiness
                .then(|| Box::new(Readiness::of(seen.root()))),
            kept_for: None,
        };
        if let Some((owner, key)) = projection.owner(seen.root()) {
            content = content.with_field(Relation::Owner.key(), Some(owner.root()));
            content = content.with_field(owner::KEY, key.as_ref().map(Document::root));
        }
        let content = match content.readiness.as_deref() {
            Some(readiness) => content.with_readiness(readiness.is_ready),
            None => content,
        };
        match projection.own(seen) {
            Some(own) => content.with_related(Relation::Node, Some(own.root())),
            None => content,
        }
    }

    fn with_readiness(&self, is_ready: bool) -> Self {
        self.with_field(NODE_READY, Some(Readiness::field(is_ready).root()))
    }

    /// Whether the node is ready, if that is kept.
    fn is_ready(&self) -> Option<bool> {
        match self.document.root().get(NODE_READY)?.scalar()? {
            Scalar::Bool(is_ready) => Some(is_ready),
            _ => None,
        }
    }

    /// Adapts a content that was kept for `kept_for` to what the pipeline reads now. Returns whether that changed
    /// it.
    pub(crate) fn adapt(&mut self, kept_for: &Arc<Reads>, projection: &Projection) -> bool {
        let before = self.kept_for.take();
        let kept_for = before.as_ref().unwrap_or(kept_for);
        // A content that was cut has everything that was read by name then, and nothing else for sure.
        let is_whole = self.cut == 0 || kept_for.named().covers(&projection.values());
        if is_whole && kept_for.covers(&projection.read) {
            let (document, cut) = projection.keep(&self.document);
            let is_changed = before.is_some() || document != self.document;
            self.document = document;
            self.cut = self.cut.saturating_add(cut);
            return is_changed;
        }
        let is_changed = before.is_none();
        self.kept_for = Some(Arc::clone(kept_for));
        is_changed
    }

    /// Returns the part that determines the bill: the fields that are read by name. All other fields are labels.
    /// `None` if the pipeline reads everything, because then nothing distinguishes the two.
    pub(crate) fn bill(&self, projection: &Projection) -> Option<Self> {
        (!projection.kept.is_all()).then(|| Self {
            document: self.document.project(&projection.billed_by),
            ..self.clone()
        })
    }

    /// Compares what two states of a pod reserve; other objects have no such state.
    fn reserved(&self, other: &Self) -> Option<Ordering> {
        let (one, other) = (self.document.root(), other.document.root());
        fn granted(pod: Node<'_>) -> [Option<&[u8]>; 4] {
            GRANTED_BY.map(|key| pod.path(&["status", key]).map(Node::raw))
        }
        if !is_pod(one) || granted(one) == granted(other) {
            return Some(Ordering::Equal);
        }
        compare_reserved(one, other)
    }

    /// The metadata of another object that it has, without what it has of the other object by itself.
    pub(crate) fn metadata_of(&self, relation: Relation) -> Option<Document> {
        let related = self.related(relation)?;
        match relation {
            Relation::Owner => owner::metadata(related),
            Relation::Namespace | Relation::Node => Some(related.to_document()),
        }
    }

    /// What it has of another object.
    pub(crate) fn related(&self, relation: Relation) -> Option<Node<'_>> {
        self.document.root().get(relation.key())
    }

    /// The name of another object, if it is related to one.
    pub(crate) fn name_of(&self, relation: Relation) -> Option<&str> {
        let paths: &[&[&str]] = match relation {
            // A volume is in no namespace, but its claim is or was in one.
            Relation::Namespace => &[
                &["metadata", "namespace"],
                &["spec", "claimRef", "namespace"],
            ],
            Relation::Node => &[&["spec", "nodeName"]],
            Relation::Owner => &[&[owner::KEY]],
        };
        let root = self.document.root();
        let mut names = paths.iter().filter_map(|path| root.path(path)?.as_str());
        names.find(|it| !it.is_empty())
    }

    /// Returns it with this metadata of another object, or without any.
    pub(crate) fn with_related(&self, relation: Relation, metadata: Option<Node<'_>>) -> Self {
        match metadata {
            Some(metadata) if relation == Relation::Owner => {
                let owner = owner::with_metadata(self.related(relation), metadata);
                self.with_field(relation.key(), Some(owner.root()))
            }
            metadata => self.with_field(relation.key(), metadata),
        }
    }

    /// Returns it with this field in addition to those of the object, or without it.
    pub(crate) fn with_field(&self, key: &str, value: Option<Node<'_>>) -> Self {
        Self {
            document: self.document.with_field(key, value),
            ..self.clone()
        }
    }

    /// Returns why it cannot be billed, if it cannot.
    pub(crate) fn is_missing(&self) -> Option<String> {
        let kept_for = self.kept_for.as_deref()?;
        Some(format!(
            "this object was kept by an earlier configuration, which read other \
             fields ({kept_for}), and the object went or changed before this one saw it; to bill \
             this time start once with that configuration"
        ))
    }
}

impl PartialEq for BilledObject {
    /// Compares labels, annotations and spec, by which mappings bill. A pod's status changes all the time, and of it
    /// only what the pod reserves counts. The status of other objects contains their capacity:
    /// a device plugin adds a node's GPUs, and a new claim has no capacity and is not bound.
    fn eq(&self, other: &Self) -> bool {
        fn field<'a>(of: Option<Node<'a>>, key: &str) -> Option<&'a [u8]> {
            of.and_then(|it| it.get(key)).map(Node::raw)
        }
        fn written(content: &BilledObject) -> [Option<&[u8]>; 3] {
            let root = content.document.root();
            let metadata = root.get("metadata");
            [
                field(metadata, "labels"),
                field(metadata, "annotations"),
                field(Some(root), "spec"),
            ]
        }
        fn status(content: &BilledObject) -> [Option<&[u8]>; BILLED_STATUS.len()] {
            let root = content.document.root();
            let status = root.get("status").filter(|_| !is_pod(root));
            BILLED_STATUS.map(|key| field(status, key))
        }
        fn keys(content: &BilledObject) -> [Option<&[u8]>; 2] {
            let root = Some(content.document.root());
            [LOOKUP, owner::KEY].map(|it| field(root, it))
        }
        fn related(content: &BilledObject) -> [Option<&[u8]>; RELATIONS] {
            let root = Some(content.document.root());
            Relation::ALL.map(|it| field(root, it.key()))
        }
        fn devices(content: &BilledObject) -> Option<&[u8]> {
            field(Some(content.document.root()), CLAIM_DEVICES)
        }
        self.kept_for == other.kept_for
            && written(self) == written(other)
            && status(self) == status(other)
            && keys(self) == keys(other)
            && related(self) == related(other)
            && self.is_ready() == other.is_ready()
            && devices(self) == devices(other)
            && self.reserved(other) == Some(Ordering::Equal)
    }
}

impl meterline_ledger::Content for BilledObject {
    /// The namespace; empty for an object that belongs to none.
    fn owner(&self) -> &str {
        self.document
            .root()
            .path(&["metadata", "namespace"])
            .and_then(Node::as_str)
            .unwrap_or_default()
    }

    fn weight(&self) -> usize {
        self.document.size()
    }

    fn is_partial(&self) -> bool {
        self.kept_for.is_some()
    }

    fn is_grant(&self, earlier: &Self) -> bool {
        fn spec(of: &BilledObject) -> Option<&[u8]> {
            of.document.root().get("spec").map(Node::raw)
        }
        !self.was_pending
            && spec(self) == spec(earlier)
            && self.reserved(earlier) == Some(Ordering::Greater)
    }

    fn dated_change(&self, earlier: &Self) -> Option<(i64, Self)> {
        let readiness = self.readiness.as_deref()?;
        // What an earlier configuration kept does not have it.
        let was_ready = earlier.is_ready()?;
        let since = readiness
            .since
            .filter(|_| was_ready != readiness.is_ready)?;
        Some((since, earlier.with_readiness(readiness.is_ready)))
    }

    fn before_dated_change(&self) -> Option<(i64, Self)> {
        let readiness = self.readiness.as_deref()?;
        Some((
            readiness.turned()?,
            self.with_readiness(!readiness.is_ready),
        ))
    }
}

/// How many relations there are.
const RELATIONS: usize = Relation::ALL.len();

/// The fields of a pod's status that state what its node granted it.
const GRANTED_BY: [&str; 4] = [
    "allocatedResources",
    "containerStatuses",
    "initContainerStatuses",
    "resources",
];

/// Whether this is a pod: no other metered object has containers, and the document has no kind.
pub(crate) fn is_pod(root: Node<'_>) -> bool {
    root.path(&["spec", "containers"]).is_some()
}

/// The fields of a content that is not complete. No object has fields of these names.
const KEPT_FOR: &str = "kept_for";
const CUT: &str = "cut";
const OBJECT: &str = "object";

impl Serialize for BilledObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.kept_for.is_none() && self.cut == 0 {
            return self.document.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        if let Some(kept_for) = &self.kept_for {
            map.serialize_entry(KEPT_FOR, kept_for.as_ref())?;
        }
        if self.cut > 0 {
            map.serialize_entry(CUT, &self.cut)?;
        }
        map.serialize_entry(OBJECT, &self.document)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for BilledObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::deserialize(deserializer)?;
        let root = document.root();
        let (kept_for, cut) = (root.get(KEPT_FOR), root.get(CUT));
        let Some(object) = root
            .get(OBJECT)
            .filter(|_| kept_for.is_some() || cut.is_some())
        else {
            return Ok(Self::from(document));
        };
        let kept_for = kept_for.map(|it| Reads::deserialize(it.to_value()));
        let cut = cut.and_then(Node::as_i64).unwrap_or_default();
        Ok(Self {
            document: object.to_document(),
            was_pending: false,
            readiness: None,
            cut: usize::try_from(cut).unwrap_or_default(),
            kept_for: kept_for
                .transpose()
                .map_err(de::Error::custom)?
                .map(Arc::new),
        })
    }
}
