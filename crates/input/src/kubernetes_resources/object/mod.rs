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

mod billed_object;
mod projection;
mod writes;

use std::{borrow::Cow, fmt, sync::Arc};

use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope, ObjectMeta},
};
use meterline_core::{Builder, Document, Node, Reads};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

pub(super) use self::{
    billed_object::BilledObject,
    projection::{Projection, keeping},
};
use self::{
    billed_object::is_pod,
    projection::PROJECTION,
    writes::{ManagedFields, Writes, newest_writes},
};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

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
    pub(super) content: BilledObject,
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
    pub(super) fn of(uid: &Arc<str>, content: &BilledObject) -> Self {
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
            content: BilledObject::of(&seen, &projection),
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

    use super::{
        super::{
            lifetime::{self, seconds},
            resource_type::ResourceType,
        },
        projection::MOST_BYTES,
        *,
    };

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
        let life = lifetime::life(pod.seen.root(), ResourceType::Pod, false, 0);
        assert_eq!(life.start, seconds("2025-01-01T00:00:03Z"));
    }

    /// A pod of a tenant that puts into it all that the API server takes.
    fn large_pod(version: &str, status: usize) -> serde_json::Value {
        let text = |length: usize| "x".repeat(length);
        let container = |number: usize| {
            json!({
                "name": format!("c-{number}"),
                "env": [{"name": "A", "value": text(30_000 + number)}, {"name": "B", "value": "b"}],
                "resources": {"requests": {"cpu": "1"}},
            })
        };
        let containers: Vec<_> = (0..20).map(container).collect();
        json!({
            "metadata": {
                "name": "a", "namespace": "n", "uid": "u", "resourceVersion": version,
                "annotations": {
                    "data/a": text(70_000), "data/b": text(100_000), "data/c": text(60_000),
                    "subject": text(20_000),
                },
            },
            "spec": {"containers": containers, "overhead": {"cpu": "1"}},
            "status": {"phase": "Running", "message": text(status)},
        })
    }

    /// `names` are of annotations.
    fn annotations(content: &BilledObject) -> Vec<&str> {
        let annotations = content.document.root().path(&["metadata", "annotations"]);
        annotations.unwrap().entries().map(|(key, _)| key).collect()
    }

    #[test]
    fn of_too_much_the_largest_labels_go_and_what_is_billed_stays() {
        let reads = Reads::of(&[
            "metadata.annotations.data/^",
            "metadata.annotations.subject",
            "spec.containers.*.resources",
        ]);
        let projection = Projection::of(&reads, ResourceType::Pod);
        let content = projected(projection.clone(), &large_pod("9", 0)).content;
        assert_eq!(content.cut, 1);
        assert_eq!(annotations(&content), ["data/a", "data/c", "subject"]);
        let needed = Reads::of(&["metadata.annotations.data/^^"]);
        let mut reads = reads;
        reads.join(&needed);
        let projection = Projection::of(&reads, ResourceType::Pod);
        let content = projected(projection, &large_pod("9", 0)).content;
        assert_eq!(content.cut, 0);
    }

    #[test]
    fn where_everything_is_read_a_pod_is_cut_to_its_bound_and_the_same_however_its_status_is() {
        let mut reads = Reads::of(&["metadata.annotations.data/b"]);
        reads.join(&Reads::All);
        let projection = Projection::of(&reads, ResourceType::Pod);
        let of = |version, status| {
            let object = projected(projection.clone(), &large_pod(version, status));
            let size = object.content.document.size();
            assert!(size <= MOST_BYTES.iter().sum(), "{size}");
            object.content
        };
        let content = of("9", 10);
        assert_eq!(content, of("1000000", 10));
        assert_eq!(content, of("9", 400_000));
        assert!(content.cut > 10 && of("9", 400_000).cut == content.cut + 1);
        assert!(annotations(&content).contains(&"data/b"));
        let root = content.document.root();
        let containers = root.path(&["spec", "containers"]).unwrap();
        for container in containers.items() {
            let cpu = container.path(&["resources", "requests", "cpu"]);
            assert!(cpu.is_some_and(|it| it.is_text("1")));
        }
        assert!(root.path(&["spec", "overhead", "cpu"]).is_some());
    }

    #[test]
    fn two_contents_are_billed_the_same_where_only_labels_differ() {
        let paths = [
            "metadata.annotations.data/^",
            "metadata.annotations.subject",
            "spec.nodeName",
        ];
        let projection = Projection::of(&Reads::of(&paths), ResourceType::Pod);
        let content = |label: &str, subject: &str, node: &str, version: &str| {
            let pod = json!({
                "metadata": {
                    "name": "a", "resourceVersion": version,
                    "annotations": {"data/a": label, "subject": subject},
                },
                "spec": {"nodeName": node, "containers": [{}]},
            });
            projected(projection.clone(), &pod).content
        };
        let one = content("x", "s", "n", "1");
        assert_ne!(one, content("y", "s", "n", "2"));
        let bill = |content: &BilledObject| content.bill(&projection).unwrap();
        assert_eq!(bill(&one), bill(&content("y", "s", "n", "2")));
        assert_ne!(bill(&one), bill(&content("x", "t", "n", "2")));
        assert_ne!(bill(&one), bill(&content("x", "s", "m", "2")));
        assert_eq!(bill(&bill(&one)), bill(&one));
        assert!(
            bill(&one)
                .document
                .root()
                .path(&["spec", "containers"])
                .is_some()
        );
        let mut all = Reads::of(&paths);
        all.join(&Reads::All);
        let all = Projection::of(&all, ResourceType::Pod);
        assert!(one.bill(&all).is_none());
    }

    #[test]
    fn what_was_cut_is_not_whole_for_who_reads_more_of_it_by_name() {
        let projection = |paths| Projection::of(&Reads::of(paths), ResourceType::Pod);
        let all = Projection::everything();
        let named = projection(&["metadata.annotations.data/b"]);
        let other = projection(&["metadata.annotations.data/^"]);
        let pod = large_pod("9", 0);
        let kept_for = Arc::new(all.kept.clone());
        let cut = projected(all.clone(), &pod).content;
        let text = serde_json::to_vec(&cut).unwrap();
        let restored: BilledObject = serde_json::from_slice(&text).unwrap();
        assert_eq!((&restored, restored.cut), (&cut, cut.cut));
        let adapted = |to: &Projection| {
            let mut content = restored.clone();
            let is_changed = content.adapt(&kept_for, to);
            (is_changed, content.is_missing().is_some())
        };
        assert_eq!(adapted(&all), (false, false));
        assert_eq!(adapted(&other), (true, false));
        assert_eq!(adapted(&named), (true, true));
        let mut content = restored.clone();
        content.adapt(&kept_for, &named);
        let text = serde_json::to_vec(&content).unwrap();
        let again: BilledObject = serde_json::from_slice(&text).unwrap();
        assert_eq!((&again, again.cut), (&content, cut.cut));
        assert!(again.is_missing().is_some());
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
        let mut restored: BilledObject = serde_json::from_slice(&text).unwrap();
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
