//! Fates: one for each second, and rejected pieces that are kept.

use super::{TestLedger, balance, deliver, describe, disk::Disk, ledger, refusal, seen};
use crate::{
    Accounting, Checkpoint, DeliveryResult, Fate, Interval, Kind, Ledger, RecordChange, Seconds,
    Tally, Unbilled, UsageInterval, WindowBatch,
};

/// Settles a batch at `at`; pieces whose content holds one of the words are not delivered.
fn settle(ledger: &mut TestLedger, batch: &WindowBatch<String>, at: i64) {
    let fate = |piece: &UsageInterval<String>| {
        let fate = match piece.content.rsplit(':').next() {
            Some("bad") => Fate::Rejected(refusal("refused_by_sink", false)),
            Some("poison") => Fate::Rejected(refusal("poison", true)),
            Some("dropped") => Fate::Dropped {
                place: "a switch".into(),
            },
            _ => return None,
        };
        Some((piece.clone(), fate))
    };
    let undelivered = batch.pieces.iter().filter_map(fate).collect();
    ledger.settle(batch.tag, DeliveryResult::Done { at, undelivered });
    balance(ledger, at);
}

/// A ledger in which objects with these contents ran from 0 to 10, whose window is settled.
fn settled(contents: &[&str]) -> TestLedger {
    let mut ledger = ledger(10);
    for (number, content) in contents.iter().enumerate() {
        ledger.apply(seen(
            &format!("pod-{number}"),
            Some(0),
            Some(10),
            content,
            10,
        ));
    }
    let batch = ledger.next(10).unwrap();
    settle(&mut ledger, &batch, 13);
    ledger
}

fn tally(fate: Unbilled, reason: &str, owner: &str, seconds: i64) -> Tally {
    Tally {
        fate,
        reason: reason.into(),
        owner: owner.into(),
        seconds,
    }
}

#[test]
fn each_second_has_one_fate_and_unbilled_seconds_have_a_reason_and_an_owner() {
    let mut ledger = settled(&["a:good", "a:bad", "b:dropped", "b:poison"]);
    ledger.apply(seen("late", Some(12), None, "a:good", 14));
    ledger.lose(5, "c");
    let expected = Seconds {
        ran: 10 * 4 + 3 + 5,
        delivered: 10,
        rejected: 20,
        dropped: 10,
        waiting: 3,
        unproved: 5,
    };
    assert_eq!(ledger.seconds(15), expected);
    balance(&ledger, 15);
    assert_eq!(
        ledger.unbilled(),
        [
            tally(Unbilled::Dropped, "a switch", "b", 10),
            tally(Unbilled::Unproved, "no_proof", "c", 5),
            tally(Unbilled::Rejected, "refused_by_sink", "a", 10),
            tally(Unbilled::Rejected, "poison", "b", 10),
        ]
    );
}

#[test]
fn rejected_pieces_are_retried_on_request_and_never_move_the_watermark_back() {
    let mut ledger = settled(&["good", "bad"]);
    assert_eq!(ledger.watermark(), 10);
    assert!(ledger.next(19).is_none(), "no retry was requested");
    assert_eq!(ledger.retry_rejected(), 1);
    let again = ledger.next(19).unwrap();
    assert_eq!(describe(&again), ["pod-1 0..10 bad again"]);
    assert!(ledger.next(19).is_none(), "the retry is in flight");
    // It is rejected again: it is kept, and waits for the next request.
    settle(&mut ledger, &again, 19);
    assert_eq!(ledger.seconds(19).rejected, 10);
    assert!(ledger.next(19).is_none());
    ledger.retry_rejected();
    assert_eq!(deliver(&mut ledger, 19), ["pod-1 0..10 bad again"]);
    assert_eq!(ledger.seconds(19).rejected, 0);
    assert_eq!(ledger.seconds(19).delivered, 20);
    assert_eq!(ledger.rejected_pieces(), 0);
    assert_eq!(ledger.watermark(), 10);
    balance(&ledger, 19);
}

#[test]
fn rejections_that_may_pass_are_retried_automatically_at_growing_intervals() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), Some(10), "poison", 10));
    let first = ledger.next(10).unwrap();
    settle(&mut ledger, &first, 10);
    let mut tries = Vec::new();
    for now in 10..20_000 {
        // The windows of this time are empty.
        if let Some(batch) = ledger.next(now) {
            tries.push(now);
            settle(&mut ledger, &batch, now);
        }
    }
    let pauses: Vec<_> = tries.windows(2).map(|it| it[1] - it[0]).collect();
    assert_eq!(tries[0], 70);
    assert_eq!(
        pauses,
        [120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600, 3_600]
    );
    assert_eq!(ledger.rejected(None).next().unwrap().1.retries, 10);
}

/// When the only group is tried next, if it is rejected at each try until `until`.
fn next_try(ledger: &mut TestLedger, from: i64, until: i64) -> Option<i64> {
    for now in from..until {
        if let Some(batch) = ledger.next(now) {
            settle(ledger, &batch, now);
        }
    }
    ledger.rejected(None).next()?.1.next_try
}

#[test]
fn pauses_begin_anew_once_a_part_is_delivered_or_a_retry_is_requested() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), Some(20), "poison", 20));
    assert_eq!(next_try(&mut ledger, 10, 21), Some(70));
    assert_eq!(next_try(&mut ledger, 21, 3_600), Some(3_790));

    // The first of the two pieces is accepted.
    let batch = ledger.next(3_790).unwrap();
    let [_, other] = batch.pieces.as_slice() else {
        panic!("{:?}", describe(&batch));
    };
    let rejected = Fate::Rejected(refusal("poison", true));
    let result = DeliveryResult::Done {
        at: 3_790,
        undelivered: vec![(other.clone(), rejected)],
    };
    ledger.settle(batch.tag, result);
    balance(&ledger, 3_790);
    assert_eq!(next_try(&mut ledger, 3_790, 3_850), Some(3_850));
    assert_eq!(next_try(&mut ledger, 3_850, 3_851), Some(3_970));

    assert_eq!(next_try(&mut ledger, 3_851, 8_000), Some(11_170));
    ledger.retry_rejected();
    assert_eq!(next_try(&mut ledger, 8_000, 8_001), Some(8_120));
}

#[test]
fn an_object_that_is_rejected_for_long_costs_a_list_of_times() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "bad", 0));
    for end in 1..=300 {
        let batch = ledger.next(end * 10).unwrap();
        settle(&mut ledger, &batch, end * 10);
    }
    let sizes: Vec<_> = ledger
        .rejected(None)
        .map(|(_, it)| it.pieces.len())
        .collect();
    assert_eq!(sizes, [64, 64, 64, 64, 44]);
    assert_eq!(ledger.rejected_pieces(), 300);
    let second = ledger.rejected(None).nth(1).unwrap().0.clone();
    assert_eq!(ledger.rejected(Some(&second)).count(), 4);
    ledger.retry_rejected();
    assert_eq!(deliver(&mut ledger, 3_000).len(), 300);
    assert_eq!(ledger.seconds(3_000).delivered, 3_000);
}

#[test]
fn beyond_the_bound_the_oldest_group_of_the_largest_owner_is_evicted_and_counted() {
    let large = "x".repeat(20 << 20);
    let contents: Vec<_> = ["honest", "hostile", "hostile", "hostile", "hostile"]
        .iter()
        .enumerate()
        .map(|(number, owner)| match number {
            0 => format!("{owner}:bad"),
            _ => format!("{owner}:{large}{number}:bad"),
        })
        .collect();
    let contents: Vec<_> = contents.iter().map(String::as_str).collect();
    let mut ledger = settled(&contents);
    let kept: Vec<_> = ledger
        .rejected(None)
        .map(|(_, it)| it.uid.to_string())
        .collect();
    assert_eq!(kept, ["pod-0", "pod-2", "pod-3", "pod-4"]);
    assert_eq!(ledger.stats().rejected_not_kept, 1);
    assert_eq!(
        ledger.seconds(13).rejected,
        50,
        "an evicted group stays rejected"
    );
    ledger.retry_rejected();
    deliver(&mut ledger, 13);
    assert_eq!(ledger.seconds(13).rejected, 10);
    balance(&ledger, 13);
}

#[test]
fn failed_and_late_and_rejected_pieces_that_are_given_up_are_unproved() {
    let mut ledger = settled(&["a:bad"]);
    ledger.apply(seen("b", Some(10), None, "b:good", 11));
    let failed = ledger.next(20).unwrap();
    ledger.settle(failed.tag, DeliveryResult::Failed);
    ledger.apply(seen("c", Some(15), None, "c:good", 21));
    assert_eq!(ledger.give_up(40), 10 + 5 + 20 + 20);
    ledger.forget_rejected(40);
    balance(&ledger, 45);
    let seconds = ledger.seconds(45);
    assert_eq!((seconds.unproved, seconds.waiting), (55, 10));
    let too_old = |owner, seconds| tally(Unbilled::Unproved, "max_backlog", owner, seconds);
    let unbilled = ledger.unbilled();
    assert!(unbilled.contains(&too_old("b", 30)), "{unbilled:?}");
    assert!(unbilled.contains(&too_old("c", 25)), "late pieces as well");
    // Rejected, and no longer kept.
    assert_eq!((seconds.rejected, ledger.rejected_pieces()), (10, 0));
    assert_eq!(ledger.stats().rejected_not_kept, 1);
}

#[test]
fn usage_that_another_replica_delivered_is_not_counted_here() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "good", 0));
    let on_its_way = ledger.next(10).unwrap();
    let failed = ledger.next(20).unwrap();
    ledger.settle(failed.tag, DeliveryResult::Failed);
    ledger.adopt(100);
    balance(&ledger, 105);
    assert_eq!(ledger.seconds(105).ran, 5);
    ledger.settle(on_its_way.tag, DeliveryResult::Delivered);
    balance(&ledger, 105);
    assert_eq!(ledger.seconds(105).ran, 5);
}

#[test]
fn a_state_of_an_older_version_balances() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "good", 0));
    ledger.lose(7, "");
    let first = ledger.next(10).unwrap();
    ledger.settle(first.tag, DeliveryResult::Delivered);
    let _on_its_way = ledger.next(20).unwrap();
    let changes = ledger.take_changes();
    let mut checkpoint = serde_json::to_value(&changes.checkpoint).unwrap();
    let fields = checkpoint.as_object_mut().unwrap();
    for key in ["unbilled", "counts_fates"] {
        fields.remove(key).unwrap();
    }
    let stats = fields["stats"].as_object_mut().unwrap();
    for key in [
        "handed_out_seconds",
        "rejected_seconds",
        "dropped_seconds",
        "rejected_not_kept",
    ] {
        stats.remove(key).unwrap();
    }
    let checkpoint: Checkpoint<String> = serde_json::from_value(checkpoint).unwrap();
    let records = changes.records.into_iter().map(|(uid, change)| {
        let RecordChange { life, segments, .. } = change.unwrap();
        let segments = segments.into_iter();
        let whole = life.with_segments(segments.map(|it| (it.start, it.end, it.content.unwrap())));
        (uid, whole)
    });
    let interval = Interval::new(10).unwrap();
    let ledger: TestLedger = Ledger::restore(interval, Accounting::Exact, checkpoint, records, []);
    balance(&ledger, 25);
    assert_eq!(ledger.seconds(25).ran, 25 + 7);
}

#[test]
fn the_owners_of_unbilled_time_are_bounded_and_the_smallest_is_merged_first() {
    let mut ledger = ledger(10);
    for owner in 0..1_000 {
        ledger.lose(1, &format!("namespace-{owner}"));
        // The first is added when all places are taken.
        if owner >= 500 {
            ledger.lose(1, "honest");
        }
    }
    balance(&ledger, 10);
    let unbilled = ledger.unbilled();
    assert!(unbilled.len() <= 258, "{}", unbilled.len());
    let of = |owner: &str| unbilled.iter().find(|it| it.owner.as_ref() == owner);
    assert_eq!(of("honest").unwrap().seconds, 500);
    assert!(of(crate::OTHER).unwrap().seconds >= 700);
    // It is restored unchanged.
    let unbilled = unbilled.clone();
    assert_eq!(restored(&mut ledger).unbilled(), unbilled);
}

/// The ledger that is restored from a complete write.
fn restored(ledger: &mut TestLedger) -> TestLedger {
    let interval = Interval::new(10).unwrap();
    Disk::of(ledger).read(interval, Accounting::Exact).unwrap()
}

/// A ledger with a thousand rejected pieces of one object, half of which may pass, restored from the disk.
#[test]
fn retries_are_few_at_a_time_and_delay_no_window() {
    let mut ledger = ledger(10);
    ledger.apply(seen("hostile", Some(0), None, "bad", 0));
    for window in 1..=1_000 {
        let content = if window <= 500 { "bad" } else { "poison" };
        ledger.apply(seen("hostile", Some(0), None, content, window * 10 - 10));
        let batch = ledger.next(window * 10).unwrap();
        // A group that is due by now waits; this test does not look at it.
        assert_eq!(batch.kind, Kind::Window);
        settle(&mut ledger, &batch, window * 10);
    }
    ledger.deleted("hostile", 10_000);
    let mut ledger = restored(&mut ledger);
    assert_eq!(ledger.rejected_pieces(), 1_000);
    ledger.apply(seen("honest", Some(10_000), None, "good", 10_000));

    let mut tried = 0;
    for window in 1_001..=1_030 {
        let now = window * 10;
        let first = ledger.next(now).unwrap();
        assert_eq!(
            describe(&first),
            [format!("honest {}..{now} good", now - 10)]
        );
        settle(&mut ledger, &first, now);
        let again: Vec<_> = std::iter::from_fn(|| ledger.next(now)).collect();
        assert!(again.len() <= 2, "no more than two groups are in flight");
        for batch in again {
            assert_eq!(batch.kind, Kind::Again);
            assert!(batch.pieces.len() <= 64);
            tried += batch.pieces.len();
            settle(&mut ledger, &batch, now);
        }
    }
    assert!(tried >= 1_000, "{tried}");
    assert_eq!(ledger.seconds(10_300).rejected, 10_000);
    assert_eq!(ledger.seconds(10_300).delivered, 300);
    balance(&ledger, 10_300);
}

#[test]
fn a_group_writes_its_content_once_and_a_restored_ledger_writes_nothing() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "a:bad", 0));
    let mut written = Vec::new();
    for window in 1..=65 {
        let batch = ledger.next(window * 10).unwrap();
        settle(&mut ledger, &batch, window * 10);
        let changes = ledger.take_changes().rejected;
        assert_eq!(changes.len(), 1);
        written.extend(changes.into_values().map(|it| it.unwrap().is_new));
    }
    let new: Vec<_> = (0..65).filter(|it| written[*it]).collect();
    assert_eq!(new, [0, 64], "a group takes sixty-four");
    let mut ledger = restored(&mut ledger);
    assert!(ledger.take_changes().rejected.is_empty());
    // Its first piece is delivered, and its key stays.
    let again = ledger.next(650).unwrap();
    let undelivered = again.pieces[1..].iter().cloned();
    let undelivered = undelivered
        .map(|piece| (piece, Fate::Rejected(refusal("poison", true))))
        .collect();
    ledger.settle(
        again.tag,
        DeliveryResult::Done {
            at: 700,
            undelivered,
        },
    );
    let changes = ledger.take_changes().rejected;
    assert!(changes.into_values().all(|it| !it.unwrap().is_new));
    let first = ledger.rejected(None).next().unwrap();
    assert_eq!((first.0.start, first.1.pieces[0]), (0, (10, 20)));
    assert_eq!(ledger.seconds(650).rejected, 640);
    balance(&ledger, 650);
}

#[test]
fn the_response_of_a_sink_counts_towards_the_bound() {
    let mut ledger = ledger(10);
    for pod in 0..100 {
        let owner = if pod == 0 { "honest" } else { "hostile" };
        let content = format!("{owner}:bad");
        ledger.apply(seen(
            &format!("pod-{pod:03}"),
            Some(0),
            Some(10),
            &content,
            10,
        ));
    }
    let batch = ledger.next(10).unwrap();
    let long: std::sync::Arc<str> = "x".repeat(1 << 20).into();
    let undelivered = batch
        .pieces
        .iter()
        .map(|piece| {
            let mut refusal = refusal("refused_by_sink", false);
            refusal.reason = std::sync::Arc::clone(&long);
            (piece.clone(), Fate::Rejected(refusal))
        })
        .collect();
    let settled = DeliveryResult::Done {
        at: 10,
        undelivered,
    };
    ledger.settle(batch.tag, settled);
    assert_eq!(ledger.rejected_pieces(), 63);
    assert!(
        ledger
            .rejected(None)
            .any(|(_, it)| it.uid.as_ref() == "pod-000")
    );
    assert_eq!(ledger.stats().rejected_not_kept, 37);
    balance(&ledger, 10);
}

/// If whole windows are billed, `ran` never decreases, and what is given up is what would have been handed
/// out.
#[test]
fn nominal_accounting_counts_whole_windows_ahead_and_when_given_up() {
    let nominal = || -> TestLedger {
        let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Nominal, 0);
        ledger.apply(seen("within", Some(2), Some(8), "a:c", 8));
        ledger.apply(seen("long", Some(5), Some(34), "a:c", 34));
        ledger.apply(seen("changed", Some(0), None, "a:c", 0));
        ledger.apply(seen("changed", Some(0), None, "b:c", 15));
        ledger
    };
    let (mut handed_out, mut given_up) = (nominal(), nominal());
    let mut before = 0;
    for now in 0..=60 {
        while let Some(batch) = handed_out.next(now) {
            handed_out.settle(batch.tag, DeliveryResult::Delivered);
        }
        balance(&handed_out, now);
        let ran = handed_out.seconds(now).ran;
        assert!(ran >= before, "{ran} after {before} at {now}");
        before = ran;
    }
    assert_eq!(before, 30 + 60);
    assert_eq!(given_up.give_up(60), before);
    balance(&given_up, 60);
    let unbilled = given_up.unbilled();
    let of = |owner: &str| unbilled.iter().find(|it| it.owner.as_ref() == owner);
    assert_eq!(of("a").unwrap().seconds, 30 + 20);
    assert_eq!(of("b").unwrap().seconds, 40);
}
