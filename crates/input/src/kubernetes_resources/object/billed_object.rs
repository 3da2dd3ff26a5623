//! What the ledger keeps of an object.

use std::sync::Arc;

use meterline_core::{Document, Node, Reads};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use super::projection::Projection;

/// What is billed: equal contents are one segment. Cloning shares the document.
#[derive(Debug, Clone)]
pub(crate) struct BilledObject {
    /// What is kept of the object.
    pub(crate) document: Document,
    /// How many values were left out of it because there was too much.
    pub(crate) cut: usize,
    /// What was read when it was kept, where that is not all that is read now: the rest is missing.
    kept_for: Option<Arc<Reads>>,
}

impl From<Document> for BilledObject {
    fn from(document: Document) -> Self {
        Self {
            document,
            cut: 0,
            kept_for: None,
        }
    }
}

impl BilledObject {
    /// What is kept of an object.
    pub(crate) fn of(seen: &Document, projection: &Projection) -> Self {
        let (document, cut) = projection.keep(seen);
        Self {
            document,
            cut,
            kept_for: None,
        }
    }

    /// Makes of a content that was kept for `kept_for` one for what is read now. Returns whether that
    /// changed it.
    pub(crate) fn adapt(&mut self, kept_for: &Arc<Reads>, projection: &Projection) -> bool {
        let before = self.kept_for.take();
        let kept_for = before.as_ref().unwrap_or(kept_for);
        // Of what was cut all is there that was needed then, and no more for sure.
        let is_whole = self.cut == 0 || kept_for.named().covers(&projection.values());
        if is_whole && kept_for.covers(&projection.kept) {
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

    /// What its bill is made from: what is read by name. What is read beside that are labels. `None` where
    /// everything is read: then nobody knows.
    pub(crate) fn bill(&self, projection: &Projection) -> Option<Self> {
        (!projection.kept.is_all()).then(|| Self {
            document: self.document.project(&projection.billed_by),
            ..self.clone()
        })
    }

    /// Why no bill can be made of it, if none can.
    pub(crate) fn is_missing(&self) -> Option<String> {
        let kept_for = self.kept_for.as_deref()?;
        Some(format!(
            "what is known of this object was kept by an earlier configuration, which read other \
             fields ({kept_for}), and the object went or changed before this one saw it; to bill \
             this time start once with that configuration"
        ))
    }
}

impl PartialEq for BilledObject {
    /// Labels, annotations and spec are what an operator's mapping bills by. A pod's status changes all
    /// the time without changing what is reserved, so it does not count. Of other objects it says how
    /// much they hold: a device plugin tells of a node's GPUs, and a claim has no capacity, and is not
    /// bound, when it is made.
    fn eq(&self, other: &Self) -> bool {
        fn field<'a>(of: Option<Node<'a>>, key: &str) -> Option<&'a [u8]> {
            of.and_then(|it| it.get(key)).map(Node::raw)
        }
        fn billed(content: &BilledObject) -> [Option<&[u8]>; 6] {
            let root = content.document.root();
            let (metadata, spec) = (root.get("metadata"), root.get("spec"));
            let status = root.get("status").filter(|_| !is_pod(root));

            [
                field(metadata, "labels"),
                field(metadata, "annotations"),
                spec.map(Node::raw),
                field(status, "capacity"),
                field(status, "allocatable"),
                field(status, "phase"),
            ]
        }
        self.kept_for == other.kept_for && billed(self) == billed(other)
    }
}

impl meterline_ledger::Content for BilledObject {
    /// The namespace; blank for what belongs to none.
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
}

/// Whether this is a pod: nothing else that is metered has containers, and nothing of a document tells
/// its kind.
pub(crate) fn is_pod(root: Node<'_>) -> bool {
    root.path(&["spec", "containers"]).is_some()
}

/// The fields of a content that is not whole. No object has fields of these names.
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
            cut: usize::try_from(cut).unwrap_or_default(),
            kept_for: kept_for
                .transpose()
                .map_err(de::Error::custom)?
                .map(Arc::new),
        })
    }
}
