//! What pods reserve, as a real API server stores it: overhead that it takes from a runtime class, resources of the
//! whole pod, init containers, sidecars and ephemeral storage.

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, api::PostParams};
use meterline_testkit::{
    pods::{self, Phase, PodSpec, pod},
    scene::Scene,
};
use serde_json::{Value, json};

use crate::support::{BINARY, seconds, until};

const GIB: i64 = 1 << 30;
const MIB: i64 = 1 << 20;

/// The pods, each with some of the metrics of a second.
fn pods() -> [(PodSpec, Value); 3] {
    let main = |resources: Value| json!([{"name": "main", "image": "x", "resources": resources}]);
    [
        (
            // The init container runs beside the sidecar before it, and together they need most.
            pod("sandboxed")
                .field("runtimeClassName", "sandbox".into())
                .field(
                    "initContainers",
                    json!([
                        {"name": "proxy", "image": "x", "restartPolicy": "Always",
                            "resources": {"requests": {"cpu": "500m"}}},
                        {"name": "work", "image": "x",
                            "resources": {"requests": {"cpu": "4", "memory": "256Mi"}}},
                    ]),
                )
                .containers(main(json!({"requests": {"cpu": "1", "memory": "1Gi"},
                    "limits": {"memory": "2Gi"}}))),
            json!({
                "cpu_request_millicores": 4.75,
                "memory_request_bytes": GIB + 120 * MIB,
                "cpu_limit_millicores": 0,
                "memory_limit_bytes": 2 * GIB + 120 * MIB,
            }),
        ),
        (
            pod("whole")
                .field(
                    "resources",
                    json!({"requests": {"cpu": "3", "memory": "2Gi"},
                        "limits": {"cpu": "4", "memory": "4Gi"}}),
                )
                .containers(main(json!({"requests": {"cpu": "1", "memory": "1Gi"}}))),
            json!({
                "cpu_request_millicores": 3,
                "memory_request_bytes": 2 * GIB,
                "cpu_limit_millicores": 4,
                "memory_limit_bytes": 4 * GIB,
            }),
        ),
        (
            pod("storing").containers(main(json!({
                "requests": {"ephemeral-storage": "18Gi"},
                "limits": {"ephemeral-storage": "36Gi", "cpu": "1"}}))),
            json!({
                // The API server sets a request that is missing to the limit.
                "cpu_request_millicores": 1,
                "ephemeral_storage_request_bytes": 18 * GIB,
                "ephemeral_storage_limit_bytes": 36 * GIB,
                "ephemeral_storage_limit_bytes_per_second": 36 * GIB,
                "ephemeral_storage_request_gib_hours": 0.005,
                "ephemeral_storage_limit_gib_hours": 0.01,
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_pod_is_billed_what_the_scheduler_reserves_for_it() {
    let scene = Scene::bare(BINARY).await;
    let class = json!({"metadata": {"name": "sandbox"}, "handler": "sandbox",
        "overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}}});
    let class: RuntimeClass = serde_json::from_value(class).unwrap();
    let classes: Api<RuntimeClass> = Api::all(scene.client.clone());
    let made = classes.create(&PostParams::default(), &class).await;
    made.unwrap();
    let mine = scene.namespace("mine").await;
    let meterline = scene
        .preset()
        .env("SCRAPE_NAMESPACE", "mine")
        .start_ready()
        .await
        .unwrap();
    let start = pods::now();
    for (pod, _) in pods() {
        mine.create_running(&pod, start).await.unwrap();
    }
    let end = start + seconds(3);
    until(end).await;
    for (pod, _) in pods() {
        let phase = Phase::Succeeded;
        mine.set_ended(pod.name(), phase, start, end).await.unwrap();
    }
    scene.truth.wait_for_ends(pods().len()).await.unwrap();
    scene.assert_exact(&meterline).await;
    for (pod, expected) in pods() {
        let events = scene.events_of(pod.name());
        assert!(!events.is_empty());
        for event in events {
            // The windows have one second.
            assert_eq!(event["data"]["duration_seconds"], 1, "{event}");
            for (metric, amount) in expected.as_object().unwrap() {
                assert_eq!(event["data"][metric], *amount, "{metric} of {event}");
            }
        }
    }
    meterline.stop().await;
}
