//! Who pays: the subject comes from what a tenant cannot write, as it was at the time.

mod owner;

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use meterline_testkit::{
    pods::{self, Phase, Pods, pod},
    process::Meterline,
    scene::Scene,
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, stretches_of, until};

/// Start, seconds and subject of the events of a pod, in order, with neighbours of one subject joined.
fn billed(events: &[Value]) -> Vec<(DateTime<Utc>, i64, String)> {
    stretches_of(events, |event| {
        event["subject"].as_str().unwrap().to_owned()
    })
}

async fn scene() -> Scene {
    let scene = Scene::bare(BINARY).await;
    for resource in ["namespaces", "nodes"] {
        let granted = scene.control_plane.grant_cluster("reader", "", resource);
        granted.await.unwrap();
    }
    scene
}

async fn start(scene: &Scene, from: &str) -> Meterline {
    let preset = scene.preset().env("SCRAPE_NAMESPACE", "shop,bank");
    let preset = preset
        .env("SUBJECT_FROM", from)
        .env("SCRAPE_INTERVAL", "5s")
        .env("STATE_PATH", scene.file("state.sqlite"));
    preset.start_ready().await.unwrap()
}

/// Sets metadata of a namespace. Returns the second that the API server recorded.
async fn set(scene: &Scene, name: &str, metadata: Value) -> DateTime<Utc> {
    let api: Api<Namespace> = Api::all(scene.client.clone());
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let set = api.patch(name, &PatchParams::default(), &patch).await;
    newest_write(&set.unwrap().metadata)
}

/// The second of the newest write that the API server recorded.
fn newest_write(metadata: &ObjectMeta) -> DateTime<Utc> {
    let entries = metadata.managed_fields.iter().flatten();
    let newest = entries
        .filter_map(|it| it.time.as_ref())
        .max_by_key(|it| it.0);
    DateTime::from_timestamp(newest.unwrap().0.as_second(), 0).unwrap()
}

/// Ends the pods of the shop and of the bank, and checks their seconds. Returns when they ended.
async fn end_of_both(scene: &Scene, begin: DateTime<Utc>, meterline: &Meterline) -> DateTime<Utc> {
    let end = pods::now();
    for (namespace, name) in [("shop", "web"), ("bank", "vault")] {
        Pods::new(scene.client.clone(), namespace)
            .set_ended(name, Phase::Succeeded, begin, end)
            .await
            .unwrap();
    }
    scene.truth.wait_for_ends(2).await.unwrap();
    scene.assert_exact(meterline).await;
    end
}

/// What is billed of a pod with these customers, each from a second on.
fn stretches(
    customers: &[(DateTime<Utc>, &str)],
    end: DateTime<Utc>,
) -> Vec<(DateTime<Utc>, i64, String)> {
    let ends = customers.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let stretch = |((from, customer), to): (&(DateTime<Utc>, &str), DateTime<Utc>)| {
        (*from, (to - *from).num_seconds(), (*customer).to_owned())
    };
    customers.iter().zip(ends).map(stretch).collect()
}

fn customer(name: &str) -> Value {
    json!({"annotations": {"openmeter.io/subject": name}})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_namespace_whose_customer_changes_is_divided_to_the_second_also_across_a_restart() {
    let scene = scene().await;
    let (shop, bank) = (scene.namespace("shop").await, scene.namespace("bank").await);
    set(&scene, "shop", customer("acme")).await;
    let meterline = start(&scene, "namespace").await;
    shop.create(&pod("web")).await.unwrap();
    bank.create(&pod("vault")).await.unwrap();
    let begin = pods::now();
    // The pod names another tenant.
    shop.annotate("web", "openmeter.io/subject", Some("victim"))
        .await
        .unwrap();
    shop.set_running("web", begin).await.unwrap();
    bank.set_running("vault", begin).await.unwrap();
    until(begin + seconds(4)).await;
    let first = set(&scene, "shop", customer("globex")).await;
    // A label that no mapping reads divides nothing.
    set(&scene, "shop", json!({"labels": {"other": "x"}})).await;
    scene
        .ingest
        .wait_until(MINUTE, |it| it.events.len() >= 3)
        .await
        .unwrap();
    meterline.kill().unwrap();
    let second = set(&scene, "shop", customer("initech")).await;
    let meterline = start(&scene, "namespace").await;
    until(second + seconds(4)).await;
    let end = end_of_both(&scene, begin, &meterline).await;
    let customers = [(begin, "acme"), (first, "globex"), (second, "initech")];
    assert_eq!(billed(&scene.events_of("web")), stretches(&customers, end));
    // Without an annotation the namespace pays under its name.
    let whole = stretches(&[(begin, "bank")], end);
    assert_eq!(billed(&scene.events_of("vault")), whole);
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn the_label_of_a_node_names_who_pays_for_its_pods() {
    let scene = scene().await;
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let node = json!({"metadata": {"name": "node-0", "labels": {"owner": "acme"}}});
    let node = serde_json::from_value(node).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let shop = scene.namespace("shop").await;
    scene.namespace("bank").await;
    let meterline = start(&scene, "node-label:owner").await;
    shop.create(&pod("web")).await.unwrap();
    shop.create(&pod("lost").node("node-1")).await.unwrap();
    let begin = pods::now();
    for name in ["web", "lost"] {
        shop.set_running(name, begin).await.unwrap();
    }
    let end = begin + seconds(6);
    until(end).await;
    for name in ["web", "lost"] {
        shop.set_ended(name, Phase::Succeeded, begin, end)
            .await
            .unwrap();
    }
    scene.truth.wait_for_ends(2).await.unwrap();
    scene.assert_exact(&meterline).await;
    assert_eq!(
        billed(&scene.events_of("web")),
        [(begin, 6, "acme".to_owned())]
    );
    // Its node does not exist, so its namespace pays.
    assert_eq!(
        billed(&scene.events_of("lost")),
        [(begin, 6, "shop".to_owned())]
    );
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn windows_wait_while_namespaces_may_not_be_read_and_ready_says_so() {
    let scene = Scene::bare(BINARY).await;
    let shop = scene.namespace("shop").await;
    scene.namespace("bank").await;
    shop.create(&pod("web")).await.unwrap();
    let begin = pods::now();
    shop.set_running("web", begin).await.unwrap();
    let preset = scene.preset().env("SCRAPE_NAMESPACE", "shop,bank");
    let meterline = preset
        .env("SUBJECT_FROM", "namespace")
        .env("STATE_PATH", scene.file("state.sqlite"))
        .start()
        .unwrap();
    meterline.wait_unready("namespaces").await.unwrap();
    assert!(scene.ingest.events().is_empty());
    let granted = scene
        .control_plane
        .grant_cluster("reader", "", "namespaces");
    granted.await.unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    scene.wait_for_event_of("web").await;
    scene.finish(&meterline).await;
    assert!(
        scene
            .events_of("web")
            .iter()
            .all(|it| it["subject"] == "shop")
    );
}

/// Replaces the table of customers. Returns the second at which it was written.
fn write_table(path: &Path, rows: &[(&str, &str)]) -> DateTime<Utc> {
    let rows: String = rows
        .iter()
        .map(|(key, value)| format!("{key},{value}\n"))
        .collect();
    let new = path.with_extension("new");
    fs::write(&new, format!("namespace,customer\n{rows}")).unwrap();
    let written = fs::metadata(&new).unwrap().mtime();
    fs::rename(new, path).unwrap();
    DateTime::from_timestamp(written, 0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_table_names_who_pays_and_its_change_divides_only_what_it_concerns() {
    // No right to read namespaces or nodes is needed.
    let scene = Scene::bare(BINARY).await;
    let (shop, bank) = (scene.namespace("shop").await, scene.namespace("bank").await);
    let path = scene.file("customers.csv");
    write_table(&path, &[("shop", "acme"), ("b*", "bank inc")]);
    let from = format!("table:{}", path.display());
    let meterline = start(&scene, &from).await;
    shop.create(&pod("web")).await.unwrap();
    bank.create(&pod("vault")).await.unwrap();
    let begin = pods::now();
    shop.set_running("web", begin).await.unwrap();
    bank.set_running("vault", begin).await.unwrap();
    // A window begins at each multiple of five, which would divide the time of every pod.
    let mut at = begin + seconds(4);
    while at.timestamp() % 5 == 0 {
        at += seconds(1);
    }
    // The time of a file lags by some milliseconds.
    until(at + TimeDelta::milliseconds(500)).await;
    let first = write_table(&path, &[("shop", "globex"), ("b*", "bank inc"), ("x", "y")]);
    scene
        .ingest
        .wait_until(MINUTE, |it| {
            it.events.iter().any(|it| it.event["subject"] == "globex")
        })
        .await
        .unwrap();
    // Half a table does not count.
    fs::write(&path, "namespace,customer\nshop,glo\nbank").unwrap();
    meterline
        .wait_for_log("what was read last counts", MINUTE)
        .await
        .unwrap();
    meterline.kill().unwrap();
    let second = write_table(&path, &[("shop", "initech"), ("b*", "bank inc")]);
    let meterline = start(&scene, &from).await;
    until(second + seconds(4)).await;
    let end = end_of_both(&scene, begin, &meterline).await;
    let customers = [(begin, "acme"), (first, "globex"), (second, "initech")];
    assert_eq!(billed(&scene.events_of("web")), stretches(&customers, end));
    let vault = scene.events_of("vault");
    let whole = stretches(&[(begin, "bank inc")], end);
    assert_eq!(billed(&vault), whole);
    let starts = vault.iter().map(|it| it["time"].as_str().unwrap());
    let starts: Vec<_> = starts
        .map(|it| it.parse::<DateTime<Utc>>().unwrap())
        .collect();
    assert!(!starts.contains(&first), "{starts:?}");
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn usage_of_a_subject_that_is_not_known_is_rejected_and_delivered_once_it_is() {
    let scene = Scene::bare(BINARY).await;
    let shop = scene.namespace("shop").await;
    let start = async |allowed: &str| {
        let preset = scene.preset().env("SCRAPE_NAMESPACE", "shop");
        let preset = preset
            .env("ALLOWED_SUBJECTS", allowed)
            .env("SCRAPE_INTERVAL", "2s")
            .env("STATE_PATH", scene.file("state.sqlite"));
        preset.start_ready().await.unwrap()
    };
    let meterline = start("acme, team-*").await;
    let begin = pods::now() - seconds(1);
    let subjects = [("one", "acme"), ("two", "team-a"), ("three", "nobody")];
    for (name, subject) in subjects {
        let pod = pod(name).annotation("openmeter.io/subject", subject);
        shop.create(&pod).await.unwrap();
    }
    let begin = begin.max(pods::now());
    for (name, _) in subjects {
        shop.set_running(name, begin).await.unwrap();
    }
    let end = begin + seconds(4);
    until(end).await;
    for (name, _) in subjects {
        shop.set_ended(name, Phase::Succeeded, begin, end)
            .await
            .unwrap();
    }
    meterline
        .wait_for_seconds(MINUTE, |seconds| {
            seconds["rejected"] == 4 && seconds["delivered"] == 8
        })
        .await
        .unwrap();
    let log = meterline.log().join("\n");
    assert!(
        log.contains("the subject `nobody` is not one of those that are allowed"),
        "{log}"
    );
    assert!(scene.events_of("three").is_empty());
    meterline.stop().await;

    let meterline = start("acme, team-*, nobody").await;
    scene.truth.wait_for_ends(3).await.unwrap();
    scene.assert_exact(&meterline).await;
    assert_eq!(
        billed(&scene.events_of("three")),
        [(begin, 4, "nobody".to_owned())]
    );
    meterline.stop().await;
}

/// The fields of the first event of a pod, without what differs between any two pods.
fn fields(scene: &Scene, name: &str) -> BTreeMap<String, Value> {
    let event = scene.events_of(name).remove(0);
    let mut fields: BTreeMap<_, _> = serde_json::from_value(event["data"].clone()).unwrap();
    fields.remove("pod_name");
    for key in ["subject", "source", "type", "time"] {
        fields.insert(format!("event.{key}"), event[key].clone());
    }
    fields
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_tenant_who_writes_every_annotation_changes_only_fields_of_its_own() {
    let scene = scene().await;
    let shop = scene.namespace("shop").await;
    scene.namespace("bank").await;
    set(&scene, "shop", customer("acme")).await;
    let limits = json!({"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "1"});
    let containers =
        json!([{"name": "c", "image": "i", "resources": {"requests": limits, "limits": limits}}]);
    let plain = pod("plain").containers(containers.clone());
    let plain = plain.field("nodeSelector", json!({"nvidia.com/gpu.product": "A100"}));
    let mut hostile = pod("hostile").containers(containers);
    hostile = hostile.field("nodeSelector", json!({"nvidia.com/gpu.product": "A100"}));
    shop.create(&plain).await.unwrap();
    let meterline = start(&scene, "namespace").await;
    let begin = pods::now();
    shop.set_running("plain", begin).await.unwrap();
    scene.wait_for_event_of("plain").await;
    // Every name that a preset sends, each written by the tenant.
    let measured: Vec<_> = fields(&scene, "plain").into_keys().collect();
    let also = [
        "pod_name",
        "resource",
        "device_count",
        "device_hours",
        "gpu_equivalent_hours",
        "device_fraction",
        "vendor",
        "partition",
        "sharing",
    ];
    for name in measured.iter().map(String::as_str).chain(also) {
        let name = name.trim_start_matches("event.");
        for prefix in ["data.openmeter.io/", "openmeter.io/"] {
            hostile = hostile.annotation(&format!("{prefix}{name}"), "0");
        }
    }
    hostile = hostile.annotation("data.openmeter.io/team", "mine");
    shop.create(&hostile).await.unwrap();
    let at = pods::now();
    shop.set_running("hostile", at).await.unwrap();
    // Windows that both run through have the same times.
    scene
        .ingest
        .wait_until(MINUTE, |it| {
            let whole = it.events.iter().filter(|it| {
                it.event["data"]["pod_name"] == "hostile"
                    && it.event["data"]["duration_seconds"] == 5
            });
            whole.count() > 0
        })
        .await
        .unwrap();
    let whole = |name: &str| {
        let events = scene.events_of(name);
        let found = events
            .iter()
            .rfind(|it| it["data"]["duration_seconds"] == 5);
        found.unwrap().clone()
    };
    let (one, other) = (whole("plain"), whole("hostile"));
    assert_eq!(one["subject"], "acme");
    for key in ["subject", "source", "type", "specversion"] {
        assert_eq!(one[key], other[key], "{key}");
    }
    let mut data = other["data"].as_object().unwrap().clone();
    assert_eq!(data["pod_name"], "hostile");
    for (key, value) in one["data"].as_object().unwrap() {
        let written = data.remove(key);
        if key != "pod_name" {
            assert_eq!(written.as_ref(), Some(value), "{key}");
        }
    }
    let own = [
        "device_count",
        "device_fraction",
        "device_hours",
        "gpu_equivalent_hours",
        "partition",
        "resource",
        "sharing",
        "source",
        "subject",
        "team",
        "time",
        "type",
        "vendor",
    ];
    let left: Vec<_> = data.keys().map(String::as_str).collect();
    assert_eq!(
        left, own,
        "fields of its own, which no meter of the preset reads"
    );
    scene.finish(&meterline).await;
}
