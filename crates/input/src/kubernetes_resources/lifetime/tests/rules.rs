//! What is billed from which start, and which end is known.

use super::*;

fn from(from: BilledFrom, value: &Value) -> Option<i64> {
    seen_at(NOW, from, value).start
}

/// The starts of a pod for `started`, `scheduled` and `running`.
fn starts(value: &Value) -> [Option<i64>; 3] {
    [
        BilledFrom::Started,
        BilledFrom::Scheduled,
        BilledFrom::Running,
    ]
    .map(|it| from(it, value))
}

fn init_pod(phase: &str, init: Value, containers: &[Value]) -> Value {
    json!({
        "metadata": {"creationTimestamp": at(90)},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}],
            "initContainers": [{"name": "fetch"}, {"name": "proxy", "restartPolicy": "Always"}]},
        "status": {"phase": phase, "conditions": [condition("PodScheduled", "True", 95)],
            "initContainerStatuses": [init], "containerStatuses": containers}})
}

#[test]
fn each_start_that_can_be_billed_from() {
    let fetch = |state| named("fetch", state);
    let proxy = |state| named("proxy", state);
    let waits = || [named("main", waiting())];
    let runs = || [named("main", running(120))];
    let over = || [named("main", terminated(120, 150))];
    let rows = [
        (
            init_pod("Pending", fetch(waiting()), &waits()),
            [None, Some(95), None],
        ),
        (
            init_pod("Pending", fetch(running(100)), &waits()),
            [Some(100), Some(95), None],
        ),
        (
            init_pod("Pending", proxy(running(101)), &waits()),
            [Some(101), Some(95), None],
        ),
        // One of two containers runs: the phase is still `Pending`.
        (
            init_pod("Pending", proxy(running(101)), &runs()),
            [Some(101), Some(95), None],
        ),
        (
            init_pod("Running", fetch(terminated(100, 110)), &runs()),
            [Some(100), Some(95), Some(120)],
        ),
        (
            init_pod("Succeeded", fetch(terminated(100, 110)), &over()),
            [Some(100), Some(95), Some(120)],
        ),
        (
            init_pod("Failed", fetch(terminated(100, 110)), &over()),
            [Some(100), Some(95), Some(120)],
        ),
        // No regular container ran before it failed.
        (
            init_pod("Failed", fetch(terminated(100, 110)), &waits()),
            [Some(100), Some(95), None],
        ),
        (
            init_pod("Unknown", fetch(terminated(100, 110)), &runs()),
            [Some(100), Some(95), Some(120)],
        ),
    ];
    for (value, expected) in rows {
        assert_eq!(starts(&value), expected, "{value}");
        assert_eq!(from(BilledFrom::Created, &value), Some(90), "{value}");
    }
}

#[test]
fn a_pod_that_needed_no_scheduler_was_bound_when_it_was_created() {
    let mut value = json!({"metadata": {"creationTimestamp": at(90)}, "spec": {},
        "status": {"phase": "Pending"}});
    assert_eq!(from(BilledFrom::Scheduled, &value), None);
    value["status"]["conditions"] = json!([condition("PodScheduled", "False", 91)]);
    assert_eq!(from(BilledFrom::Scheduled, &value), None);
    value["spec"]["nodeName"] = "node".into();
    assert_eq!(from(BilledFrom::Scheduled, &value), Some(90));
}

#[test]
fn a_start_that_is_not_recorded_is_that_of_the_pod_unless_an_earlier_run_says_it() {
    let unknown = |state: &str| json!({"state": {state: {"startedAt": null}}});
    let mut value = json!({"metadata": {"creationTimestamp": at(90)}, "status": {
        "phase": "Running", "startTime": at(96), "containerStatuses": [unknown("running")]}});
    assert_eq!(starts(&value), [Some(96), Some(96), Some(96)]);
    value["status"]["containerStatuses"] = json!([running(110), unknown("running")]);
    assert_eq!(pod(&value).start, Some(96), "it may have been the first");
    let again = again(&unknown("running"), &terminated(110, 120));
    value["status"]["containerStatuses"] = json!([again]);
    assert_eq!(pod(&value).start, Some(110));
    let lost = json!({"state": {"waiting": {}}, "lastState": {"terminated": {"startedAt": null}}});
    value["status"]["containerStatuses"] = json!([lost]);
    assert_eq!(pod(&value).start, Some(96));
    value["status"]["containerStatuses"] = json!([waiting()]);
    assert_eq!(pod(&value).start, None, "it never ran");
}

#[test]
fn the_end_is_known_once_no_container_runs_and_none_is_restarted() {
    let exit = |code: i64, finished: i64| {
        let mut container = named("main", terminated(100, finished));
        container["state"]["terminated"]["exitCode"] = code.into();
        container
    };
    let policy = |policy: &str, container: Value| {
        json!({"spec": {"restartPolicy": policy, "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "containerStatuses": [container]}})
    };
    for phase in ["Running", "Pending", "Unknown"] {
        let mut never = policy("Never", exit(1, 150));
        never["status"]["phase"] = phase.into();
        assert_eq!(pod(&never).end, Some(150), "{phase}");
    }
    assert_eq!(pod(&policy("OnFailure", exit(0, 150))).end, Some(150));
    assert_eq!(pod(&policy("OnFailure", exit(1, 150))).end, None);
    assert_eq!(pod(&policy("Always", exit(0, 150))).end, None);
    assert_eq!(pod(&policy("Never", named("main", running(100)))).end, None);
    assert_eq!(pod(&policy("Never", named("main", waiting()))).end, None);

    // Another container has no status yet.
    let mut two = policy("Never", exit(0, 150));
    two["spec"]["containers"] = json!([{"name": "main"}, {"name": "second"}]);
    assert_eq!(pod(&two).end, None);
    // The policy of a container precedes that of its pod.
    let mut own = policy("Never", exit(0, 150));
    own["spec"]["containers"][0]["restartPolicy"] = "Always".into();
    assert_eq!(pod(&own).end, None);
    own["spec"]["containers"][0] =
        json!({"name": "main", "restartPolicyRules": [{"action": "Restart"}]});
    assert_eq!(pod(&own).end, None);
    // A finish that nothing recorded had come by the time it was seen.
    let mut lost = policy("Never", named("main", unknown()));
    lost["metadata"] = json!({"creationTimestamp": at(90)});
    let life = seen_at(NOW, BilledFrom::Started, &lost);
    assert_eq!(life.end, Some(End::new(Certainty::Seen, NOW)));
}

#[test]
fn an_init_container_that_fails_ends_a_pod_that_ran_nothing_else() {
    let init = named("fetch", terminated(100, 130));
    let value = init_pod("Failed", init, &[named("main", waiting())]);
    assert_eq!(
        pod(&value),
        Life {
            start: Some(100),
            end: Some(130)
        }
    );
    // The node was restarted, so it ran again after the containers.
    let again = named("fetch", terminated(200, 220));
    let value = init_pod("Failed", again, &[named("main", terminated(110, 150))]);
    assert_eq!(pod(&value).end, Some(220));
}

#[test]
fn a_pod_that_is_over_while_a_container_runs_gets_its_grace_period() {
    let mut value = json!({"metadata": {"creationTimestamp": at(90)},
        "spec": {"terminationGracePeriodSeconds": 5},
        "status": {"phase": "Failed", "reason": "Evicted", "containerStatuses": [running(100)],
            "conditions": [condition("Ready", "False", 500)]}});
    let life = seen_at(NOW, BilledFrom::Started, &value);
    assert_eq!(life.end, Some(End::new(Certainty::Assumed, NOW + 15)));
    value["status"]["phase"] = "Succeeded".into();
    assert_eq!(pod(&value).end, Some(500), "nothing of it is stopped");
}

#[test]
fn a_pod_that_runs_again_has_a_second_stretch_unless_it_ran_through() {
    let object = |containers: Value| {
        json!({"metadata": {"creationTimestamp": at(90)}, "spec": {"restartPolicy": "Never"},
            "status": {"phase": "Running", "containerStatuses": containers}})
    };
    let seen = Seen {
        now: NOW,
        ..Seen::default()
    };
    let again_at = |containers: Value| {
        let value = object(containers);
        let life = seen_at(NOW, BilledFrom::Started, &value);
        super::super::again(
            Document::from(&value).root(),
            ResourceType::Pod,
            150,
            life,
            seen,
        )
    };
    assert_eq!(again_at(json!([running(200)])), Some(200));
    assert_eq!(again_at(json!([running(100)])), None);
    assert_eq!(again_at(json!([terminated(100, 150)])), None);
    assert_eq!(
        again_at(json!([terminated(100, 180)])),
        None,
        "it ended later"
    );
    let crashed = again(&running(220), &terminated(200, 210));
    assert_eq!(again_at(json!([crashed])), Some(200));
    assert_eq!(again_at(json!([{"state": {"running": {}}}])), Some(NOW));

    let both = object(json!([again(&running(200), &terminated(100, 150))]));
    let life = seen_at(NOW, BilledFrom::Started, &both);
    let earlier = earlier_end(Document::from(&both).root(), life, seen);
    assert_eq!(earlier, Some((150, 200)));
    let mut waited = both;
    waited["spec"]["restartPolicy"] = "Always".into();
    assert_eq!(
        earlier_end(Document::from(&waited).root(), life, seen),
        None
    );
}
