//! What comes to be metered while it runs is billed from then on, and not from when it began to run.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use meterline_testkit::{
    ingest::RecordingIngest,
    pods::{self, Pods, pod},
};
use serde_json::json;

use crate::{
    faults::{Scene, name},
    support::{MINUTE, seconds, stop, until},
};

/// The first second that was billed of a pod, and how many were; each once, without a hole.
fn billed(ingest: &RecordingIngest, pod: &str) -> (String, i64) {
    let mut pieces: Vec<_> = ingest
        .events()
        .into_iter()
        .filter(|event| name(event) == pod)
        .map(|event| {
            let time = event["time"].as_str().unwrap().to_owned();
            (time, event["data"]["duration_seconds"].as_i64().unwrap())
        })
        .collect();
    pieces.sort();
    pieces.dedup();
    let count = pieces.iter().map(|(_, count)| count).sum();
    (pieces[0].0.clone(), count)
}

fn rfc3339(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_is_labelled_or_added_later_is_billed_from_then_on() {
    let scene = Scene::with(0).await;
    let control_plane = &scene.control_plane;
    control_plane.create_namespace("added").await.unwrap();
    control_plane.grant_pods("reader", "added").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let added = Pods::new(client, "added");
    let start = pods::now();
    let labelled = pod("labelled").label("billing", "on");
    scene.pods.create_running(&labelled, start).await.unwrap();
    scene
        .pods
        .create_running(&pod("later"), start)
        .await
        .unwrap();
    let other = pod("other").label("billing", "on");
    added.create_running(&other, start).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
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
                    name(&it.event) == pod && time > after.as_str()
                })
            })
            .await
            .unwrap();
    };
    let meterline = run("default");
    // An object is taken for old only if it was made a minute ago.
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
    stop(&meterline).await;
    let stopped_at = pods::now();
    let meterline = run("default,added");
    arrived("other", rfc3339(stopped_at)).await;
    arrived("later", rfc3339(stopped_at)).await;
    stop(&meterline).await;

    let (first, _) = billed(&ingest, "labelled");
    assert_eq!(first, rfc3339(start));
    let (first, _) = billed(&ingest, "later");
    assert!(
        first >= given_at,
        "{first} is before the label of {given_at}"
    );
    let (first, _) = billed(&ingest, "other");
    let about = rfc3339(stopped_at - seconds(10));
    assert!(first >= about, "{first} is long before {stopped_at}");
    ingest.assert_clean();
}
