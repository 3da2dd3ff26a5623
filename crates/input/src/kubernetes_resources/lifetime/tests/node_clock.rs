//! Nodes whose clock is wrong.

use super::*;

const SEEN: i64 = 1_000;

/// A pod that was created and scheduled at 900, whose node has accepted it and shows this state.
fn on_node(accepted: Option<i64>, phase: &str, containers: &[Value]) -> Value {
    json!({
        "metadata": {"creationTimestamp": at(900)},
        "spec": {"restartPolicy": "Never"},
        "status": {"phase": phase, "startTime": accepted.map(at),
            "conditions": [condition("PodScheduled", "True", 900)],
            "containerStatuses": containers}})
}

fn life(value: &Value) -> (i64, Option<i64>) {
    let life = short(seen_at(SEEN, BilledFrom::Started, value));
    (life.start.unwrap(), life.end)
}

#[test]
fn a_clock_that_is_behind_is_known_by_a_start_before_the_creation() {
    // The container ran 40 seconds, and the node says from when it accepted the pod.
    let pod = on_node(Some(592), "Succeeded", &[terminated(600, 640)]);
    assert_eq!(life(&pod), (908, Some(948)));
    // Without that its start is taken to be that of the pod.
    let pod = on_node(None, "Succeeded", &[terminated(600, 640)]);
    assert_eq!(life(&pod), (900, Some(940)));
    // The same where `startTime` is the creation, as some kubelets say.
    let pod = on_node(Some(900), "Succeeded", &[terminated(892, 902)]);
    assert_eq!(life(&pod), (900, Some(910)));
    // A pull of its image took longer than the clock is behind.
    let pod = on_node(Some(893), "Running", &[running(950)]);
    assert_eq!(life(&pod), (957, None));
}

#[test]
fn a_pod_that_waited_for_its_node_shows_no_wrong_clock() {
    // It was accepted after an hour, and some kubelets take the creation for `startTime`.
    let mut pod = on_node(Some(900), "Running", &[running(970)]);
    pod["status"]["conditions"] = json!([condition("PodScheduled", "True", 960)]);
    assert_eq!(life(&pod), (970, None));
    // Rounding to seconds is no wrong clock.
    let pod = on_node(Some(899), "Running", &[running(905)]);
    assert_eq!(life(&pod), (905, None));
}

#[test]
fn a_clock_that_is_ahead_is_known_by_a_time_after_the_report() {
    let pod = on_node(Some(1_201), "Running", &[running(1_220)]);
    let first = seen_at(930, BilledFrom::Started, &pod);
    assert_eq!((first.start, first.ahead), (Some(930), 290));
    let over = on_node(Some(1_201), "Succeeded", &[terminated(1_220, 1_260)]);
    // It was seen late, and the clock is known to be further ahead.
    let seen = Seen {
        now: 975,
        ahead: first.ahead,
        ..Seen::default()
    };
    let from = BilledFrom::Started;
    let life = lifetime(Document::from(&over).root(), ResourceType::Pod, from, seen);
    assert_eq!((life.start, life.end.unwrap().at), (Some(930), 970));
    // The API server recorded when it was reported, which another ledger reads as well.
    let seen = Seen {
        now: 5_000,
        writes: Writes {
            phase: Some(970),
            ..Writes::default()
        },
        ..Seen::default()
    };
    let life = lifetime(Document::from(&over).root(), ResourceType::Pod, from, seen);
    assert_eq!((life.start, life.end.unwrap().at), (Some(930), 970));
}

#[test]
fn a_finish_in_the_future_does_not_end_a_pod_before_it_is_there() {
    for ahead in [2, 8, 3_600, 1_000_000] {
        let over = [terminated(950 + ahead, 1_000 + ahead)];
        let pod = on_node(Some(905 + ahead), "Succeeded", &over);
        assert_eq!(life(&pod), (950, Some(1_000)), "{ahead}");
    }
    // A second is rounding.
    let pod = on_node(Some(905), "Succeeded", &[terminated(950, 1_001)]);
    assert_eq!(life(&pod), (950, Some(1_001)));
}

#[test]
fn a_clock_that_was_set_in_between_keeps_the_life_within_what_was_seen() {
    let pod = on_node(Some(500), "Succeeded", &[terminated(510, 990)]);
    let (start, end) = life(&pod);
    assert!((900..=SEEN).contains(&start), "{start}");
    assert_eq!(end, Some(SEEN));
}

#[test]
fn the_clock_of_a_static_pod_is_not_judged_by_its_mirror() {
    let mut pod = on_node(Some(880), "Running", &[running(890)]);
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    pod["status"]["conditions"] = json!([condition("PodScheduled", "True", 880)]);
    assert_eq!(life(&pod), (890, None));
}

#[test]
fn conditions_are_by_the_clock_of_who_set_them() {
    let mut pod = on_node(Some(592), "Failed", &[running(600)]);
    pod["status"]["conditions"] = json!([
        condition("PodScheduled", "True", 900),
        condition("DisruptionTarget", "True", 960),
    ]);
    assert_eq!(life(&pod), (908, Some(960)));
    pod["status"]["conditions"][1]["lastTransitionTime"] = at(652).into();
    pod["status"]["conditions"][1]["reason"] = "TerminationByKubelet".into();
    assert_eq!(life(&pod), (908, Some(960)));
}
