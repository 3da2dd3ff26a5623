//! Lives of objects that are no pods, live and replayed. No status of theirs has more than one time, so each play also
//! says what the object that is left shows.

mod any;
mod device_claims;

use super::*;
use crate::kubernetes_resources::lifetime::VolumePhase;

struct Play {
    name: &'static str,
    steps: Vec<(i64, Step)>,
    /// The intervals that are billed of what changed at their borders, in order.
    billed: Vec<(i64, i64)>,
    /// What a replay makes of the object that is left; `None` if that is the same.
    replayed: Option<Vec<(i64, i64)>>,
}

fn rules(resource_type: ResourceType) -> Rules {
    Rules {
        resource_type,
        from: BilledFrom::default(),
        has_selector: false,
    }
}

/// A write of a manager to fields, in managed fields.
fn write(manager: &str, at: i64, fields: &Value) -> Value {
    let mut entry = json!({"manager": manager, "operation": "Update", "apiVersion": "v1",
        "time": time(at), "fieldsType": "FieldsV1", "fieldsV1": fields});
    if fields.get("f:status").is_some() {
        entry["subresource"] = "status".into();
    }
    entry
}

fn object(spec: Value, status: Value, writes: &[Value]) -> Value {
    json!({
        "metadata": {"name": "o", "namespace": "n", "uid": UID, "creationTimestamp": time(0),
            "managedFields": writes},
        "spec": spec, "status": status,
    })
}

/// A service with this many addresses.
fn service(kind: &str, addresses: usize, writes: &[Value]) -> Value {
    // An address that changes is another one each time, and costs the same.
    let ingress: Vec<_> = (0..addresses)
        .map(|it| json!({"ip": format!("192.0.{}.{it}", writes.len())}))
        .collect();
    object(
        json!({"type": kind, "ports": [{"port": 80}]}),
        json!({"loadBalancer": {"ingress": ingress}}),
        writes,
    )
}

fn typed(manager: &str, at: i64) -> Value {
    write(
        manager,
        at,
        &json!({"f:spec": {"f:type": {}, "f:ports": {}}}),
    )
}

fn untyped(manager: &str, at: i64) -> Value {
    write(manager, at, &json!({"f:spec": {"f:ports": {}}}))
}

fn addressed(at: i64) -> Value {
    write("cloud", at, &json!({"f:status": {"f:loadBalancer": {}}}))
}

fn put(at: i64, object: Value) -> (i64, Step) {
    (at, Step::Put(object))
}

fn services() -> Vec<Play> {
    let (a, b) = ("LoadBalancer", "ClusterIP");
    vec![
        Play {
            name: "a load balancer from its creation, that gets its address late",
            steps: vec![
                put(0, service(a, 0, &[typed("x", 0)])),
                put(31, service(a, 1, &[typed("x", 0), addressed(30)])),
                (52, Step::Delete),
            ],
            billed: vec![(0, 52)],
            replayed: Some(vec![(0, 85)]),
        },
        Play {
            name: "a load balancer that never gets an address",
            steps: vec![put(0, service(a, 0, &[typed("x", 0)])), (52, Step::Delete)],
            billed: vec![],
            replayed: None,
        },
        Play {
            name: "a load balancer that loses its address and gets two",
            steps: vec![
                put(2, service(a, 1, &[typed("x", 0), addressed(2)])),
                put(21, service(a, 0, &[typed("x", 0), addressed(20)])),
                put(41, service(a, 2, &[typed("x", 0), addressed(40)])),
            ],
            billed: vec![(0, 20), (20, 40), (40, 85)],
            replayed: Some(vec![(0, 85)]),
        },
        Play {
            name: "a service that is no load balancer",
            steps: vec![
                put(0, service(b, 0, &[typed("x", 0)])),
                put(20, service(b, 0, &[typed("x", 20)])),
                (52, Step::Delete),
            ],
            billed: vec![],
            replayed: None,
        },
        Play {
            name: "a service that somebody else makes a load balancer",
            steps: vec![
                put(0, service(b, 0, &[typed("x", 0)])),
                put(21, service(a, 0, &[untyped("x", 0), typed("y", 20)])),
                put(
                    27,
                    service(a, 1, &[untyped("x", 0), typed("y", 20), addressed(26)]),
                ),
            ],
            billed: vec![(20, 85)],
            replayed: None,
        },
        Play {
            name: "the same by who created it, which only who saw it knows",
            steps: vec![
                put(0, service(b, 0, &[typed("x", 0)])),
                put(21, service(a, 0, &[typed("x", 20)])),
                put(24, service(a, 1, &[typed("x", 20), addressed(23)])),
            ],
            billed: vec![(20, 85)],
            replayed: Some(vec![(0, 85)]),
        },
        Play {
            name: "a load balancer whose ports are changed by somebody else",
            steps: vec![
                put(2, service(a, 1, &[typed("x", 0), addressed(2)])),
                put(
                    33,
                    service(a, 1, &[typed("x", 0), untyped("y", 33), addressed(2)]),
                ),
            ],
            billed: vec![(0, 85)],
            replayed: None,
        },
        Play {
            name: "a load balancer that becomes another service, is changed, and becomes one again",
            steps: vec![
                put(2, service(a, 1, &[typed("x", 0), addressed(2)])),
                put(21, service(b, 0, &[typed("x", 20), addressed(2)])),
                put(31, service(b, 0, &[typed("x", 30), addressed(2)])),
                put(51, service(a, 0, &[typed("x", 50), addressed(2)])),
                put(58, service(a, 1, &[typed("x", 50), addressed(57)])),
                put(71, service(b, 1, &[typed("x", 70), addressed(57)])),
            ],
            billed: vec![(0, 20), (50, 70)],
            replayed: Some(vec![]),
        },
    ]
}

fn phase(at: i64, manager: &str) -> Value {
    write(
        manager,
        at,
        &json!({"f:status": {"f:phase": {}, "f:capacity": {}}}),
    )
}

fn claim(phase: &str, size: &str, class: &str, writes: &[Value]) -> Value {
    object(
        json!({"volumeName": "v", "storageClassName": "fast"}),
        json!({"phase": phase, "capacity": {"storage": size},
            "currentVolumeAttributesClassName": class}),
        writes,
    )
}

fn claims() -> Vec<Play> {
    let resized = |at| write("csi", at, &json!({"f:status": {"f:capacity": {}}}));
    vec![
        Play {
            name: "a claim that is bound, expanded, and given another class",
            steps: vec![
                put(0, claim("Pending", "", "", &[])),
                put(11, claim("Bound", "1Gi", "slow", &[phase(10, "k")])),
                put(
                    31,
                    claim("Bound", "2Gi", "slow", &[phase(10, "k"), resized(30)]),
                ),
                put(
                    51,
                    claim("Bound", "2Gi", "fast", &[phase(10, "k"), resized(50)]),
                ),
                put(
                    61,
                    claim("Bound", "2Gi", "fast", &[phase(10, "k"), resized(61)]),
                ),
                (72, Step::Delete),
            ],
            billed: vec![(10, 30), (30, 50), (50, 72)],
            replayed: Some(vec![(10, 85)]),
        },
        Play {
            name: "a claim whose binder writes its status again, which moves the time",
            steps: vec![
                put(11, claim("Bound", "1Gi", "", &[phase(10, "k")])),
                put(41, claim("Bound", "1Gi", "", &[phase(40, "k")])),
            ],
            billed: vec![(10, 85)],
            replayed: Some(vec![(40, 85)]),
        },
        Play {
            name: "a claim that is never bound",
            steps: vec![put(0, claim("Pending", "", "", &[])), (40, Step::Delete)],
            billed: vec![],
            replayed: None,
        },
        Play {
            name: "a claim without managed fields",
            steps: vec![put(11, claim("Bound", "1Gi", "", &[]))],
            billed: vec![(0, 85)],
            replayed: None,
        },
        Play {
            name: "a claim that loses its volume, and finds it again",
            steps: vec![
                put(11, claim("Bound", "1Gi", "", &[phase(10, "k")])),
                put(31, claim("Lost", "1Gi", "", &[phase(30, "k")])),
                put(36, claim("Lost", "1Gi", "", &[phase(35, "k")])),
                put(51, claim("Bound", "1Gi", "", &[phase(50, "k")])),
            ],
            billed: vec![(10, 30), (50, 85)],
            replayed: Some(vec![(50, 85)]),
        },
        Play {
            name: "a claim that is deleted while a pod uses it",
            steps: vec![
                put(11, claim("Bound", "1Gi", "", &[phase(10, "k")])),
                put(20, {
                    let mut claim = claim("Bound", "1Gi", "", &[phase(10, "k")]);
                    claim["metadata"]["deletionTimestamp"] = time(20).into();
                    claim["metadata"]["deletionGracePeriodSeconds"] = 0.into();
                    claim
                }),
                (62, Step::Delete),
            ],
            billed: vec![(10, 62)],
            replayed: Some(vec![(10, 85)]),
        },
    ]
}

/// A volume that entered its phase at this second.
fn volume(phase: &str, at: i64) -> Value {
    object(
        json!({"capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "n", "name": "c"}}),
        json!({"phase": phase, "lastPhaseTransitionTime": time(at)}),
        &[],
    )
}

fn released() -> Vec<Play> {
    vec![
        Play {
            name: "a volume whose claim is gone, until it is removed",
            steps: vec![
                put(1, volume("Bound", 1)),
                put(21, volume("Released", 20)),
                (62, Step::Delete),
            ],
            billed: vec![(20, 62)],
            replayed: Some(vec![(20, 85)]),
        },
        Play {
            name: "a volume that is released twice",
            steps: vec![
                put(1, volume("Released", 1)),
                put(21, volume("Available", 20)),
                put(31, volume("Bound", 30)),
                put(51, volume("Released", 50)),
                put(71, volume("Failed", 70)),
            ],
            billed: vec![(1, 20), (50, 70)],
            replayed: Some(vec![]),
        },
        Play {
            name: "a volume that is never released",
            steps: vec![put(1, volume("Bound", 1)), put(40, volume("Bound", 1))],
            billed: vec![],
            replayed: None,
        },
    ]
}

fn snapshots() -> Vec<Play> {
    let snapshot = |is_ready: bool, taken: Option<i64>| {
        let status = json!({"readyToUse": is_ready, "creationTime": taken.map(time),
            "restoreSize": "1Gi"});
        object(json!({"volumeSnapshotClassName": "c"}), status, &[])
    };
    vec![
        Play {
            name: "a snapshot that can be used some time after it was taken",
            steps: vec![
                put(0, snapshot(false, None)),
                put(4, snapshot(false, Some(3))),
                put(31, snapshot(true, Some(3))),
                (52, Step::Delete),
            ],
            billed: vec![(3, 52)],
            replayed: Some(vec![(3, 85)]),
        },
        Play {
            name: "a snapshot that was taken before the cluster had it",
            steps: vec![put(5, snapshot(true, Some(-900)))],
            billed: vec![(0, 85)],
            replayed: None,
        },
        Play {
            name: "a snapshot that never can be used",
            steps: vec![put(0, snapshot(false, None)), (52, Step::Delete)],
            billed: vec![],
            replayed: None,
        },
    ]
}

/// Intervals joined where nothing but a window ends: borders are multiples of the interval.
fn segments(billed: &Billed, interval: i64, cuts: &[i64]) -> Vec<(i64, i64)> {
    let mut segments: Vec<(i64, i64)> = Vec::new();
    for (&start, &end) in billed {
        match segments.last_mut() {
            Some(last)
                if last.1 == start && start.rem_euclid(interval) == 0 && !cuts.contains(&start) =>
            {
                last.1 = end;
            }
            _ => segments.push((start, end)),
        }
    }
    segments
}

fn check(rules: Rules, plays: Vec<Play>) {
    const INTERVAL: i64 = 5;
    const UNTIL: i64 = 90;
    for play in plays {
        let cuts: Vec<_> = play.billed.iter().map(|(start, _)| *start).collect();
        // The last state is what another collector finds; a removed object leaves nothing.
        for restarts in [vec![], vec![7, 25, 45, 55, 65]] {
            let name = format!("{} (restarts at {restarts:?})", play.name);
            let collector = live(INTERVAL, rules, &play.steps, &restarts, UNTIL);
            let billed = segments(&collector.billed, INTERVAL, &cuts);
            assert_eq!(billed, play.billed, "{name}");
            assert_eq!(collector.stats().overbilled_seconds, 0, "{name}");
        }
        let last = play.steps.iter().rev().find_map(|(_, step)| match step {
            Step::Put(object) => Some(object.clone()),
            Step::Delete => None,
        });
        let left = parsed(rules.resource_type, last.unwrap());
        let replayed = replay(INTERVAL, rules, Some(&left), UNTIL);
        let was_removed = play.steps.iter().any(|(_, it)| matches!(it, Step::Delete));
        let expected = play.replayed.unwrap_or_else(|| {
            assert!(!was_removed || play.billed.is_empty(), "{}", play.name);
            play.billed.clone()
        });
        assert_eq!(
            stretches(&replayed),
            stretches_of(&expected),
            "{}",
            play.name
        );
    }
}

fn stretches_of(intervals: &[(i64, i64)]) -> Vec<(i64, i64)> {
    stretches(&intervals.iter().copied().collect())
}

#[test]
fn services_are_billed_while_they_are_load_balancers() {
    check(rules(ResourceType::Service), services());
}

#[test]
fn claims_are_billed_while_they_have_a_volume() {
    check(rules(ResourceType::PersistentVolumeClaim), claims());
}

#[test]
fn volumes_are_billed_while_they_are_in_a_phase() {
    let rules = Rules {
        from: BilledFrom::InPhase(VolumePhase::Released),
        ..rules(ResourceType::PersistentVolume)
    };
    check(rules, released());
}

#[test]
fn snapshots_are_billed_once_they_can_be_used() {
    check(rules(ResourceType::VolumeSnapshot), snapshots());
}
