//! One test for each rule of a pod's life.

mod node_clock;
mod rules;

use meterline_core::{Document, Reads};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_000;

fn at(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0)
        .unwrap()
        .to_rfc3339()
}

/// Start and end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Life {
    start: Option<i64>,
    end: Option<i64>,
}

/// What a pod that is seen at `now` says of its life.
fn seen_at(now: i64, from: BilledFrom, value: &Value) -> Lifetime {
    let whole = Document::from(value);
    let seen = Seen {
        now,
        ..Seen::default()
    };
    let life = lifetime(whole.root(), ResourceType::Pod, from, seen);
    // The rules read no other fields than they declare.
    let read = whole.project(&Reads::of(READS));
    assert_eq!(lifetime(read.root(), ResourceType::Pod, from, seen), life);
    life
}

fn short(life: Lifetime) -> Life {
    Life {
        start: life.start,
        end: life.end.map(|it| it.at),
    }
}

fn pod(value: &Value) -> Life {
    short(seen_at(NOW, BilledFrom::Started, value))
}

fn running(started: i64) -> Value {
    json!({"state": {"running": {"startedAt": at(started)}}})
}

fn terminated(started: i64, finished: i64) -> Value {
    json!({"state": {"terminated": {"startedAt": at(started), "finishedAt": at(finished)}}})
}

#[test]
fn a_pod_starts_with_its_first_container() {
    let life = pod(&json!({"status": {"phase": "Running",
        "containerStatuses": [running(120), running(100)]}}));
    assert_eq!(
        life,
        Life {
            start: Some(100),
            end: None
        }
    );
}

#[test]
fn a_pending_pod_has_not_started() {
    let waiting = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
    let value = json!({"metadata": {"creationTimestamp": at(50)},
        "status": {"phase": "Pending", "containerStatuses": [waiting]}});
    assert_eq!(pod(&value), Life::default());
    let life = seen_at(NOW, BilledFrom::Created, &value);
    assert_eq!(life.start, Some(50));
}

#[test]
fn a_restarted_container_started_when_it_first_did() {
    let mut container = running(300);
    container["lastState"] = terminated(100, 290)["state"].clone();
    let life = pod(&json!({"status": {"phase": "Running", "containerStatuses": [container]}}));
    assert_eq!(
        life,
        Life {
            start: Some(100),
            end: None
        }
    );
}

#[test]
fn a_pod_does_not_start_before_it_was_scheduled() {
    let life = pod(&json!({"status": {"phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(105)}],
        "containerStatuses": [running(100)]}}));
    assert_eq!(life.start, Some(105));
}

#[test]
fn a_finished_pod_ends_with_its_last_container() {
    let life = pod(&json!({"status": {"phase": "Succeeded",
        "containerStatuses": [terminated(100, 200), terminated(100, 230)]}}));
    assert_eq!(
        life,
        Life {
            start: Some(100),
            end: Some(230)
        }
    );
}

#[test]
fn a_sidecar_may_outlive_the_containers_and_an_init_container_that_ran_before_them_starts_the_pod()
{
    let mut sidecar = terminated(90, 240);
    sidecar["name"] = "proxy".into();
    let mut init = terminated(80, 999);
    init["name"] = "setup".into();
    let life = pod(&json!({
        "spec": {"initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"}]},
        "status": {"phase": "Succeeded", "containerStatuses": [terminated(100, 230)],
            "initContainerStatuses": [init, sidecar]}}));
    assert_eq!(
        life,
        Life {
            start: Some(80),
            end: Some(240)
        }
    );
}

#[test]
fn a_pod_whose_containers_are_restarted_continues_while_all_are_stopped() {
    let life = pod(
        &json!({"spec": {"restartPolicy": "Always"}, "status": {"phase": "Running",
        "containerStatuses": [terminated(100, 200)]}}),
    );
    assert_eq!(
        life,
        Life {
            start: Some(100),
            end: None
        }
    );
}

#[test]
fn an_evicted_pod_that_never_started_has_no_lifetime() {
    let life = pod(&json!({"status": {"phase": "Failed", "reason": "Evicted"}}));
    assert_eq!(
        life,
        Life {
            start: None,
            end: Some(NOW)
        }
    );
}

#[test]
fn a_container_without_times_ran_from_a_time_that_stands_for_its_start_until_it_was_seen() {
    let mut value = json!({"metadata": {"creationTimestamp": at(90)}, "status": {"phase": "Failed",
        "containerStatuses": [{"state": {"terminated": {"startedAt": null, "finishedAt": null}}},
            {"state": {"terminated": {"startedAt": "1970-01-01T00:00:00Z"}}},
            {"state": {"terminated": {"startedAt": "0001-01-01T00:00:00Z"}}}]}});
    let until_seen = |start| Life {
        start: Some(start),
        end: Some(NOW),
    };
    assert_eq!(pod(&value), until_seen(90));
    value["status"]["conditions"] = json!([condition("PodScheduled", "True", 92)]);
    assert_eq!(pod(&value), until_seen(92));
    value["status"]["startTime"] = at(95).into();
    assert_eq!(pod(&value), until_seen(95));
    let life = seen_at(NOW, BilledFrom::Started, &value);
    assert!(life.is_start_assumed);
    assert_eq!(life.end.unwrap().certainty, Certainty::Seen);
}

#[test]
fn a_running_pod_without_container_status_started_when_the_kubelet_accepted_it() {
    let life = pod(&json!({"metadata": {"creationTimestamp": at(90)},
        "status": {"phase": "Running", "startTime": at(95)}}));
    assert_eq!(life.start, Some(95));
}

#[test]
fn other_objects_are_billed_from_their_creation() {
    let node = Document::from(&json!({"metadata": {"creationTimestamp": at(70)}}));
    assert_eq!(
        short(lifetime(
            node.root(),
            ResourceType::Node,
            BilledFrom::Started,
            Seen::default()
        )),
        Life {
            start: Some(70),
            end: None
        }
    );
}

#[test]
fn a_deletion_that_a_current_watch_sees_happened_in_that_second() {
    let value = json!({"metadata": {"deletionTimestamp": at(500)},
        "status": {"phase": "Running", "containerStatuses": [running(100)]}});
    assert_eq!(deleted(&value, Deletion::Observed(530)), 530);
    let gap = |since, now| deleted(&value, Deletion::InGap { since, now });
    assert_eq!(gap(490, 530), 500);
    assert_eq!(gap(510, 530), 510);
    assert_eq!(gap(400, 450), 450);
}

#[test]
fn a_deleted_pod_whose_containers_all_finished_ended_then() {
    let value = json!({"status": {"phase": "Running",
        "containerStatuses": [terminated(100, 200), terminated(100, 210)]}});
    assert_eq!(deleted(&value, Deletion::Observed(999)), 210);
}

#[test]
fn a_deleted_pod_without_any_status_ended_when_seen() {
    assert_eq!(deleted(&json!({}), Deletion::Observed(7)), 7);
}

/// A container in this state that ran before as well.
fn again(state: &Value, before: &Value) -> Value {
    json!({"state": state["state"], "lastState": before["state"], "restartCount": 1})
}

fn waiting() -> Value {
    json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}})
}

fn unknown() -> Value {
    json!({"state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown",
        "startedAt": null, "finishedAt": null}}})
}

fn named(name: &str, mut status: Value) -> Value {
    status["name"] = name.into();
    status
}

fn condition(name: &str, status: &str, since: i64) -> Value {
    json!({"type": name, "status": status, "lastTransitionTime": at(since)})
}

/// A pod whose deletion was requested at `requested`.
fn deleting(requested: i64, grace: i64, restart: &str, phase: &str, containers: &[Value]) -> Value {
    json!({
        "metadata": {"deletionTimestamp": at(requested + grace), "deletionGracePeriodSeconds": grace},
        "spec": {"restartPolicy": restart},
        "status": {"phase": phase, "containerStatuses": containers}})
}

fn deleted(value: &Value, deletion: Deletion) -> i64 {
    let (Deletion::Observed(now) | Deletion::InGap { now, .. }) = deletion;
    let seen = Seen {
        now,
        ..Seen::default()
    };
    let life = seen_at(now, BilledFrom::Started, value);
    deleted_at(Document::from(value).root(), life, seen, deletion).at
}

#[test]
fn a_sidecar_that_runs_keeps_a_deleted_pod_alive() {
    let with = |sidecar: Value| {
        json!({
            "spec": {"restartPolicy": "Never", "initContainers": [{"name": "proxy", "restartPolicy": "Always"}]},
            "status": {"phase": "Running", "containerStatuses": [terminated(100, 110)],
                "initContainerStatuses": [named("proxy", sidecar)]}})
    };
    assert_eq!(
        deleted(&with(running(90)), Deletion::Observed(5_000)),
        5_000
    );
    assert_eq!(deleted(&with(waiting()), Deletion::Observed(5_000)), 5_000);
    assert_eq!(
        deleted(&with(terminated(90, 112)), Deletion::Observed(5_000)),
        112,
        "the kubelet stops sidecars when the containers are done"
    );
}

#[test]
fn a_pod_that_is_being_deleted_and_has_no_running_container_is_over() {
    let end = |containers: &[Value]| pod(&deleting(300, 30, "Never", "Running", containers)).end;
    assert_eq!(
        end(&[terminated(100, 305), terminated(100, 310)]),
        Some(310)
    );
    assert_eq!(end(&[terminated(100, 200)]), Some(200));
    assert_eq!(end(&[terminated(100, 305), running(100)]), None);
    assert_eq!(end(&[terminated(100, 305), waiting()]), None);
    assert_eq!(
        end(&[terminated(100, 305), unknown()]),
        Some(NOW),
        "none runs, and nothing says since when"
    );
    assert_eq!(end(&[]), None);
    let mut sidecar = deleting(300, 30, "Never", "Running", &[terminated(100, 305)]);
    sidecar["spec"]["initContainers"] = json!([{"name": "proxy", "restartPolicy": "Always"}]);
    sidecar["status"]["initContainerStatuses"] = json!([named("proxy", running(90))]);
    assert_eq!(pod(&sidecar).end, None);
}

#[test]
fn a_container_without_a_recorded_end_does_not_end_the_pod() {
    let end = |containers: Value, conditions: Value| {
        pod(
            &json!({"status": {"phase": "Failed", "conditions": conditions,
            "containerStatuses": containers}}),
        )
        .end
    };
    let gone = json!([condition("DisruptionTarget", "True", 700)]);
    let lost = again(&running(300), &terminated(100, 290));
    assert_eq!(end(json!([lost]), gone.clone()), Some(700));
    assert_eq!(
        end(json!([lost]), json!([])),
        Some(NOW + 40),
        "it runs, and its kubelet reports its end within the grace period"
    );
    let two = json!([terminated(100, 200), running(100)]);
    assert_eq!(end(two, gone.clone()), Some(700));
    let no_times = json!([again(&unknown(), &terminated(100, 290))]);
    assert_eq!(end(no_times.clone(), gone), Some(700));
    assert_eq!(
        end(no_times, json!([])),
        Some(NOW),
        "the run before is known to have ended, and this one is not"
    );
    // A container that waits indefinitely does not run.
    let waits = json!([
        terminated(100, 200),
        waiting(),
        again(&waiting(), &terminated(100, 210))
    ]);
    assert_eq!(end(waits, json!([])), Some(210));
}

#[test]
fn a_pod_whose_containers_have_no_end_ended_at_the_time_of_its_condition() {
    let end = |metadata: Value, conditions: Value| {
        pod(
            &json!({"metadata": metadata, "status": {"phase": "Failed", "conditions": conditions,
            "containerStatuses": [running(300)]}}),
        )
        .end
    };
    let requested = json!({"deletionTimestamp": at(830), "deletionGracePeriodSeconds": 30});
    let all = json!([
        condition("Ready", "False", 500),
        condition("ContainersReady", "False", 510),
        condition("DisruptionTarget", "True", 700),
    ]);
    assert_eq!(end(requested.clone(), all), Some(700));
    let unready = json!([
        condition("Ready", "False", 500),
        condition("ContainersReady", "False", 510),
        condition("DisruptionTarget", "False", 700),
    ]);
    assert_eq!(end(requested.clone(), unready), Some(510));
    let never_ready = json!([
        condition("Ready", "False", 299),
        condition("ContainersReady", "True", 310)
    ]);
    assert_eq!(end(requested.clone(), never_ready), Some(800));
    assert_eq!(end(requested, json!(null)), Some(800));
    assert_eq!(end(json!({}), json!(null)), Some(NOW + 40));
}

#[test]
fn a_pod_that_waits_for_a_restart_is_billed_until_its_deletion_is_requested() {
    let end = |restart, phase, containers: &[Value]| {
        pod(&deleting(400, 30, restart, phase, containers)).end
    };
    let crashed = [terminated(100, 150)];
    for phase in ["Running", "Failed", "Succeeded"] {
        assert_eq!(end("Always", phase, &crashed), Some(400), "{phase}");
        assert_eq!(end("Never", phase, &crashed), Some(150), "{phase}");
        assert_eq!(
            end("Always", phase, &[terminated(100, 420)]),
            Some(420),
            "the container took longer"
        );
    }
    let with_code = |code: i64| {
        let mut container = terminated(100, 150);
        container["state"]["terminated"]["exitCode"] = code.into();
        [container]
    };
    assert_eq!(end("OnFailure", "Failed", &with_code(1)), Some(400));
    assert_eq!(end("OnFailure", "Succeeded", &with_code(0)), Some(150));
    // It was deleted without a grace period while it waited.
    let value = json!({"spec": {"restartPolicy": "Always"}, "status": {"phase": "Running",
        "containerStatuses": [again(&waiting(), &terminated(100, 150))]}});
    assert_eq!(deleted(&value, Deletion::Observed(400)), 400);
}

#[test]
fn a_pod_that_was_over_before_its_deletion_was_requested_keeps_its_end() {
    // The API server sets no grace period for a pod that is over; here a finalizer keeps it.
    let evicted = deleting(5_000, 0, "Always", "Failed", &[terminated(100, 150)]);
    assert_eq!(pod(&evicted).end, Some(150));
    let mut evicted = deleting(5_000, 0, "Always", "Failed", &[terminated(100, 150)]);
    evicted["status"]["conditions"] = json!([condition("DisruptionTarget", "True", 170)]);
    assert_eq!(pod(&evicted).end, Some(170), "it waited until then");
}

#[test]
fn the_grace_period_is_no_part_of_the_request() {
    let value = deleting(500, 30, "Always", "Running", &[running(100)]);
    let gap = |since, now| deleted(&value, Deletion::InGap { since, now });
    assert_eq!(gap(490, 600), 500);
    assert_eq!(gap(510, 600), 510);
    let value = deleting(
        500,
        30,
        "Always",
        "Running",
        &[running(100), terminated(100, 520)],
    );
    assert_eq!(
        deleted(
            &value,
            Deletion::InGap {
                since: 490,
                now: 600
            }
        ),
        520,
        "it ran on after the request"
    );
}

#[test]
fn the_mirror_of_a_static_pod_is_billed_from_its_creation() {
    let mut value = json!({
        "metadata": {"creationTimestamp": at(400), "annotations": {"kubernetes.io/config.mirror": "abc"}},
        "status": {"phase": "Running", "containerStatuses": [running(100)]}});
    assert_eq!(pod(&value).start, Some(400));
    for created in [90, 220] {
        value["metadata"]["creationTimestamp"] = at(created).into();
        assert_eq!(pod(&value).start, Some(100), "a new static pod");
    }
    let other = json!({"metadata": {"creationTimestamp": at(400)},
        "status": {"phase": "Running", "containerStatuses": [running(100)]}});
    assert_eq!(
        pod(&other).start,
        Some(400),
        "only a static pod runs before it is created: the clock of its node is behind"
    );
}

#[test]
fn times_that_mean_never_are_none() {
    assert_eq!(seconds("1970-01-01T00:00:00Z"), None);
    assert_eq!(seconds("0001-01-01T00:00:00Z"), None);
    assert_eq!(seconds("yesterday"), None);
    assert_eq!(seconds("1970-01-01T00:00:01.9Z"), Some(1));
}
