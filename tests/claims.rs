//! Devices that pods claim (dynamic resource allocation), on a real API server: the tests write claims and slices as the
//! scheduler and a driver do, and the preset `kubernetes-pod-device-time` bills them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, DurationRound as _, Utc};
use k8s_openapi::api::{
    core::v1::Namespace,
    resource::v1::{ResourceClaim, ResourceSlice},
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use meterline_testkit::{pods, process::MeterlineCommand, scene::Scene};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, stretches_of, until};

const DRIVER: &str = "gpu.nvidia.com";
const H100: &str = "NVIDIA H100 80GB HBM3";
const SHARE: &str = "0a6b4a0e-8b1f-4b53-9d2a-6a4f0f0d3c11";

/// A namespace with claims, and rights to read these resources of `resource.k8s.io`.
async fn scene(resources: &[&str]) -> Scene {
    let scene = Scene::bare(BINARY).await;
    let control_plane = &scene.control_plane;
    for resource in resources {
        let granted = control_plane.grant_cluster("reader", "resource.k8s.io", resource);
        granted.await.unwrap();
    }
    let granted = control_plane.grant_cluster("reader", "", "namespaces");
    granted.await.unwrap();
    scene.namespace("shop").await;
    // Access for administration is allowed only there.
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let labels = json!({"resource.kubernetes.io/admin-access": "true"});
    let labelled = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let plain = PatchParams::default();
    namespaces.patch("shop", &plain, &labelled).await.unwrap();
    scene
}

fn preset(scene: &Scene) -> MeterlineCommand {
    let preset = scene
        .command()
        .args(["--preset", "kubernetes-pod-device-time"]);
    preset
        .env("SCRAPE_NAMESPACE", "shop")
        .env("SCRAPE_INTERVAL", "10s")
        .env("NODE_LABELS", "false")
        .env("BATCH_SIZE", "0")
        .env("STATE_PATH", scene.file("state.sqlite"))
}

/// A slice of the pool `node-0` with these devices.
async fn create_slice(scene: &Scene, devices: Value) {
    let slices: Api<DynamicObject> = Api::all_with(
        scene.client.clone(),
        &ApiResource::erase::<ResourceSlice>(&()),
    );
    let slice = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": "node-0-gpus"},
        "spec": {
            "driver": DRIVER, "nodeName": "node-0",
            "pool": {"name": "node-0", "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    });
    let slice = serde_json::from_value(slice).unwrap();
    slices.create(&PostParams::default(), &slice).await.unwrap();
}

fn device(name: &str, memory: &str) -> Value {
    json!({"name": name, "capacity": {"memory": {"value": memory}},
        "attributes": {"type": {"string": "gpu"}, "productName": {"string": H100}}})
}

/// Claims in `shop`.
struct Claims(Api<ResourceClaim>);

impl Claims {
    async fn create(&self, name: &str, requests: &[(&str, bool)]) {
        let requests = requests.iter().map(|(request, is_admin)| {
            json!({"name": request, "exactly":
                {"deviceClassName": "gpu.nvidia.com", "adminAccess": is_admin}})
        });
        let requests: Vec<_> = requests.collect();
        let claim =
            json!({"metadata": {"name": name}, "spec": {"devices": {"requests": requests}}});
        let claim = serde_json::from_value(claim).unwrap();
        self.0.create(&PostParams::default(), &claim).await.unwrap();
    }

    /// Gives these devices to a claim, or takes them. Returns the second that the API server recorded, which it does not
    /// for a status without a field.
    async fn allocate(&self, name: &str, results: Option<Value>) -> Option<DateTime<Utc>> {
        let pods = ["a", "b"].map(|it| json!({"resource": "pods", "name": it, "uid": it}));
        let status = match results {
            Some(results) => {
                json!({"allocation": {"devices": {"results": results}}, "reservedFor": pods})
            }
            None => json!({"allocation": null, "reservedFor": null}),
        };
        let patch = Patch::Merge(json!({ "status": status }));
        let plain = PatchParams::default();
        let set = self.0.patch_status(name, &plain, &patch);
        let claim = set.await.unwrap();
        let entries = claim.metadata.managed_fields.iter().flatten();
        let written = entries.filter(|it| it.subresource.is_some());
        let newest = written
            .filter_map(|it| it.time.as_ref())
            .map(|it| it.0.as_second());
        DateTime::from_timestamp(newest.max()?, 0)
    }
}

fn result(request: &str, driver: &str, device: &str) -> Value {
    json!({"request": request, "driver": driver, "pool": "node-0", "device": device})
}

/// Checks the events of a claim with the device `gpu-0` and a share of `gpu-1`.
fn assert_billed(events: Vec<Value>, begin: DateTime<Utc>, end: DateTime<Utc>) {
    let ids: BTreeSet<_> = events.iter().map(|it| it["id"].to_string()).collect();
    assert_eq!(ids.len(), events.len());
    let mut by_device: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in events {
        let data = &event["data"];
        assert_eq!(event["subject"], "shop", "{event}");
        for (field, value) in [
            ("claim_name", json!("shared")),
            ("pod_namespace", json!("shop")),
            ("resource", json!(DRIVER)),
            ("vendor", json!("nvidia")),
            ("gpu_type", json!(H100)),
            ("gpu_memory_bytes", json!(80_i64 << 30)),
            ("device_count", json!(1)),
        ] {
            assert_eq!(data[field], value, "{field} of {event}");
        }
        let device = data["device"].as_str().unwrap().to_owned();
        by_device.entry(device).or_default().push(event);
    }
    assert_eq!(by_device.keys().collect::<Vec<_>>(), ["gpu-0", "gpu-1"]);
    for (device, unit, sharing, share, fraction) in [
        ("gpu-0", "card", "none", Value::Null, json!(1)),
        ("gpu-1", "share", "consumable", json!(SHARE), json!(0.25)),
    ] {
        let events = &by_device[device];
        let billed = stretches_of(events, |event| {
            let data = &event["data"];
            let of = ["unit", "sharing", "share_id", "device_fraction"].map(|it| &data[it]);
            json!(of).to_string()
        });
        let [(start, length, of)] = billed.as_slice() else {
            panic!("{billed:?}");
        };
        assert_eq!(*start, begin);
        assert_eq!(*of, json!([unit, sharing, share, fraction]).to_string());
        // The moment at which it had no device any more is the one at which that was seen.
        let expected = (end - begin).num_seconds();
        assert!(
            (expected..=expected + 2).contains(length),
            "{length} is not {expected}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn devices_of_a_claim_are_billed_once_and_keep_their_product_when_the_slice_is_gone() {
    let scene = scene(&["resourceclaims", "resourceslices"]).await;
    let mut shared = device("gpu-1", "80Gi");
    shared["allowMultipleAllocations"] = true.into();
    let devices = json!([device("gpu-0", "80Gi"), shared, device("gpu-2", "80Gi")]);
    create_slice(&scene, devices).await;
    let claims = Claims(Api::namespaced(scene.client.clone(), "shop"));
    let requests = [
        ("gpu", false),
        ("share", false),
        ("look", true),
        ("nic", false),
    ];
    claims.create("shared", &requests).await;
    let meterline = preset(&scene).start_ready().await.unwrap();
    // The claim has its devices and the slice vanishes in one window.
    let window = seconds(10);
    until(pods::now().duration_trunc(window).unwrap() + window).await;
    let mut share = result("share", DRIVER, "gpu-1");
    share["shareID"] = SHARE.into();
    share["consumedCapacity"] = json!({"memory": "20Gi"});
    let mut look = result("look", DRIVER, "gpu-2");
    look["adminAccess"] = true.into();
    let nic = result("nic", "dra.net", "nic-0");
    let results = json!([result("gpu", DRIVER, "gpu-0"), share, look, nic]);
    let begin = claims.allocate("shared", Some(results)).await.unwrap();
    until(begin + seconds(3)).await;
    let slices: Api<ResourceSlice> = Api::all(scene.client.clone());
    let plain = DeleteParams::default();
    slices.delete("node-0-gpus", &plain).await.unwrap();
    until(begin + seconds(14)).await;
    meterline.kill().unwrap();
    let meterline = preset(&scene).start_ready().await.unwrap();
    until(begin + seconds(20)).await;
    let end = pods::now();
    claims.allocate("shared", None).await;
    let idle = meterline.wait_for_seconds(MINUTE, |it| it["waiting"] == 0 && it["delivered"] != 0);
    idle.await.unwrap();
    until(end + seconds(14)).await;
    meterline.wait_ready_with("of `dra.net`").await.unwrap();

    assert_billed(scene.ingest.events(), begin, end);
    meterline.stop().await;
    scene.ingest.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn without_a_right_to_slices_a_claim_is_billed_without_product_and_ready_names_the_remedy() {
    let scene = scene(&["resourceclaims"]).await;
    create_slice(&scene, json!([device("gpu-0", "80Gi")])).await;
    let claims = Claims(Api::namespaced(scene.client.clone(), "shop"));
    claims.create("mine", &[("gpu", false)]).await;
    let results = json!([result("gpu", DRIVER, "gpu-0")]);
    claims.allocate("mine", Some(results)).await;
    let meterline = preset(&scene).start_ready().await.unwrap();
    let remedy = "grant the verbs get, list and watch on resourceslices";
    meterline.wait_ready_with(remedy).await.unwrap();
    let billed = |product: Option<&'static str>| {
        scene.ingest.wait_until(MINUTE, move |it| {
            it.events.iter().any(|it| {
                let data = &it.event["data"];
                let found = data.get("gpu_type").and_then(Value::as_str);
                data["claim_name"] == "mine" && found == product
            })
        })
    };
    billed(None).await.unwrap();
    let control_plane = &scene.control_plane;
    let granted = control_plane.grant_cluster("reader", "resource.k8s.io", "resourceslices");
    granted.await.unwrap();
    billed(Some(H100)).await.unwrap();
    meterline.stop().await;
    scene.ingest.assert_clean();
}
