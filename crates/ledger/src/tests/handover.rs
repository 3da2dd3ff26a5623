//! Two replicas that observe the same and lead in turn. The leader continues from the watermark that the
//! other left, which may be an older one. For a moment both may lead.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{TestLedger, balance, histories, seen};
use crate::{Accounting, DeliveryResult, Interval, Ledger};

/// One pod: when it starts, how long it runs, how late the API server knows that it started, and how
/// late each replica observes its start and its end.
type Pod = (i64, i64, i64, [(i64, i64); 2]);

#[derive(Debug, Clone)]
struct History {
    interval: i64,
    pods: Vec<Pod>,
    /// When the other replica gets the Lease; whether the old one leaves its last watermark; and how long the
    /// old one continues unaware.
    handovers: Vec<(i64, bool, i64)>,
    /// Whether each batch is acknowledged.
    acknowledged: Vec<bool>,
}

const SETTLE: i64 = 3;

fn history() -> impl Strategy<Value = History> {
    let delays = (0..=SETTLE - 1, 0..=SETTLE - 1);
    // A start that is learned late becomes late pieces.
    let known = prop_oneof![3 => Just(0), 1 => 0..20_i64];
    let pod = (0..60_i64, 1..50_i64, known, [delays.clone(), delays]);
    (
        1..13_i64,
        prop::collection::vec(pod, 1..5),
        prop::collection::vec((1..90_i64, any::<bool>(), 0..8_i64), 0..5),
        prop::collection::vec(prop::bool::weighted(0.8), 60),
    )
        .prop_map(|(interval, pods, mut handovers, acknowledged)| {
            handovers.sort_unstable();
            History {
                interval,
                pods,
                handovers,
                acknowledged,
            }
        })
}

/// What arrived: start and end by pod and id.
fn play(history: &History) -> BTreeMap<(String, i64), i64> {
    let interval = Interval::new(history.interval).unwrap();
    let new = || -> TestLedger { Ledger::new(interval, Accounting::Exact, 0) };
    let mut replicas = [new(), new()];
    let mut annotation = 0;
    let mut leader = 0;
    let mut unaware_until = [i64::MIN; 2];
    let mut handovers = history.handovers.iter().peekable();
    let mut acknowledged = history.acknowledged.iter();
    let mut arrived = BTreeMap::new();
    for now in 0..160 {
        for (index, (start, length, known, delays)) in history.pods.iter().enumerate() {
            let (uid, end) = (format!("pod-{index}"), start + length);
            for (ledger, (late, later)) in replicas.iter_mut().zip(delays) {
                let late = known + late;
                if now == start + late {
                    ledger.apply(seen(&uid, Some(*start), None, "c", now));
                }
                if now == (end + later).max(start + late) {
                    ledger.apply(seen(&uid, Some(*start), Some(end), "c", now));
                    ledger.deleted(&uid, end);
                }
            }
        }
        while let Some((_, leaves, unaware)) = handovers.next_if(|(at, ..)| *at == now) {
            if *leaves {
                annotation = annotation.max(replicas[leader].safe_watermark());
            } else {
                unaware_until[leader] = now + unaware;
            }
            leader = 1 - leader;
            replicas[leader].adopt(annotation);
        }
        for index in [0, 1] {
            if index != leader && now >= unaware_until[index] {
                replicas[index].adopt(annotation);
                continue;
            }
            let ledger = &mut replicas[index];
            for _ in 0..20 {
                let Some(batch) = ledger.next(now - SETTLE) else {
                    break;
                };
                for piece in batch.pieces {
                    let id = (piece.uid.to_string(), piece.start);
                    let end = *arrived.entry(id).or_insert(piece.end);
                    assert_eq!(end, piece.end, "one id, two events");
                }
                let settled = match acknowledged.next() {
                    Some(false) => DeliveryResult::Failed,
                    _ => DeliveryResult::Delivered,
                };
                ledger.settle(batch.tag, settled);
            }
            balance(ledger, now);
            if index == leader {
                annotation = annotation.max(ledger.safe_watermark());
            }
        }
    }
    arrived
}

/// A replica that is restored from its state of second 40, while another one led up to 100.
fn restored_after_another() -> TestLedger {
    let mut ledger: TestLedger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    for uid in ["vanished", "ended"] {
        ledger.apply(seen(uid, Some(0), None, "c", 0));
    }
    assert_eq!(super::deliver(&mut ledger, 40).len(), 8);
    ledger.adopt(100);
    ledger
}

#[test]
fn usage_that_another_replica_delivered_is_neither_lost_nor_overbilled() {
    let mut ledger = restored_after_another();
    // The pod was there at 45, and is not at 103: three seconds are not known.
    assert_eq!(ledger.vanished("vanished", 45, 103), 3);
    // The other replica billed it to its end. This one handed out five seconds before the other began.
    ledger.apply(seen("ended", Some(0), Some(35), "c", 103));
    ledger.deleted("ended", 35);
    balance(&ledger, 103);
    let stats = ledger.stats();
    assert_eq!((stats.lost_seconds, stats.overbilled_seconds), (3, 5));
    // What it hands out from here on counts.
    ledger.apply(seen("late", Some(100), None, "c", 101));
    super::deliver(&mut ledger, 110);
    ledger.apply(seen("late", Some(100), Some(104), "c", 112));
    assert_eq!(ledger.stats().overbilled_seconds, 5 + 6);
    ledger.apply(seen("late", Some(100), None, "c", 113));
    assert_eq!(ledger.stats().overbilled_seconds, 5);
}

#[test]
fn a_pod_that_vanished_is_lost_from_when_it_was_last_seen() {
    let mut ledger: TestLedger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    ledger.apply(seen("a", Some(0), None, "c", 0));
    super::deliver(&mut ledger, 10);
    assert_eq!(ledger.vanished("a", 14, 20), 6);
    assert_eq!(ledger.vanished("a", 14, 20), 0);
    assert_eq!(super::deliver(&mut ledger, 20), ["a 10..14 c"]);
    balance(&ledger, 20);
}

proptest! {
    #![proptest_config(histories(40_000))]

    #[test]
    fn no_handover_leaves_a_gap_or_an_overlap(history in history()) {
        let arrived = play(&history);
        for (index, (start, length, ..)) in history.pods.iter().enumerate() {
            let uid = format!("pod-{index}");
            let mut at = *start;
            for ((_, from), to) in arrived.iter().filter(|((of, _), _)| *of == uid) {
                prop_assert_eq!(*from, at, "{} has a gap or an overlap", uid);
                at = *to;
            }
            prop_assert_eq!(at, start + length, "{} ends elsewhere", uid);
        }
    }
}
