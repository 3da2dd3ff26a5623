//! The preset `kubernetes-pod-device-time`: each kind of device of a pod is billed to the second, and the
//! time of pods without devices has the fate `dropped`.

use std::collections::BTreeSet;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use k8s_openapi::api::{
    core::v1::{Namespace, Node},
    resource::v1::ResourceClaim,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use meterline_kubesim::{Kind, Options};
use meterline_testkit::{
    audit::{self, Life},
    pods::{self, Phase, PodSpec, pod},
    process::MeterlineCommand,
    scene::{Scene, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, stretches_of, until};

const LIVED: i64 = 30;

/// A pod that ran for [`LIVED`] seconds.
fn life(scene: &Scene<meterline_testkit::scene::Simulated>, name: &str) -> Life {
    let start = scene.start - TimeDelta::seconds(50);
    Life {
        uid: format!("uid-{name}"),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        start,
        end: Some(start + TimeDelta::seconds(LIVED)),
    }
}

fn object(life: &Life, limits: &Value, selector: &Value) -> Value {
    let rfc3339 = |time: chrono::DateTime<chrono::Utc>| {
        time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    let (start, end) = (rfc3339(life.start), life.end.map(rfc3339));
    json!({
        "metadata": {
            "name": life.name, "namespace": life.namespace, "uid": life.uid,
            "creationTimestamp": start,
            "annotations": {"openmeter.io/subject": "customer-1", "data.openmeter.io/plan": "gold"},
        },
        "spec": {
            "nodeName": "node", "restartPolicy": "Never", "nodeSelector": selector,
            "containers": [{"name": "main", "resources": {"limits": limits, "requests": limits}}],
        },
        "status": {"phase": "Succeeded", "startTime": start, "containerStatuses": [
            {"name": "main", "state": {"terminated":
                {"startedAt": start, "finishedAt": end, "exitCode": 0}}},
        ]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_billed_apart_and_pods_without_devices_are_dropped() {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let mixed = json!({"nvidia.com/gpu": "2", "nvidia.com/mig-1g.5gb.shared": "3", "cpu": "1"});
    let unknown = json!({"cpu": "1", "example.com/npu": "1"});
    let selector = json!({"cloud.google.com/gke-accelerator": "nvidia-l4"});
    for (name, limits) in [("mixed", &mixed), ("plain", &unknown)] {
        let pod = object(&life(&scene, name), limits, &selector);
        scene.sim.change(|store| store.put(Kind::Pod, pod));
    }
    let mut claiming = object(&life(&scene, "claiming"), &json!({"cpu": "1"}), &selector);
    claiming["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "gpu"}]);
    scene.sim.change(|store| store.put(Kind::Pod, claiming));
    let meterline = scene
        .command()
        .args(["--preset", "kubernetes-pod-device-time"])
        .env("SCRAPE_NAMESPACE", "")
        .env("SCRAPE_INTERVAL", "7s")
        .env("BATCH_SIZE", "0")
        .start_ready()
        .await
        .unwrap();
    let all = meterline.wait_for_seconds(MINUTE, |seconds| {
        seconds["ran"] == 3 * LIVED && seconds["waiting"] == 0
    });
    all.await.unwrap();
    let seconds = &meterline.stats().await.unwrap()["seconds"];
    let expected = json!({"ran": 3 * LIVED, "delivered": LIVED, "dropped": 2 * LIVED, "rejected": 0,
        "waiting": 0, "unproved": 0});
    assert_eq!(*seconds, expected);
    let (_, metrics) = meterline.get("/metrics").await.unwrap();
    // What a pod claims is billed with the claim.
    let unbilled = metrics
        .lines()
        .filter(|it| it.starts_with("ledger_unbilled_device_seconds{"));
    let unbilled: Vec<_> = unbilled.collect();
    let end = "namespace=\"ns\",resource=\"example.com/npu\"} 30";
    assert!(
        unbilled.len() == 1 && unbilled[0].ends_with(end),
        "{metrics}"
    );
    let text = "30 device-seconds of `example.com/npu`";
    meterline.wait_ready_with(text).await.unwrap();
    // The cluster has no claims.
    let text = "does not have the custom resource resourceclaims";
    meterline.wait_ready_with(text).await.unwrap();
    let said = "nothing says whether this is a device";
    assert_eq!(
        meterline
            .log()
            .iter()
            .filter(|it| it.contains(said))
            .count(),
        1
    );
    meterline.stop().await;
    scene.ingest.assert_clean();

    let events = scene.ingest.events();
    assert!(events.iter().all(|event| pod_of(event) == "mixed"));
    let ids: BTreeSet<_> = events.iter().map(|it| it["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len());
    let range = scene.start - TimeDelta::minutes(5)..scene.start + TimeDelta::minutes(60);
    for (resource, count, unit, partition, sharing, fraction) in [
        ("nvidia.com/gpu", 2, "card", "", "none", json!(1)),
        (
            "nvidia.com/mig-1g.5gb.shared",
            3,
            "slice",
            "1g.5gb",
            "unknown",
            Value::Null,
        ),
    ] {
        let of = |event: &&Value| event["data"]["resource"] == resource;
        let report = audit::audit(
            &[life(&scene, "mixed")],
            events.iter().filter(of),
            range.clone(),
        );
        assert!(report.is_exact(), "{resource}: {report}");
        assert_eq!(report.billed_seconds(), LIVED, "{resource}");
        let mut hours = 0.0;
        for event in events.iter().filter(of) {
            let data = &event["data"];
            assert_eq!(event["type"], "kube-pod-device-time");
            assert_eq!(event["subject"], "customer-1");
            for (field, value) in [
                ("plan", json!("gold")),
                ("vendor", json!("nvidia")),
                ("gpu_type", json!("nvidia-l4")),
                ("device_count", json!(count)),
                ("unit", json!(unit)),
                ("partition", json!(partition)),
                ("sharing", json!(sharing)),
                ("device_fraction", fraction.clone()),
            ] {
                assert_eq!(data[field], value, "{field} of {event}");
            }
            let equivalent = &data["gpu_equivalent_hours"];
            let is_whole = fraction == 1;
            assert_eq!(*equivalent == data["device_hours"], is_whole, "{event}");
            hours += data["device_hours"].as_f64().unwrap();
        }
        let expected = f64::from(count) * 30.0 / 3600.0;
        assert!((hours - expected).abs() < 1e-12, "{resource}: {hours}");
    }
}

/// The preset with windows of ten seconds for pods in `shop`.
fn preset(scene: &Scene) -> MeterlineCommand {
    let preset = scene
        .command()
        .args(["--preset", "kubernetes-pod-device-time"]);
    let preset = preset
        .env("SCRAPE_NAMESPACE", "shop")
        .env("BATCH_SIZE", "0");
    preset
        .env("SCRAPE_INTERVAL", "10s")
        .env("DEVICE_CLAIMS", "false")
        .env("STATE_PATH", scene.file("state.sqlite"))
}

/// A pod with a slot of a shared card.
fn slot(name: &str) -> PodSpec {
    let limits = json!({"nvidia.com/gpu.shared": "1"});
    pod(name).containers(json!([
        {"name": "main", "image": "main:1", "resources": {"limits": limits}},
    ]))
}

/// Changes the labels of a node. Returns the second that the API server recorded.
async fn label(nodes: &Api<Node>, name: &str, labels: Value) -> DateTime<Utc> {
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let node = nodes.patch(name, &PatchParams::default(), &patch).await;
    let node = node.unwrap();
    let entries = node.metadata.managed_fields.iter().flatten();
    let newest = entries
        .filter(|it| it.subresource.is_none())
        .filter_map(|it| it.time.as_ref())
        .max_by_key(|it| it.0);
    DateTime::from_timestamp(newest.unwrap().0.as_second(), 0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn labels_of_a_node_count_from_the_start_if_they_come_late_and_divide_time_if_they_change() {
    let scene = Scene::bare(BINARY).await;
    let granted = scene.control_plane.grant_cluster("reader", "", "nodes");
    granted.await.unwrap();
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let node = json!({"metadata": {"name": "node-0", "labels": {"zone": "a"}}});
    let node = serde_json::from_value(node).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let shop = scene.namespace("shop").await;
    let meterline = preset(&scene).start_ready().await.unwrap();
    // The pod starts with a window, so that its labels come before the window is made.
    let window = TimeDelta::seconds(10);
    until(pods::now().duration_trunc(window).unwrap() + window).await;
    shop.create(&slot("web")).await.unwrap();
    let begin = pods::now();
    shop.set_running("web", begin).await.unwrap();
    label(
        &nodes,
        "node-0",
        json!({
            "nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.replicas": "4",
            "nvidia.com/gpu.sharing-strategy": "time-slicing",
        }),
    )
    .await;
    until(begin + seconds(3)).await;
    // A heartbeat, and labels that say nothing of devices.
    let beat = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let beat = Patch::Merge(beat);
    nodes
        .patch_status("node-0", &PatchParams::default(), &beat)
        .await
        .unwrap();
    label(
        &nodes,
        "node-0",
        json!({"zone": "b", "nvidia.com/cuda.driver.major": "570"}),
    )
    .await;
    until(begin + seconds(12)).await;
    let change = label(&nodes, "node-0", json!({"nvidia.com/gpu.replicas": "2"})).await;
    until(change + seconds(4)).await;
    let end = pods::now();
    shop.set_ended("web", Phase::Succeeded, begin, end)
        .await
        .unwrap();
    scene.truth.wait_for_ends(1).await.unwrap();
    scene.assert_exact(&meterline).await;
    let events = scene.events_of("web");
    let billed = stretches_of(&events, |event| {
        let data = &event["data"];
        format!(
            "{} {} {}",
            data["gpu_type"], data["sharing"], data["device_fraction"]
        )
    });
    let length = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).num_seconds();
    let of = |fraction: &str| format!("\"Tesla-T4\" \"time-slicing\" {fraction}");
    assert_eq!(
        billed,
        [
            (begin, length(begin, change), of("0.25")),
            (change, length(change, end), of("0.5")),
        ]
    );
    // Nothing else divided the time.
    for event in &events {
        let time: DateTime<Utc> = event["time"].as_str().unwrap().parse().unwrap();
        let is_bound = time.duration_trunc(window).unwrap() == time;
        assert!(is_bound || time == begin || time == change, "{event}");
    }
    let hours: f64 = events
        .iter()
        .map(|it| it["data"]["gpu_equivalent_hours"].as_f64().unwrap())
        .sum();
    let quarters = length(begin, change) + 2 * length(change, end);
    let expected = f64::from(i32::try_from(quarters).unwrap()) / 4.0 / 3600.0;
    assert!(
        (hours - expected).abs() < 1e-12,
        "{hours} is not {expected}"
    );
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn without_a_right_to_nodes_windows_wait_and_ready_says_so_unless_node_labels_is_false() {
    let scene = Scene::bare(BINARY).await;
    let shop = scene.namespace("shop").await;
    shop.create(&slot("web")).await.unwrap();
    let begin = pods::now();
    shop.set_running("web", begin).await.unwrap();
    let waiting = preset(&scene).start().unwrap();
    waiting.wait_unready("nodes").await.unwrap();
    assert!(scene.ingest.events().is_empty());
    waiting.kill().unwrap();
    let meterline = preset(&scene).env("NODE_LABELS", "false");
    let meterline = meterline.start_ready().await.unwrap();
    scene.wait_for_event_of("web").await;
    scene.finish(&meterline).await;
    for event in scene.events_of("web") {
        let data = &event["data"];
        assert_eq!(
            (&data["unit"], &data["sharing"]),
            (&json!("slot"), &json!("unknown"))
        );
        assert_eq!(data.get("gpu_equivalent_hours"), None, "{event}");
        assert!(data["device_hours"].as_f64().unwrap() > 0.0, "{event}");
    }
}

/// A claim that two pods share is billed once, from its allocation until it has no device any more.
const CLAIMS: &str = r#"
input:
  schedule:
    interval: 5s
    input:
      kubernetes_resources:
        resource_type: resourceclaim
        namespaces: [shop]
        state: {path: "${STATE_PATH}"}
pipeline:
  processors:
    - mapping: |
        let claim = this.metadata;
        let seconds = meta("schedule_interval").parse_duration() / 1000000000;
        let devices = this.status.allocation.devices.results.filter(|it| it.adminAccess != true);
        root = devices.map_each(|it| #{
          id: event_id("claim", it.device), specversion: "1.0", type: "claim", source: "test",
          time: meta("schedule_time"), subject: claim.namespace,
          data: #{ claim: claim.name, device: it.device, duration_seconds: seconds },
        });
    - unarchive: {format: json_array}
output:
  openmeter:
    url: "${OPENMETER_URL}"
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_claim_is_billed_once_for_each_device_while_it_has_devices() {
    let scene = Scene::bare(BINARY).await;
    let granted = scene
        .control_plane
        .grant_cluster("reader", "resource.k8s.io", "resourceclaims");
    granted.await.unwrap();
    scene.namespace("shop").await;
    // Access for administration is allowed only there.
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let labels = json!({"resource.kubernetes.io/admin-access": "true"});
    let labelled = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let (name, plain) = ("shop", PatchParams::default());
    namespaces.patch(name, &plain, &labelled).await.unwrap();
    let claims: Api<ResourceClaim> = Api::namespaced(scene.client.clone(), "shop");
    let start = || async {
        let command = scene
            .command()
            .config(CLAIMS)
            .env("STATE_PATH", scene.file("claims.sqlite"));
        command.start_ready().await.unwrap()
    };
    let meterline = start().await;
    let request = |name: &str, is_admin: bool| {
        json!({"name": name, "exactly":
            {"deviceClassName": "gpu.example.com", "adminAccess": is_admin}})
    };
    let claim = json!({
        "metadata": {"name": "shared"},
        "spec": {"devices": {"requests": [request("gpu", false), request("look", true)]}},
    });
    let claim = serde_json::from_value(claim).unwrap();
    claims.create(&PostParams::default(), &claim).await.unwrap();
    until(pods::now() + seconds(2)).await;
    let set = |allocation: Value, pods: Value| {
        let status = json!({"status": {"allocation": allocation, "reservedFor": pods}});
        let patch = Patch::Merge(status);
        let claims = claims.clone();
        async move {
            claims
                .patch_status("shared", &PatchParams::default(), &patch)
                .await
                .unwrap()
        }
    };
    let result = |request: &str, device: &str| json!({"request": request, "driver": "gpu.example.com", "pool": "node-0", "device": device});
    let mut look = result("look", "gpu-1");
    look["adminAccess"] = true.into();
    let pod = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
    let allocation = json!({"devices": {"results": [result("gpu", "gpu-0"), look]}});
    let allocated = set(allocation, json!([pod("a"), pod("b")])).await;
    let entries = allocated.metadata.managed_fields.iter().flatten();
    let written = entries
        .filter(|it| it.subresource.is_some())
        .filter_map(|it| it.time.as_ref());
    let begin = written.max_by_key(|it| it.0).unwrap().0.as_second();
    let begin = DateTime::from_timestamp(begin, 0).unwrap();
    until(begin + seconds(7)).await;
    meterline.kill().unwrap();
    let meterline = start().await;
    let end = pods::now();
    set(Value::Null, Value::Null).await;
    let idle = meterline.wait_for_seconds(MINUTE, |it| it["waiting"] == 0 && it["delivered"] != 0);
    idle.await.unwrap();
    until(end + seconds(7)).await;
    let events = scene.ingest.events();
    assert!(
        events.iter().all(|it| it["data"]["device"] == "gpu-0"),
        "{events:?}"
    );
    let billed = stretches_of(&events, |it| it["data"]["claim"].to_string());
    let [(start, length, _)] = billed.as_slice() else {
        panic!("{billed:?}");
    };
    assert_eq!(*start, begin);
    // The moment at which it had no device any more is the one at which that was seen.
    let expected = (end - begin).num_seconds();
    assert!(
        (expected..=expected + 2).contains(length),
        "{length} is not {expected}"
    );
    meterline.stop().await;
}
