//! Of each pod what the mapping reads is kept, and nothing else.

use std::{collections::HashSet, fs};

use meterline_testkit::{
    audit,
    ingest::{Behaviour, RecordingIngest},
    pods::{self, pod},
};
use serde_json::{Value, json};

use crate::{
    faults::{Scene, name},
    support::{MINUTE, seconds, stop},
};

const SECRET: &str = "correct-horse-battery-staple";

/// A label and an annotation that no mapping reads change all the time, an environment variable is
/// secret.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_no_mapping_reads_is_not_kept_and_cuts_no_piece() {
    let scene = Scene::with(1).await;
    let ingest = RecordingIngest::start().await.unwrap();
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
        .preset(&ingest)
        .env("SCRAPE_INTERVAL", "5s")
        .env("STATE_PATH", scene.file("state.sqlite"))
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    for round in 0..20 {
        let value = format!("{SECRET}-{round}");
        let changed = scene.pods.annotate("secretive", "noise", Some(&value));
        changed.await.unwrap();
    }
    scene.assert_exact(&ingest, &meterline).await;
    let window = |event: &Value| {
        let time = event["time"].as_str().unwrap();
        let time = chrono::DateTime::parse_from_rfc3339(time).unwrap();
        (name(event).to_owned(), time.timestamp().div_euclid(5))
    };
    let events = ingest.events();
    let windows: HashSet<_> = events.iter().map(window).collect();
    assert_eq!(windows.len(), events.len(), "a window has several pieces");
    stop(&meterline).await;
    for entry in fs::read_dir(scene.folder.path()).unwrap() {
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

/// Usage of before a restart with a mapping that reads more: of pods that are still as they were all is
/// billed by the new mapping; how one was before it was changed is not known, and is rejected, not
/// guessed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_mapping_that_reads_more_bills_nothing_of_what_was_not_kept() {
    let scene = Scene::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let state = scene.file("state.sqlite");
    let with = |mapping: Option<&str>| {
        let change = |preset: String| match mapping {
            None => preset,
            Some(mapping) => {
                let start = preset.find("        let annotations").unwrap();
                let end = preset.find("    - json_schema").unwrap();
                format!("{}{mapping}{}", &preset[..start], &preset[end..])
            }
        };
        let output = format!("url: '{}', max_in_flight: 2, timeout: 2s", ingest.url());
        scene.variant(change, &output).env("STATE_PATH", &state)
    };
    ingest.respond_always(Behaviour::status(503));
    let meterline = with(Some(WITHOUT_RESOURCES)).start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
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

    let meterline = with(None).start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    let page = meterline
        .wait_for_page("/ready", MINUTE, |_, page| {
            page.contains("was kept by an earlier configuration")
        })
        .await;
    page.unwrap();
    scene.end_all().await;
    let honest = |name: &str| name != "pod-2";
    let mut lives = scene.truth.lives();
    lives.retain(|life| honest(&life.name));
    let range = scene.start..pods::now() + seconds(60);
    ingest
        .wait_until(MINUTE, |state| {
            let events = state.events.iter().map(|kept| kept.event.clone());
            let events: Vec<_> = events.filter(|it| honest(name(it))).collect();
            audit::audit(&lives, &events, range.clone()).is_exact()
        })
        .await
        .unwrap();
    for event in ingest.events() {
        assert_eq!(
            event["data"]["cpu_request_millicores"],
            json!(0.5),
            "{event}"
        );
        if name(&event) == "pod-2" {
            assert_eq!(event["data"]["plan"], "gold", "{event}");
        }
    }
    stop(&meterline).await;

    // The configuration that it was kept for bills it.
    let meterline = with(Some(WITHOUT_RESOURCES)).start().unwrap();
    let report = scene.settled(&ingest).await;
    assert!(report.is_exact(), "{report}{}", meterline.tail());
    stop(&meterline).await;
}
