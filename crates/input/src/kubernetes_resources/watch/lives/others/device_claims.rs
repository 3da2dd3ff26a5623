//! Claims of devices.

use proptest::prelude::*;

use super::*;

/// A claim of devices, with the results of its allocation and its time, if there is one.
fn devices(allocated: Option<(Value, Option<i64>)>, writes: &[Value]) -> Value {
    let status = allocated.map_or(json!({}), |(results, at)| {
        let mut allocation = json!({"devices": {"results": results}});
        if let Some(at) = at {
            allocation["allocationTimestamp"] = time(at).into();
        }
        json!({"allocation": allocation, "reservedFor": [{"resource": "pods", "name": "p"}]})
    });
    object(json!({"devices": {}}), status, writes)
}

fn allocation(at: i64) -> Value {
    let fields = json!({"f:status": {"f:allocation": {}, "f:reservedFor": {}}});
    write("kube-scheduler", at, &fields)
}

fn device_claims() -> Vec<Play> {
    let one =
        || json!([{"request": "gpu", "driver": "gpu.nvidia.com", "pool": "n", "device": "0"}]);
    let admin = |mut results: Value| {
        results[0]["adminAccess"] = true.into();
        results
    };
    let mut of_resource = devices(Some((one(), None)), &[allocation(5)]);
    of_resource["metadata"]["annotations"] =
        json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    let reported = write("driver", 30, &json!({"f:status": {"f:devices": {}}}));
    let mut both = admin(one());
    both.as_array_mut()
        .unwrap()
        .extend(one().as_array().unwrap().clone());
    vec![
        Play {
            name: "a claim that waits for a device, gives it back and is removed",
            steps: vec![
                put(0, devices(None, &[])),
                put(12, devices(Some((one(), None)), &[allocation(11)])),
                put(50, devices(None, &[])),
                (52, Step::Delete),
            ],
            billed: vec![(11, 50)],
            replayed: Some(vec![]),
        },
        Play {
            name: "a claim whose allocation has a time, and whose driver reports later",
            steps: vec![
                put(13, devices(Some((one(), Some(12))), &[allocation(13)])),
                put(
                    31,
                    devices(Some((one(), Some(12))), &[allocation(13), reported]),
                ),
            ],
            billed: vec![(12, 85)],
            replayed: None,
        },
        Play {
            name: "a claim that has a device at once, and is removed with it",
            steps: vec![
                put(1, devices(Some((one(), None)), &[allocation(0)])),
                (52, Step::Delete),
            ],
            billed: vec![(0, 52)],
            replayed: Some(vec![(0, 85)]),
        },
        Play {
            name: "a claim that loses its device, is changed, and gets another one",
            steps: vec![
                put(2, devices(Some((one(), None)), &[allocation(1)])),
                put(21, devices(None, &[])),
                put(31, devices(None, &[untyped("x", 31)])),
                put(41, devices(Some((one(), None)), &[allocation(40)])),
            ],
            billed: vec![(1, 21), (40, 85)],
            replayed: Some(vec![(40, 85)]),
        },
        Play {
            name: "a claim for administration only",
            steps: vec![put(
                2,
                devices(Some((admin(one()), None)), &[allocation(1)]),
            )],
            billed: vec![],
            replayed: None,
        },
        Play {
            name: "a claim for administration and for a device",
            steps: vec![put(2, devices(Some((both, None)), &[allocation(1)]))],
            billed: vec![(1, 85)],
            replayed: None,
        },
        Play {
            name: "a claim for a resource that a pod requests",
            steps: vec![put(6, of_resource)],
            billed: vec![],
            replayed: None,
        },
    ]
}

#[test]
fn device_claims_are_billed_while_they_have_devices() {
    check(rules(ResourceType::ResourceClaim), device_claims());
}

/// What is billed of a claim that has devices or none: from when it got them to when it was first seen to have none. It
/// may have others by then, which are billed from there.
fn expected(states: &[(bool, i64, i64)], removed: i64) -> Vec<(i64, i64)> {
    let (mut at, mut seen) = (0, 0);
    let (mut open, mut ended): (Option<i64>, Option<i64>) = (None, None);
    let mut expected: Vec<(i64, i64)> = Vec::new();
    for (has_devices, length, delay) in states {
        seen = seen.max(at + delay);
        if *has_devices {
            open = open.or(Some(ended.map_or(at, |it| at.max(it))));
        } else {
            expected.extend(open.map(|begin| (begin, seen)));
            ended = open.take().map(|_| seen).or(ended);
        }
        at += length;
    }
    expected.extend(open.map(|begin| (begin, removed)));
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_claims_are_billed_as_they_were(
        states in prop::collection::vec((any::<bool>(), 1..30_i64, 0..=2_i64), 1..8),
        restarts in prop::collection::vec(0..100_i64, 0..3),
    ) {
        let result = json!([{"request": "gpu", "driver": "d", "pool": "n", "device": "0"}]);
        let (mut at, mut seen, mut since) = (0, 0, None);
        let mut steps = Vec::new();
        for (has_devices, length, delay) in &states {
            seen = seen.max(at + delay);
            since = has_devices.then(|| since.unwrap_or(at));
            let allocated = since.map(|_| (result.clone(), None));
            let writes: Vec<_> = since.iter().map(|it| allocation(*it)).collect();
            steps.push(put(seen, devices(allocated, &writes)));
            at += length;
        }
        let removed = seen.max(at);
        steps.push((removed, Step::Delete));
        let expected = expected(&states, removed);
        let mut restarts = restarts;
        restarts.sort_unstable();
        for interval in [1, 5, 60] {
            let until = removed + 20 + 2 * interval;
            let collector = live(interval, rules(ResourceType::ResourceClaim), &steps, &restarts, until);
            let billed = stretches(&collector.billed);
            let joined = stretches(&expected.iter().copied().collect());
            prop_assert_eq!(&billed, &joined, "{:?}", steps);
            prop_assert_eq!(collector.stats().overbilled_seconds, 0);
        }
    }
}
