//! The program keeps of each pod what the mapping reads, and nothing else.

use std::{collections::HashSet, fs};

use meterline_testkit::{
    ingest::Behaviour,
    pods::pod,
    scene::{Scene, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE};

const SECRET: &str = "correct-horse-battery-staple";

/// A label and an annotation that no mapping reads change all the time, and an environment variable holds
/// a secret.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn unread_fields_are_not_kept_and_split_no_interval() {
    let scene = Scene::with(BINARY, 1).await;
    let ingest = &scene.ingest;
    let containers = json!([{
        "name": "main", "image": "registry.test/main:1",
        "env": [{"name": "PASSWORD", "value": SECRET}],
        "resources": {"requests": {"cpu": "500m"}},
    }]);
    let secretive = pod("secretive")
        .label("team", SECRET)
        .containers(containers);
    scene
        .pods
        .create_running(&secretive, scene.start)
        .await
        .unwrap();
    let meterline = scene
        .preset()
        .env("SCRAPE_INTERVAL", "5s")
        .env("STATE_PATH", scene.file("state.sqlite"))
        .start_ready()
        .await
        .unwrap();
    for round in 0..20 {
        let value = format!("{SECRET}-{round}");
        let changed = scene.pods.annotate("secretive", "noise", Some(&value));
        changed.await.unwrap();
    }
    scene.assert_exact(&meterline).await;
    let window = |event: &Value| {
        let time = event["time"].as_str().unwrap();
        let time = chrono::DateTime::parse_from_rfc3339(time).unwrap();
        (pod_of(event).to_owned(), time.timestamp().div_euclid(5))
    };
    let events = ingest.events();
    let windows: HashSet<_> = events.iter().map(window).collect();
    assert_eq!(
        windows.len(),
        events.len(),
        "a window has several events of a pod"
    );
    meterline.stop().await;
    for entry in fs::read_dir(scene.folder()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let is_there = bytes
            .windows(SECRET.len())
            .any(|it| it == SECRET.as_bytes());
        assert!(!is_there, "{} holds the secret", path.display());
    }
}

/// A mapping that reads no resources, and so keeps none.
const WITHOUT_RESOURCES: &str = r#"
        let seconds = meta("schedule_interval").parse_duration() / 1000000000;
        root = #{
          id: event_id("kube-pod-exec-time"), specversion: "1.0", type: "kube-pod-exec-time",
          source: "kubernetes-api", time: meta("schedule_time"), subject: this.metadata.name,
          data: #{
            pod_name: this.metadata.name, pod_namespace: this.metadata.namespace,
            duration_seconds: seconds,
          },
        };
"#;

/// After a restart the mapping reads more than the one before. It bills the earlier usage of pods that did
/// not change. What a pod was before a change is not known, so that usage is rejected and not guessed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_mapping_that_reads_more_bills_nothing_from_incomplete_contents() {
    let scene = Scene::with(BINARY, 3).await;
    let ingest = &scene.ingest;
    let state = scene.file("state.sqlite");
    let with = |mapping: Option<&str>| {
        let change = |preset: String| match mapping {
            None => preset,
            Some(mapping) => {
                let start = preset.find("        let seconds").unwrap();
                let end = preset.find("    - json_schema").unwrap();
                format!("{}{mapping}{}", &preset[..start], &preset[end..])
            }
        };
        let output = format!("url: '{}', max_in_flight: 2, timeout: 2s", ingest.url());
        scene.variant(change, &output).env("STATE_PATH", &state)
    };
    ingest.respond_always(Behaviour::status(503));
    let meterline = with(Some(WITHOUT_RESOURCES)).start_ready().await.unwrap();
    ingest
        .wait_until(MINUTE, |state| !state.requests.is_empty())
        .await
        .unwrap();
    // A crash.
    drop(meterline);
    let plan = scene
        .pods
        .annotate("pod-2", "data.openmeter.io/plan", Some("gold"));
    plan.await.unwrap();
    ingest.respond_normally();

    let meterline = with(None).start_ready().await.unwrap();
    let kept = |_, page: &str| page.contains("was kept by an earlier configuration");
    meterline
        .wait_for_page("/ready", MINUTE, kept)
        .await
        .unwrap();
    scene.end_all().await;
    let report = scene.settled(|_, name| name != "pod-2").await;
    report.assert_exact();
    for event in ingest.events() {
        assert_eq!(
            event["data"]["cpu_request_millicores"],
            json!(0.5),
            "{event}"
        );
        if pod_of(&event) == "pod-2" {
            assert_eq!(event["data"]["plan"], "gold", "{event}");
        }
    }
    meterline.stop().await;

    // The configuration that kept it bills it.
    let meterline = with(Some(WITHOUT_RESOURCES)).start().unwrap();
    scene.finish(&meterline).await;
}
