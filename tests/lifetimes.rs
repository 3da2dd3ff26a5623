//! When a pod's bill begins and ends, where its status does not say so, against a simulated API server. Each pod is
//! billed while it runs, and once more by a collector that has no state and reads what is left of it.

use meterline_kubesim::{Kind, Options, rfc3339};
use meterline_testkit::{audit::Life, pods, scene::Scene};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, until};

/// A pod and what happens to it.
struct Play {
    name: &'static str,
    /// When its node accepted it, after the beginning.
    accepted: i64,
    /// When each status is written, and what it shows.
    statuses: Vec<(i64, &'static str, Value)>,
    /// When its bill begins and ends, after the beginning.
    billed: (i64, i64),
}

fn main_is(state: Value) -> Value {
    json!({"containerStatuses": [{"name": "main", "state": state}]})
}

fn waiting() -> Value {
    json!({"waiting": {"reason": "ContainerCreating"}})
}

fn running(started: Option<i64>) -> Value {
    json!({"running": {"startedAt": started.map(rfc3339)}})
}

fn terminated(started: Option<i64>, finished: Option<i64>) -> Value {
    json!({"terminated": {"exitCode": 1,
        "startedAt": started.map(rfc3339), "finishedAt": finished.map(rfc3339)}})
}

/// The pods, which are created at `begin`.
fn plays(begin: i64) -> Vec<Play> {
    let at = |second: i64| Some(begin + second);
    let init = |state: Value| {
        json!({"initContainerStatuses": [{"name": "work", "state": state}],
            "containerStatuses": [{"name": "main", "state": waiting()}]})
    };
    vec![
        Play {
            name: "no-times",
            accepted: 0,
            statuses: vec![
                (0, "Pending", main_is(waiting())),
                (2, "Running", main_is(running(None))),
                (9, "Failed", main_is(terminated(None, None))),
            ],
            billed: (0, 9),
        },
        Play {
            name: "init-only",
            accepted: 0,
            statuses: vec![
                (1, "Pending", init(running(at(1)))),
                (8, "Failed", init(terminated(at(1), at(8)))),
            ],
            billed: (1, 8),
        },
        Play {
            name: "clock-behind-8",
            accepted: -8,
            statuses: vec![
                (3, "Running", main_is(running(at(-5)))),
                (11, "Failed", main_is(terminated(at(-5), at(3)))),
            ],
            billed: (3, 11),
        },
        Play {
            name: "evicted-early",
            accepted: 0,
            statuses: vec![
                (1, "Running", main_is(running(at(1)))),
                (5, "Failed", main_is(running(at(1)))),
                (10, "Failed", main_is(terminated(at(1), at(10)))),
            ],
            billed: (1, 10),
        },
    ]
}

impl Play {
    fn pod(&self, begin: i64, (written, phase, status): &(i64, &str, Value)) -> Value {
        let scheduled = json!({"type": "PodScheduled", "status": "True",
            "lastTransitionTime": rfc3339(begin)});
        let mut pod = json!({
            "metadata": {
                "name": self.name, "namespace": self.name, "uid": self.name,
                "creationTimestamp": rfc3339(begin),
                "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1",
                    "time": rfc3339(begin + written), "subresource": "status",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:status": {"f:containerStatuses": {}, "f:phase": {}}}}],
            },
            "spec": {"nodeName": "node", "restartPolicy": "Never",
                "initContainers": [{"name": "work"}], "containers": [{"name": "main"}]},
            "status": status,
        });
        pod["status"]["phase"] = (*phase).into();
        pod["status"]["startTime"] = rfc3339(begin + self.accepted).into();
        pod["status"]["conditions"] = json!([scheduled]);
        pod
    }

    fn life(&self, begin: i64) -> Life {
        let at = |second| chrono::DateTime::from_timestamp(begin + second, 0).unwrap();
        Life {
            uid: self.name.to_owned(),
            namespace: self.name.to_owned(),
            name: self.name.to_owned(),
            start: at(self.billed.0),
            end: Some(at(self.billed.1)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_that_a_status_shows_badly_are_billed_live_and_replayed() {
    let scene = Scene::simulated(BINARY, Options::default()).await;
    // Long windows, so that a busy machine may write a status some seconds late.
    let collector = || {
        let preset = scene.preset().env("SCRAPE_NAMESPACE", "");
        preset.env("SCRAPE_INTERVAL", "20s")
    };
    let live = collector().start_ready().await.unwrap();
    let from = pods::now() + seconds(1);
    let begin = from.timestamp();
    let plays = plays(begin);
    for second in 0..=11 {
        until(from + seconds(second)).await;
        for play in &plays {
            for status in play.statuses.iter().filter(|it| it.0 == second) {
                let pod = play.pod(begin, status);
                scene.sim.change(|store| store.put(Kind::Pod, pod));
            }
        }
    }
    let lives: Vec<_> = plays.iter().map(|it| it.life(begin)).collect();
    scene.assert_billed(&lives, &live).await;
    live.stop().await;

    // What is sent again has the same ids and the same contents.
    let events = scene.ingest.events().len();
    let again = collector().start_ready().await.unwrap();
    let arrived = scene
        .ingest
        .wait_until(MINUTE, |it| it.duplicates >= events);
    arrived.await.unwrap();
    scene.assert_billed(&lives, &again).await;
    assert_eq!(scene.ingest.events().len(), events);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bill_from_says_when_a_bill_begins() {
    for (from, start) in [("started", 10), ("scheduled", 4), ("running", 25)] {
        let scene = Scene::simulated(BINARY, Options::default()).await;
        let begin = scene.start.timestamp() - 60;
        let at = |second: i64| Some(begin + second);
        let status = json!({
            "initContainerStatuses": [{"name": "work", "state": terminated(at(10), at(20))}],
            "containerStatuses": [{"name": "main", "state": terminated(at(25), at(40))}]});
        let play = Play {
            name: "moded",
            accepted: 5,
            statuses: vec![(40, "Failed", status)],
            billed: (start, 40),
        };
        let mut pod = play.pod(begin, &play.statuses[0]);
        pod["status"]["conditions"][0]["lastTransitionTime"] = rfc3339(begin + 4).into();
        scene.sim.change(|store| store.put(Kind::Pod, pod));
        let collector = scene.preset().env("SCRAPE_NAMESPACE", "");
        let collector = collector
            .env("BILL_FROM", from)
            .start_ready()
            .await
            .unwrap();
        scene.assert_billed(&[play.life(begin)], &collector).await;
        collector.stop().await;
    }
}
