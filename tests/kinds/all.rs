//! The preset `kubernetes-all`.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Service};
use kube::Api;
use meterline_testkit::pods::{self, Phase, Pods, pod};
use serde_json::{Value, json};

use super::*;

/// One process for everything: each kind has its events, none is sent twice, and nothing is missing after a crash.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn one_process_bills_every_kind_across_a_crash() {
    let resources = [
        "pods",
        "nodes",
        "services",
        "persistentvolumeclaims",
        "persistentvolumes",
        "namespaces",
    ];
    let scene = scene(&resources).await;
    for resource in ["resourceclaims", "resourceslices"] {
        let control_plane = &scene.control_plane;
        let granted = control_plane.grant_cluster("reader", "resource.k8s.io", resource);
        granted.await.unwrap();
    }
    let shop = Pods::new(scene.client.clone(), "shop");
    let nodes = Written(Api::<Node>::all(scene.client.clone()));
    let services = Written(Api::<Service>::namespaced(scene.client.clone(), "shop"));
    let claims = Written(Api::<PersistentVolumeClaim>::namespaced(
        scene.client.clone(),
        "shop",
    ));
    let start = || preset(&scene, "kubernetes-all").env("SLOW_INTERVAL", "4s");
    let meterline = start().start_ready().await.unwrap();

    let labels = json!({"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.replicas": "2",
        "nvidia.com/gpu.sharing-strategy": "time-slicing"});
    let node = json!({"metadata": {"name": "node-0", "labels": labels}});
    let node_created = nodes.create(node).await;
    let gpu = json!({"nvidia.com/gpu": "1"});
    let containers = json!([{"name": "c", "image": "i", "resources": {"limits": gpu}}]);
    shop.create(&pod("train").node("node-0").containers(containers))
        .await
        .unwrap();
    let begin = pods::now();
    shop.set_running("train", begin).await.unwrap();
    let web = json!({"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let web_created = services.create(web).await;
    let address = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    services.set("web", address).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    claims.create(claim).await;
    let bound = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let bound = claims.set("data", bound).await;
    until(bound + seconds(6)).await;
    meterline.kill().unwrap();
    let meterline = start().start_ready().await.unwrap();
    until(bound + seconds(12)).await;
    let end = pods::now();
    shop.set_ended("train", Phase::Succeeded, begin, end)
        .await
        .unwrap();
    let past = end + seconds(9);
    scene
        .ingest
        .wait_until(MINUTE, |it| {
            let kinds = [
                "kube-node-time",
                "kube-loadbalancer-time",
                "kube-volume-time",
            ];
            kinds.iter().all(|kind| {
                it.events.iter().any(|it| {
                    let time = it.event["time"].as_str().unwrap();
                    it.event["type"] == *kind
                        && time.parse::<DateTime<Utc>>().unwrap() >= past - seconds(8)
                })
            })
        })
        .await
        .unwrap();
    meterline.stop().await;

    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    let whole = length(begin, end);
    let mut of_the_pod = Vec::new();
    for wanted in ["kube-pod-exec-time", "kube-pod-device-time"] {
        let mut events = scene.ingest.events();
        events.retain(|it| it["type"] == wanted && it["data"]["pod_name"] == "train");
        of_the_pod.extend(stretches_of(&events, kind));
    }
    assert_eq!(
        of_the_pod,
        [
            (begin, whole, "kube-pod-exec-time".to_owned()),
            (begin, whole, "kube-pod-device-time".to_owned()),
        ]
    );
    let device = |event: &&Value| event["type"] == "kube-pod-device-time";
    let events = scene.ingest.events();
    let device = events.iter().find(device).unwrap();
    assert_eq!(device["data"]["gpu_type"], "NVIDIA-L4");
    assert_eq!(device["data"]["device_fraction"], json!(0.5));
    for (name, field, start) in [
        ("node-0", "node_name", node_created),
        ("web", "service_name", web_created),
        ("data", "claim_name", bound),
    ] {
        let found = stretches(&scene, (field, name), kind);
        // One stretch without a gap from its start, also across the crash.
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, start, "{found:?}");
        assert!(found[0].1 >= length(start, end) - 4, "{found:?}");
    }
    scene.ingest.assert_clean();
}
