//! A pod that starts to be metered while it runs is billed from then on, not from its start.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use meterline_testkit::{
    pods::{self, pod},
    scene::{Scene, pod_of},
};
use serde_json::json;

use crate::support::{BINARY, MINUTE, seconds, until};

/// The first second of a pod that is billed.
fn first_second(scene: &Scene, pod: &str) -> String {
    let first = &scene.events_of(pod)[0];
    first["time"].as_str().unwrap().to_owned()
}

fn rfc3339(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_are_labelled_or_added_later_are_billed_from_then_on() {
    let scene = Scene::with(BINARY, 0).await;
    let added = scene.namespace("added").await;
    let labelled = pod("labelled").label("billing", "on");
    scene.pods.create(&labelled).await.unwrap();
    scene.pods.create(&pod("later")).await.unwrap();
    let other = pod("other").label("billing", "on");
    added.create(&other).await.unwrap();
    // No pod starts before its creation.
    let start = pods::now();
    for name in ["labelled", "later"] {
        scene.pods.set_running(name, start).await.unwrap();
    }
    added.set_running("other", start).await.unwrap();
    let ingest = &scene.ingest;
    let run = |namespaces: &str| {
        let selected = "resource_type: pod\n        label_selector: billing=on";
        scene
            .variant(
                |preset| preset.replace("resource_type: pod", selected),
                &format!("url: '{}'", ingest.url()),
            )
            .env("STATE_PATH", scene.file("state.sqlite"))
            .env("SCRAPE_NAMESPACE", namespaces)
            .start()
            .unwrap()
    };
    let arrived = async |pod: &str, after: String| {
        ingest
            .wait_until(2 * MINUTE, |state| {
                state.events.iter().any(|it| {
                    let time = it.event["time"].as_str().unwrap_or_default();
                    pod_of(&it.event) == pod && time > after.as_str()
                })
            })
            .await
            .unwrap();
    };
    let meterline = run("default");
    // The program treats an object as old only when it is older than a minute.
    until(start + seconds(65)).await;
    arrived("labelled", rfc3339(start + seconds(62))).await;
    let given_at = rfc3339(pods::now());
    let given: Patch<serde_json::Value> =
        Patch::Merge(json!({"metadata": {"labels": {"billing": "on"}}}));
    let patched: Pod = scene
        .pods
        .api()
        .patch("later", &PatchParams::default(), &given)
        .await
        .unwrap();
    assert!(patched.metadata.labels.is_some());
    arrived("later", given_at.clone()).await;
    meterline.stop().await;
    let stopped_at = pods::now();
    let meterline = run("default,added");
    arrived("other", rfc3339(stopped_at)).await;
    arrived("later", rfc3339(stopped_at)).await;
    meterline.stop().await;

    let first = first_second(&scene, "labelled");
    assert_eq!(first, rfc3339(start));
    let first = first_second(&scene, "later");
    assert!(
        first >= given_at,
        "{first} is before the label of {given_at}"
    );
    let first = first_second(&scene, "other");
    let about = rfc3339(stopped_at - seconds(10));
    assert!(first >= about, "{first} is long before {stopped_at}");
    ingest.assert_clean();
}
