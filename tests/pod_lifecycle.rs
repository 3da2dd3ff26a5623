//! The rules of a pod's life, and what the program may read, on a real API server.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use meterline_testkit::{
    kwok::{Kwok, NODE, RUN_FOR, START_AFTER},
    pods::{self, Phase, pod},
    scene::Scene,
};
use serde_json::json;

use crate::support::{BINARY, MINUTE, root, seconds, until};

/// Two containers, a sidecar, an init container that ends, and resources on all of them.
fn with_everything() -> pods::PodSpec {
    pod("everything")
        .annotation("openmeter.io/subject", "customer-1")
        .annotation("data.openmeter.io/plan", "gold")
        .annotation("data.openmeter.io/pod_name", "spoofed")
        .annotation("other.io/key", "not billed")
        .containers(json!([
            {"name": "main", "image": "x", "resources": {
                "requests": {"cpu": "250m", "memory": "512Mi"},
                "limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "2"}}},
            {"name": "side", "image": "x", "resources": {"requests": {"cpu": "0.05"}}},
        ]))
        .field(
            "initContainers",
            json!([
                {"name": "proxy", "image": "x", "restartPolicy": "Always",
                 "resources": {"requests": {"cpu": "200m", "memory": "1M"}}},
                {"name": "migrate", "image": "x",
                 "resources": {"requests": {"cpu": "8", "memory": "9Gi"}}},
            ]),
        )
        .field("nodeSelector", json!({"nvidia.com/gpu.product": "A100"}))
}

/// A pod for each rule, all at once. The program may read two namespaces, and not the third.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn every_rule_of_a_pod_s_life_and_of_its_metrics() {
    let scene = Scene::bare(BINARY).await;
    let [mine, gone] = [scene.namespace("mine").await, scene.namespace("gone").await];
    scene.control_plane.create_namespace("other").await.unwrap();
    let other = scene.pods_in("other");
    let meterline = scene
        .preset()
        .env("SCRAPE_NAMESPACE", "mine, gone")
        .env("SCRAPE_INTERVAL", "2s")
        .env("NORMALIZE", "minute")
        .start_ready()
        .await
        .unwrap();
    let plain = |name: &str| {
        pod(name).containers(json!([{"name": "main", "image": "x",
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "4"}}}]))
    };
    let bare = pod("bare").containers(json!([{"name": "main", "image": "x"}]));
    let named = plain("stripped").annotation("openmeter.io/subject", "customer-3");
    let mut pods_of_mine = vec![with_everything(), bare, named];
    pods_of_mine.extend(
        [
            "again",
            "restarted",
            "resized",
            "renamed",
            "evicted",
            "moment",
        ]
        .map(plain),
    );
    for pod in &pods_of_mine {
        mine.create(pod).await.unwrap();
    }
    mine.create(&plain("pending")).await.unwrap();
    gone.create(&plain("removed")).await.unwrap();
    other.create(&plain("elsewhere")).await.unwrap();
    // No pod starts before its creation.
    let start = pods::now();
    for pod in &pods_of_mine {
        mine.set_running(pod.name(), start).await.unwrap();
    }
    gone.set_running("removed", start).await.unwrap();
    other.set_running("elsewhere", start).await.unwrap();

    until(start + seconds(1)).await;
    mine.set_ended("moment", Phase::Succeeded, start, start + seconds(1))
        .await
        .unwrap();
    until(start + seconds(3)).await;
    mine.set_ended("again", Phase::Succeeded, start, start + seconds(3))
        .await
        .unwrap();
    mine.delete("again").await.unwrap();
    mine.create_running(&plain("again"), start + seconds(3))
        .await
        .unwrap();
    mine.set_restarted("restarted", start, start + seconds(2), start + seconds(3))
        .await
        .unwrap();
    mine.resize_cpu("resized", "300m").await.unwrap();
    mine.grant_resize("resized").await.unwrap();
    mine.annotate("renamed", "openmeter.io/subject", Some("customer-2"))
        .await
        .unwrap();
    mine.strip("stripped", "openmeter.io/subject")
        .await
        .unwrap();
    mine.patch_status(
        "evicted",
        json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": [{
            "name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "startedAt": start,
                                     "finishedAt": start + seconds(2)}}}]}),
    )
    .await
    .unwrap();
    // No status contains its end: it ends with the deletion that the watch sees.
    gone.delete("removed").await.unwrap();
    until(start + seconds(9)).await;
    for name in [
        "everything",
        "bare",
        "again",
        "restarted",
        "resized",
        "renamed",
        "stripped",
    ] {
        let began = if name == "again" {
            start + seconds(3)
        } else {
            start
        };
        mine.set_ended(name, Phase::Succeeded, began, start + seconds(9))
            .await
            .unwrap();
    }
    scene
        .truth
        .wait_until(MINUTE, |lives| {
            lives
                .iter()
                .all(|life| life.namespace == "other" || life.end.is_some())
        })
        .await
        .unwrap();
    let report = scene.settled(|namespace, _| namespace == "mine").await;
    report.assert_exact();
    assert_eq!(report.pods.len(), 9, "two lives of one name are one pod");

    let everything = scene.events_of("everything");
    let whole = everything
        .iter()
        .find(|it| it["data"]["duration_seconds"] == 2)
        .unwrap();
    assert_eq!(whole["subject"], "customer-1");
    insta::assert_json_snapshot!(whole["data"]);
    let bare = &scene.events_of("bare")[0];
    assert_eq!(bare["subject"], "bare");
    for metric in [
        "cpu_request_millicores",
        "memory_limit_bytes",
        "gpu_limit_count_per_minute",
    ] {
        assert_eq!(bare["data"][metric], 0, "{metric}");
    }
    assert!(scene.events_of("pending").is_empty());
    assert!(scene.events_of("elsewhere").is_empty());
    let of = |name: &str, pointer: &str| -> BTreeSet<String> {
        let events = scene.events_of(name);
        events
            .iter()
            .map(|event| event.pointer(pointer).unwrap().to_string())
            .collect()
    };
    let set = |values: [&str; 2]| {
        values
            .map(str::to_owned)
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        of("resized", "/data/cpu_request_millicores"),
        set(["0.1", "0.3"])
    );
    assert_eq!(
        of("renamed", "/subject"),
        set(["\"renamed\"", "\"customer-2\""])
    );
    let billed = |name: &str, subject: &str| -> i64 {
        let mut events = scene.events_of(name);
        events.retain(|event| event["subject"] == subject);
        let seconds = events.iter().map(|it| &it["data"]["duration_seconds"]);
        seconds.map(|it| it.as_i64().unwrap()).sum()
    };
    // No status contains its end or the time at which the annotation was removed, so both are known to a second or two.
    let removed = billed("removed", "removed");
    assert!((3..=5).contains(&removed), "{removed}");
    let stripped = billed("stripped", "customer-3");
    assert!((3..=5).contains(&stripped), "{stripped}");
    meterline
        .assert_metric("ledger_overbilled_seconds", 0.0)
        .await;
    scene.ingest.assert_clean();
    meterline.stop().await;
}

/// kwok, a third-party simulation of a kubelet, runs pods that wait, end by themselves or are deleted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_kwok_runs_are_billed_exactly() {
    let scene = Scene::bare(BINARY).await;
    let granted = scene.control_plane.grant_cluster("reader", "", "pods");
    granted.await.unwrap();
    let kwok = Kwok::start(&scene.control_plane).await.unwrap();
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "5s");
    let meterline = meterline.env("SCRAPE_NAMESPACE", "").start_ready().await;
    let meterline = meterline.unwrap();
    let (pods, truth) = (&scene.pods, &scene.truth);
    for index in 0..12_u64 {
        let mut spec = pod(&format!("pod-{index}")).node(NODE);
        if index % 3 != 0 {
            spec = spec.annotation(RUN_FOR, &format!("{}s", 1 + index));
        }
        if index % 2 == 0 {
            spec = spec.annotation(START_AFTER, "2s");
        }
        pods.create(&spec).await.unwrap();
    }
    truth
        .wait_until(MINUTE, |lives| lives.len() == 12)
        .await
        .unwrap();
    until(pods::now() + seconds(8)).await;
    for index in [0, 3, 6, 9] {
        let name = format!("pod-{index}");
        pods.delete_gracefully(&name).await.unwrap();
    }
    truth.wait_for_ends(12).await.unwrap();
    assert!(truth.unreported().is_empty(), "{}", kwok.child().tail());
    scene.finish(&meterline).await;
}

/// At the start the server is unavailable and the permissions are missing. The program reports that, waits, and
/// bills as soon as it can.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn it_starts_without_a_server_and_without_rights() {
    let scene = Scene::bare(BINARY).await;
    let (control_plane, ingest) = (&scene.control_plane, &scene.ingest);
    let steady = pod("steady");
    let running = scene.pods.create_running(&steady, scene.start).await;
    running.unwrap();
    control_plane.stop_apiserver();
    let meterline = scene.preset().start().unwrap();
    meterline
        .wait_unready("kubernetes_resources")
        .await
        .unwrap();
    // The pauses grow and the lines get rarer: it logs the first, the second and the fourth failure.
    meterline.wait_for_log("failures=4", MINUTE).await.unwrap();
    let lines = meterline.log();
    let warnings = lines.iter().filter(|it| it.contains("cannot be reached"));
    assert_eq!(warnings.count(), 3, "{}", meterline.tail());
    let staleness = "ledger_staleness_seconds";
    meterline
        .wait_for_metric(staleness, MINUTE, |it| it >= 3.0)
        .await
        .unwrap();
    control_plane.start_apiserver().await.unwrap();
    meterline.wait_unready("forbidden").await.unwrap();
    meterline.wait_for_log("forbidden", MINUTE).await.unwrap();
    assert_eq!(ingest.state().requests.len(), 0);
    control_plane.grant_pods("reader", "default").await.unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    ingest.wait_for_events(1).await.unwrap();
    // The view gets older while the server is unavailable, and only then.
    control_plane.stop_apiserver();
    meterline
        .wait_for_metric(staleness, MINUTE, |it| it >= 8.0)
        .await
        .unwrap();
    control_plane.start_apiserver().await.unwrap();
    meterline
        .wait_for_metric(staleness, MINUTE, |it| it <= 5.0)
        .await
        .unwrap();
    control_plane
        .revoke_pods("reader", "default")
        .await
        .unwrap();
    meterline.stop().await;
    ingest.assert_clean();
}

/// The configuration of the documentation, and the other resource types.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn limits_nodes_and_claims() {
    let scene = Scene::bare(BINARY).await;
    let (pods, client, ingest) = (&scene.pods, scene.client.clone(), &scene.ingest);
    for resource in ["nodes", "persistentvolumeclaims", "pods"] {
        let granted = scene.control_plane.grant_cluster("reader", "", resource);
        granted.await.unwrap();
    }
    let config = root().join("examples/limits.yaml");
    let limits = scene
        .command()
        .args(["--config".as_ref(), config.as_os_str()])
        .env("SCRAPE_INTERVAL", "2s")
        .env("BATCH_PERIOD", "1s")
        .start()
        .unwrap();
    let spec = with_everything();
    pods.create_running(&spec, pods::now()).await.unwrap();
    ingest.wait_for_events(2).await.unwrap();
    let whole = scene.events_of("spoofed");
    assert!(
        whole.is_empty(),
        "an annotation cannot stand for the pod's name"
    );
    let event = scene.events_of("everything").pop().unwrap();
    insta::assert_json_snapshot!(event["data"], {".duration_seconds" => "[seconds]"});
    limits.stop().await;

    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": "node-1"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, "default");
    let claim = json!({"metadata": {"name": "claim-1"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}});
    let claim = serde_json::from_value(claim).unwrap();
    claims.create(&PostParams::default(), &claim).await.unwrap();
    // A claim is billed from when it is bound.
    let small = json!({"status": {"phase": "Bound", "capacity": {"storage": "10Gi"}}});
    let patch = Patch::Merge(&small);
    let parameters = PatchParams::default();
    claims
        .patch_status("claim-1", &parameters, &patch)
        .await
        .unwrap();
    // What changes in them later is billed as well.
    let gpus = json!({"status": {"capacity": {"cpu": "8", "nvidia.com/gpu": "4"}}});
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "12Gi"}}});
    for (resource_type, name) in [("node", "node-1"), ("persistentvolumeclaim", "claim-1")] {
        let running = scene
            .command()
            .config(&of_resources(resource_type, &ingest.url()))
            .start()
            .unwrap();
        ingest
            .wait_until(MINUTE, |state| {
                let mut events = state.events.iter();
                events.any(|it| it.event["subject"] == name && it.event["type"] == resource_type)
            })
            .await
            .unwrap();
        let parameters = PatchParams::default();
        let held = if resource_type == "node" {
            let patch = Patch::Merge(&gpus);
            nodes.patch_status(name, &parameters, &patch).await.unwrap();
            &gpus
        } else {
            let patch = Patch::Merge(&bound);
            claims
                .patch_status(name, &parameters, &patch)
                .await
                .unwrap();
            &bound
        };
        ingest
            .wait_until(MINUTE, |state| {
                let capacity = &held["status"]["capacity"];
                let mut events = state.events.iter();
                events.any(|it| it.event["data"]["capacity"] == *capacity)
            })
            .await
            .unwrap();
        running.stop().await;
    }
    ingest.assert_clean();
}

fn of_resources(resource_type: &str, url: &str) -> String {
    format!(
        r#"
input:
  schedule:
    interval: 1s
    input:
      kubernetes_resources:
        resource_type: {resource_type}
pipeline:
  processors:
    - mapping: |
        root = #{{
          id: event_id("{resource_type}"), specversion: "1.0", type: "{resource_type}",
          source: "kubernetes-api", time: meta("schedule_time"), subject: this.metadata.name,
          data: #{{ seconds: meta("schedule_interval").parse_duration() / 1000000000,
                   capacity: this.status?.capacity }},
        }};
    - json_schema:
        schema_path: 'file://./cloudevents.spec.json'
output:
  openmeter:
    url: {url}
"#
    )
}
