//! One play for each kind of life, with what is billed of it live and, where the object shows it, by a replay.

use super::*;

struct Play {
    name: &'static str,
    interval: i64,
    steps: Vec<(i64, Step)>,
    /// The stretches that are billed, in order.
    billed: Vec<(i64, i64)>,
    /// Whether the object that is left shows all of it.
    replayed: bool,
}

fn put(at: i64, pod: Value) -> (i64, Step) {
    (at, Step::Put(pod))
}

fn main_of(policy: &str, phase: &str, state: Value) -> Value {
    pod(
        policy,
        phase,
        0,
        json!([]),
        json!([status("main", state, None)]),
    )
}

fn reported(mut pod: Value, at: i64) -> Value {
    pod["metadata"]["managedFields"] = json!([{"manager": "kubelet", "subresource": "status",
        "time": time(at), "fieldsV1": {"f:status": {"f:containerStatuses": {}}}}]);
    pod
}

fn clocks() -> Vec<Play> {
    let on = |accepted: i64, phase: &str, state: Value| {
        pod(
            "Never",
            phase,
            accepted,
            json!([]),
            json!([status("main", state, None)]),
        )
    };
    let ahead = |at, phase: &str, state: Value| put(at, reported(on(51, phase, state), at));
    vec![
        Play {
            name: "a node whose clock is 20 seconds behind, and says when it accepted the pod",
            interval: 15,
            steps: vec![
                put(3, on(-19, "Running", running(Some(-17)))),
                put(31, on(-19, "Succeeded", terminated(Some(-17), Some(11), 0))),
            ],
            billed: vec![(2, 30)],
            replayed: true,
        },
        Play {
            name: "a node whose clock is 5 seconds behind, and says nothing of that",
            interval: 15,
            steps: vec![
                put(4, on(0, "Running", running(Some(-2)))),
                put(17, on(0, "Succeeded", terminated(Some(-2), Some(11), 0))),
            ],
            billed: vec![(0, 13)],
            replayed: true,
        },
        Play {
            name: "a node whose clock is 50 seconds ahead, as the API server recorded it",
            interval: 5,
            steps: vec![
                ahead(2, "Running", running(Some(52))),
                ahead(23, "Succeeded", terminated(Some(52), Some(73), 0)),
            ],
            billed: vec![(2, 23)],
            replayed: true,
        },
        Play {
            name: "a node whose clock is 50 seconds ahead, and nothing recorded it",
            interval: 5,
            steps: vec![
                put(2, on(51, "Running", running(Some(52)))),
                put(25, on(51, "Succeeded", terminated(Some(52), Some(73), 0))),
            ],
            billed: vec![(2, 23)],
            replayed: false,
        },
    ]
}

fn starts() -> Vec<Play> {
    let fetch = |state: Value| json!([status("fetch", state, None)]);
    let proxy = |state: Value| json!([status("proxy", state, None)]);
    let main = |state: Value| json!([status("main", state, None)]);
    let never =
        |phase: &str, init: Value, containers: Value| pod("Never", phase, 0, init, containers);
    let lost = terminated(None, None, 137);
    vec![
        Play {
            name: "a container of which nothing says when it started or finished",
            interval: 5,
            steps: vec![
                put(0, main_of("Never", "Pending", waiting())),
                put(4, main_of("Never", "Running", running(None))),
                put(18, main_of("Never", "Succeeded", terminated(None, None, 0))),
            ],
            billed: vec![(0, 18)],
            replayed: false,
        },
        Play {
            name: "the same, and the API server recorded when it was reported",
            interval: 5,
            steps: vec![
                put(4, reported(main_of("Never", "Running", running(None)), 4)),
                put(
                    18,
                    reported(main_of("Never", "Succeeded", terminated(None, None, 0)), 18),
                ),
            ],
            billed: vec![(0, 18)],
            replayed: true,
        },
        Play {
            name: "a container whose start is reported before its window is over",
            interval: 15,
            steps: vec![
                put(4, main_of("Never", "Running", running(None))),
                put(9, main_of("Never", "Running", running(Some(3)))),
                put(
                    40,
                    main_of("Never", "Succeeded", terminated(Some(3), Some(39), 0)),
                ),
            ],
            billed: vec![(3, 39)],
            replayed: true,
        },
        Play {
            name: "a container that crashes before anything is known of it",
            interval: 5,
            steps: vec![
                put(
                    3,
                    pod(
                        "Always",
                        "Running",
                        0,
                        json!([]),
                        json!([status("main", waiting(), Some(lost))]),
                    ),
                ),
                (27, Step::Delete),
            ],
            billed: vec![(0, 27)],
            replayed: false,
        },
        Play {
            name: "an init container that does all the work and fails",
            interval: 5,
            steps: vec![
                put(
                    2,
                    never("Pending", fetch(running(Some(2))), main(waiting())),
                ),
                put(
                    33,
                    never(
                        "Failed",
                        fetch(terminated(Some(2), Some(32), 1)),
                        main(waiting()),
                    ),
                ),
            ],
            billed: vec![(2, 32)],
            replayed: true,
        },
        Play {
            name: "a sidecar that runs while the image of the container is missing",
            interval: 5,
            steps: vec![
                put(
                    3,
                    never("Pending", proxy(running(Some(2))), main(waiting())),
                ),
                (41, Step::Delete),
            ],
            billed: vec![(2, 41)],
            replayed: false,
        },
    ]
}

fn ends() -> Vec<Play> {
    let main = |policy: &str, phase: &str, state: Value| main_of(policy, phase, state);
    vec![
        Play {
            name: "an eviction that is reported before the container has stopped",
            interval: 5,
            steps: vec![
                put(1, main("Always", "Running", running(Some(1)))),
                put(11, main("Always", "Failed", running(Some(1)))),
                put(
                    37,
                    main("Always", "Failed", terminated(Some(1), Some(36), 137)),
                ),
            ],
            billed: vec![(1, 36)],
            replayed: true,
        },
        Play {
            name: "the same, and the container is never reported again",
            interval: 5,
            steps: vec![
                put(1, main("Always", "Running", running(Some(1)))),
                put(11, main("Always", "Failed", running(Some(1)))),
            ],
            billed: vec![(1, 51)],
            replayed: false,
        },
        Play {
            name: "a container that is done, which the phase says later",
            interval: 5,
            steps: vec![
                put(1, main("OnFailure", "Running", running(Some(1)))),
                put(
                    22,
                    main("OnFailure", "Running", terminated(Some(1), Some(21), 0)),
                ),
                put(
                    48,
                    main("OnFailure", "Succeeded", terminated(Some(1), Some(21), 0)),
                ),
            ],
            billed: vec![(1, 21)],
            replayed: true,
        },
        Play {
            name: "a pod that failed and runs again",
            interval: 5,
            steps: vec![
                put(1, main("Always", "Running", running(Some(1)))),
                put(
                    12,
                    main("Always", "Failed", terminated(Some(1), Some(11), 1)),
                ),
                put(30, main("Always", "Running", running(Some(29)))),
                put(45, main("Always", "Running", running(Some(29)))),
                put(
                    58,
                    main("Always", "Failed", terminated(Some(29), Some(57), 1)),
                ),
            ],
            billed: vec![(1, 11), (29, 57)],
            replayed: false,
        },
        Play {
            name: "the same where nothing restarts it, so that its status shows both",
            interval: 5,
            steps: vec![
                put(1, main("Never", "Running", running(Some(1)))),
                put(
                    12,
                    main("Never", "Failed", terminated(Some(1), Some(11), 1)),
                ),
                put(
                    30,
                    pod(
                        "Never",
                        "Running",
                        0,
                        json!([]),
                        json!([status(
                            "main",
                            running(Some(29)),
                            Some(terminated(Some(1), Some(11), 1))
                        )]),
                    ),
                ),
                put(
                    58,
                    pod(
                        "Never",
                        "Failed",
                        0,
                        json!([]),
                        json!([status(
                            "main",
                            terminated(Some(29), Some(57), 1),
                            Some(terminated(Some(1), Some(11), 1))
                        )]),
                    ),
                ),
            ],
            billed: vec![(1, 11), (29, 57)],
            replayed: true,
        },
    ]
}

#[test]
fn every_kind_of_life_is_billed_as_it_was_live_and_replayed() {
    for play in clocks().into_iter().chain(starts()).chain(ends()) {
        for restarts in [vec![], vec![6, 16, 40, 60]] {
            let collector = live(
                play.interval,
                BilledFrom::Started,
                &play.steps,
                &restarts,
                90,
            );
            let name = format!("{} (restarts at {restarts:?})", play.name);
            assert_eq!(stretches(&collector.billed), play.billed, "{name}");
            assert_eq!(collector.stats().overbilled_seconds, 0, "{name}");
            if play.replayed {
                let left = collector.last.as_ref();
                let again = replay(play.interval, BilledFrom::Started, left, 90);
                assert_eq!(again, collector.billed, "{name}");
            }
        }
    }
}

#[test]
fn better_times_that_come_after_their_window_are_counted_and_never_sent_under_the_same_id() {
    // The start was assumed at 0 and is told as 8 when the window of it is gone.
    let steps = [
        put(1, main_of("Never", "Running", running(None))),
        put(19, main_of("Never", "Running", running(Some(8)))),
        put(
            31,
            main_of("Never", "Succeeded", terminated(Some(8), Some(30), 0)),
        ),
    ];
    let told_late = live(5, BilledFrom::Started, &steps, &[], 60);
    assert_eq!(stretches(&told_late.billed), [(0, 30)]);
    assert_eq!(told_late.stats().overbilled_seconds, 8);

    // The container ran longer than anybody could expect.
    let steps = [
        put(1, main_of("Always", "Running", running(Some(1)))),
        put(5, main_of("Always", "Failed", running(Some(1)))),
        put(
            72,
            main_of("Always", "Failed", terminated(Some(1), Some(70), 137)),
        ),
    ];
    let longer = live(10, BilledFrom::Started, &steps, &[], 90);
    assert_eq!(stretches(&longer.billed), [(1, 70)]);
    assert_eq!((longer.billed[&40], longer.billed[&45]), (45, 50));
    assert_eq!(longer.stats().late_seconds, 15);

    // Its end is told late, as one that lies before the end that was seen.
    let steps = [
        put(1, main_of("Never", "Running", running(Some(1)))),
        put(
            22,
            main_of("Never", "Succeeded", terminated(Some(1), None, 0)),
        ),
        put(
            40,
            main_of("Never", "Succeeded", terminated(Some(1), Some(20), 0)),
        ),
    ];
    let earlier = live(10, BilledFrom::Started, &steps, &[], 60);
    assert_eq!(stretches(&earlier.billed), [(1, 22)]);
    assert_eq!(earlier.stats().overbilled_seconds, 2);
    let in_time = live(30, BilledFrom::Started, &steps[..2], &[], 60);
    assert_eq!(stretches(&in_time.billed), [(1, 22)]);
}

#[test]
fn an_end_that_is_told_again_with_less_certainty_does_not_count() {
    let steps = [
        put(1, main_of("Never", "Running", running(Some(1)))),
        put(
            9,
            main_of("Never", "Failed", terminated(Some(1), Some(8), 1)),
        ),
        put(11, main_of("Never", "Failed", terminated(None, None, 137))),
        put(12, main_of("Never", "Failed", running(Some(1)))),
    ];
    let played = live(30, BilledFrom::Started, &steps, &[20], 60);
    assert_eq!(stretches(&played.billed), [(1, 8)]);
}

#[test]
fn what_runs_in_each_mode_is_billed_from_its_start() {
    let init = |phase: &str, fetch: Value, main: Value| {
        let init = json!([status("fetch", fetch, None)]);
        pod("Never", phase, 0, init, json!([status("main", main, None)]))
    };
    let steps = [
        put(4, init("Pending", running(Some(4)), waiting())),
        put(
            13,
            init(
                "Running",
                terminated(Some(4), Some(11), 0),
                running(Some(12)),
            ),
        ),
        put(
            29,
            init(
                "Succeeded",
                terminated(Some(4), Some(11), 0),
                terminated(Some(12), Some(28), 0),
            ),
        ),
    ];
    let modes = [
        (BilledFrom::Created, 0),
        (BilledFrom::Scheduled, 0),
        (BilledFrom::Started, 4),
        (BilledFrom::Running, 12),
    ];
    for (from, start) in modes {
        let collector = live(5, from, &steps, &[], 60);
        assert_eq!(stretches(&collector.billed), [(start, 28)], "{from:?}");
        let again = replay(5, from, collector.last.as_ref(), 60);
        assert_eq!(again, collector.billed, "{from:?}");
    }
}
