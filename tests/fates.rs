//! Every second gets a fate, delivered, rejected or dropped, which is shown by reason and namespace; and
//! what was rejected is delivered later under the id that it would have had.

use chrono::DateTime;
use meterline_kubesim::Options;
use meterline_testkit::{
    process::{Meterline, MeterlineCommand},
    scene::{Scene, Simulated, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE};

/// A mapping that treats a pod according to its name, after the statements `first`.
fn config(first: &str, state: &str) -> String {
    format!(
        r#"
input:
  schedule:
    interval: 1s
    input:
      kubernetes_resources:
        settle: 1s
        lookback: 60s
        state: {{ path: '{state}' }}
pipeline:
  processors:
    - mapping: |
        {first}
        if this.metadata.name == "dropped" {{ root = deleted(); }} else {{
          root = #{{
            id: event_id("t"),
            specversion: "1.0",
            type: if this.metadata.name == "malformed" {{ 7 }} else {{ "t" }},
            source: "test",
            time: meta("schedule_time"),
            subject: "customer of " + this.metadata.name,
            data: #{{
              pod_name: this.metadata.name,
              pod_namespace: this.metadata.namespace,
              duration_seconds: meta("schedule_interval").parse_duration() / 1000000000,
            }},
          }};
        }}
    - catch:
        - switch:
            - check: 'error().contains("caught")'
              processors:
                - mapping: 'root = deleted()'
            - processors:
                - mapping: 'throw error()'
    - json_schema:
        schema_path: 'file://./cloudevents.spec.json'
output:
  switch:
    strict_mode: false
    cases:
      - check: 'this.data.pod_name != "nowhere"'
        output:
          openmeter:
            url: ${{OPENMETER_URL}}
"#
    )
}

const FAILING: &str = r#"if this.metadata.name == "failed" || this.metadata.name == "caught" { throw "it is " + this.metadata.name; }"#;

const PODS: [&str; 7] = [
    "good",
    "dropped",
    "caught",
    "failed",
    "malformed",
    "refused",
    "nowhere",
];

/// Seven pods, each with a different fate.
async fn scene() -> Scene<Simulated> {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let refused = |event: &Value| pod_of(event) == "refused";
    scene.ingest.refuse_when(refused);
    let start = scene.start.timestamp() - 5;
    for name in PODS {
        scene.put(name, start, None);
    }
    scene
}

fn command(scene: &Scene<Simulated>, first: &str, state: &str) -> MeterlineCommand {
    scene.command().config(&config(first, state))
}

/// Waits until some seconds are billed, ends all pods and waits until no second waits. Returns how
/// long each pod ran.
async fn run(scene: &Scene<Simulated>, meterline: &Meterline) -> i64 {
    meterline
        .wait_for_metric("ledger_billed_seconds", MINUTE, |it| it >= 8.0)
        .await
        .unwrap();
    scene.end_all().await;
    meterline
        .wait_for_seconds(MINUTE, |seconds| {
            seconds["ran"].as_i64() > Some(0) && seconds["waiting"] == 0
        })
        .await
        .unwrap();
    let life = scene.lives().remove(0);
    (life.end.unwrap() - life.start).num_seconds()
}

/// The seconds of the events of a pod that arrived.
fn delivered(scene: &Scene<Simulated>, name: &str) -> i64 {
    let events = scene.events_of(name);
    let seconds = events.iter().map(|it| &it["data"]["duration_seconds"]);
    seconds.map(|it| it.as_i64().unwrap()).sum()
}

/// Each kind of loss is counted in seconds, by reason and namespace, and nothing of it is billed.
#[tokio::test]
async fn every_second_has_a_fate_with_its_reason_and_its_namespace() {
    let scene = scene().await;
    let meterline = command(&scene, FAILING, "").start().unwrap();
    meterline
        .wait_for_metric("ledger_billed_seconds", MINUTE, |it| it >= 8.0)
        .await
        .unwrap();
    let billed = meterline.metric("ledger_billed_seconds").await.unwrap();
    let sent = delivered(&scene, "good");
    assert!(billed <= Some(sent as f64), "{billed:?} of {sent}");
    let each = run(&scene, &meterline).await;
    assert_eq!(
        meterline.stats().await.unwrap()["seconds"],
        json!({
            "ran": each * 7,
            "delivered": each,
            "dropped": each * 3,
            "rejected": each * 3,
            "waiting": 0,
            "unproved": 0,
        })
    );
    assert_eq!(delivered(&scene, "good"), each);
    let (_, page) = meterline.get("/metrics").await.unwrap();
    for (fate, reason, namespace) in [
        ("dropped", "pipeline.processors.0.mapping", "dropped"),
        (
            "dropped",
            "pipeline.processors.1.catch.0.switch.0.processors.0.mapping",
            "caught",
        ),
        ("dropped", "output.switch", "nowhere"),
        ("rejected", "processing_error", "failed"),
        ("rejected", "schema_violation", "malformed"),
        ("rejected", "refused_by_sink", "refused"),
    ] {
        let line = page
            .lines()
            .filter(|it| it.starts_with("ledger_unbilled_seconds{"))
            .find(|it| it.contains(&format!("namespace=\"ns-{namespace}\"")))
            .unwrap_or_else(|| panic!("{namespace}: {page}"));
        assert!(line.contains(&format!("fate=\"{fate}\"")), "{line}");
        assert!(line.contains(&format!("reason=\"{reason}")), "{line}");
        assert!(line.ends_with(&format!(" {each}")), "{line}");
    }
    // Each rejected object is named in the log, once for its reason.
    for name in ["failed", "malformed", "refused"] {
        let object = format!("about=\"pod ns-{name}/{name}\"");
        let lines = meterline.log();
        let named: Vec<_> = lines
            .iter()
            .filter(|it| it.contains("rejected, and not billed") && it.contains(&object))
            .collect();
        assert_eq!(named.len(), 1, "{}", meterline.tail());
    }
    let of_refused = meterline
        .wait_for_log("refused_by_sink", MINUTE)
        .await
        .unwrap();
    assert!(
        of_refused.contains("subject=\"customer of refused\""),
        "{of_refused}"
    );
    // `/ready` names one of them, and stays 200 because the others are billed.
    let (status, ready) = meterline.get("/ready").await.unwrap();
    assert!(status == 200 && ready.contains("not billed: "), "{ready}");
    assert!(ready.contains("such as pod ns-"), "{ready}");
    meterline.stop().await;
    scene.ingest.assert_clean();
}

/// Many pods are rejected at once, and the log names each of them.
#[tokio::test]
async fn each_of_300_rejected_pods_of_1000_is_named() {
    const FAILED: usize = 300;
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let name = |index: usize| match index {
        0..FAILED => format!("failed-{index}"),
        _ => format!("good-{index}"),
    };
    for index in 0..1_000 {
        scene.put(&name(index), scene.start.timestamp(), None);
    }
    let fails = r#"if this.metadata.name.starts_with("failed-") { throw "it failed"; }"#;
    let meterline = command(&scene, fails, "").start().unwrap();
    // In several windows.
    meterline
        .wait_for_metric("output_rejected", MINUTE, |it| it >= 5.0 * FAILED as f64)
        .await
        .unwrap();
    meterline.stop().await;
    let log = meterline.log();
    let is_named = |name: &String| {
        let object = format!("/{name}\"");
        let mut lines = log.iter();
        lines.any(|it| it.contains("rejected, and not billed") && it.contains(&object))
    };
    let named = (0..FAILED).map(name).filter(is_named).count();
    assert_eq!(named, FAILED, "{}", meterline.tail());
}

/// A mapping is corrected. What it rejected is delivered after a restart under the same ids, including
/// the usage of a deleted pod.
#[tokio::test]
async fn rejected_usage_is_delivered_after_the_mapping_is_corrected() {
    let scene = scene().await;
    let state = scene.file("state.sqlite");
    let state = state.display().to_string();
    let broken = command(&scene, FAILING, &state).start().unwrap();
    let each = run(&scene, &broken).await;
    let before = broken.stats().await.unwrap();
    broken.stop().await;
    assert_eq!(delivered(&scene, "failed"), 0);
    scene.delete("failed");

    scene.ingest.refuse_nothing();
    let mended = command(&scene, "", &state).start().unwrap();
    mended
        .wait_for_seconds(MINUTE, |seconds| seconds["rejected"] == each)
        .await
        .unwrap();
    let after = mended.stats().await.unwrap();
    assert_eq!(after["seconds"]["ran"], before["seconds"]["ran"]);
    for name in ["good", "failed", "refused"] {
        scene.report(|_, it| it == name).assert_exact();
    }
    let id = |event: &Value| {
        let time = event["time"].as_str().unwrap();
        let start = DateTime::parse_from_rfc3339(time).unwrap().timestamp();
        let uid = format!("uid-{}", event["data"]["pod_name"].as_str().unwrap());
        meterline_core::event_id(None, "t", &uid, start).to_string()
    };
    for event in scene.ingest.events() {
        assert_eq!(event["id"].as_str(), Some(id(&event).as_str()));
    }
    mended.stop().await;
    // After another restart nothing is sent twice.
    let requests = scene.ingest.state().requests.len();
    let again = command(&scene, "", &state).start_ready().await.unwrap();
    // The malformed event is tried again and refused before it is sent.
    again
        .wait_for_log("schema_violation", MINUTE)
        .await
        .unwrap();
    again.stop().await;
    let events = |from: usize| {
        scene.ingest.state().requests[from..]
            .iter()
            .map(|it| it.events.len())
            .sum::<usize>()
    };
    assert_eq!(events(requests), 0);
    scene.ingest.assert_clean();
}

/// Without a state file, the admin server lists in pages what the sink refused. It is delivered after a
/// retry is requested.
#[tokio::test]
async fn rejected_usage_is_listed_and_delivered_on_request() {
    let scene = scene().await;
    let meterline = command(&scene, "", "").start().unwrap();
    let each = run(&scene, &meterline).await;
    let listed = meterline.rejected(3).await.unwrap();
    // Each second of the malformed and of the refused pod is listed once.
    for name in ["malformed", "refused"] {
        let mine: Vec<_> = listed
            .iter()
            .filter(|it| it["about"] == format!("pod ns-{name}/{name}"))
            .collect();
        let sum: i64 = mine.iter().map(|it| it["seconds"].as_i64().unwrap()).sum();
        assert_eq!(sum, each, "{mine:?}");
        assert!(
            mine.iter()
                .all(|it| it["namespace"] == format!("ns-{name}"))
        );
    }
    let refused = listed.iter().find(|it| it["cause"] == "refused_by_sink");
    assert_eq!(refused.unwrap()["subject"], "customer of refused");

    scene.ingest.refuse_nothing();
    let answer = meterline.retry_rejected().await.unwrap();
    assert_eq!(answer["retrying"], listed.len());
    meterline
        .wait_for_seconds(MINUTE, |seconds| seconds["rejected"] == each)
        .await
        .unwrap();
    scene.report(|_, it| it == "refused").assert_exact();
    let left = meterline.rejected(1000).await.unwrap();
    let of_schema = |it: &Value| it["cause"] == "schema_violation" && it["tries"] == 2;
    assert!(left.iter().all(of_schema), "{left:?}");
    meterline.stop().await;
    scene.ingest.assert_clean();
}
