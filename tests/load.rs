//! Many changes at once.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use meterline_kubesim::{Kind, Options};
use meterline_testkit::{
    audit::Life,
    child::Stream,
    ingest::{Behaviour, State},
    pods::{self, whole},
    process::Meterline,
    scene::{Scene, pod_of},
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::support::{BINARY, MINUTE};

const PODS: usize = 500;
/// How often every pod changes: 1,000 changes a second.
const TICK: Duration = Duration::from_millis(500);
/// The memory is measured after this many rounds of changes, and again after as many more.
const ROUNDS: usize = 16;
/// How much 8,000 changes may cost that were all delivered. Kept whole they take twelve megabytes.
const MOST_GROWTH: u64 = 5 * 1024 * 1024;

fn object(index: usize, start: DateTime<Utc>, round: usize) -> Value {
    json!({
        "metadata": {"name": format!("pod-{index}"), "namespace": "default", "uid": uid(index),
            "annotations": {"data.openmeter.io/round": round.to_string(), "padding": "x".repeat(1_000)}},
        "spec": {"containers": [{"name": "main", "image": "i",
            "resources": {"requests": {"cpu": "1"}}}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "main", "restartCount": 0,
            "state": {"running": {"startedAt": start.to_rfc3339()}}}]},
    })
}

fn uid(index: usize) -> String {
    format!("00000000-0000-4000-8000-{index:012}")
}

/// Resident memory of a process in bytes.
fn resident(meterline: &Meterline) -> u64 {
    let path = format!("/proc/{}/statm", meterline.id());
    let text = std::fs::read_to_string(path).unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_a_second_cost_no_memory_and_no_log() {
    let options = Options {
        history: 5_000,
        ..Options::default()
    };
    let scene = Scene::simulated(BINARY, options).await;
    let meterline = scene
        .preset()
        .env("SCRAPE_INTERVAL", "2s")
        .env("BATCH_SIZE", "500")
        .start_ready()
        .await
        .unwrap();
    let start = whole(pods::now());
    let lines = meterline.lines(Stream::Stderr).len();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut before = 0;
    for round in 0..2 * ROUNDS {
        ticks.tick().await;
        scene.sim.change(|store| {
            for index in 0..PODS {
                store.put(Kind::Pod, object(index, start, round));
            }
        });
        if round == ROUNDS {
            before = resident(&meterline);
        }
    }
    let growth = resident(&meterline).saturating_sub(before);
    let lives: Vec<_> = (0..PODS)
        .map(|index| Life {
            uid: uid(index),
            namespace: "default".to_owned(),
            name: format!("pod-{index}"),
            start,
            end: None,
        })
        .collect();
    scene.assert_billed(&lives, &meterline).await;
    let new = meterline.lines(Stream::Stderr).split_off(lines);
    assert!(new.len() < 10, "{}", new.join("\n"));
    assert!(growth < MOST_GROWTH, "{growth} bytes more than {before}");
    meterline.stop().await;
}

/// A window goes out in several batches. The sink refuses one event, and the program gets a stop signal in the
/// middle of a window: it delivers the whole window, so that no event is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_thousands_of_pods_is_sent_whole_and_each_event_has_one_fate() {
    const MANY: usize = 9_000;
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let ingest = &scene.ingest;
    let start = whole(pods::now()) - TimeDelta::seconds(60);
    scene.sim.change(|store| {
        for index in 0..MANY {
            store.put(Kind::Pod, object(index, start, 0));
        }
    });
    ingest.refuse_when(|event| pod_of(event) == "pod-5000");
    let command = || {
        scene
            .preset()
            .env("LOOKBACK", "0s")
            .env("SCRAPE_INTERVAL", "10s")
            .env("BATCH_SIZE", "500")
            .env("STATE_PATH", scene.file("state.sqlite"))
    };
    let meterline = command().start().unwrap();
    let refused = meterline.wait_for_page("/ready", MINUTE, |_, page| page.contains("pod-5000"));
    refused.await.unwrap();
    // A window takes two seconds from now on.
    ingest.respond_always(Behaviour::normal().delay(Duration::from_millis(200)));
    let before = ingest.state().requests.len();
    ingest
        .wait_until(MINUTE, |state| state.requests.len() > before + 3)
        .await
        .unwrap();
    meterline.stop().await;
    ingest.respond_normally();
    ingest.refuse_nothing();

    let sent = |state: &State| -> usize { state.requests.iter().map(|it| it.taken).sum() };
    let taken = ingest.state().events.len();
    assert_eq!(sent(&ingest.state()), taken, "an event was sent twice");
    assert_eq!(taken % (MANY - 1), 0, "a window is not whole");
    let meterline = command().start().unwrap();
    ingest.wait_for_events(taken + MANY - 1).await.unwrap();
    let state = ingest.state();
    assert_eq!(sent(&state), state.events.len(), "an event was sent twice");
    drop(state);
    meterline.stop().await;
}
