//! The rules of the ledger one by one, and then any history.

mod amended;
mod better;
mod budget;
mod changes;
mod contents;
mod dated;
mod disk;
mod fates;
mod grants;
mod handover;
mod history;
mod model;
mod unproved;

use proptest::prelude::ProptestConfig;

use crate::{
    Accounting, Content, DeliveryResult, Interval, Kind, Ledger, Observation, Refusal, Times,
    Window, WindowBatch,
};

type TestLedger = Ledger<String>;

impl Content for String {
    /// The part before the colon.
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
        reason: "refused by the test".into(),
        subject: None,
        may_pass,
    }
}

/// Checks that every second has one fate.
fn balance(ledger: &TestLedger, now: i64) {
    balance_of(ledger, now);
}

/// The same of any content.
fn balance_of<C: Content>(ledger: &Ledger<C>, now: i64) {
    assert_eq!(
        *ledger.timeline.objects.waiting(),
        ledger.timeline.objects.count_waiting(),
        "the running count of waiting segments is exact"
    );
    let seconds = ledger.seconds(now);
    let sum =
        seconds.delivered + seconds.rejected + seconds.dropped + seconds.waiting + seconds.unproved;
    assert_eq!(seconds.ran, sum, "{seconds:?}");
    let unbilled: i64 = ledger.unbilled().iter().map(|it| it.seconds).sum();
    assert_eq!(
        unbilled,
        seconds.rejected + seconds.dropped + seconds.unproved,
        "{:?}",
        ledger.unbilled()
    );
}

fn ledger(interval: i64) -> TestLedger {
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
        times: Times::default(),
    }
}

/// How many histories to try, some thousands per second. `PROPTEST_CASES` overrides it.
fn histories(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}

/// Whether no object is kept.
fn entries_are_empty(ledger: &TestLedger) -> bool {
    ledger.timeline.objects.is_empty()
}

/// Delivers everything that can be handed out now. Returns `uid start..end content` of each piece.
fn deliver(ledger: &mut TestLedger, complete_until: i64) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(batch) = ledger.next(complete_until) {
        lines.extend(describe(&batch));
        ledger.settle(batch.tag, DeliveryResult::Delivered);
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
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(3), None, "x", 3));
    ledger.apply(seen("a", Some(3), None, "y", 14));
    ledger.apply(seen("a", Some(3), Some(17), "y", 18));
    assert_eq!(
        deliver(&mut ledger, 40),
        ["a 3..10 x", "a 10..14 x", "a 14..17 y"]
    );
    assert_eq!(ledger.watermark(), 40);
    assert_eq!(ledger.stats().billed_seconds, 14);
}

#[test]
fn a_window_waits_until_it_is_complete() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "x", 0));
    assert_eq!(ledger.next_due(), 10);
    assert!(ledger.next(9).is_none());
    assert_eq!(deliver(&mut ledger, 10), ["a 0..10 x"]);
    assert!(
        ledger.next(5).is_none(),
        "a clock that goes back changes nothing"
    );
}

#[test]
fn the_watermark_moves_in_order_and_only_on_delivery() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "x", 0));
    let first = ledger.next(20).unwrap();
    let second = ledger.next(20).unwrap();
    ledger.settle(second.tag, DeliveryResult::Delivered);
    assert_eq!(ledger.watermark(), 0);
    ledger.settle(first.tag, DeliveryResult::Failed);
    assert_eq!(ledger.watermark(), 0);
    ledger.settle(first.tag, DeliveryResult::Delivered);
    assert_eq!(ledger.watermark(), 0, "a batch is settled once");
    let again = ledger.next(20).unwrap();
    assert_eq!(again.window, first.window);
    assert_eq!(again.pieces, first.pieces);
    ledger.settle(again.tag, DeliveryResult::Delivered);
    assert_eq!(ledger.watermark(), 20);
}

#[test]
fn a_window_in_flight_does_not_change() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(5), None, "x", 5));
    let first = ledger.next(10).unwrap();
    ledger.apply(seen("a", Some(2), Some(7), "y", 11));
    ledger.settle(first.tag, DeliveryResult::Failed);
    let again = ledger.next(10).unwrap();
    assert_eq!(again.pieces, first.pieces);
    ledger.settle(again.tag, DeliveryResult::Delivered);
    assert_eq!(deliver(&mut ledger, 30), ["a 2..5 x late"]);
    assert_eq!(ledger.stats().overbilled_seconds, 3);
}

#[test]
fn a_life_that_is_learned_late_has_the_same_pieces() {
    let mut ledger = ledger(10);
    assert!(deliver(&mut ledger, 30).is_empty());
    ledger.apply(seen("a", Some(4), None, "x", 33));
    assert_eq!(
        deliver(&mut ledger, 40),
        [
            "a 4..10 x late",
            "a 10..20 x late",
            "a 20..30 x late",
            "a 30..40 x"
        ]
    );
    assert_eq!(ledger.stats().late_seconds, 26);
}

#[test]
fn late_pieces_that_failed_are_handed_out_again() {
    let mut ledger = ledger(10);
    assert!(deliver(&mut ledger, 20).is_empty());
    ledger.apply(seen("a", Some(4), Some(6), "x", 23));
    let first = ledger.next(20).unwrap();
    ledger.settle(first.tag, DeliveryResult::Failed);
    assert_eq!(deliver(&mut ledger, 20), ["a 4..6 x late"]);
}

#[test]
fn a_restarted_container_changes_nothing() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(2), None, "x", 2));
    ledger.apply(seen("a", Some(8), None, "x", 8));
    assert_eq!(deliver(&mut ledger, 10), ["a 2..10 x"]);
}

#[test]
fn a_pod_that_does_not_run_is_not_billed() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", None, None, "x", 2));
    ledger.deleted("a", 5);
    ledger.apply(seen("b", Some(5), Some(5), "x", 6));
    assert!(deliver(&mut ledger, 20).is_empty());
}

#[test]
fn a_change_in_the_second_of_the_start_replaces_the_content() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(2), None, "x", 2));
    ledger.apply(Observation {
        content_since: Some(2),
        ..seen("a", Some(2), None, "y", 6)
    });
    assert_eq!(deliver(&mut ledger, 10), ["a 2..10 y"]);
}

#[test]
fn a_change_counts_from_when_it_was_written() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(2), None, "x", 2));
    ledger.apply(Observation {
        content_since: Some(5),
        ..seen("a", Some(2), None, "y", 7)
    });
    assert_eq!(deliver(&mut ledger, 10), ["a 2..5 x", "a 5..10 y"]);
    // The write lies before the end of what was handed out, so the change counts from there.
    ledger.apply(Observation {
        content_since: Some(8),
        ..seen("a", Some(2), None, "z", 12)
    });
    assert_eq!(deliver(&mut ledger, 20), ["a 10..20 z"]);
}

#[test]
fn a_removal_counts_from_when_it_was_observed() {
    // A removal leaves no time in the object: the newest write was known before.
    let at = |since, content: &str, now| Observation {
        content_since: Some(since),
        ..seen("a", Some(2), None, content, now)
    };
    let mut ledger = ledger(10);
    ledger.apply(at(2, "labelled", 2));
    ledger.apply(at(2, "bare", 7));
    assert_eq!(
        deliver(&mut ledger, 10),
        ["a 2..7 labelled", "a 7..10 bare"]
    );
    // After an outage, too: what waits to be handed out ran with the label.
    ledger.apply(at(12, "labelled", 13));
    ledger.apply(at(12, "bare", 45));
    assert_eq!(
        deliver(&mut ledger, 50),
        [
            "a 10..12 bare",
            "a 12..20 labelled",
            "a 20..30 labelled",
            "a 30..40 labelled",
            "a 40..45 labelled",
            "a 45..50 bare"
        ]
    );
    // The same after a write that changed nothing that is billed.
    ledger.apply(at(52, "bare", 53));
    ledger.apply(at(52, "other", 56));
    assert_eq!(
        deliver(&mut ledger, 60),
        ["a 50..56 bare", "a 56..60 other"]
    );
    // Two writes in one second, of which the second was seen in the next.
    ledger.apply(at(63, "one", 63));
    ledger.apply(at(63, "two", 64));
    assert_eq!(deliver(&mut ledger, 70), ["a 60..63 other", "a 63..70 two"]);
}

#[test]
fn a_finished_pod_is_not_billed_again_while_it_exists() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(2), Some(6), "x", 6));
    assert_eq!(deliver(&mut ledger, 100), ["a 2..6 x"]);
    ledger.apply(seen("a", Some(2), Some(6), "x", 101));
    assert!(deliver(&mut ledger, 200).is_empty());
    ledger.deleted("a", 201);
    assert!(entries_are_empty(&ledger));
    ledger.apply(seen("b", Some(202), Some(206), "x", 206));
    ledger.deleted("b", 206);
    assert_eq!(deliver(&mut ledger, 260), ["b 202..206 x"]);
    assert!(
        !entries_are_empty(&ledger),
        "the object may still turn out to run"
    );
    deliver(&mut ledger, 270);
    assert!(entries_are_empty(&ledger));
}

#[test]
fn a_life_that_resumes_has_no_gap() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "x", 0));
    ledger.deleted("a", 4);
    assert_eq!(deliver(&mut ledger, 20), ["a 0..4 x"]);
    ledger.apply(seen("a", Some(0), None, "x", 25));
    assert_eq!(
        deliver(&mut ledger, 30),
        ["a 4..10 x late", "a 10..20 x late", "a 20..30 x"]
    );
    assert_eq!(ledger.stats().overbilled_seconds, 0);
}

#[test]
fn a_life_that_resumes_is_billed_once_when_billed_late() {
    let mut ledger = ledger(10);
    assert!(deliver(&mut ledger, 30).is_empty());
    ledger.apply(seen("a", Some(3), None, "x", 31));
    let first = ledger.next(30).unwrap();
    assert_eq!(describe(&first), ["a 3..10 x late"]);
    ledger.deleted("a", 5);
    assert_eq!(ledger.stats().overbilled_seconds, 5);
    ledger.apply(seen("a", Some(3), None, "x", 33));
    ledger.settle(first.tag, DeliveryResult::Delivered);
    assert_eq!(
        deliver(&mut ledger, 40),
        ["a 10..20 x late", "a 20..30 x late", "a 30..40 x"]
    );
    assert_eq!(ledger.stats().overbilled_seconds, 0);
}

#[test]
fn time_billed_after_a_late_span_is_not_billed_again() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(8), None, "x", 8));
    assert_eq!(deliver(&mut ledger, 30).len(), 3);
    ledger.apply(seen("a", Some(3), None, "x", 31));
    ledger.deleted("a", 5);
    assert_eq!(ledger.stats().overbilled_seconds, 22);
    assert_eq!(deliver(&mut ledger, 30), ["a 3..5 x late"]);
    ledger.apply(seen("a", Some(3), None, "x", 33));
    assert_eq!(deliver(&mut ledger, 40), ["a 5..8 x late", "a 30..40 x"]);
    assert_eq!(ledger.stats().overbilled_seconds, 0);
}

#[test]
fn a_standby_keeps_only_recent_spans_of_what_another_replica_delivers() {
    let mut ledger = ledger(1);
    ledger.begin_at(1_000);
    ledger.apply(seen("old", Some(100), None, "x", 1_002));
    ledger.apply(seen("new", Some(990), None, "x", 1_002));
    for delivered in 1_001..1_100 {
        ledger.adopt(delivered);
        let kept: Vec<_> = ledger.timeline.late.uids().collect();
        assert!(kept.iter().all(|uid| &***uid == "new"), "{kept:?}");
        assert_eq!(kept.is_empty(), delivered >= 1_062);
    }
}

#[test]
fn nothing_before_the_horizon_is_billed() {
    let mut ledger: TestLedger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 100);
    ledger.apply(seen("old", Some(3), Some(50), "x", 101));
    ledger.apply(seen("a", Some(3), None, "x", 101));
    assert_eq!(deliver(&mut ledger, 110), ["a 100..110 x"]);
}

#[test]
fn nominal_bills_whole_windows_for_what_ran_when_they_began() {
    let mut ledger: TestLedger = Ledger::new(Interval::new(10).unwrap(), Accounting::Nominal, 0);
    ledger.apply(seen("a", Some(0), Some(3), "x", 3));
    ledger.apply(seen("b", Some(4), Some(6), "x", 6));
    ledger.apply(seen("c", Some(5), None, "x", 6));
    assert_eq!(deliver(&mut ledger, 20), ["a 0..10 x", "c 10..20 x"]);
}

#[test]
fn extreme_times_do_not_overflow() {
    for (start, end) in [
        (Some(i64::MIN), None),
        (Some(i64::MAX), None),
        (Some(i64::MIN), Some(i64::MAX)),
        (Some(i64::MAX), Some(i64::MIN)),
    ] {
        let mut ledger = ledger(10);
        ledger.apply(Observation {
            content_since: Some(i64::MIN),
            ..seen("a", start, None, "x", i64::MAX)
        });
        ledger.apply(seen("a", start, end, "y", i64::MIN));
        ledger.deleted("a", i64::MIN);
        let _ = ledger.next(20);
    }
}

#[test]
fn a_window_after_an_unaligned_boundary_ends_at_the_next_aligned_one() {
    let mut ledger: TestLedger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 7);
    ledger.apply(seen("a", Some(0), None, "x", 8));
    let batch = ledger.next(20).unwrap();
    assert_eq!(batch.window, Window { start: 7, end: 10 });
}

#[test]
fn usage_that_is_given_up_is_counted_and_not_billed() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(3), None, "x", 3));
    let first = ledger.next(10).unwrap();
    ledger.settle(first.tag, DeliveryResult::Failed);
    assert_eq!(ledger.give_up(25), 17);
    assert_eq!((ledger.watermark(), ledger.stats().lost_seconds), (20, 17));
    assert_eq!(deliver(&mut ledger, 40), ["a 20..30 x", "a 30..40 x"]);
    assert_eq!(ledger.give_up(25), 0);
    assert_eq!(ledger.stats().billed_seconds, 20);
}

#[test]
fn a_batch_in_flight_is_not_given_up() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(3), None, "x", 3));
    let first = ledger.next(10).unwrap();
    assert_eq!(ledger.give_up(25), 10);
    assert_eq!(ledger.give_up(25), 0, "lost time is counted once");
    assert_eq!(ledger.watermark(), 0, "the first window is in flight");
    ledger.settle(first.tag, DeliveryResult::Delivered);
    assert_eq!((ledger.watermark(), ledger.stats().lost_seconds), (20, 10));
    assert_eq!(deliver(&mut ledger, 30), ["a 20..30 x"]);
    assert_eq!(ledger.stats().billed_seconds, 17);
}

#[test]
fn late_spans_are_given_up_and_counted_as_well() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(0), None, "x", 0));
    let handed_out: Vec<_> = std::iter::from_fn(|| ledger.next(30)).collect();
    assert_eq!(handed_out.len(), 3);
    ledger.apply(seen("b", Some(3), None, "x", 31));
    assert_eq!(ledger.give_up(20), 17);
    assert_eq!(deliver(&mut ledger, 30), ["b 20..30 x late"]);
    for batch in handed_out {
        ledger.settle(batch.tag, DeliveryResult::Delivered);
    }
    assert_eq!((ledger.watermark(), ledger.stats().lost_seconds), (30, 17));
    assert_eq!(ledger.stats().billed_seconds, 40);
}

#[test]
fn an_object_that_comes_into_scope_is_billed_from_then_on() {
    let mut ledger = ledger(10);
    let at = |since: Option<i64>, now| Observation {
        in_scope_since: since,
        ..seen("a", Some(5), None, "x", now)
    };
    assert!(deliver(&mut ledger, 30).is_empty());
    ledger.apply(at(Some(34), 35));
    // Later observations report the start again.
    ledger.apply(at(None, 36));
    assert_eq!(deliver(&mut ledger, 40), ["a 34..40 x"]);
    ledger.deleted("a", 45);
    assert_eq!(deliver(&mut ledger, 60), ["a 40..45 x"]);
    // The object went out of scope, and comes back into it.
    ledger.apply(at(Some(67), 68));
    assert_eq!(deliver(&mut ledger, 70), ["a 67..70 x"]);
    ledger.deleted("a", 75);
    assert_eq!(deliver(&mut ledger, 90), ["a 70..75 x"]);
}
