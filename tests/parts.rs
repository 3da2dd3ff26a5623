//! Several events of one usage interval: `unarchive` makes them, each has an id of its own, and the
//! interval is billed once all of them have arrived.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta};
use meterline_kubesim::Options;
use meterline_testkit::{
    audit,
    process::Meterline,
    scene::{Scene, Simulated, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE};

const KINDS: [&str; 3] = ["cpu", "memory", "storage"];
const PODS: [&str; 3] = ["a", "b", "ended"];

/// Makes the parts in one mapping, and the events in another, which reads the parts.
fn config(state: &str, split: usize) -> String {
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
        let name = this.metadata.name;
        let namespace = this.metadata.namespace;
        root = [
          #{{ kind: "cpu", name: name, namespace: namespace }},
          #{{ kind: "memory", name: name, namespace: namespace }},
          #{{ kind: "storage", name: name, namespace: namespace }},
        ];
    - unarchive:
        format: json_array
    - mapping: |
        root = #{{
          id: event_id("usage", this.kind),
          specversion: "1.0",
          type: this.kind,
          source: "test",
          time: meta("schedule_time"),
          subject: "customer of " + this.name,
          data: #{{
            pod_name: this.name,
            pod_namespace: this.namespace,
            duration_seconds: meta("schedule_interval").parse_duration() / 1000000000,
          }},
        }};
    - json_schema:
        schema_path: 'file://./cloudevents.spec.json'
    - split:
        size: {split}
output:
  openmeter:
    url: ${{OPENMETER_URL}}
"#
    )
}

/// Three pods, one of which ended before.
async fn scene() -> Scene<Simulated> {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let start = scene.start.timestamp() - 5;
    for name in PODS {
        let end = (name == "ended").then_some(start + 3);
        scene.put(name, start, end);
    }
    scene
}

fn start(scene: &Scene<Simulated>, state: &str, split: usize) -> Meterline {
    let command = scene.command().config(&config(state, split));
    command.start().unwrap()
}

/// How many seconds all pods ran, once they have ended.
fn lived(scene: &Scene<Simulated>) -> i64 {
    let lives = scene.lives().into_iter();
    let seconds = lives.map(|life| (life.end.unwrap() - life.start).num_seconds());
    seconds.sum()
}

fn kind_of(event: &Value) -> &str {
    event["type"].as_str().unwrap()
}

/// What is wrong with the bill of one kind of events.
fn report(scene: &Scene<Simulated>, kind: &str) -> audit::Report {
    let events = scene.ingest.events();
    let events = events.iter().filter(|event| kind_of(event) == kind);
    let range = scene.start - TimeDelta::minutes(5)..scene.start + TimeDelta::minutes(60);
    audit::audit(&scene.lives(), events, range)
}

/// The ids of each interval, by pod and time.
fn ids(scene: &Scene<Simulated>) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut ids: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for event in scene.ingest.events() {
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        let interval = (pod_of(&event).to_owned(), text("time"));
        let start = DateTime::parse_from_rfc3339(&text("time")).unwrap();
        let uid = format!("uid-{}", interval.0);
        let id = meterline_core::part_id(None, "usage", kind_of(&event), &uid, start.timestamp());
        assert_eq!(text("id"), id.to_string());
        ids.entry(interval).or_default().insert(text("id"));
    }
    ids
}

/// Ends all pods and waits until every second has this fate.
async fn end(scene: &Scene<Simulated>, meterline: &Meterline, fate: &str) {
    scene.end_all().await;
    let lived = lived(scene);
    let all = meterline.wait_for_seconds(MINUTE, |seconds| {
        seconds["ran"] == lived && seconds["waiting"] == 0 && seconds[fate] == lived
    });
    all.await.unwrap();
}

fn assert_exact(scene: &Scene<Simulated>, kinds: &[&str]) {
    for kind in kinds {
        let report = report(scene, kind);
        assert!(report.is_exact(), "{kind}: {report}");
        assert_eq!(report.billed_seconds(), lived(scene), "{kind}");
    }
}

#[tokio::test]
async fn three_events_of_each_pod_are_exact_and_an_interval_counts_once() {
    let scene = scene().await;
    let meterline = start(&scene, "", 4);
    scene.ingest.wait_for_events(60).await.unwrap();
    end(&scene, &meterline, "delivered").await;
    let seconds = &meterline.stats().await.unwrap()["seconds"];
    let lived = lived(&scene);
    let expected = json!({"ran": lived, "delivered": lived, "rejected": 0, "dropped": 0,
        "waiting": 0, "unproved": 0});
    assert_eq!(*seconds, expected);
    assert_exact(&scene, &KINDS);
    let ids = ids(&scene);
    assert!(ids.values().all(|it| it.len() == 3), "{ids:?}");
    let distinct: BTreeSet<_> = ids.values().flatten().collect();
    assert_eq!(distinct.len(), ids.len() * 3);
    // `split` sets the most events of a request.
    let sizes: Vec<_> = {
        let state = scene.ingest.state();
        state.requests.iter().map(|it| it.events.len()).collect()
    };
    assert!(
        sizes.contains(&4) && sizes.iter().all(|it| *it <= 4),
        "{sizes:?}"
    );
    meterline.stop().await;
    scene.ingest.assert_clean();
}

/// The server refuses one kind of events for good. The others arrive, no interval counts as billed, and
/// once the server accepts that kind, the intervals are sent again under the same ids.
#[tokio::test]
async fn an_interval_of_which_one_event_is_refused_is_not_billed_until_it_is_accepted() {
    let scene = scene().await;
    scene.ingest.refuse_when(|event| kind_of(event) == "memory");
    let meterline = start(&scene, "", 1_000);
    let some = |state: &meterline_testkit::ingest::State| state.events.len() >= 30;
    scene.ingest.wait_until(MINUTE, some).await.unwrap();
    end(&scene, &meterline, "rejected").await;
    assert_exact(&scene, &["cpu", "storage"]);
    assert_eq!(report(&scene, "memory").billed_seconds(), 0);
    // What is rejected names the part, in the log and in the list of the admin server.
    let line = meterline.wait_for_log("part 2 of 3", MINUTE).await.unwrap();
    assert!(line.contains("refused_by_sink"), "{line}");
    let listed = meterline.rejected(1_000).await.unwrap();
    let seconds: i64 = listed
        .iter()
        .map(|it| it["seconds"].as_i64().unwrap())
        .sum();
    assert_eq!(seconds, lived(&scene));
    for piece in &listed {
        let reason = piece["reason"].as_str().unwrap();
        assert!(reason.starts_with("part 2 of 3: "), "{reason}");
        assert_eq!(piece["cause"], "refused_by_sink");
    }
    let before = ids(&scene);
    assert!(before.values().all(|it| it.len() == 2), "{before:?}");

    scene.ingest.refuse_nothing();
    meterline.retry_rejected().await.unwrap();
    let lived = lived(&scene);
    let billed = meterline.wait_for_seconds(MINUTE, |seconds| {
        seconds["delivered"] == lived && seconds["rejected"] == 0
    });
    billed.await.unwrap();
    assert_exact(&scene, &KINDS);
    let after = ids(&scene);
    assert!(after.values().all(|it| it.len() == 3), "{after:?}");
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    meterline.stop().await;
    scene.ingest.assert_clean();
}

/// One kind of events fails while the others are accepted, and the process is killed in between.
#[tokio::test]
async fn a_crash_between_the_events_of_an_interval_sends_all_of_them_again() {
    let scene = scene().await;
    let state = scene.file("state.sqlite").display().to_string();
    scene
        .ingest
        .poison_when(|event| kind_of(event) == "storage");
    let killed = start(&scene, &state, 1);
    let others = |state: &meterline_testkit::ingest::State| {
        let kinds = state.events.iter().map(|it| kind_of(&it.event));
        kinds.filter(|kind| *kind == "cpu").count() >= 5
    };
    scene.ingest.wait_until(MINUTE, others).await.unwrap();
    let billed = killed.metric("ledger_billed_seconds").await.unwrap();
    assert_eq!(billed.unwrap_or(0.0), 0.0);
    killed.kill().unwrap();
    killed.wait_exit(MINUTE).await.unwrap();
    assert_eq!(report(&scene, "storage").billed_seconds(), 0);

    scene.ingest.poison_when(|_| false);
    let meterline = start(&scene, &state, 1_000);
    end(&scene, &meterline, "delivered").await;
    assert_exact(&scene, &KINDS);
    assert!(ids(&scene).values().all(|it| it.len() == 3));
    meterline.stop().await;
    scene.ingest.assert_clean();
}
