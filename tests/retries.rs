//! A restart with much that was rejected: all of it is retried, and no other pod waits for it.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use meterline_kubesim::Options;
use meterline_testkit::{
    ingest::State,
    scene::{Scene, pod_of},
};
use serde_json::Value;

use crate::support::{BINARY, MINUTE};

/// A disk that is busy takes tens of milliseconds for each of the two writes of a window.
const LONG: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(30);
/// How many seconds of the hostile pod are rejected, each a window.
const HELD: i64 = 1_000;

/// The mapping fails for a hostile pod while it is broken.
fn config(is_broken: bool, state: &str) -> String {
    let first = if is_broken {
        r#"if this.metadata.name == "hostile" { throw "it is hostile" }"#
    } else {
        ""
    };
    format!(
        r#"
input:
  schedule:
    interval: 1s
    input:
      kubernetes_resources:
        settle: 1s
        lookback: 1h
        state: {{ path: '{state}' }}
pipeline:
  processors:
    - mapping: |
        {first}
        root = #{{
          id: event_id("t"),
          specversion: "1.0",
          type: "t",
          source: "test",
          time: meta("schedule_time"),
          subject: this.metadata.name,
          data: #{{
            pod_name: this.metadata.name,
            pod_namespace: this.metadata.namespace,
            duration_seconds: meta("schedule_interval").parse_duration() / 1000000000,
          }},
        }};
output:
  openmeter:
    url: ${{OPENMETER_URL}}
"#
    )
}

fn time(event: &Value) -> i64 {
    let time = event["time"].as_str().unwrap();
    DateTime::parse_from_rfc3339(time).unwrap().timestamp()
}

/// Returns the start of the newest event of a pod that has arrived.
fn newest(state: &State, name: &str) -> i64 {
    let events = state.events.iter().map(|it| &it.event);
    let mine = events.filter(|it| pod_of(it) == name);
    mine.map(time).max().unwrap_or_default()
}

/// A thousand intervals of one pod are retried after a restart. The sink refuses half of them and answers
/// 500 to the others. Meanwhile an honest pod is billed, window by window and to the second; and when the
/// sink accepts them, the rejected intervals are billed as well.
#[tokio::test(flavor = "multi_thread")]
async fn retries_of_a_thousand_rejected_intervals_delay_no_honest_pod() {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let state = scene.file("state.sqlite").display().to_string();
    let command = |is_broken: bool| scene.command().config(&config(is_broken, &state));
    let now = Utc::now().timestamp();
    let middle = now - HELD / 2;
    scene.put("hostile", now - HELD, Some(now));
    scene.put("honest", now - 10, None);

    let broken = command(true).start().unwrap();
    broken
        .wait_for_seconds(LONG, |seconds| seconds["rejected"] == HELD)
        .await
        .unwrap();
    broken.stop().await;
    assert!(scene.events_of("hostile").is_empty());

    let is_hostile = |event: &Value| pod_of(event) == "hostile";
    let ingest = &scene.ingest;
    ingest.refuse_when(move |event| is_hostile(event) && time(event) < middle);
    ingest.poison_when(move |event| is_hostile(event) && time(event) >= middle);
    let mended = command(false).start_ready().await.unwrap();
    while mended.metric("output_rejected").await.unwrap() < Some(HELD as f64) {
        let seen = newest(&ingest.state(), "honest");
        ingest
            .wait_until(SOON, |state| newest(state, "honest") > seen)
            .await
            .unwrap();
    }
    scene.end_all().await;
    let report = scene.settled(|_, name| name == "honest").await;
    report.assert_exact();
    assert!(scene.events_of("hostile").is_empty());
    let rejected = mended.rejected(1000).await.unwrap();
    assert_eq!(rejected.len() as i64, HELD);
    let causes: BTreeSet<_> = rejected.iter().map(|it| it["cause"].as_str()).collect();
    assert_eq!(causes, [Some("poison"), Some("refused_by_sink")].into());

    ingest.refuse_nothing();
    ingest.poison_when(|_| false);
    mended.retry_rejected().await.unwrap();
    mended
        .wait_for_seconds(MINUTE, |seconds| seconds["rejected"] == 0)
        .await
        .unwrap();
    scene.finish(&mended).await;
}
