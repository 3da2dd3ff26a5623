//! Who pays: the subject comes from what a tenant cannot write, as it was at the time.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use meterline_testkit::{
    pods::{self, Phase, pod},
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
    let set = set.unwrap();
    let entries = set.metadata.managed_fields.iter().flatten();
    let newest = entries
        .filter_map(|it| it.time.as_ref())
        .max_by_key(|it| it.0);
    DateTime::from_timestamp(newest.unwrap().0.as_second(), 0).unwrap()
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
    let end = pods::now();
    shop.set_ended("web", Phase::Succeeded, begin, end)
        .await
        .unwrap();
    bank.set_ended("vault", Phase::Succeeded, begin, end)
        .await
        .unwrap();
    scene.truth.wait_for_ends(2).await.unwrap();
    scene.assert_exact(&meterline).await;

    let length = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).num_seconds();
    assert_eq!(
        billed(&scene.events_of("web")),
        [
            (begin, length(begin, first), "acme".to_owned()),
            (first, length(first, second), "globex".to_owned()),
            (second, length(second, end), "initech".to_owned()),
        ]
    );
    // Without an annotation the namespace pays under its name.
    let whole = (begin, length(begin, end), "bank".to_owned());
    assert_eq!(billed(&scene.events_of("vault")), [whole]);
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
