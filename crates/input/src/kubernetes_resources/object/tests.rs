//! What is kept of objects.

use meterline_script::Relation;
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
fn managed_fields_and_the_last_applied_configuration_are_never_kept() {
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
    assert_eq!(&*pod.known().name, "a");
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
fn only_the_fields_that_are_read_and_the_identity_are_kept() {
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
    assert_eq!(&*pod.known().name, "a");
    let life = lifetime::lifetime(
        pod.seen.root(),
        ResourceType::Pod,
        lifetime::BilledFrom::Started,
        lifetime::Seen {
            now: i64::MAX,
            ..lifetime::Seen::default()
        },
    );
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
fn beyond_the_budget_the_largest_labels_are_left_out_and_billed_fields_stay() {
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
fn where_everything_is_read_a_pod_is_cut_to_its_budget_whatever_its_status_is() {
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
fn a_content_that_was_cut_is_incomplete_for_a_mapping_that_reads_more_by_name() {
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
fn a_change_of_a_field_that_nothing_reads_is_no_change_of_content() {
    let reads = Reads::of(&["spec.containers.*.resources"]);
    let content = |label, cpu| {
        let projection = Projection::of(&reads, ResourceType::Pod);
        projected(projection, &tenants_pod(label, cpu)).content
    };
    assert_eq!(content("x", "1"), content("y", "1"));
    assert_ne!(content("x", "1"), content("x", "2"));
}

#[test]
fn a_pod_without_any_field_that_is_read_is_still_a_pod() {
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
fn a_content_kept_for_fewer_fields_is_marked_and_one_kept_for_more_is_reduced() {
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
fn the_newest_write_to_metadata_or_spec_is_read_from_managed_fields() {
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
fn a_status_was_reported_when_the_phase_or_the_state_of_a_container_was_written() {
    let at = |second: u32, subresource: &str, fields: serde_json::Value| {
        json!({"time": format!("2025-01-01T00:00:{second:02}Z"), "subresource": subresource,
            "fieldsV1": {"f:status": fields}})
    };
    let pod = object(&json!({"metadata": {"managedFields": [
        at(5, "status", json!({"f:phase": {}})),
        at(7, "status", json!({"f:containerStatuses": {}})),
        at(6, "status", json!({"f:initContainerStatuses": {}, "f:conditions": {}})),
        at(9, "status", json!({"f:conditions": {}})),
        at(10, "", json!({"f:containerStatuses": {}})),
    ]}, "spec": {"containers": []}}));
    assert_eq!(pod.writes.phase, seconds("2025-01-01T00:00:07Z"));
}

#[test]
fn the_newest_write_to_the_status_counts_for_what_is_not_a_pod() {
    let value = json!({"metadata": {"managedFields": [
        {"time": "2025-01-01T00:00:05Z", "fieldsV1": {"f:metadata": {}}},
        {"time": "2025-01-01T00:00:20Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
        {"time": "2025-01-01T00:00:10Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
    ]}, "spec": {}});
    let node = projected(Projection::of(&Reads::All, ResourceType::Node), &value);
    assert_eq!(node.written, seconds("2025-01-01T00:00:20Z"));
    // Of a node whose labels belong to pods only the metadata counts.
    let node = projected(
        Projection::of_related(&Reads::All, ResourceType::Node),
        &value,
    );
    assert_eq!(node.written, seconds("2025-01-01T00:00:05Z"));
}

#[test]
fn capacity_is_part_of_the_content_of_other_objects() {
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

#[test]
fn an_object_has_of_its_controller_what_is_read_and_its_key_only_if_metadata_are() {
    let mut value = tenants_pod("x", "1");
    value["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet",
        "name": "db", "uid": "s", "controller": true}]);
    let of = |reads: &[&str], resource_type| {
        let projection = Projection::of(&Reads::of(reads), resource_type);
        let related = projection.related.iter();
        let related: Vec<_> = related.map(|(_, reads)| reads.to_string()).collect();
        let content = projected(projection, &value).content.document;
        let content = content.root().to_value();
        assert_eq!(content["metadata"].get("ownerReferences"), None);
        let field = |key: &str| content.get(key).cloned().unwrap_or_default();
        (field("owner()"), field("owner_key()"), related.join(" "))
    };
    let names = json!({"kind": "StatefulSet", "name": "db"});
    let (nothing, none) = (json!(null), String::new());
    let found = of(&["owner().kind", "owner().name"], ResourceType::Pod);
    assert_eq!(found, (names.clone(), nothing.clone(), none.clone()));
    let found = of(&["owner().labels.team"], ResourceType::Pod);
    let key = json!("n/StatefulSet/db/s");
    assert_eq!(found, (json!({}), key.clone(), "labels.team".to_owned()));
    let found = of(&["owner()"], ResourceType::Pod);
    let whole = json!({"api_version": "apps/v1", "kind": "StatefulSet", "name": "db"});
    assert_eq!(found, (whole, key, "annotations, labels".to_owned()));
    // Only the controllers of pods are watched.
    let claim = ResourceType::PersistentVolumeClaim;
    let found = of(&["owner().kind", "owner().name", "owner().labels"], claim);
    assert_eq!(found, (names, nothing.clone(), none.clone()));
    assert_eq!(of(&["spec"], claim), (nothing.clone(), nothing, none));
}

#[test]
fn a_content_differs_when_its_controller_does_and_the_labels_of_that_determine_no_bill() {
    let projection = Projection::of(&Reads::of(&["owner().labels.team"]), ResourceType::Pod);
    let content = |key: &str, team: &str| {
        let content = json!({"owner_key()": key, "owner()": {"labels": {"team": team}}});
        BilledObject::from(Document::from(&content))
    };
    let one = content("n/Deployment/web", "red");
    assert_eq!(one, one.clone());
    assert_ne!(one, content("n/Deployment/shop", "red"));
    let other = content("n/Deployment/web", "blue");
    assert_ne!(one, other);
    assert_eq!(one.bill(&projection), other.bill(&projection));
    assert_eq!(one.name_of(Relation::Owner), Some("n/Deployment/web"));
}

#[test]
fn only_a_change_of_whether_a_node_is_ready_is_a_change_of_its_content() {
    use meterline_ledger::Content;

    let node = |status: &str, since: &str, beat: &str, label: &str| {
        json!({"metadata": {"name": "m", "uid": "u", "labels": {"l": label},
            "creationTimestamp": "2025-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": status,
                "lastTransitionTime": since, "lastHeartbeatTime": beat}]}})
    };
    let kept = |resource_type, node: &serde_json::Value| {
        let reads = Reads::of(&["metadata.labels.l", "node_ready()"]);
        projected(Projection::of(&reads, resource_type), node).content
    };
    let of_node = |node: &serde_json::Value| kept(ResourceType::Node, node);
    let [early, late] = ["2025-01-01T01:00:00Z", "2025-01-01T02:00:00Z"];
    let ready = of_node(&node("True", early, early, "a"));
    let content = ready.document.root().to_value();
    assert_eq!(content["node_ready()"], true);
    assert_eq!(content.get("status"), None);
    let beat = of_node(&node("True", late, late, "a"));
    assert!(beat == ready && beat.dated_change(&ready).is_none());

    let lost = of_node(&node("Unknown", late, late, "b"));
    assert_ne!(lost, ready);
    let (since, changed) = lost.dated_change(&ready).unwrap();
    assert_eq!(Some(since), seconds(late));
    assert_eq!(changed, of_node(&node("Unknown", late, late, "a")));
    let (since, before) = lost.before_dated_change().unwrap();
    assert_eq!(Some(since), seconds(late));
    assert_eq!(before, of_node(&node("True", early, early, "b")));

    // Other objects have no such condition, and a pipeline that does not read it keeps nothing of it.
    let pod = kept(ResourceType::Pod, &node("True", early, early, "a"));
    assert!(pod.document.root().get("node_ready()").is_none());
    let projection = Projection::of(&Reads::of(&["metadata.labels.l"]), ResourceType::Node);
    let unread = projected(projection, &node("True", early, early, "a")).content;
    assert!(unread.before_dated_change().is_none());
}

#[test]
fn of_slices_only_what_describes_devices_is_parsed() {
    let reads = meterline_script::SliceReads {
        attributes: [(
            "gpu.nvidia.com".to_owned(),
            ["productName".to_owned()].into(),
        )]
        .into(),
    };
    let projection = Arc::new(Projection::of_slices(&reads));
    let slice = json!({
        "metadata": {"name": "s", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}},
        "spec": {
            "driver": "gpu.nvidia.com", "nodeName": "n", "sharedCounters": [{"name": "c"}],
            "pool": {"name": "n", "generation": 3, "resourceSliceCount": 1},
            "devices": [{
                "name": "gpu-0", "consumesCounters": [],
                "attributes": {"uuid": {"string": "x"}, "productName": {"string": "A100"},
                    "gpu.nvidia.com/productName": {"string": "A100"}},
                "capacity": {"memory": {"value": "40Gi"}},
            }],
        },
    });
    let object = PROJECTION.sync_scope(projection, || object(&slice));
    assert_eq!(
        object
            .content
            .document
            .root()
            .get("spec")
            .unwrap()
            .to_value(),
        serde_json::json!({
            "driver": "gpu.nvidia.com",
            "pool": {"name": "n", "generation": 3},
            "devices": [{
                "name": "gpu-0",
                "attributes": {"productName": {"string": "A100"},
                    "gpu.nvidia.com/productName": {"string": "A100"}},
                "capacity": {"memory": {"value": "40Gi"}},
            }],
        })
    );
}
