//! What is no pod, on a real API server: load balancers, nodes, claims and volumes, whose statuses the tests write as
//! controllers do.

mod all;
mod readiness;

use chrono::{DateTime, Utc};
use k8s_openapi::{
    api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Service},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use meterline_testkit::{
    pods,
    process::{Meterline, MeterlineCommand},
    scene::Scene,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, stretches_of, until};

/// A stretch of events: its start, its seconds, and what was the same in it.
type Stretch = (DateTime<Utc>, i64, String);

/// Objects of one kind, written as their controllers write them.
struct Written<K>(Api<K>);

impl<K> Written<K>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    /// Creates an object. Returns the second of its creation.
    async fn create(&self, object: Value) -> DateTime<Utc> {
        let object = serde_json::from_value(object).unwrap();
        let by = PostParams {
            field_manager: Some("creator".to_owned()),
            ..PostParams::default()
        };
        let created: K = self.0.create(&by, &object).await.unwrap();
        let created = created.meta().creation_timestamp.as_ref().unwrap().0;
        DateTime::from_timestamp(created.as_second(), 0).unwrap()
    }

    /// Changes an object. Returns the second that the API server recorded.
    async fn change(&self, name: &str, patch: Value) -> DateTime<Utc> {
        let by = PatchParams::apply("changer");
        let changed = self.0.patch(name, &by, &Patch::Merge(patch)).await;
        last_write(&changed.unwrap())
    }

    /// Changes the status of an object. Returns the second that the API server recorded.
    async fn set(&self, name: &str, status: Value) -> DateTime<Utc> {
        let patch = Patch::Merge(json!({ "status": status }));
        let by = PatchParams::apply("controller");
        let changed = self.0.patch_status(name, &by, &patch).await;
        last_write(&changed.unwrap())
    }

    async fn delete(&self, name: &str) {
        self.0.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Takes away what keeps an object that is being deleted. Returns when it was gone.
    async fn release(&self, name: &str) -> DateTime<Utc> {
        self.change(name, json!({"metadata": {"finalizers": null}}))
            .await;
        assert!(self.0.get_opt(name).await.unwrap().is_none(), "{name}");
        pods::now()
    }
}

fn last_write<K: Resource>(object: &K) -> DateTime<Utc> {
    let entries = object.meta().managed_fields.iter().flatten();
    let times = entries.filter_map(|it| it.time.as_ref());
    let newest = times.map(|it| it.0.as_second()).max().unwrap();
    DateTime::from_timestamp(newest, 0).unwrap()
}

async fn scene(resources: &[&str]) -> Scene {
    let scene = Scene::bare(BINARY).await;
    for resource in resources {
        let granted = scene.control_plane.grant_cluster("reader", "", resource);
        granted.await.unwrap();
    }
    scene.control_plane.create_namespace("shop").await.unwrap();
    scene
}

fn preset(scene: &Scene, name: &str) -> MeterlineCommand {
    scene
        .command()
        .args(["--preset", name])
        .env("SCRAPE_NAMESPACE", "")
        .env("SCRAPE_INTERVAL", "3s")
        .env("BATCH_SIZE", "0")
        .env("STATE_PATH", scene.file("state.sqlite"))
}

/// The stretches of the events whose field has this text, by what `of` returns for them.
fn stretches(
    scene: &Scene,
    (field, name): (&str, &str),
    of: impl Fn(&Value) -> String,
) -> Vec<Stretch> {
    let mut events = scene.ingest.events();
    events.retain(|it| it["data"][field] == name);
    stretches_of(&events, of)
}

/// Waits until everything up to this second was delivered.
async fn billed_until(meterline: &Meterline, end: DateTime<Utc>) {
    let watermark = "ledger_watermark_timestamp_seconds";
    let is_past = |value: f64| value > end.timestamp() as f64;
    let waited = meterline.wait_for_metric(watermark, MINUTE, is_past);
    waited.await.unwrap();
}

fn length(from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
    (to - from).num_seconds()
}

/// Checks stretches; the end of the last one is known to a second.
fn assert_stretches(found: &[Stretch], expected: &[Stretch]) {
    let mut found = found.to_vec();
    if let (Some(last), Some(expected)) = (found.last_mut(), expected.last())
        && (last.1 - expected.1).abs() <= 1
    {
        last.1 = expected.1;
    }
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_load_balancer_is_billed_from_its_creation_until_the_cloud_has_deleted_it() {
    let scene = scene(&["services", "namespaces"]).await;
    let services = Written(Api::<Service>::namespaced(scene.client.clone(), "shop"));
    let preset = || preset(&scene, "kubernetes-loadbalancer-time");
    let meterline = preset().start_ready().await.unwrap();
    let service = |name: &str, of: &str| json!({"metadata": {"name": name}, "spec": {"type": of, "ports": [{"port": 80}]}});
    let ingress = |addresses: &[&str]| {
        let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"loadBalancer": {"ingress": ips}})
    };
    let mut web = service("web", "LoadBalancer");
    web["metadata"]["finalizers"] = json!(["service.kubernetes.io/load-balancer-cleanup"]);
    web["metadata"]["annotations"] = json!({"networking.gke.io/load-balancer-type": "Internal"});
    web["spec"]["loadBalancerClass"] = "example.com/l4".into();
    let created = services.create(web).await;
    services.create(service("waiting", "LoadBalancer")).await;
    services.create(service("plain", "ClusterIP")).await;
    services.create(service("turned", "ClusterIP")).await;

    // The windows since the creation are over when the address comes.
    until(created + seconds(10)).await;
    let addressed = services.set("web", ingress(&["192.0.2.1"])).await;
    let turned = services
        .change("turned", json!({"spec": {"type": "LoadBalancer"}}))
        .await;
    until(addressed + seconds(4)).await;
    services.set("turned", ingress(&["192.0.2.9"])).await;
    // Another address costs the same.
    services.set("web", ingress(&["192.0.2.2"])).await;
    meterline.kill().unwrap();
    until(addressed + seconds(6)).await;
    let second = services
        .set("web", ingress(&["192.0.2.2", "192.0.2.3"]))
        .await;
    let meterline = preset().start_ready().await.unwrap();
    until(second + seconds(4)).await;
    let back = services
        .change("turned", json!({"spec": {"type": "ClusterIP"}}))
        .await;
    services.delete("web").await;
    services.delete("waiting").await;
    until(back + seconds(5)).await;
    let gone = services.release("web").await;
    billed_until(&meterline, gone).await;
    meterline.stop().await;

    let addresses = |event: &Value| event["data"]["ip_count"].to_string();
    assert_stretches(
        &stretches(&scene, ("service_name", "web"), addresses),
        &[
            (created, length(created, second), "1".to_owned()),
            (second, length(second, gone), "2".to_owned()),
        ],
    );
    assert_eq!(
        stretches(&scene, ("service_name", "turned"), addresses),
        [(turned, length(turned, back), "1".to_owned())]
    );
    let events = scene.ingest.events();
    for event in &events {
        let data = &event["data"];
        let is_web = data["service_name"] == "web";
        assert!(is_web || data["service_name"] == "turned", "{event}");
        assert_eq!(event["type"], "kube-loadbalancer-time");
        assert_eq!(event["subject"], "shop");
        assert_eq!(data["internal"], is_web);
        let class = if is_web { "example.com/l4" } else { "" };
        assert_eq!(data["load_balancer_class"], class);
        let hours = data["duration_seconds"].as_f64().unwrap() / 3600.0;
        assert_eq!(data["hours"].as_f64(), Some(hours));
    }
    scene.ingest.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_node_is_billed_to_who_its_label_names_and_heartbeats_divide_nothing() {
    let scene = scene(&["nodes"]).await;
    let nodes = Written(Api::<Node>::all(scene.client.clone()));
    let meterline = preset(&scene, "kubernetes-node-time").env("SUBJECT_FROM", "node-label:owner");
    let meterline = meterline.start_ready().await.unwrap();
    let labels = json!({"owner": "acme", "node.kubernetes.io/instance-type": "p4d.24xlarge",
        "topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu-1",
        "kubernetes.io/arch": "amd64", "karpenter.sh/nodepool": "gpu",
        "karpenter.sh/capacity-type": "spot"});
    let created = nodes
        .create(json!({"metadata": {"name": "node-0", "labels": labels},
            "spec": {"providerID": "aws:///eu-1a/i-0"}}))
        .await;
    nodes.create(json!({"metadata": {"name": "node-1"}})).await;
    let capacity = json!({"cpu": "96", "memory": "1152Gi", "nvidia.com/gpu": "8"});
    nodes.set("node-0", json!({"capacity": capacity})).await;
    for beat in 1..=5 {
        until(created + seconds(beat)).await;
        let condition = json!([{"type": "Ready", "status": "True",
            "lastTransitionTime": created.to_rfc3339(), "lastHeartbeatTime": pods::now().to_rfc3339()}]);
        nodes.set("node-0", json!({"conditions": condition})).await;
    }
    let sold = nodes
        .change(
            "node-0",
            json!({"metadata": {"labels": {"owner": "globex"}}}),
        )
        .await;
    until(sold + seconds(5)).await;
    nodes.delete("node-0").await;
    let gone = pods::now();
    billed_until(&meterline, gone).await;
    meterline.stop().await;

    let subject = |event: &Value| event["subject"].as_str().unwrap().to_owned();
    assert_stretches(
        &stretches(&scene, ("node_name", "node-0"), subject),
        &[
            (created, length(created, sold), "acme".to_owned()),
            (sold, length(sold, gone), "globex".to_owned()),
        ],
    );
    let other = stretches(&scene, ("node_name", "node-1"), subject);
    assert_eq!(other.len(), 1);
    assert_eq!(other[0].2, "node-1");
    for event in scene.ingest.events() {
        let data = &event["data"];
        if data["node_name"] != "node-0" {
            continue;
        }
        let time: DateTime<Utc> = event["time"].as_str().unwrap().parse().unwrap();
        let is_window = time.timestamp() % 3 == 0;
        assert!(
            is_window || time <= created + seconds(1) || time == sold,
            "{event}"
        );
        for (field, value) in [
            ("instance_type", json!("p4d.24xlarge")),
            ("zone", json!("eu-1a")),
            ("region", json!("eu-1")),
            ("arch", json!("amd64")),
            ("nodepool", json!("gpu")),
            ("capacity_type", json!("spot")),
            ("provider_id", json!("aws:///eu-1a/i-0")),
        ] {
            assert_eq!(data[field], value, "{field} of {event}");
        }
        if time > created + seconds(1) {
            assert_eq!(data["cpu_capacity_cores"], 96);
            assert_eq!(data["memory_capacity_bytes"], 1_236_950_581_248_i64);
            assert_eq!(data["gpu_capacity_count"], 8);
            assert_eq!(data["ready"], true);
        }
    }
    scene.ingest.assert_clean();
}

/// The custom resource of snapshots, as far as they are billed.
fn snapshots() -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "metadata": {"name": "volumesnapshots.snapshot.storage.k8s.io", "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshotter/pull/814"}},
        "spec": {
            "group": "snapshot.storage.k8s.io", "scope": "Namespaced",
            "names": {"kind": "VolumeSnapshot", "plural": "volumesnapshots"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"spec": any, "status": any}}}}],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn snapshots_are_billed_once_the_cluster_has_them_and_nothing_waits_until_then() {
    let scene = scene(&["namespaces"]).await;
    let (group, plural) = ("snapshot.storage.k8s.io", "volumesnapshots");
    let granted = scene.control_plane.grant_cluster("reader", group, plural);
    granted.await.unwrap();
    let meterline = preset(&scene, "kubernetes-snapshot-time");
    let meterline = meterline.start_ready().await.unwrap();
    let without = "the cluster does not have the custom resource volumesnapshots";
    meterline.wait_ready_with(without).await.unwrap();
    billed_until(&meterline, pods::now()).await;
    let said = meterline.log();
    let said: Vec<_> = said.iter().filter(|it| it.contains(without)).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let errors = meterline.metric("kubernetes_watch_errors").await.unwrap();
    assert_eq!(errors, Some(0.0));

    let definitions = Api::<CustomResourceDefinition>::all(scene.client.clone());
    Written(definitions.clone()).create(snapshots()).await;
    let resource = ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: "VolumeSnapshot".to_owned(),
        plural: plural.to_owned(),
    };
    let api = Api::<DynamicObject>::namespaced_with(scene.client.clone(), "shop", &resource);
    while api.list(&ListParams::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
    let snapshots = Written(api);
    let created = snapshots
        .create(
            json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": {"name": "daily"}, "spec": {"volumeSnapshotClassName": "csi",
                "source": {"persistentVolumeClaimName": "data"}}}),
        )
        .await;
    let taken = created + seconds(1);
    let status = json!({"readyToUse": false, "creationTime": taken.to_rfc3339(),
        "restoreSize": "3Gi"});
    until(taken).await;
    snapshots.set("daily", status).await;
    until(created + seconds(8)).await;
    snapshots.set("daily", json!({"readyToUse": true})).await;
    until(created + seconds(12)).await;
    snapshots.delete("daily").await;
    let gone = pods::now();
    billed_until(&meterline, gone).await;
    let (_, ready) = meterline.get("/ready").await.unwrap();
    assert!(!ready.contains(without), "{ready}");
    meterline.stop().await;

    let bytes = |event: &Value| event["data"]["restore_bytes"].to_string();
    assert_stretches(
        &stretches(&scene, ("snapshot_name", "daily"), bytes),
        &[(taken, length(taken, gone), "3221225472".to_owned())],
    );
    for event in scene.ingest.events() {
        let data = &event["data"];
        assert_eq!(event["type"], "kube-snapshot-time");
        assert_eq!(event["subject"], "shop");
        assert_eq!(data["snapshot_class"], "csi");
        assert_eq!(data["claim_name"], "data");
        let hours = data["duration_seconds"].as_f64().unwrap() * 3.0 / 3600.0;
        assert_eq!(data["restore_gib_hours"].as_f64(), Some(hours));
    }
    scene.ingest.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_claim_is_billed_while_it_is_bound_and_its_volume_after_that() {
    let resources = ["persistentvolumeclaims", "persistentvolumes", "namespaces"];
    let scene = scene(&resources).await;
    let claims = Api::<PersistentVolumeClaim>::namespaced(scene.client.clone(), "shop");
    let claims = Written(claims);
    let volumes = Written(Api::<PersistentVolume>::all(scene.client.clone()));
    let meterline = preset(&scene, "kubernetes-volume-time");
    let meterline = meterline.start_ready().await.unwrap();
    volumes
        .create(json!({"metadata": {"name": "pv-1"}, "spec": {
            "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "fast",
            "claimRef": {"namespace": "shop", "name": "data"},
            "csi": {"driver": "csi.example.com", "volumeHandle": "v"}}}))
        .await;
    let created = claims
        .create(json!({"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": "pv-1",
            "resources": {"requests": {"storage": "1Gi"}}}}))
        .await;
    volumes.set("pv-1", json!({"phase": "Bound"})).await;
    until(created + seconds(4)).await;
    let bound = json!({"phase": "Bound", "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"]});
    let bound = claims.set("data", bound).await;
    until(bound + seconds(4)).await;
    let expanded = claims
        .set("data", json!({"capacity": {"storage": "2Gi"}}))
        .await;
    until(expanded + seconds(4)).await;
    let class = json!({"currentVolumeAttributesClassName": "gold"});
    let changed = claims.set("data", class).await;
    claims.delete("data").await;
    // A pod still uses it.
    until(changed + seconds(5)).await;
    let gone = claims.release("data").await;
    let left = volumes.set("pv-1", json!({"phase": "Released"})).await;
    until(left + seconds(5)).await;
    volumes.delete("pv-1").await;
    let removed = volumes.release("pv-1").await;
    // The claim was over before.
    let is_released = |event: &Value| event["data"]["phase"] == "Released";
    let seconds_of = |event: &Value| event["data"]["duration_seconds"].as_i64().unwrap();
    scene
        .ingest
        .wait_until(MINUTE, |it| {
            let released = it.events.iter().map(|it| &it.event);
            let billed: i64 = released.filter(|it| is_released(it)).map(seconds_of).sum();
            billed >= length(left, removed) - 1
        })
        .await
        .unwrap();
    meterline.stop().await;

    let size = |event: &Value| {
        let data = &event["data"];
        format!("{} {}", data["capacity_bytes"], data["attributes_class"])
    };
    let mut events = scene.ingest.events();
    events.retain(|it| !is_released(it));
    assert_stretches(
        &stretches_of(&events, size),
        &[
            (bound, length(bound, expanded), "1073741824 \"\"".to_owned()),
            (
                expanded,
                length(expanded, changed),
                "2147483648 \"\"".to_owned(),
            ),
            (
                changed,
                length(changed, gone),
                "2147483648 \"gold\"".to_owned(),
            ),
        ],
    );
    let of_volume = |event: &Value| event["subject"].as_str().unwrap().to_owned();
    let mut events = scene.ingest.events();
    events.retain(|it| is_released(it));
    assert_stretches(
        &stretches_of(&events, of_volume),
        &[(left, length(left, removed), "shop".to_owned())],
    );
    for event in scene.ingest.events() {
        let data = &event["data"];
        let seconds = data["duration_seconds"].as_i64().unwrap();
        let bytes = data["capacity_bytes"].as_i64().unwrap();
        assert_eq!(data["capacity_bytes_per_second"], bytes * seconds);
        let gib = bytes / (1 << 30);
        let hours = (gib * seconds) as f64 / 3600.0;
        assert_eq!(data["capacity_gib_hours"].as_f64(), Some(hours));
        assert_eq!(event["type"], "kube-volume-time");
        for (field, value) in [
            ("namespace", "shop"),
            ("claim_name", "data"),
            ("volume_name", "pv-1"),
            ("storage_class", "fast"),
        ] {
            assert_eq!(data[field], value, "{field} of {event}");
        }
        // What is the volume's is not known of its claim.
        let (driver, policy) = match is_released(&event) {
            true => ("csi.example.com", "Retain"),
            false => ("", ""),
        };
        assert_eq!(
            [&data["csi_driver"], &data["reclaim_policy"]],
            [driver, policy]
        );
    }
    scene.ingest.assert_clean();
}
