//! Random lives of objects that are no pods: whatever they become, and however late within `settle` it is seen, what
//! is billed is what they were.

use proptest::prelude::*;

use super::*;

/// A state, how long it lasts, and how late it is seen.
type Lasting<S> = (S, i64, i64);

fn lasting<S: Clone + std::fmt::Debug + 'static>(
    state: impl Strategy<Value = S> + 'static,
) -> impl Strategy<Value = Vec<Lasting<S>>> {
    prop::collection::vec((state, 1..30_i64, 0..=2_i64), 1..8)
}

/// The seconds at which states begin, with the last one's end.
fn times<S>(states: &[Lasting<S>]) -> Vec<i64> {
    let mut times = vec![0];
    for (_, length, _) in states {
        times.push(times.last().unwrap() + length);
    }
    times
}

/// The steps of states, each with the object that it makes, and the removal after the last.
fn steps<S: Copy>(
    states: &[Lasting<S>],
    mut object: impl FnMut(S, i64) -> Value,
) -> Vec<(i64, Step)> {
    let mut seen = 0;
    let mut steps: Vec<_> = states
        .iter()
        .zip(times(states))
        .map(|((state, _, delay), at)| {
            seen = seen.max(at + delay);
            put(seen, object(*state, at))
        })
        .collect();
    let end = *times(states).last().unwrap();
    steps.push((seen.max(end), Step::Delete));
    steps
}

/// Joins what touches.
fn joined(intervals: impl IntoIterator<Item = (i64, i64)>) -> Vec<(i64, i64)> {
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (start, end) in intervals {
        match joined.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// What is billed of states that cost something or do not. A removal is seen when it happens, or later.
fn costly<S: Copy>(
    states: &[Lasting<S>],
    costs: impl Fn(S) -> bool,
    removed: i64,
) -> Vec<(i64, i64)> {
    let times = times(states);
    let last = states.len() - 1;
    let intervals = states.iter().enumerate().filter(|(_, it)| costs(it.0));
    joined(intervals.map(|(index, _)| {
        let end = if index == last {
            removed
        } else {
            times[index + 1]
        };
        (times[index], end)
    }))
}

fn check(
    rules: Rules,
    steps: &[(i64, Step)],
    restarts: &[i64],
    expected: &[(i64, i64)],
) -> Result<(), TestCaseError> {
    let until = steps.last().unwrap().0 + 20;
    for interval in [1, 5, 60] {
        let until = until.max(2 * interval + until);
        let collector = live(interval, rules, steps, restarts, until);
        prop_assert_eq!(&stretches(&collector.billed), expected, "{:?}", steps);
        prop_assert_eq!(collector.stats().overbilled_seconds, 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn load_balancers(states in lasting((any::<bool>(), 0..3_usize))) {
        let mut kinds = Vec::new();
        let steps = steps(&states, |(is_balancer, addresses), at| {
            let kind = if is_balancer { "LoadBalancer" } else { "ClusterIP" };
            // Who sets the type writes the whole spec each time that the type changes.
            if kinds.last().is_none_or(|(last, _)| *last != kind) {
                kinds.push((kind, at));
            }
            let (_, typed_at) = *kinds.last().unwrap();
            service(kind, addresses, &[typed("x", typed_at), addressed(at)])
        });
        let removed = steps.last().unwrap().0;
        // A stretch as load balancer costs from its begin, if it ever had an address.
        let mut expected: Vec<(i64, i64)> = Vec::new();
        let mut stretch: Option<(i64, bool)> = None;
        for (&((is_balancer, addresses), ..), at) in states.iter().zip(times(&states)) {
            if !is_balancer {
                expected.extend(stretch.take().filter(|it| it.1).map(|it| (it.0, at)));
                continue;
            }
            let (begin, had) = stretch.unwrap_or((at, false));
            stretch = Some((begin, had || addresses > 0));
        }
        expected.extend(stretch.filter(|it| it.1).map(|it| (it.0, removed)));
        check(rules(ResourceType::Service), &steps, &[], &expected)?;
    }

    #[test]
    fn claims(
        states in lasting(prop_oneof![2 => Just("Bound"), 1 => Just("Lost")]),
        pending in 0..20_i64,
        restarts in prop::collection::vec(0..120_i64, 0..4),
    ) {
        let mut states = states;
        if pending > 0 {
            states.insert(0, ("Pending", pending, 0));
        }
        let mut phases = Vec::new();
        let steps = steps(&states, |state, at| {
            if phases.last().is_none_or(|(last, _)| *last != state) {
                phases.push((state, at));
            }
            claim(state, "1Gi", "", &[phase(phases.last().unwrap().1, "k")])
        });
        let removed = steps.last().unwrap().0;
        let expected = costly(&states, |it| it == "Bound", removed);
        check(rules(ResourceType::PersistentVolumeClaim), &steps, &restarts, &expected)?;
    }

    #[test]
    fn volumes(
        states in lasting(prop_oneof![
            2 => Just("Released"), 1 => Just("Bound"), 1 => Just("Available"), 1 => Just("Failed"),
        ]),
        restarts in prop::collection::vec(0..120_i64, 0..4),
    ) {
        let mut phases = Vec::new();
        let steps = steps(&states, |state, at| {
            if phases.last().is_none_or(|(last, _)| *last != state) {
                phases.push((state, at));
            }
            volume(state, phases.last().unwrap().1)
        });
        let removed = steps.last().unwrap().0;
        let rules = Rules {
            from: BilledFrom::InPhase(VolumePhase::Released),
            ..rules(ResourceType::PersistentVolume)
        };
        let expected = costly(&states, |it| it == "Released", removed);
        check(rules, &steps, &restarts, &expected)?;
    }
}
