//! Corner cases of pods, and of rights, on a real API server.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use meterline_testkit::{
    audit::{Life, Report, audit},
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    kwok::{Kwok, NODE, RUN_FOR, START_AFTER},
    pods::{self, Phase, Pods, pod},
    truth::Truth,
};
use serde_json::{Value, json};

use crate::support::{MINUTE, meterline, preset, root, seconds, settled, stop, until};

/// The events of a pod, oldest first.
pub(crate) fn events_of(ingest: &RecordingIngest, pod: &str) -> Vec<Value> {
    let mut events = ingest.events();
    events.retain(|event| event["data"]["pod_name"] == pod);
    events.sort_by_key(|event| event["time"].as_str().unwrap().to_owned());
    events
}

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

/// Waits until the events of a namespace cover the lives exactly, and gives back the last report.
async fn settled_in(
    ingest: &RecordingIngest,
    lives: &[Life],
    start: DateTime<Utc>,
    namespace: &str,
) -> Report {
    let report = |events: Vec<&Value>| {
        let mine = events
            .into_iter()
            .filter(|it| it["data"]["pod_namespace"] == namespace);
        audit(lives, mine, start..start + seconds(120))
    };
    // An error says no more than the report.
    let _ = ingest
        .wait_until(MINUTE, |state| {
            report(state.events.iter().map(|it| &it.event).collect()).is_exact()
        })
        .await;
    report(ingest.events().iter().collect())
}

/// One pod for each rule, all at once; one namespace may be read and the other not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn every_rule_of_a_pod_s_life_and_of_its_metrics() {
    let control_plane = ControlPlane::start().await.unwrap();
    for namespace in ["mine", "gone", "other"] {
        control_plane.create_namespace(namespace).await.unwrap();
    }
    for namespace in ["mine", "gone"] {
        control_plane.grant_pods("reader", namespace).await.unwrap();
    }
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_NAMESPACE", "mine, gone")
        .env("SCRAPE_INTERVAL", "2s")
        .env("NORMALIZE", "minute")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();

    let mine = Pods::new(client.clone(), "mine");
    let gone = Pods::new(client.clone(), "gone");
    let other = Pods::new(client, "other");
    let start = pods::now();
    let plain = |name: &str| {
        pod(name).containers(json!([{"name": "main", "image": "x",
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "4"}}}]))
    };
    mine.create_running(&with_everything(), start)
        .await
        .unwrap();
    let bare = pod("bare").containers(json!([{"name": "main", "image": "x"}]));
    mine.create_running(&bare, start).await.unwrap();
    let named = plain("stripped").annotation("openmeter.io/subject", "customer-3");
    mine.create_running(&named, start).await.unwrap();
    for name in [
        "again",
        "restarted",
        "resized",
        "renamed",
        "evicted",
        "moment",
    ] {
        mine.create_running(&plain(name), start).await.unwrap();
    }
    mine.create(&plain("pending")).await.unwrap();
    gone.create_running(&plain("removed"), start).await.unwrap();
    other
        .create_running(&plain("elsewhere"), start)
        .await
        .unwrap();

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
    // Nobody says when it stopped: the deletion that the watch sees is its end.
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
    truth
        .wait_until(MINUTE, |lives| {
            lives
                .iter()
                .all(|life| life.namespace == "other" || life.end.is_some())
        })
        .await
        .unwrap();
    let mut lives = truth.lives();
    lives.retain(|life| life.namespace == "mine");
    assert_eq!(lives.len(), 10);
    settled_in(&ingest, &lives, start, "mine")
        .await
        .assert_exact();

    let everything = events_of(&ingest, "everything");
    let whole = everything
        .iter()
        .find(|it| it["data"]["duration_seconds"] == 2)
        .unwrap();
    assert_eq!(whole["subject"], "customer-1");
    insta::assert_json_snapshot!(whole["data"]);
    let bare = &events_of(&ingest, "bare")[0];
    assert_eq!(bare["subject"], "bare");
    for metric in [
        "cpu_request_millicores",
        "memory_limit_bytes",
        "gpu_limit_count_per_minute",
    ] {
        assert_eq!(bare["data"][metric], 0, "{metric}");
    }
    assert!(events_of(&ingest, "pending").is_empty());
    assert!(events_of(&ingest, "elsewhere").is_empty());
    let of = |name: &str, pointer: &str| -> BTreeSet<String> {
        let events = events_of(&ingest, name);
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
        let mut events = events_of(&ingest, name);
        events.retain(|event| event["subject"] == subject);
        let seconds = events.iter().map(|it| &it["data"]["duration_seconds"]);
        seconds.map(|it| it.as_i64().unwrap()).sum()
    };
    let removed = billed("removed", "removed");
    assert!((3..=5).contains(&removed), "{removed}");
    let stripped = billed("stripped", "customer-3");
    assert!((3..=5).contains(&stripped), "{stripped}");
    assert_eq!(
        meterline.metric("ledger_overbilled_seconds").await.unwrap(),
        Some(0.0)
    );
    ingest.assert_clean();
    stop(&meterline).await;
}

/// A kubelet that is not ours: pods that wait, run for a time, end by themselves or are deleted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_kwok_runs_are_billed_exactly() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane
        .grant_cluster("reader", "", "pods")
        .await
        .unwrap();
    let kwok = Kwok::start(&control_plane).await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_NAMESPACE", "")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    let start = pods::now();
    let pods = Pods::new(client, "default");
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
    until(start + seconds(8)).await;
    for index in [0, 3, 6, 9] {
        pods.delete_gracefully(&format!("pod-{index}"))
            .await
            .unwrap();
    }
    truth
        .wait_until(MINUTE, |lives| lives.iter().all(|life| life.end.is_some()))
        .await
        .unwrap();
    assert!(truth.unreported().is_empty(), "{}", kwok.child().tail());
    settled(
        &ingest,
        &truth.lives(),
        &(start..start + seconds(120)),
        MINUTE,
    )
    .await
    .assert_exact();
    ingest.assert_clean();
    stop(&meterline).await;
}

/// Neither a server nor rights nor a sink at the start: it says so, waits, and bills when it can.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn it_starts_without_a_server_and_without_rights() {
    let control_plane = ControlPlane::start().await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let pods = Pods::new(client, "default");
    let start = pods::now();
    pods.create_running(&pod("steady"), start).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    control_plane.stop_apiserver();
    let meterline = preset(&control_plane, "nobody", &ingest).start().unwrap();
    let not_ready =
        |what: &'static str| move |status: u16, page: &str| status == 503 && page.contains(what);
    meterline
        .wait_for_page("/ready", MINUTE, not_ready("kubernetes_resources"))
        .await
        .unwrap();
    // Ever longer pauses, and ever fewer lines: the first, the second and the fourth failure.
    meterline.wait_for_log("failures=4", MINUTE).await.unwrap();
    let lines = meterline.log();
    let told = lines.iter().filter(|it| it.contains("cannot be reached"));
    assert_eq!(told.count(), 3, "{}", meterline.tail());
    let staleness = "ledger_staleness_seconds";
    meterline
        .wait_for_metric(staleness, MINUTE, |it| it >= 3.0)
        .await
        .unwrap();
    control_plane.start_apiserver().await.unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, not_ready("forbidden"))
        .await
        .unwrap();
    meterline.wait_for_log("forbidden", MINUTE).await.unwrap();
    assert_eq!(ingest.state().requests.len(), 0);
    control_plane.grant_pods("nobody", "default").await.unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    ingest
        .wait_until(MINUTE, |state| !state.events.is_empty())
        .await
        .unwrap();
    // How old the view is grows while the server is away, and only then.
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
        .revoke_pods("nobody", "default")
        .await
        .unwrap();
    stop(&meterline).await;
    ingest.assert_clean();
}

/// The configuration of the documentation, and the other resource types.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn limits_nodes_and_claims() {
    let control_plane = ControlPlane::start().await.unwrap();
    for resource in ["nodes", "persistentvolumeclaims", "pods"] {
        control_plane
            .grant_cluster("reader", "", resource)
            .await
            .unwrap();
    }
    let client = control_plane.admin_client().await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let kubeconfig = control_plane.kubeconfig_for("reader").unwrap();
    let limits = meterline()
        .args([
            "--config".as_ref(),
            root().join("examples/limits.yaml").as_os_str(),
        ])
        .kubeconfig(&kubeconfig)
        .env("OPENMETER_URL", ingest.url())
        .env("SCRAPE_INTERVAL", "2s")
        .env("BATCH_PERIOD", "1s")
        .start()
        .unwrap();
    let pods = Pods::new(client.clone(), "default");
    let spec = with_everything();
    pods.create_running(&spec, pods::now()).await.unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 2)
        .await
        .unwrap();
    let whole = events_of(&ingest, "spoofed");
    assert!(
        whole.is_empty(),
        "an annotation cannot stand for the pod's name"
    );
    let event = events_of(&ingest, "everything").pop().unwrap();
    insta::assert_json_snapshot!(event["data"], {".duration_seconds" => "[seconds]"});
    stop(&limits).await;

    let nodes: Api<Node> = Api::all(client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": "node-1"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, "default");
    let claim = json!({"metadata": {"name": "claim-1"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}});
    let claim = serde_json::from_value(claim).unwrap();
    claims.create(&PostParams::default(), &claim).await.unwrap();
    // What is learned of them later is billed, too.
    let gpus = json!({"status": {"capacity": {"cpu": "8", "nvidia.com/gpu": "4"}}});
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "12Gi"}}});
    for (resource_type, name) in [("node", "node-1"), ("persistentvolumeclaim", "claim-1")] {
        let running = meterline()
            .config(&of_resources(resource_type, &ingest.url()))
            .kubeconfig(&kubeconfig)
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
        stop(&running).await;
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
