//! Changes of what belongs to contents, and not to the objects themselves.

use proptest::prelude::*;

use crate::{Accounting, Budget, Content, DeliveryResult, Interval, Ledger, Observation, Times};

/// A pod with its own label, and the customer of its namespace.
#[derive(Debug, Clone, PartialEq)]
struct Pod {
    namespace: u8,
    label: u8,
    customer: u8,
}

impl Content for Pod {
    fn owner(&self) -> &str {
        "tenant"
    }

    fn weight(&self) -> usize {
        8
    }
}

fn seen(pod: Pod, start: i64, end: Option<i64>, since: i64, now: i64) -> Observation<Pod> {
    Observation {
        uid: "pod".into(),
        start: Some(start),
        end,
        content: pod,
        content_since: Some(since),
        observed_at: now,
        in_scope_since: None,
        times: Times::default(),
    }
}

fn change(ledger: &mut Ledger<Pod>, namespace: u8, customer: u8, at: i64) {
    let mut change = |pod: &Pod| {
        let is_of_it = pod.namespace == namespace && pod.customer != customer;
        is_of_it.then(|| Pod {
            customer,
            ..pod.clone()
        })
    };
    ledger.amend(
        None,
        at,
        Budget::default(),
        |it| Some(it.clone()),
        &mut change,
    );
}

/// Start, end and content of what is handed out up to `until`, which is delivered.
fn deliver(ledger: &mut Ledger<Pod>, until: i64) -> Vec<(i64, i64, u8, u8)> {
    let mut found = Vec::new();
    while let Some(batch) = ledger.next(until) {
        let pieces = batch.pieces.iter();
        found.extend(pieces.map(|it| (it.start, it.end, it.content.label, it.content.customer)));
        ledger.settle(batch.tag, DeliveryResult::Delivered);
    }
    found
}

fn pod(label: u8) -> Pod {
    Pod {
        namespace: 1,
        label,
        customer: 0,
    }
}

#[test]
fn a_change_of_the_customer_divides_the_time_at_the_change() {
    let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    ledger.apply(seen(pod(1), 0, None, 0, 0));
    ledger.apply(seen(pod(2), 0, None, 6, 6));
    // It is known later than the change of the label, and concerns both labels.
    change(&mut ledger, 1, 7, 4);
    change(&mut ledger, 2, 9, 5);
    assert_eq!(
        deliver(&mut ledger, 10),
        [(0, 4, 1, 0), (4, 6, 1, 7), (6, 10, 2, 7)]
    );
    // What was handed out stays.
    change(&mut ledger, 1, 8, 3);
    let amended = Pod {
        customer: 8,
        ..pod(2)
    };
    ledger.apply(seen(amended, 0, Some(15), 6, 15));
    change(&mut ledger, 1, 3, 12);
    change(&mut ledger, 1, 4, 15);
    assert_eq!(deliver(&mut ledger, 20), [(10, 12, 2, 8), (12, 15, 2, 3)]);
}

proptest! {
    /// Every second of a pod has the customer of its namespace in that second, whatever happens meanwhile and
    /// however late it is learned, as long as it is learned before the window is handed out.
    #[test]
    fn every_second_has_the_customer_of_that_second(
        start in 0..20_i64,
        length in 1..60_i64,
        customers in prop::collection::vec((1..80_i64, 1..5_u8), 0..8),
        labels in prop::collection::vec(1..70_i64, 0..4),
        delays in prop::collection::vec(0..5_i64, 16),
    ) {
        let end = start + length;
        // The second at which each thing is learned, and what.
        let mut steps: Vec<(i64, i64, Option<u8>)> = Vec::new();
        let mut delays = delays.into_iter().cycle();
        let mut customers = customers;
        customers.sort_unstable();
        customers.dedup_by_key(|it| it.0);
        let mut learned = 0;
        for (at, customer) in &customers {
            // A watch shows the changes of one object in their order.
            learned = learned.max(at + delays.next().unwrap_or(0));
            steps.push((learned, *at, Some(*customer)));
        }
        for at in labels.iter().filter(|at| **at > start && **at < end) {
            steps.push((at + delays.next().unwrap_or(0), *at, None));
        }
        steps.sort_unstable_by_key(|(learned, at, _)| (*learned, *at));
        let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
        let mut latest = 0;
        let mut learned_of = Vec::new();
        let mut label = 0;
        let mut billed = Vec::new();
        for now in 0..100_i64 {
            if now == start {
                ledger.apply(seen(Pod { customer: latest, ..pod(0) }, start, None, start, now));
                for (at, customer) in &learned_of {
                    if *at > start {
                        change(&mut ledger, 1, *customer, *at);
                    }
                }
            }
            for (_, at, customer) in steps.iter().filter(|it| it.0 == now) {
                match customer {
                    Some(customer) => {
                        learned_of.push((*at, *customer));
                        latest = *customer;
                        change(&mut ledger, 1, *customer, *at);
                    }
                    None if now > start && now < end => {
                        label += 1;
                        let content = Pod { customer: latest, ..pod(label) };
                        ledger.apply(seen(content, start, None, *at, now));
                    }
                    None => {}
                }
            }
            if now == end {
                let content = Pod { customer: latest, ..pod(label) };
                ledger.apply(seen(content, start, Some(end), start, now));
            }
            billed.extend(deliver(&mut ledger, now - 6));
        }
        let mut next = start;
        for (from, to, _, customer) in billed {
            prop_assert_eq!(from, next);
            next = to;
            for second in from..to {
                let was = customers.iter().rev().find(|it| it.0 <= second);
                prop_assert_eq!(customer, was.map_or(0, |it| it.1), "at {}", second);
            }
        }
        prop_assert_eq!(next, end);
    }
}
