//! What becomes of every second: delivered, rejected or dropped, shown by reason and namespace; and
//! what was rejected comes again under the id that it would have had.

use chrono::{DateTime, Utc};
use meterline_kubesim::{Kind, Kubesim, Options, rfc3339};
use meterline_testkit::{
    audit::{self, Life},
    ingest::RecordingIngest,
    process::{Meterline, MeterlineCommand},
};
use serde_json::{Value, json};

use crate::support::{MINUTE, meterline, stop};

/// A mapping that does with a pod what its name says, before which comes `first`.
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

struct Scene {
    sim: Kubesim,
    folder: tempfile::TempDir,
    ingest: RecordingIngest,
    start: i64,
}

const PODS: [&str; 7] = [
    "good",
    "dropped",
    "caught",
    "failed",
    "malformed",
    "refused",
    "nowhere",
];

impl Scene {
    async fn new() -> Self {
        let sim = Kubesim::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        sim.write_kubeconfig(&folder.path().join("kubeconfig"))
            .unwrap();
        let ingest = RecordingIngest::start().await.unwrap();
        ingest.refuse_when(|event| event["data"]["pod_name"] == "refused");
        let start = Utc::now().timestamp() - 5;
        for name in PODS {
            sim.change(|store| store.put(Kind::Pod, pod(name, start, None)));
        }
        Self {
            sim,
            folder,
            ingest,
            start,
        }
    }

    fn command(&self, config: &str) -> MeterlineCommand {
        meterline()
            .config(config)
            .kubeconfig(&self.folder.path().join("kubeconfig"))
            .env("OPENMETER_URL", self.ingest.url())
    }

    /// Ends all pods, and returns when.
    fn end_all(&self) -> i64 {
        let end = Utc::now().timestamp();
        for name in PODS {
            self.sim
                .change(|store| store.put(Kind::Pod, pod(name, self.start, Some(end))));
        }
        end
    }

    /// The distinct seconds of a pod's events.
    fn delivered(&self, name: &str) -> i64 {
        let events = self.ingest.events();
        let mine = events.iter().filter(|it| it["data"]["pod_name"] == name);
        mine.map(|it| it["data"]["duration_seconds"].as_i64().unwrap())
            .sum()
    }

    /// What is wrong with the bill of a pod that ran from the start to `end`.
    fn report(&self, name: &str, end: i64) -> audit::Report {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let life = Life {
            uid: format!("uid-{name}"),
            namespace: format!("ns-{name}"),
            name: name.to_owned(),
            start: at(self.start),
            end: Some(at(end)),
        };
        let mut events = self.ingest.events();
        events.retain(|it| it["data"]["pod_name"] == name);
        audit::audit(&[life], &events, at(self.start)..at(end + 60))
    }
}

async fn seconds(meterline: &Meterline) -> Value {
    let (_, page) = meterline.get("/stats").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    page["seconds"].clone()
}

/// Waits until nothing waits any more.
async fn nothing_waits(meterline: &Meterline) {
    meterline
        .wait_for_page("/stats", MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            page["seconds"]["ran"].as_i64() > Some(0) && page["seconds"]["waiting"] == 0
        })
        .await
        .unwrap();
}

/// Each kind of loss is counted in seconds, by reason and namespace, and nothing of it is billed.
#[tokio::test]
async fn every_second_has_a_fate_with_its_reason_and_its_namespace() {
    let scene = Scene::new().await;
    let meterline = scene.command(&config(FAILING, "")).start().unwrap();
    meterline
        .wait_for_metric("ledger_billed_seconds", MINUTE, |it| it >= 8.0)
        .await
        .unwrap();
    let billed = meterline.metric("ledger_billed_seconds").await.unwrap();
    let sent = scene.delivered("good");
    assert!(billed <= Some(sent as f64), "{billed:?} of {sent}");
    let end = scene.end_all();
    nothing_waits(&meterline).await;
    let each = end - scene.start;
    assert_eq!(
        seconds(&meterline).await,
        json!({
            "ran": each * 7,
            "delivered": each,
            "dropped": each * 3,
            "rejected": each * 3,
            "waiting": 0,
            "unproved": 0,
        })
    );
    assert_eq!(scene.delivered("good"), each);
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
    // And /ready says so with an example, while everybody else is billed.
    let (status, ready) = meterline.get("/ready").await.unwrap();
    assert!(status == 200 && ready.contains("not billed: "), "{ready}");
    assert!(ready.contains("such as pod ns-"), "{ready}");
    stop(&meterline).await;
    scene.ingest.assert_clean();
}

/// Many at once: none goes unnamed, whatever comes after it.
#[tokio::test]
async fn each_of_300_rejected_pods_of_1000_is_named() {
    const FAILED: usize = 300;
    let scene = Scene::new().await;
    let name = |index: usize| match index {
        0..FAILED => format!("failed-{index}"),
        _ => format!("good-{index}"),
    };
    scene.sim.change(|store| {
        for index in 0..1_000 {
            store.put(Kind::Pod, pod(&name(index), scene.start, None));
        }
    });
    let fails = r#"if this.metadata.name.starts_with("failed-") { throw "it failed"; }"#;
    let meterline = scene.command(&config(fails, "")).start().unwrap();
    // In several windows.
    meterline
        .wait_for_metric("output_rejected", MINUTE, |it| it >= 5.0 * FAILED as f64)
        .await
        .unwrap();
    stop(&meterline).await;
    let log = meterline.log();
    let is_named = |name: &String| {
        let object = format!("about=\"pod ns-{name}/{name}\"");
        let mut lines = log.iter();
        lines.any(|it| it.contains("rejected, and not billed") && it.contains(&object))
    };
    let named = (0..FAILED).map(name).filter(is_named).count();
    assert_eq!(named, FAILED, "{}", meterline.tail());
}

/// A mapping that is mended: what it rejected is delivered after a restart, under the same ids, also
/// of a pod that is long gone.
#[tokio::test]
async fn what_was_rejected_is_delivered_once_the_mapping_is_mended() {
    let scene = Scene::new().await;
    let state = scene.folder.path().join("state.sqlite");
    let state = state.display().to_string();
    let broken = scene.command(&config(FAILING, &state)).start().unwrap();
    broken
        .wait_for_metric("ledger_billed_seconds", MINUTE, |it| it >= 7.0)
        .await
        .unwrap();
    let end = scene.end_all();
    nothing_waits(&broken).await;
    let before = seconds(&broken).await;
    stop(&broken).await;
    assert_eq!(scene.delivered("failed"), 0);
    scene.sim.change(|store| {
        store.delete(Kind::Pod, pod("failed", scene.start, Some(end)));
    });

    scene.ingest.refuse_nothing();
    let mended = scene.command(&config("", &state)).start().unwrap();
    mended
        .wait_for_page("/stats", MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            // What is malformed is so still.
            page["seconds"]["rejected"] == json!(end - scene.start)
        })
        .await
        .unwrap();
    let after = seconds(&mended).await;
    assert_eq!(after["ran"], before["ran"]);
    for name in ["good", "failed", "refused"] {
        scene.report(name, end).assert_exact();
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
    stop(&mended).await;
    // Once more: there is nothing left that would come twice.
    let requests = scene.ingest.state().requests.len();
    let again = scene.command(&config("", &state)).start().unwrap();
    again.wait_ready(MINUTE).await.unwrap();
    // What is malformed was tried again, and refused before it was sent.
    again
        .wait_for_log("schema_violation", MINUTE)
        .await
        .unwrap();
    stop(&again).await;
    let events = |from: usize| {
        scene.ingest.state().requests[from..]
            .iter()
            .map(|it| it.events.len())
            .sum::<usize>()
    };
    assert_eq!(events(requests), 0);
    scene.ingest.assert_clean();
}

/// What the sink refused, without a state file: it is listed on loopback, in pages, and delivered once
/// somebody asks for it.
#[tokio::test]
async fn what_was_rejected_is_listed_and_delivered_when_asked_for() {
    let scene = Scene::new().await;
    let meterline = scene.command(&config("", "")).start().unwrap();
    meterline
        .wait_for_metric("ledger_billed_seconds", MINUTE, |it| it >= 10.0)
        .await
        .unwrap();
    let end = scene.end_all();
    nothing_waits(&meterline).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = async |query: &str| -> Value {
        let url = meterline.admin_url(&format!("/rejected{query}"));
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    let mut listed = Vec::new();
    let mut query = "?limit=3".to_owned();
    loop {
        let page = page(&query).await;
        listed.extend(page["rejected"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        query = format!("?limit=3&after={next}");
    }
    // The malformed pod and the refused one, each second once.
    for name in ["malformed", "refused"] {
        let mine: Vec<_> = listed
            .iter()
            .filter(|it| it["about"] == format!("pod ns-{name}/{name}"))
            .collect();
        let sum: i64 = mine.iter().map(|it| it["seconds"].as_i64().unwrap()).sum();
        assert_eq!(sum, end - scene.start, "{mine:?}");
        assert!(
            mine.iter()
                .all(|it| it["namespace"] == format!("ns-{name}"))
        );
    }
    let refused = listed.iter().find(|it| it["cause"] == "refused_by_sink");
    assert_eq!(refused.unwrap()["subject"], "customer of refused");

    scene.ingest.refuse_nothing();
    let url = meterline.admin_url("/rejected/retry");
    let answer = client.post(url).send().await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(answer["retrying"], listed.len());
    meterline
        .wait_for_page("/stats", MINUTE, |_, page| {
            let page: Value = serde_json::from_str(page).unwrap();
            page["seconds"]["rejected"] == json!(end - scene.start)
        })
        .await
        .unwrap();
    scene.report("refused", end).assert_exact();
    let left = page("").await;
    assert!(
        left["rejected"]
            .as_array()
            .unwrap()
            .iter()
            .all(|it| it["cause"] == "schema_violation" && it["tries"] == 2),
        "{left}"
    );
    stop(&meterline).await;
    scene.ingest.assert_clean();
}
