//! Pods whose resources are changed while they run: what the node granted is billed, and nothing else.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use meterline_testkit::{
    pods::{self, Phase, pod},
    scene::Scene,
};
use serde_json::{Value, json};

use crate::support::{BINARY, seconds, stretches_of, until};

const WINDOW: i64 = 15;

/// When the API server recorded the last resize.
fn resized_at(pod: &Pod) -> DateTime<Utc> {
    let entries = pod.metadata.managed_fields.iter().flatten();
    let times = entries
        .filter(|it| it.subresource.as_deref() == Some("resize"))
        .filter_map(|it| it.time.as_ref());
    let newest = times.map(|it| it.0.as_second()).max().unwrap();
    DateTime::from_timestamp(newest, 0).unwrap()
}

/// Start, seconds and millicores of the events of a pod, in order, with neighbours of one amount joined.
fn billed(events: &[Value]) -> Vec<(DateTime<Utc>, i64, String)> {
    stretches_of(events, |event| {
        event["data"]["cpu_request_millicores"].to_string()
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_resize_counts_as_far_as_the_node_granted_it() {
    let scene = Scene::bare(BINARY).await;
    let mine = scene.namespace("mine").await;
    let meterline = scene
        .preset()
        .env("SCRAPE_INTERVAL", "15s")
        .env("SCRAPE_NAMESPACE", "mine")
        .start_ready()
        .await
        .unwrap();
    let names = ["grown", "deferred", "infeasible", "reduced"];
    for name in names {
        let spec = pod(name).containers(json!([{"name": "main", "image": "x",
            "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "8"}}}]));
        mine.create(&spec).await.unwrap();
    }
    // The first window has just begun, so it is not handed out before the growth is granted.
    let into = pods::now().timestamp().rem_euclid(WINDOW);
    let start = pods::now() + seconds(WINDOW - into);
    until(start).await;
    for name in names {
        mine.set_running(name, start).await.unwrap();
    }
    until(start + seconds(3)).await;
    let grown = mine.resize_cpu("grown", "1").await.unwrap();
    mine.resize_cpu("deferred", "2").await.unwrap();
    mine.refuse_resize("deferred", "Deferred").await.unwrap();
    mine.resize_cpu("infeasible", "4").await.unwrap();
    mine.refuse_resize("infeasible", "Infeasible")
        .await
        .unwrap();
    mine.resize_cpu("reduced", "100m").await.unwrap();
    until(resized_at(&grown) + seconds(2)).await;
    mine.grant_resize("grown").await.unwrap();
    until(start + seconds(12)).await;
    let granted = pods::now();
    mine.grant_resize("deferred").await.unwrap();
    mine.grant_resize("reduced").await.unwrap();
    let end = start + seconds(20);
    until(end).await;
    for name in names {
        let phase = Phase::Succeeded;
        mine.set_ended(name, phase, start, end).await.unwrap();
    }
    scene.truth.wait_for_ends(names.len()).await.unwrap();
    scene.assert_exact(&meterline).await;

    let of = |name| billed(&scene.events_of(name));
    let grown_at = resized_at(&grown);
    let until_then = (grown_at - start).num_seconds();
    assert_eq!(
        of("grown"),
        [
            (start, until_then, "0.5".to_owned()),
            (grown_at, 20 - until_then, "1".to_owned())
        ],
        "a growth counts since it was asked for"
    );
    assert_eq!(of("infeasible"), [(start, 20, "0.5".to_owned())]);
    for (name, after) in [("deferred", "2"), ("reduced", "0.1")] {
        let found = of(name);
        let [before, now] = found.as_slice() else {
            panic!("{name}: {found:?}")
        };
        assert_eq!((before.2.as_str(), now.2.as_str()), ("0.5", after));
        // When the watch saw it.
        let late = (now.0 - granted).num_seconds();
        assert!((0..=1).contains(&late), "{name}: {found:?}");
    }
    meterline.stop().await;
}
