//! An object of the Kubernetes API: what is seen of it when it comes, and what the ledger keeps of it.
//!
//! An object is tens of kilobytes of which a pipeline reads a few hundred bytes. What it reads is
//! known before the first object comes ([`Projection`]), so the rest is left out while the response is
//! being read and never costs memory: environment variables, the status, and whatever else nobody
//! asks for. The fields that say when an object lived are seen and not kept.
//!
//! Left out in any case are managed fields (after the newest time of a write to what is billed has
//! been taken from them), the `last-applied-configuration` annotation, and `kind` and `apiVersion`,
//! which a list does not carry and a watch does.

use std::{borrow::Cow, fmt, sync::Arc};

use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope, ObjectMeta},
};
use meterline_core::{Builder, Document, Node, Reads};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};

use super::{
    life,
    resource_type::ResourceType,
    writes::{ManagedFields, Writes, newest_writes},
};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is kept of objects of one type: what the pipeline reads, and by what an object is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Projection {
    /// What is kept.
    pub(super) kept: Reads,
    /// What is seen when an object comes.
    seen: Reads,
}

impl Projection {
    /// For a pipeline that reads this of each object.
    pub(super) fn of(reads: &Reads, resource_type: ResourceType) -> Self {
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
        seen.join(&Reads::of(life::READS));
        Self { kept, seen }
    }

    /// Everything.
    pub(super) fn everything() -> Self {
        Self {
            kept: Reads::All,
            seen: Reads::All,
        }
    }
}

tokio::task_local! {
    /// What the task that reads from the API server keeps of objects. `kube` parses them by itself, so
    /// it cannot be handed this.
    static PROJECTION: Arc<Projection>;
}

/// Parses objects by this projection while `work` runs.
pub(super) async fn keeping<T>(projection: Arc<Projection>, work: impl Future<Output = T>) -> T {
    PROJECTION.scope(projection, work).await
}

/// An object as it came from the API server.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// Name, namespace, UID and resource version; the rest of the metadata is in the documents.
    meta: ObjectMeta,
    /// The newest write to what is billed that the server recorded, Unix seconds: to metadata or spec
    /// and, but for pods, to the status.
    pub(super) written: Option<i64>,
    /// What is seen of it, and not kept: when it lived.
    pub(super) seen: Document,
    /// What is kept of it.
    pub(super) content: Content,
}

/// What is billed: equal contents are one segment. Cloning shares the document.
#[derive(Debug, Clone)]
pub(super) struct Content {
    /// What is kept of the object.
    pub(super) document: Document,
    /// What was read when it was kept, where that is not all that is read now: the rest is missing.
    kept_for: Option<Arc<Reads>>,
}

impl From<Document> for Content {
    fn from(document: Document) -> Self {
        Self {
            document,
            kept_for: None,
        }
    }
}

impl Content {
    /// Makes of a content that was kept for `kept_for` one for what is read now. Returns whether that
    /// changed it.
    pub(super) fn adapt(&mut self, kept_for: &Arc<Reads>, projection: &Projection) -> bool {
        let before = self.kept_for.take();
        let kept_for = before.as_ref().unwrap_or(kept_for);
        if kept_for.covers(&projection.kept) {
            let document = self.document.project(&projection.kept);
            let is_changed = before.is_some() || document != self.document;
            self.document = document;
            return is_changed;
        }
        let is_changed = before.is_none();
        self.kept_for = Some(Arc::clone(kept_for));
        is_changed
    }

    /// Why no bill can be made of it, if none can.
    pub(super) fn is_missing(&self) -> Option<String> {
        let kept_for = self.kept_for.as_deref()?;
        Some(format!(
            "what is known of this object was kept by an earlier configuration, which read other \
             fields ({kept_for}), and the object went or changed before this one saw it; to bill \
             this time start once with that configuration"
        ))
    }
}

impl PartialEq for Content {
    /// Labels, annotations and spec are what an operator's mapping bills by. A pod's status changes all
    /// the time without changing what is reserved, so it does not count. Of other objects it says how
    /// much they hold: a device plugin tells of a node's GPUs, and a claim has no capacity, and is not
    /// bound, when it is made.
    fn eq(&self, other: &Self) -> bool {
        fn field<'a>(of: Option<Node<'a>>, key: &str) -> Option<&'a [u8]> {
            of.and_then(|it| it.get(key)).map(Node::raw)
        }
        fn billed(content: &Content) -> [Option<&[u8]>; 6] {
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

impl meterline_ledger::Content for Content {
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
fn is_pod(root: Node<'_>) -> bool {
    root.path(&["spec", "containers"]).is_some()
}

/// The fields of a content that is not whole. No object has fields of these names.
const KEPT_FOR: &str = "kept_for";
const OBJECT: &str = "object";

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(kept_for) = &self.kept_for else {
            return self.document.serialize(serializer);
        };
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(KEPT_FOR, kept_for.as_ref())?;
        map.serialize_entry(OBJECT, &self.document)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::deserialize(deserializer)?;
        let root = document.root();
        let (Some(kept_for), Some(object)) = (root.get(KEPT_FOR), root.get(OBJECT)) else {
            return Ok(Self::from(document));
        };
        let kept_for = Reads::deserialize(kept_for.to_value()).map_err(de::Error::custom)?;
        Ok(Self {
            document: object.to_document(),
            kept_for: Some(Arc::new(kept_for)),
        })
    }
}

/// An object that was seen.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) uid: Arc<str>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// The resource version at which it was last seen.
    pub(super) version: u64,
}

impl Known {
    /// What a ledger knows of an object.
    pub(super) fn of(uid: &Arc<str>, content: &Content) -> Self {
        let metadata = content.document.root().get("metadata");
        let field = |key| metadata.and_then(|it| it.get(key)).and_then(Node::as_str);
        Self {
            uid: Arc::clone(uid),
            namespace: field("namespace").map(str::to_owned),
            name: field("name").unwrap_or_default().to_owned(),
            version: field("resourceVersion")
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
        }
    }
}

impl Object {
    /// The UID, by which the ledger knows the object.
    pub(super) fn uid(&self) -> Arc<str> {
        self.meta.uid.as_deref().unwrap_or_default().into()
    }

    /// By what it can be found again.
    pub(super) fn known(&self) -> Known {
        let version = self.meta.resource_version.as_deref();
        Known {
            uid: self.uid(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone().unwrap_or_default(),
            version: version.and_then(|it| it.parse().ok()).unwrap_or(0),
        }
    }
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let projection = PROJECTION.try_with(Arc::clone);
        let projection = projection.unwrap_or_else(|_| Arc::new(Projection::everything()));
        let mut builder = Builder::default();
        let mut writes = Writes::default();
        let open = builder.begin_object();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (key.as_ref(), projection.seen.field(&key)) {
                ("kind" | "apiVersion", _) | (_, None) => {
                    map.next_value::<IgnoredAny>()?;
                }
                ("metadata", Some(reads)) => {
                    builder.key("metadata");
                    let builder = &mut builder;
                    writes = map.next_value_seed(Metadata { builder, reads })?;
                }
                (_, Some(reads)) => {
                    builder.key(&key);
                    map.next_value_seed(builder.parts(reads))?;
                }
            }
        }
        builder.end(open);
        let seen = builder.finish();
        let field = |key: &str| {
            seen.root()
                .path(&["metadata", key])
                .and_then(Node::as_str)
                .map(ToOwned::to_owned)
        };
        let meta = ObjectMeta {
            name: field("name"),
            namespace: field("namespace"),
            uid: field("uid"),
            resource_version: field("resourceVersion"),
            ..ObjectMeta::default()
        };
        let status = writes.status.filter(|_| !is_pod(seen.root()));
        Ok(Object {
            meta,
            written: writes.content.max(status),
            content: Content::from(seen.project(&projection.kept)),
            seen,
        })
    }
}

/// Writes what is seen of `metadata`, without managed fields. Returns the newest recorded writes.
struct Metadata<'a> {
    builder: &'a mut Builder,
    reads: &'a Reads,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = Writes;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Writes, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = Writes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("object metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Writes, A::Error> {
        let Self { builder, reads } = self;
        let mut writes = Writes::default();
        let open = builder.begin_object();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (key.as_ref(), reads.field(&key)) {
                ("managedFields", _) => {
                    let entries = map.next_value::<Option<Vec<ManagedFields>>>()?;
                    writes = newest_writes(&entries.unwrap_or_default());
                }
                (_, None) => {
                    map.next_value::<IgnoredAny>()?;
                }
                ("annotations", Some(reads)) => {
                    builder.key("annotations");
                    map.next_value_seed(Annotations { builder, reads })?;
                }
                (_, Some(reads)) => {
                    builder.key(&key);
                    map.next_value_seed(builder.parts(reads))?;
                }
            }
        }
        builder.end(open);
        Ok(writes)
    }
}

/// Writes what is seen of `annotations`, without the copy of the object that `kubectl apply` keeps
/// there.
struct Annotations<'a> {
    builder: &'a mut Builder,
    reads: &'a Reads,
}

impl<'de> DeserializeSeed<'de> for Annotations<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Annotations<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.builder.push(&serde_json::Value::Null);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { builder, reads } = self;
        let open = builder.begin_object();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match reads.field(&key).filter(|_| key != LAST_APPLIED) {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(reads) => {
                    builder.key(&key);
                    map.next_value_seed(builder.parts(reads))?;
                }
            }
        }
        builder.end(open);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::life::seconds, *};

    fn object(value: &serde_json::Value) -> Object {
        serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
    }

    #[test]
    fn what_nobody_bills_is_kept_in_no_case() {
        let pod = object(&json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "annotations": {LAST_APPLIED: "{}", "b": "c"},
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"nodeName": "x"},
        }));
        assert_eq!(
            pod.content.document.root().to_value(),
            json!({
                "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                    "annotations": {"b": "c"}},
                "spec": {"nodeName": "x"},
            })
        );
        assert_eq!(pod.known().name, "a");
        assert_eq!(pod.uid().as_ref(), "u");
        assert_eq!(pod.meta().resource_version.as_deref(), Some("7"));
    }

    fn projected(projection: Projection, value: &serde_json::Value) -> Object {
        let parse = || serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap();
        PROJECTION.sync_scope(Arc::new(projection), parse)
    }

    fn tenants_pod(label: &str, cpu: &str) -> serde_json::Value {
        json!({
            "kind": "Pod",
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2025-01-01T00:00:00Z",
                "labels": {"noise": label},
                "annotations": {"openmeter.io/subject": "acme", "other": label},
                "managedFields": [{"time": "2025-01-01T00:00:05Z", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {
                "nodeName": "x",
                "containers": [{
                    "name": "c", "env": [{"name": "PASSWORD", "value": "secret"}],
                    "resources": {"requests": {"cpu": cpu}},
                }],
            },
            "status": {"phase": "Running", "containerStatuses": [
                {"image": "x", "state": {"running": {"startedAt": "2025-01-01T00:00:03Z"}}},
            ]},
        })
    }

    #[test]
    fn only_what_is_read_and_by_what_it_is_found_again_is_kept() {
        let reads = Reads::of(&[
            "metadata.annotations.openmeter~1io/subject",
            "spec.containers.*.resources",
        ]);
        let projection = Projection::of(&reads, ResourceType::Pod);
        let pod = projected(projection, &tenants_pod("x", "1"));
        assert_eq!(
            pod.content.document.root().to_value(),
            json!({
                "metadata": {"name": "a", "namespace": "n", "resourceVersion": "7",
                    "annotations": {"openmeter.io/subject": "acme"}},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]},
            })
        );
        assert_eq!(pod.written, seconds("2025-01-01T00:00:05Z"));
        assert_eq!(pod.known().name, "a");
        let life = life::life(pod.seen.root(), ResourceType::Pod, false, 0);
        assert_eq!(life.start, seconds("2025-01-01T00:00:03Z"));
    }

    #[test]
    fn a_change_of_what_nobody_reads_is_no_change_of_content() {
        let reads = Reads::of(&["spec.containers.*.resources"]);
        let content = |label, cpu| {
            let projection = Projection::of(&reads, ResourceType::Pod);
            projected(projection, &tenants_pod(label, cpu)).content
        };
        assert_eq!(content("x", "1"), content("y", "1"));
        assert_ne!(content("x", "1"), content("x", "2"));
    }

    #[test]
    fn a_pod_of_which_nothing_is_read_is_still_a_pod() {
        let projection = Projection::of(&Reads::default(), ResourceType::Pod);
        let pod = projected(projection, &tenants_pod("x", "1"));
        assert!(is_pod(pod.content.document.root()));
        let node = projected(
            Projection::of(&Reads::default(), ResourceType::Node),
            &json!({"metadata": {"name": "n", "uid": "u"}, "spec": {"podCIDR": "x"}}),
        );
        assert_eq!(
            node.content.document.root().to_value(),
            json!({"metadata": {"name": "n"}})
        );
    }

    #[test]
    fn what_was_kept_for_less_is_marked_and_what_was_kept_for_more_is_cut() {
        let projection = |paths| Projection::of(&Reads::of(paths), ResourceType::Pod);
        let (less, more) = (
            projection(&["metadata.labels"]),
            projection(&["metadata.labels", "spec.nodeName"]),
        );
        let pod = tenants_pod("x", "1");
        let mut content = projected(more.clone(), &pod).content;
        assert!(content.adapt(&Arc::new(more.kept.clone()), &less));
        assert_eq!(content, projected(less.clone(), &pod).content);
        assert!(!content.adapt(&Arc::new(less.kept.clone()), &less));

        let kept_for = Arc::new(less.kept.clone());
        assert!(content.adapt(&kept_for, &more));
        assert!(meterline_ledger::Content::is_partial(&content));
        assert_ne!(content, projected(less.clone(), &pod).content);
        let text = serde_json::to_vec(&content).unwrap();
        let mut restored: Content = serde_json::from_slice(&text).unwrap();
        assert_eq!(restored, content);
        // The configuration that came between read more, and it was not kept for that.
        assert!(!restored.adapt(&Arc::new(more.kept.clone()), &more));
        assert_eq!(restored, content);
        assert!(restored.adapt(&Arc::new(more.kept.clone()), &less));
        assert_eq!(restored, projected(less, &pod).content);
    }

    #[test]
    fn the_newest_write_to_metadata_or_spec_is_known() {
        let pod = object(&json!({"metadata": {"managedFields": [
            {"time": "2025-01-01T00:00:05Z", "fieldsV1": {"f:metadata": {}}},
            {"time": "2025-01-01T00:00:09Z", "subresource": "resize", "fieldsV1": {"f:spec": {}}},
            {"time": "2025-01-01T00:00:20Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
            {"time": "2025-01-01T00:00:30Z", "fieldsV1": {"f:status": {}}},
            {"fieldsV1": {"f:spec": {}}},
        ]}, "spec": {"containers": []}}));
        assert_eq!(pod.written, seconds("2025-01-01T00:00:09Z"));
    }

    #[test]
    fn the_newest_write_to_the_status_counts_for_what_is_not_a_pod() {
        let node = object(&json!({"metadata": {"managedFields": [
            {"time": "2025-01-01T00:00:05Z", "fieldsV1": {"f:metadata": {}}},
            {"time": "2025-01-01T00:00:20Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
            {"time": "2025-01-01T00:00:10Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
        ]}, "spec": {}}));
        assert_eq!(node.written, seconds("2025-01-01T00:00:20Z"));
    }

    #[test]
    fn what_other_objects_hold_is_a_part_of_their_content() {
        let content = |spec: serde_json::Value, status: serde_json::Value| {
            object(&json!({"metadata": {"name": "a"}, "spec": spec, "status": status})).content
        };
        let node = |status| content(json!({"podCIDR": "10.0.0.0/24"}), status);
        let cpu = json!({"cpu": "8"});
        let gpus = json!({"cpu": "8", "nvidia.com/gpu": "4"});
        let before = node(json!({"capacity": cpu, "allocatable": cpu, "images": []}));
        assert_ne!(before, node(json!({"capacity": gpus, "allocatable": cpu})));
        assert_ne!(before, node(json!({"capacity": cpu, "allocatable": gpus})));
        let heartbeat = json!({"capacity": cpu, "allocatable": cpu, "conditions": [{"a": "b"}]});
        assert_eq!(before, node(heartbeat));
        let claim = |status| content(json!({"accessModes": ["ReadWriteOnce"]}), status);
        let bound = json!({"phase": "Bound", "capacity": {"storage": "10Gi"}});
        assert_ne!(claim(json!({"phase": "Pending"})), claim(bound));
        let volume = |phase| content(json!({"capacity": cpu}), json!({"phase": phase}));
        assert_ne!(volume("Bound"), volume("Released"));
    }

    #[test]
    fn a_status_change_is_not_a_change_of_content() {
        let pod = |phase: &str, cpu: &str| {
            object(&json!({
                "metadata": {"name": "a", "resourceVersion": phase, "labels": {"x": "y"}},
                "spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]},
                "status": {"phase": phase},
            }))
            .content
        };
        assert_eq!(pod("Pending", "1"), pod("Running", "1"));
        assert_ne!(pod("Running", "1"), pod("Running", "2"));
    }

    #[test]
    fn null_annotations_and_managed_fields_are_read() {
        let pod = object(&json!({"metadata": {"annotations": null, "managedFields": null}}));
        assert_eq!(pod.written, None);
    }
}
