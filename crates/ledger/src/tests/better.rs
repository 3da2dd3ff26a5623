//! Times that are known better later.

use super::*;
use crate::Certainty;

fn told(
    start: (i64, Certainty),
    end: Option<(i64, Certainty)>,
    scope: Option<i64>,
    at: i64,
) -> Observation<String> {
    Observation {
        in_scope_since: scope,
        times: Times {
            start: start.1,
            end: end.map_or_else(Certainty::default, |it| it.1),
            ahead: 0,
        },
        ..seen("a", Some(start.0), end.map(|it| it.0), "x", at)
    }
}

const EXACT: (i64, Certainty) = (1, Certainty::Exact);

#[test]
fn a_better_end_that_comes_in_time_replaces_the_one_that_was_known() {
    for (known, better) in [(8, 5), (8, 9), (8, 27), (30, 8)] {
        let mut ledger = ledger(10);
        ledger.apply(told(EXACT, Some((known, Certainty::Assumed)), None, 5));
        ledger.apply(told(EXACT, Some((better, Certainty::Exact)), None, 9));
        // What is less certain does not replace it.
        for certainty in [Certainty::Assumed, Certainty::Seen, Certainty::Recorded] {
            ledger.apply(told(EXACT, Some((22, certainty)), None, 9));
        }
        ledger.deleted("a", 29);
        let billed: i64 = deliver_seconds(&mut ledger, 60);
        assert_eq!(billed, better - 1, "{known} {better}");
        assert_eq!(ledger.stats().overbilled_seconds, 0);
        assert_eq!(ledger.stats().late_seconds, 0);
    }
}

fn deliver_seconds(ledger: &mut TestLedger, until: i64) -> i64 {
    deliver(ledger, until);
    ledger.stats().billed_seconds
}

#[test]
fn a_later_end_that_comes_late_makes_late_pieces_of_their_own() {
    let mut ledger = ledger(10);
    ledger.apply(told(EXACT, Some((8, Certainty::Seen)), None, 8));
    assert_eq!(deliver(&mut ledger, 20), ["a 1..8 x"]);
    ledger.apply(told(EXACT, Some((24, Certainty::Exact)), None, 25));
    assert_eq!(
        deliver(&mut ledger, 40),
        ["a 8..10 x late", "a 10..20 x late", "a 20..24 x"]
    );
    assert_eq!(ledger.stats().overbilled_seconds, 0);
}

#[test]
fn an_earlier_end_that_comes_late_is_counted_as_overbilled_once() {
    let mut ledger = ledger(10);
    ledger.apply(told(EXACT, Some((26, Certainty::Assumed)), None, 8));
    assert_eq!(deliver(&mut ledger, 20), ["a 1..10 x", "a 10..20 x"]);
    for _ in 0..2 {
        ledger.apply(told(EXACT, Some((13, Certainty::Exact)), None, 21));
        assert_eq!(ledger.stats().overbilled_seconds, 7);
    }
    assert!(deliver(&mut ledger, 40).is_empty());
    // It ran on after all, for two of these seconds.
    ledger.apply(told(EXACT, Some((15, Certainty::Exact)), None, 41));
    assert_eq!(ledger.stats().overbilled_seconds, 5);
    assert!(deliver(&mut ledger, 60).is_empty());
}

#[test]
fn a_start_that_was_assumed_is_replaced_before_its_window_and_counted_after_it() {
    let assumed = (2, Certainty::Assumed);
    let mut early = ledger(10);
    early.apply(told(assumed, None, None, 4));
    early.apply(told((6, Certainty::Exact), None, None, 7));
    // An assumption does not move a start that is known.
    early.apply(told((0, Certainty::Assumed), None, None, 8));
    assert_eq!(deliver(&mut early, 10), ["a 6..10 x"]);
    assert_eq!(early.stats().overbilled_seconds, 0);

    let mut late = ledger(10);
    late.apply(told(assumed, None, None, 4));
    assert_eq!(deliver(&mut late, 10), ["a 2..10 x"]);
    for _ in 0..2 {
        late.apply(told((6, Certainty::Exact), None, None, 12));
        assert_eq!(late.stats().overbilled_seconds, 4);
    }
    assert_eq!(deliver(&mut late, 20), ["a 10..20 x"]);
}

#[test]
fn an_object_that_runs_again_has_two_stretches_and_what_lies_between_stays_overbilled() {
    let end = |end| Some((end, Certainty::Exact));
    let mut ledger = ledger(10);
    ledger.apply(told(EXACT, None, None, 1));
    assert_eq!(deliver(&mut ledger, 20), ["a 1..10 x", "a 10..20 x"]);
    ledger.apply(told(EXACT, end(12), None, 21));
    assert_eq!(ledger.stats().overbilled_seconds, 8);
    // It runs again since 17, and what was billed from then on was right.
    ledger.apply(told(EXACT, None, Some(17), 22));
    assert_eq!(ledger.stats().overbilled_seconds, 5);
    ledger.apply(told(EXACT, end(25), None, 25));
    // And once more, which is seen only when it is over.
    ledger.apply(told(EXACT, end(41), Some(33), 42));
    assert_eq!(
        deliver(&mut ledger, 50),
        ["a 20..25 x", "a 33..40 x", "a 40..41 x"]
    );
    assert_eq!(ledger.stats().overbilled_seconds, 5);
}
