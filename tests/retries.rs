//! A restart with much that was rejected: all of it is tried again, and nobody else's usage waits for it.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Utc};
use meterline_kubesim::{Kind, Kubesim, Options, rfc3339};
use meterline_testkit::{
    audit::{self, Life},
    ingest::{RecordingIngest, State},
    process::{Meterline, MeterlineCommand},
};
use serde_json::{Value, json};

use crate::support::{MINUTE, meterline, stop};

const SOON: Duration = Duration::from_secs(30);
/// So many seconds, and as many windows, of the hostile pod are rejected.
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

/// A pod in a namespace of its own that ran from `start` to `end`, or runs.
fn pod(name: &str, start: i64, end: Option<i64>) -> Value {
    let state = match end {
        None => json!({"running": {"startedAt": rfc3339(start)}}),
        Some(end) => json!({"terminated": {
            "startedAt": rfc3339(start), "finishedAt": rfc3339(end), "exitCode": 0,
        }}),
    };
    json!({
        "metadata": {
            "name": name,
            "namespace": format!("ns-{name}"),
            "uid": format!("uid-{name}"),
            "creationTimestamp": rfc3339(start),
        },
        "spec": {"containers": [{"name": "main"}], "restartPolicy": "Never"},
        "status": {
            "phase": if end.is_some() { "Succeeded" } else { "Running" },
            "startTime": rfc3339(start),
            "containerStatuses": [{"name": "main", "state": state}],
        },
    })
}

fn is_of(event: &Value, name: &str) -> bool {
    event["data"]["pod_name"] == name
}

fn time(event: &Value) -> i64 {
    let time = event["time"].as_str().unwrap();
    DateTime::parse_from_rfc3339(time).unwrap().timestamp()
}

/// When the newest event of a pod that arrived begins.
fn newest(state: &State, name: &str) -> i64 {
    let events = state.events.iter().map(|it| &it.event);
    let mine = events.filter(|it| is_of(it, name));
    mine.map(time).max().unwrap_or_default()
}

async fn seconds(meterline: &Meterline) -> Value {
    let (_, page) = meterline.get("/stats").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    page["seconds"].clone()
}

/// Why pieces are rejected.
async fn causes(meterline: &Meterline) -> BTreeSet<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = meterline.admin_url("/rejected?limit=1000");
    let page = client.get(url).send().await.unwrap().bytes().await.unwrap();
    let page: Value = serde_json::from_slice(&page).unwrap();
    let pieces = page["rejected"].as_array().unwrap();
    assert_eq!(pieces.len() as i64, HELD);
    let causes = pieces.iter().map(|it| it["cause"].as_str().unwrap());
    causes.map(str::to_owned).collect()
}

/// What is wrong with the bill of a pod.
fn report(ingest: &RecordingIngest, name: &str, start: i64, end: i64) -> audit::Report {
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    let life = Life {
        uid: format!("uid-{name}"),
        namespace: format!("ns-{name}"),
        name: name.to_owned(),
        start: at(start),
        end: Some(at(end)),
    };
    let mut events = ingest.events();
    events.retain(|event| is_of(event, name));
    audit::audit(&[life], &events, at(start)..at(end + 60))
}

/// A thousand pieces of one pod are tried again after a restart. The sink refuses half of them, and the
/// other half makes it answer 500. A honest pod is billed meanwhile, window by window and to the second;
/// and once the sink has nothing against them the pieces are billed as well.
#[tokio::test(flavor = "multi_thread")]
async fn retries_of_a_thousand_bad_pieces_hold_up_no_honest_pod() {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    sim.write_kubeconfig(&kubeconfig).unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let state = folder.path().join("state.sqlite").display().to_string();
    let command = |is_broken: bool| -> MeterlineCommand {
        meterline()
            .config(&config(is_broken, &state))
            .kubeconfig(&kubeconfig)
            .env("OPENMETER_URL", ingest.url())
    };
    let now = Utc::now().timestamp();
    let (begin, middle) = (now - HELD, now - HELD / 2);
    let put = |pod: Value| sim.change(|store| store.put(Kind::Pod, pod));
    put(pod("hostile", begin, Some(now)));
    put(pod("honest", now - 10, None));

    let broken = command(true).start().unwrap();
    broken
        .wait_for_page("/stats", MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            page["seconds"]["rejected"] == json!(HELD)
        })
        .await
        .unwrap();
    stop(&broken).await;
    assert!(!ingest.events().iter().any(|it| is_of(it, "hostile")));

    ingest.refuse_when(move |event| is_of(event, "hostile") && time(event) < middle);
    ingest.poison_when(move |event| is_of(event, "hostile") && time(event) >= middle);
    let mended = command(false).start().unwrap();
    while mended.metric("output_rejected").await.unwrap() < Some(HELD as f64) {
        let seen = newest(&ingest.state(), "honest");
        ingest
            .wait_until(SOON, |state| newest(state, "honest") > seen)
            .await
            .unwrap();
    }
    let end = Utc::now().timestamp();
    put(pod("honest", now - 10, Some(end)));
    mended
        .wait_for_metric("ledger_watermark_timestamp_seconds", MINUTE, |watermark| {
            watermark > end as f64
        })
        .await
        .unwrap();
    report(&ingest, "honest", now - 10, end).assert_exact();
    assert_eq!(seconds(&mended).await["rejected"], HELD);
    assert!(!ingest.events().iter().any(|it| is_of(it, "hostile")));
    let expected = ["poison", "refused_by_sink"].map(str::to_owned);
    assert_eq!(causes(&mended).await, expected.into());

    ingest.refuse_nothing();
    ingest.poison_when(|_| false);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = mended.admin_url("/rejected/retry");
    assert_eq!(client.post(url).send().await.unwrap().status(), 200);
    mended
        .wait_for_page("/stats", MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            page["seconds"]["rejected"] == 0
        })
        .await
        .unwrap();
    report(&ingest, "hostile", begin, now).assert_exact();
    stop(&mended).await;
    ingest.assert_clean();
}
