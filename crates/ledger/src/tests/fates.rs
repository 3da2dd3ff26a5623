//! What becomes of what is handed out: one fate for each second, and rejected pieces that are kept.

use super::{Books, balance, deliver, describe, disk::Disk, ledger, refusal, seen};
use crate::{
    Accounting, Checkpoint, DeliveryResult, Fate, Interval, Kind, Ledger, RecordChange, Seconds,
    Tally, Unbilled, UsageInterval, WindowBatch,
};

/// Ends a batch at `at`; pieces whose content holds a word are not delivered.
fn settle(books: &mut Books, batch: &WindowBatch<String>, at: i64) {
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
    books.settle(batch.tag, DeliveryResult::Done { at, undelivered });
    balance(books, at);
}

/// A ledger in which objects with these contents ran from 0 to 10, and that window is settled.
fn settled(contents: &[&str]) -> Books {
    let mut books = ledger(10);
    for (number, content) in contents.iter().enumerate() {
        books.apply(seen(
            &format!("pod-{number}"),
            Some(0),
            Some(10),
            content,
            10,
        ));
    }
    let batch = books.next(10).unwrap();
    settle(&mut books, &batch, 13);
    books
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
fn each_second_has_one_fate_and_unbilled_ones_a_reason_and_an_owner() {
    let mut books = settled(&["a:good", "a:bad", "b:dropped", "b:poison"]);
    books.apply(seen("late", Some(12), None, "a:good", 14));
    books.lose(5, "c");
    let expected = Seconds {
        ran: 10 * 4 + 3 + 5,
        delivered: 10,
        rejected: 20,
        dropped: 10,
        waiting: 3,
        unproved: 5,
    };
    assert_eq!(books.seconds(15), expected);
    balance(&books, 15);
    assert_eq!(
        books.unbilled(),
        [
            tally(Unbilled::Dropped, "a switch", "b", 10),
            tally(Unbilled::Unproved, "no_proof", "c", 5),
            tally(Unbilled::Rejected, "refused_by_sink", "a", 10),
            tally(Unbilled::Rejected, "poison", "b", 10),
        ]
    );
}

#[test]
fn rejected_pieces_come_again_when_asked_for_and_never_move_the_watermark_back() {
    let mut books = settled(&["good", "bad"]);
    assert_eq!(books.watermark(), 10);
    assert!(books.next(19).is_none(), "nobody asked for it");
    assert_eq!(books.retry_rejected(), 1);
    let again = books.next(19).unwrap();
    assert_eq!(describe(&again), ["pod-1 0..10 bad again"]);
    assert!(books.next(19).is_none(), "it is on its way");
    // Still bad: it is kept, and waits to be asked for again.
    settle(&mut books, &again, 19);
    assert_eq!(books.seconds(19).rejected, 10);
    assert!(books.next(19).is_none());
    books.retry_rejected();
    assert_eq!(deliver(&mut books, 19), ["pod-1 0..10 bad again"]);
    assert_eq!(books.seconds(19).rejected, 0);
    assert_eq!(books.seconds(19).delivered, 20);
    assert_eq!(books.rejected_pieces(), 0);
    assert_eq!(books.watermark(), 10);
    balance(&books, 19);
}

#[test]
fn what_may_pass_is_tried_again_by_itself_and_ever_more_seldom() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), Some(10), "poison", 10));
    let first = books.next(10).unwrap();
    settle(&mut books, &first, 10);
    let mut tries = Vec::new();
    for now in 10..20_000 {
        // The windows of this time are empty.
        if let Some(batch) = books.next(now) {
            tries.push(now);
            settle(&mut books, &batch, now);
        }
    }
    let pauses: Vec<_> = tries.windows(2).map(|it| it[1] - it[0]).collect();
    assert_eq!(tries[0], 70);
    assert_eq!(
        pauses,
        [120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600, 3_600]
    );
    assert_eq!(books.rejected(None).next().unwrap().1.retries, 10);
}

#[test]
fn an_object_that_is_rejected_for_long_is_a_list_of_times() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "bad", 0));
    for end in 1..=300 {
        let batch = books.next(end * 10).unwrap();
        settle(&mut books, &batch, end * 10);
    }
    let sizes: Vec<_> = books
        .rejected(None)
        .map(|(_, it)| it.pieces.len())
        .collect();
    assert_eq!(sizes, [64, 64, 64, 64, 44]);
    assert_eq!(books.rejected_pieces(), 300);
    let second = books.rejected(None).nth(1).unwrap().0.clone();
    assert_eq!(books.rejected(Some(&second)).count(), 4);
    books.retry_rejected();
    assert_eq!(deliver(&mut books, 3_000).len(), 300);
    assert_eq!(books.seconds(3_000).delivered, 3_000);
}

#[test]
fn when_too_much_is_rejected_the_owner_with_most_loses_its_oldest_and_it_is_counted() {
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
    let mut books = settled(&contents);
    let kept: Vec<_> = books
        .rejected(None)
        .map(|(_, it)| it.uid.to_string())
        .collect();
    assert_eq!(kept, ["pod-0", "pod-2", "pod-3", "pod-4"]);
    assert_eq!(books.stats().rejected_not_kept, 1);
    assert_eq!(books.seconds(13).rejected, 50, "it stays rejected");
    books.retry_rejected();
    deliver(&mut books, 13);
    assert_eq!(books.seconds(13).rejected, 10);
    balance(&books, 13);
}

#[test]
fn what_is_given_up_is_unproved_also_when_it_failed_or_was_late_or_was_rejected() {
    let mut books = settled(&["a:bad"]);
    books.apply(seen("b", Some(10), None, "b:good", 11));
    let failed = books.next(20).unwrap();
    books.settle(failed.tag, DeliveryResult::Failed);
    books.apply(seen("c", Some(15), None, "c:good", 21));
    assert_eq!(books.give_up(40), 10 + 5 + 20 + 20);
    books.forget_rejected(40);
    balance(&books, 45);
    let seconds = books.seconds(45);
    assert_eq!((seconds.unproved, seconds.waiting), (55, 10));
    let too_old = |owner, seconds| tally(Unbilled::Unproved, "max_backlog", owner, seconds);
    let unbilled = books.unbilled();
    assert!(unbilled.contains(&too_old("b", 30)), "{unbilled:?}");
    assert!(
        unbilled.contains(&too_old("c", 25)),
        "what was late as well"
    );
    // Rejected, and no longer kept.
    assert_eq!((seconds.rejected, books.rejected_pieces()), (10, 0));
    assert_eq!(books.stats().rejected_not_kept, 1);
}

#[test]
fn what_another_replica_delivered_is_its_own_to_count() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "good", 0));
    let on_its_way = books.next(10).unwrap();
    let failed = books.next(20).unwrap();
    books.settle(failed.tag, DeliveryResult::Failed);
    books.adopt(100);
    balance(&books, 105);
    assert_eq!(books.seconds(105).ran, 5);
    books.settle(on_its_way.tag, DeliveryResult::Delivered);
    balance(&books, 105);
    assert_eq!(books.seconds(105).ran, 5);
}

#[test]
fn a_state_of_an_older_program_balances() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "good", 0));
    books.lose(7, "");
    let first = books.next(10).unwrap();
    books.settle(first.tag, DeliveryResult::Delivered);
    let _on_its_way = books.next(20).unwrap();
    let changes = books.take_changes();
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
    let books: Books = Ledger::restore(interval, Accounting::Exact, checkpoint, records, []);
    balance(&books, 25);
    assert_eq!(books.seconds(25).ran, 25 + 7);
}

#[test]
fn owners_of_unbilled_time_are_bounded_and_nobody_pushes_out_one_that_loses_more() {
    let mut books = ledger(10);
    for owner in 0..1_000 {
        books.lose(1, &format!("namespace-{owner}"));
        // The first comes after so many that all places are taken.
        if owner >= 500 {
            books.lose(1, "honest");
        }
    }
    balance(&books, 10);
    let unbilled = books.unbilled();
    assert!(unbilled.len() <= 258, "{}", unbilled.len());
    let of = |owner: &str| unbilled.iter().find(|it| it.owner.as_ref() == owner);
    assert_eq!(of("honest").unwrap().seconds, 500);
    assert!(of(crate::OTHER).unwrap().seconds >= 700);
    // It comes back as it was.
    let unbilled = unbilled.clone();
    assert_eq!(restored(&mut books).unbilled(), unbilled);
}

/// The ledger that comes back from all that was written.
fn restored(books: &mut Books) -> Books {
    let interval = Interval::new(10).unwrap();
    Disk::of(books).read(interval, Accounting::Exact).unwrap()
}

/// A thousand pieces of one object, half of which may pass, come back from the disk.
#[test]
fn what_is_tried_again_is_little_at_a_time_and_lets_every_window_pass() {
    let mut books = ledger(10);
    books.apply(seen("hostile", Some(0), None, "bad", 0));
    for window in 1..=1_000 {
        let content = if window <= 500 { "bad" } else { "poison" };
        books.apply(seen("hostile", Some(0), None, content, window * 10 - 10));
        let batch = books.next(window * 10).unwrap();
        // One that is due by now waits: it is no part of this test.
        assert_eq!(batch.kind, Kind::Window);
        settle(&mut books, &batch, window * 10);
    }
    books.deleted("hostile", 10_000);
    let mut books = restored(&mut books);
    assert_eq!(books.rejected_pieces(), 1_000);
    books.apply(seen("honest", Some(10_000), None, "good", 10_000));

    let mut tried = 0;
    for window in 1_001..=1_030 {
        let now = window * 10;
        let first = books.next(now).unwrap();
        assert_eq!(
            describe(&first),
            [format!("honest {}..{now} good", now - 10)]
        );
        settle(&mut books, &first, now);
        let again: Vec<_> = std::iter::from_fn(|| books.next(now)).collect();
        assert!(again.len() <= 2, "no more than two groups are on their way");
        for batch in again {
            assert_eq!(batch.kind, Kind::Again);
            assert!(batch.pieces.len() <= 64);
            tried += batch.pieces.len();
            settle(&mut books, &batch, now);
        }
    }
    assert!(tried >= 1_000, "{tried}");
    assert_eq!(books.seconds(10_300).rejected, 10_000);
    assert_eq!(books.seconds(10_300).delivered, 300);
    balance(&books, 10_300);
}

#[test]
fn a_group_writes_its_content_once_and_a_ledger_that_came_back_writes_nothing() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "a:bad", 0));
    let mut written = Vec::new();
    for window in 1..=65 {
        let batch = books.next(window * 10).unwrap();
        settle(&mut books, &batch, window * 10);
        let changes = books.take_changes().rejected;
        assert_eq!(changes.len(), 1);
        written.extend(changes.into_values().map(|it| it.unwrap().is_new));
    }
    let new: Vec<_> = (0..65).filter(|it| written[*it]).collect();
    assert_eq!(new, [0, 64], "a group takes sixty-four");
    let mut books = restored(&mut books);
    assert!(books.take_changes().rejected.is_empty());
    // Its first piece is gone, and its name stays.
    let again = books.next(650).unwrap();
    let undelivered = again.pieces[1..].iter().cloned();
    let undelivered = undelivered
        .map(|piece| (piece, Fate::Rejected(refusal("poison", true))))
        .collect();
    books.settle(
        again.tag,
        DeliveryResult::Done {
            at: 700,
            undelivered,
        },
    );
    let changes = books.take_changes().rejected;
    assert!(changes.into_values().all(|it| !it.unwrap().is_new));
    let first = books.rejected(None).next().unwrap();
    assert_eq!((first.0.start, first.1.pieces[0]), (0, (10, 20)));
    assert_eq!(books.seconds(650).rejected, 640);
    balance(&books, 650);
}

#[test]
fn what_a_sink_says_takes_room_as_well() {
    let mut books = ledger(10);
    for pod in 0..100 {
        let owner = if pod == 0 { "honest" } else { "hostile" };
        let content = format!("{owner}:bad");
        books.apply(seen(
            &format!("pod-{pod:03}"),
            Some(0),
            Some(10),
            &content,
            10,
        ));
    }
    let batch = books.next(10).unwrap();
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
    books.settle(batch.tag, settled);
    assert_eq!(books.rejected_pieces(), 63);
    assert!(
        books
            .rejected(None)
            .any(|(_, it)| it.uid.as_ref() == "pod-000")
    );
    assert_eq!(books.stats().rejected_not_kept, 37);
    balance(&books, 10);
}

/// Where whole windows are billed, what ran never falls, and what is given up is what would have been
/// handed out.
#[test]
fn whole_windows_are_what_ran_also_ahead_and_given_up() {
    let nominal = || -> Books {
        let mut books = Ledger::new(Interval::new(10).unwrap(), Accounting::Nominal, 0);
        books.apply(seen("within", Some(2), Some(8), "a:c", 8));
        books.apply(seen("long", Some(5), Some(34), "a:c", 34));
        books.apply(seen("changed", Some(0), None, "a:c", 0));
        books.apply(seen("changed", Some(0), None, "b:c", 15));
        books
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
