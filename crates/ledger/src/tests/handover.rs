//! Two replicas that see the same and take turns: whoever leads goes on from the watermark that the
//! other left, which may be an older one. For a moment both may lead.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Books, balance, histories, seen};
use crate::{Accounting, DeliveryResult, Interval, Ledger};

/// One pod: when it starts, how long it runs, how late the API server knows that it started, and how
/// late each replica then sees its start and its end.
type Pod = (i64, i64, i64, [(i64, i64); 2]);

#[derive(Debug, Clone)]
struct History {
    interval: i64,
    pods: Vec<Pod>,
    /// When the lease goes to the other replica; whether what the old one knows last is left behind;
    /// and how long the old one goes on unaware.
    handovers: Vec<(i64, bool, i64)>,
    /// Whether each batch is acknowledged.
    acknowledged: Vec<bool>,
}

const SETTLE: i64 = 3;

fn history() -> impl Strategy<Value = History> {
    let delays = (0..=SETTLE - 1, 0..=SETTLE - 1);
    // A start that is known late becomes late pieces.
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
    let new = || -> Books { Ledger::new(interval, Accounting::Exact, 0) };
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
            for (books, (late, later)) in replicas.iter_mut().zip(delays) {
                let late = known + late;
                if now == start + late {
                    books.apply(seen(&uid, Some(*start), None, "c", now));
                }
                if now == (end + later).max(start + late) {
                    books.apply(seen(&uid, Some(*start), Some(end), "c", now));
                    books.deleted(&uid, end);
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
            let books = &mut replicas[index];
            for _ in 0..20 {
                let Some(batch) = books.next(now - SETTLE) else {
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
                books.settle(batch.tag, settled);
            }
            balance(books, now);
            if index == leader {
                annotation = annotation.max(books.safe_watermark());
            }
        }
    }
    arrived
}

/// A replica comes back from its state of second 40; up to 100 another one led.
fn back_after_another() -> Books {
    let mut books: Books = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    for uid in ["vanished", "ended"] {
        books.apply(seen(uid, Some(0), None, "c", 0));
    }
    assert_eq!(super::deliver(&mut books, 40).len(), 8);
    books.adopt(100);
    books
}

#[test]
fn what_another_replica_delivered_is_neither_lost_nor_overbilled_here() {
    let mut books = back_after_another();
    // It was there at 45, and is not at 103: nobody knows of three seconds.
    assert_eq!(books.vanished("vanished", 45, 103), 3);
    // The other billed it to its end. Five seconds before the other began this one handed out.
    books.apply(seen("ended", Some(0), Some(35), "c", 103));
    books.deleted("ended", 35);
    balance(&books, 103);
    let stats = books.stats();
    assert_eq!((stats.lost_seconds, stats.overbilled_seconds), (3, 5));
    // What it hands out itself from here on counts.
    books.apply(seen("late", Some(100), None, "c", 101));
    super::deliver(&mut books, 110);
    books.apply(seen("late", Some(100), Some(104), "c", 112));
    assert_eq!(books.stats().overbilled_seconds, 5 + 6);
    books.apply(seen("late", Some(100), None, "c", 113));
    assert_eq!(books.stats().overbilled_seconds, 5);
}

#[test]
fn what_vanished_while_this_replica_watched_is_lost_from_when_it_was_seen() {
    let mut books: Books = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    books.apply(seen("a", Some(0), None, "c", 0));
    super::deliver(&mut books, 10);
    assert_eq!(books.vanished("a", 14, 20), 6);
    assert_eq!(books.vanished("a", 14, 20), 0);
    assert_eq!(super::deliver(&mut books, 20), ["a 10..14 c"]);
    balance(&books, 20);
}

proptest! {
    #![proptest_config(histories(40_000))]

    #[test]
    fn no_handover_leaves_a_hole_or_a_double(history in history()) {
        let arrived = play(&history);
        for (index, (start, length, ..)) in history.pods.iter().enumerate() {
            let uid = format!("pod-{index}");
            let mut at = *start;
            for ((_, from), to) in arrived.iter().filter(|((of, _), _)| *of == uid) {
                prop_assert_eq!(*from, at, "{} has a hole or a double", uid);
                at = *to;
            }
            prop_assert_eq!(at, start + length, "{} ends elsewhere", uid);
        }
    }
}
