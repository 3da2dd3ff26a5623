//! The rules of the ledger, one by one, and then any history at all.

mod budget;
mod changes;
mod contents;
mod disk;
mod fates;
mod handover;
mod history;
mod model;
mod unproved;

use proptest::prelude::ProptestConfig;

use crate::{
    Accounting, Content, DeliveryResult, Interval, Kind, Ledger, Observation, Refusal, Window,
    WindowBatch,
};

type Books = Ledger<String>;

impl Content for String {
    /// `owner:anything` is the owner's.
    fn owner(&self) -> &str {
        self.split_once(':').map_or("", |(owner, _)| owner)
    }

    fn weight(&self) -> usize {
        self.len()
    }
}

fn refusal(cause: &str, may_pass: bool) -> Refusal {
    Refusal {
        cause: cause.into(),
        component: "mapping".into(),
        reason: "as the test wants it".into(),
        subject: None,
        may_pass,
    }
}

/// Every second has one fate.
fn balance(books: &Books, now: i64) {
    assert_eq!(
        *books.timeline.objects.waiting(),
        books.timeline.objects.count_waiting(),
        "what waits is counted as it changes"
    );
    let seconds = books.seconds(now);
    let sum =
        seconds.delivered + seconds.rejected + seconds.dropped + seconds.waiting + seconds.unproved;
    assert_eq!(seconds.ran, sum, "{seconds:?}");
    let unbilled: i64 = books.unbilled().iter().map(|it| it.seconds).sum();
    assert_eq!(
        unbilled,
        seconds.rejected + seconds.dropped + seconds.unproved,
        "{:?}",
        books.unbilled()
    );
}

fn ledger(interval: i64) -> Books {
    Ledger::new(Interval::new(interval).unwrap(), Accounting::Exact, 0)
}

fn seen(
    uid: &str,
    start: Option<i64>,
    end: Option<i64>,
    content: &str,
    at: i64,
) -> Observation<String> {
    Observation {
        uid: uid.into(),
        start,
        end,
        content: content.to_owned(),
        content_since: None,
        observed_at: at,
        in_scope_since: None,
    }
}

/// So many histories, some thousands a second; `PROPTEST_CASES` says otherwise.
fn histories(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}

/// Whether nothing is remembered of any object.
fn entries_are_empty(books: &Books) -> bool {
    books.timeline.objects.is_empty()
}

/// Everything that can be handed out now, delivered: `uid start..end content`.
fn deliver(books: &mut Books, complete_until: i64) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(batch) = books.next(complete_until) {
        lines.extend(describe(&batch));
        books.settle(batch.tag, DeliveryResult::Delivered);
    }
    lines
}

fn describe(batch: &WindowBatch<String>) -> Vec<String> {
    let late = match batch.kind {
        Kind::Window => "",
        Kind::Late => " late",
        Kind::Again => " again",
    };
    batch
        .pieces
        .iter()
        .map(|it| format!("{} {}..{} {}{late}", it.uid, it.start, it.end, it.content))
        .collect()
}

#[test]
fn a_life_is_cut_by_windows_and_by_changes() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(3), None, "x", 3));
    books.apply(seen("a", Some(3), None, "y", 14));
    books.apply(seen("a", Some(3), Some(17), "y", 18));
    assert_eq!(
        deliver(&mut books, 40),
        ["a 3..10 x", "a 10..14 x", "a 14..17 y"]
    );
    assert_eq!(books.watermark(), 40);
    assert_eq!(books.stats().billed_seconds, 14);
}

#[test]
fn a_window_waits_until_it_is_complete() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "x", 0));
    assert_eq!(books.next_due(), 10);
    assert!(books.next(9).is_none());
    assert_eq!(deliver(&mut books, 10), ["a 0..10 x"]);
    assert!(
        books.next(5).is_none(),
        "a clock that goes back changes nothing"
    );
}

#[test]
fn the_watermark_moves_in_order_and_only_on_delivery() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "x", 0));
    let first = books.next(20).unwrap();
    let second = books.next(20).unwrap();
    books.settle(second.tag, DeliveryResult::Delivered);
    assert_eq!(books.watermark(), 0);
    books.settle(first.tag, DeliveryResult::Failed);
    assert_eq!(books.watermark(), 0);
    books.settle(first.tag, DeliveryResult::Delivered);
    assert_eq!(books.watermark(), 0, "a tag counts once");
    let again = books.next(20).unwrap();
    assert_eq!(again.window, first.window);
    assert_eq!(again.pieces, first.pieces);
    books.settle(again.tag, DeliveryResult::Delivered);
    assert_eq!(books.watermark(), 20);
}

#[test]
fn a_window_in_flight_does_not_change_by_what_is_learned() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(5), None, "x", 5));
    let first = books.next(10).unwrap();
    books.apply(seen("a", Some(2), Some(7), "y", 11));
    books.settle(first.tag, DeliveryResult::Failed);
    let again = books.next(10).unwrap();
    assert_eq!(again.pieces, first.pieces);
    books.settle(again.tag, DeliveryResult::Delivered);
    assert_eq!(deliver(&mut books, 30), ["a 2..5 x late"]);
    assert_eq!(books.stats().overbilled_seconds, 3);
}

#[test]
fn a_life_learned_of_late_has_the_pieces_it_would_have_had() {
    let mut books = ledger(10);
    assert!(deliver(&mut books, 30).is_empty());
    books.apply(seen("a", Some(4), None, "x", 33));
    assert_eq!(
        deliver(&mut books, 40),
        [
            "a 4..10 x late",
            "a 10..20 x late",
            "a 20..30 x late",
            "a 30..40 x"
        ]
    );
    assert_eq!(books.stats().late_seconds, 26);
}

#[test]
fn late_pieces_that_failed_come_again() {
    let mut books = ledger(10);
    assert!(deliver(&mut books, 20).is_empty());
    books.apply(seen("a", Some(4), Some(6), "x", 23));
    let first = books.next(20).unwrap();
    books.settle(first.tag, DeliveryResult::Failed);
    assert_eq!(deliver(&mut books, 20), ["a 4..6 x late"]);
}

#[test]
fn a_restarted_container_changes_nothing() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(2), None, "x", 2));
    books.apply(seen("a", Some(8), None, "x", 8));
    assert_eq!(deliver(&mut books, 10), ["a 2..10 x"]);
}

#[test]
fn a_pod_that_does_not_run_is_not_billed() {
    let mut books = ledger(10);
    books.apply(seen("a", None, None, "x", 2));
    books.deleted("a", 5);
    books.apply(seen("b", Some(5), Some(5), "x", 6));
    assert!(deliver(&mut books, 20).is_empty());
}

#[test]
fn a_change_in_the_second_of_the_start_replaces_the_content() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(2), None, "x", 2));
    books.apply(Observation {
        content_since: Some(2),
        ..seen("a", Some(2), None, "y", 6)
    });
    assert_eq!(deliver(&mut books, 10), ["a 2..10 y"]);
}

#[test]
fn a_change_counts_from_when_it_was_written() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(2), None, "x", 2));
    books.apply(Observation {
        content_since: Some(5),
        ..seen("a", Some(2), None, "y", 7)
    });
    assert_eq!(deliver(&mut books, 10), ["a 2..5 x", "a 5..10 y"]);
    // Written before what was handed out ended: from there on.
    books.apply(Observation {
        content_since: Some(8),
        ..seen("a", Some(2), None, "z", 12)
    });
    assert_eq!(deliver(&mut books, 20), ["a 10..20 z"]);
}

#[test]
fn what_is_taken_away_counts_from_when_it_was_seen() {
    // A removal leaves no time in the object: the newest write is one that was known before.
    let at = |since, content: &str, now| Observation {
        content_since: Some(since),
        ..seen("a", Some(2), None, content, now)
    };
    let mut books = ledger(10);
    books.apply(at(2, "labelled", 2));
    books.apply(at(2, "bare", 7));
    assert_eq!(deliver(&mut books, 10), ["a 2..7 labelled", "a 7..10 bare"]);
    // So it is after an outage, too: what waits to be handed out ran with the label.
    books.apply(at(12, "labelled", 13));
    books.apply(at(12, "bare", 45));
    assert_eq!(
        deliver(&mut books, 50),
        [
            "a 10..12 bare",
            "a 12..20 labelled",
            "a 20..30 labelled",
            "a 30..40 labelled",
            "a 40..45 labelled",
            "a 45..50 bare"
        ]
    );
    // And after a write that changed nothing that is billed.
    books.apply(at(52, "bare", 53));
    books.apply(at(52, "other", 56));
    assert_eq!(deliver(&mut books, 60), ["a 50..56 bare", "a 56..60 other"]);
    // Two writes in one second, of which the second was seen in the next.
    books.apply(at(63, "one", 63));
    books.apply(at(63, "two", 64));
    assert_eq!(deliver(&mut books, 70), ["a 60..63 other", "a 63..70 two"]);
}

#[test]
fn a_finished_pod_is_not_billed_again_while_it_exists() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(2), Some(6), "x", 6));
    assert_eq!(deliver(&mut books, 100), ["a 2..6 x"]);
    books.apply(seen("a", Some(2), Some(6), "x", 101));
    assert!(deliver(&mut books, 200).is_empty());
    books.deleted("a", 201);
    assert!(entries_are_empty(&books));
    books.apply(seen("b", Some(202), Some(206), "x", 206));
    books.deleted("b", 206);
    assert_eq!(deliver(&mut books, 260), ["b 202..206 x"]);
    assert!(!entries_are_empty(&books), "it may still turn out to run");
    deliver(&mut books, 270);
    assert!(entries_are_empty(&books));
}

#[test]
fn what_was_taken_for_gone_and_runs_goes_on_without_a_hole() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "x", 0));
    books.deleted("a", 4);
    assert_eq!(deliver(&mut books, 20), ["a 0..4 x"]);
    books.apply(seen("a", Some(0), None, "x", 25));
    assert_eq!(
        deliver(&mut books, 30),
        ["a 4..10 x late", "a 10..20 x late", "a 20..30 x"]
    );
    assert_eq!(books.stats().overbilled_seconds, 0);
}

#[test]
fn what_was_taken_for_gone_while_it_was_billed_late_is_billed_once() {
    let mut books = ledger(10);
    assert!(deliver(&mut books, 30).is_empty());
    books.apply(seen("a", Some(3), None, "x", 31));
    let first = books.next(30).unwrap();
    assert_eq!(describe(&first), ["a 3..10 x late"]);
    books.deleted("a", 5);
    assert_eq!(books.stats().overbilled_seconds, 5);
    books.apply(seen("a", Some(3), None, "x", 33));
    books.settle(first.tag, DeliveryResult::Delivered);
    assert_eq!(
        deliver(&mut books, 40),
        ["a 10..20 x late", "a 20..30 x late", "a 30..40 x"]
    );
    assert_eq!(books.stats().overbilled_seconds, 0);
}

#[test]
fn what_was_billed_behind_a_late_stretch_is_not_billed_again() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(8), None, "x", 8));
    assert_eq!(deliver(&mut books, 30).len(), 3);
    books.apply(seen("a", Some(3), None, "x", 31));
    books.deleted("a", 5);
    assert_eq!(books.stats().overbilled_seconds, 22);
    assert_eq!(deliver(&mut books, 30), ["a 3..5 x late"]);
    books.apply(seen("a", Some(3), None, "x", 33));
    assert_eq!(deliver(&mut books, 40), ["a 5..8 x late", "a 30..40 x"]);
    assert_eq!(books.stats().overbilled_seconds, 0);
}

#[test]
fn a_standby_keeps_of_what_another_delivers_only_what_may_be_news() {
    let mut books = ledger(1);
    books.begin_at(1_000);
    books.apply(seen("old", Some(100), None, "x", 1_002));
    books.apply(seen("new", Some(990), None, "x", 1_002));
    for delivered in 1_001..1_100 {
        books.adopt(delivered);
        let kept: Vec<_> = books.timeline.late.uids().collect();
        assert!(kept.iter().all(|uid| &***uid == "new"), "{kept:?}");
        assert_eq!(kept.is_empty(), delivered >= 1_062);
    }
}

#[test]
fn what_lies_before_the_horizon_is_not_billed() {
    let mut books: Books = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 100);
    books.apply(seen("old", Some(3), Some(50), "x", 101));
    books.apply(seen("a", Some(3), None, "x", 101));
    assert_eq!(deliver(&mut books, 110), ["a 100..110 x"]);
}

#[test]
fn nominal_bills_whole_windows_for_what_ran_when_they_began() {
    let mut books: Books = Ledger::new(Interval::new(10).unwrap(), Accounting::Nominal, 0);
    books.apply(seen("a", Some(0), Some(3), "x", 3));
    books.apply(seen("b", Some(4), Some(6), "x", 6));
    books.apply(seen("c", Some(5), None, "x", 6));
    assert_eq!(deliver(&mut books, 20), ["a 0..10 x", "c 10..20 x"]);
}

#[test]
fn hostile_times_are_survived() {
    for (start, end) in [
        (Some(i64::MIN), None),
        (Some(i64::MAX), None),
        (Some(i64::MIN), Some(i64::MAX)),
        (Some(i64::MAX), Some(i64::MIN)),
    ] {
        let mut books = ledger(10);
        books.apply(Observation {
            content_since: Some(i64::MIN),
            ..seen("a", start, None, "x", i64::MAX)
        });
        books.apply(seen("a", start, end, "y", i64::MIN));
        books.deleted("a", i64::MIN);
        let _ = books.next(20);
    }
}

#[test]
fn windows_after_a_border_that_is_not_aligned_end_at_the_next_aligned_one() {
    let mut books: Books = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 7);
    books.apply(seen("a", Some(0), None, "x", 8));
    let batch = books.next(20).unwrap();
    assert_eq!(batch.window, Window { start: 7, end: 10 });
}

#[test]
fn what_is_given_up_is_counted_and_not_billed() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(3), None, "x", 3));
    let first = books.next(10).unwrap();
    books.settle(first.tag, DeliveryResult::Failed);
    assert_eq!(books.give_up(25), 17);
    assert_eq!((books.watermark(), books.stats().lost_seconds), (20, 17));
    assert_eq!(deliver(&mut books, 40), ["a 20..30 x", "a 30..40 x"]);
    assert_eq!(books.give_up(25), 0);
    assert_eq!(books.stats().billed_seconds, 20);
}

#[test]
fn what_may_still_arrive_is_not_given_up() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(3), None, "x", 3));
    let first = books.next(10).unwrap();
    assert_eq!(books.give_up(25), 10);
    assert_eq!(books.give_up(25), 0, "it is counted once");
    assert_eq!(books.watermark(), 0, "the first one is on its way");
    books.settle(first.tag, DeliveryResult::Delivered);
    assert_eq!((books.watermark(), books.stats().lost_seconds), (20, 10));
    assert_eq!(deliver(&mut books, 30), ["a 20..30 x"]);
    assert_eq!(books.stats().billed_seconds, 17);
}

#[test]
fn what_was_learned_late_is_given_up_and_counted_as_well() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(0), None, "x", 0));
    let handed_out: Vec<_> = std::iter::from_fn(|| books.next(30)).collect();
    assert_eq!(handed_out.len(), 3);
    books.apply(seen("b", Some(3), None, "x", 31));
    assert_eq!(books.give_up(20), 17);
    assert_eq!(deliver(&mut books, 30), ["b 20..30 x late"]);
    for batch in handed_out {
        books.settle(batch.tag, DeliveryResult::Delivered);
    }
    assert_eq!((books.watermark(), books.stats().lost_seconds), (30, 17));
    assert_eq!(books.stats().billed_seconds, 40);
}

#[test]
fn what_comes_into_scope_is_billed_from_then_on() {
    let mut books = ledger(10);
    let at = |since: Option<i64>, now| Observation {
        in_scope_since: since,
        ..seen("a", Some(5), None, "x", now)
    };
    assert!(deliver(&mut books, 30).is_empty());
    books.apply(at(Some(34), 35));
    // What is seen of it later says again when it started.
    books.apply(at(None, 36));
    assert_eq!(deliver(&mut books, 40), ["a 34..40 x"]);
    books.deleted("a", 45);
    assert_eq!(deliver(&mut books, 60), ["a 40..45 x"]);
    // It went out of scope, and comes back into it.
    books.apply(at(Some(67), 68));
    assert_eq!(deliver(&mut books, 70), ["a 67..70 x"]);
    books.deleted("a", 75);
    assert_eq!(deliver(&mut books, 90), ["a 70..75 x"]);
}
