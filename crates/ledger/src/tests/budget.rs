//! Budgets of waiting segments.

use super::{TestLedger, deliver, ledger, seen};
use crate::{Budget, DeliveryResult, Waiting};

const BUDGET: Budget = Budget {
    segments: 2,
    bytes: 1_000,
};

/// A content is a number, which is billed, followed by a letter, which is a label.
fn see(ledger: &mut TestLedger, uid: &str, content: &str, at: i64) -> Waiting {
    let bill = |it: &String| Some(it.trim_end_matches(char::is_alphabetic).to_owned());
    ledger.apply_within(seen(uid, Some(0), None, content, at), BUDGET, bill)
}

#[test]
fn beyond_the_budget_the_first_label_is_kept() {
    let mut ledger = ledger(100);
    let seen: Vec<_> = ["1a", "1b", "1c", "1d", "1e"]
        .into_iter()
        .zip(0..)
        .map(|(content, at)| see(&mut ledger, "x", content, 10 * at))
        .collect();
    let within = Waiting::Within;
    assert_eq!(
        seen,
        [within, within, within, Waiting::Joined, Waiting::Joined]
    );
    assert_eq!(
        deliver(&mut ledger, 100),
        ["x 0..10 1a", "x 10..40 1b", "x 40..100 1e"]
    );
    super::balance(&ledger, 100);
}

#[test]
fn segments_that_are_billed_differently_are_never_joined_and_lose_only_labels() {
    let mut ledger = ledger(100);
    for (number, at) in (0..6).zip(0..) {
        let waiting = see(&mut ledger, "x", &format!("{number}label"), 10 * at);
        assert_eq!(waiting == Waiting::Beyond, number > 2, "{number}");
    }
    assert_eq!(
        deliver(&mut ledger, 100),
        [
            "x 0..10 0label",
            "x 10..20 1label",
            "x 20..30 2",
            "x 30..40 3",
            "x 40..50 4",
            "x 50..100 5label",
        ]
    );
}

#[test]
fn without_a_known_bill_every_segment_is_kept() {
    let mut ledger = ledger(100);
    for (content, at) in [("1a", 0), ("1b", 1), ("1c", 2), ("1d", 3), ("1e", 4)] {
        ledger.apply_within(seen("x", Some(0), None, content, at), BUDGET, |_| None);
    }
    assert_eq!(deliver(&mut ledger, 100).len(), 5);
    super::balance(&ledger, 100);
}

#[test]
fn each_owner_has_its_own_budget() {
    let mut ledger = ledger(100);
    for at in 0..5 {
        see(
            &mut ledger,
            "x",
            &format!("greedy:1{}", char::from(b'a' + at)),
            i64::from(at),
        );
        let content = format!("modest:1{}", char::from(b'a' + at.min(2)));
        assert_eq!(
            see(&mut ledger, "y", &content, i64::from(at)),
            Waiting::Within
        );
    }
    let lines = deliver(&mut ledger, 100);
    let of = |uid| lines.iter().filter(|it| it.starts_with(uid)).count();
    assert_eq!((of("x"), of("y")), (3, 3));
}

#[test]
fn the_bytes_of_waiting_segments_count_too() {
    let mut ledger = ledger(100);
    let label = |letter: char| format!("1{}", letter.to_string().repeat(600));
    assert_eq!(see(&mut ledger, "x", &label('a'), 0), Waiting::Within);
    assert_eq!(see(&mut ledger, "x", &label('b'), 1), Waiting::Within);
    assert_eq!(see(&mut ledger, "x", &label('c'), 2), Waiting::Joined);
}

#[test]
fn joining_does_not_change_a_window_that_was_handed_out() {
    let mut ledger = ledger(10);
    for (content, at) in [("1a", 0), ("1b", 3), ("1c", 6), ("1d", 8)] {
        see(&mut ledger, "x", content, at);
    }
    let first = ledger.next(10).unwrap();
    // The segment waits, and so does the next; they do not meet at a window boundary.
    for (content, at) in [("1e", 11), ("1f", 12), ("1g", 13), ("1h", 14)] {
        see(&mut ledger, "x", content, at);
    }
    ledger.settle(first.tag, DeliveryResult::Failed);
    let again = ledger.next(10).unwrap();
    assert_eq!(again.pieces, first.pieces);
    ledger.settle(again.tag, DeliveryResult::Delivered);
    assert_eq!(deliver(&mut ledger, 20), ["x 10..14 1d", "x 14..20 1h"]);
}

#[test]
fn delivered_segments_no_longer_count() {
    let mut ledger = ledger(10);
    for at in 0..200 {
        let content = format!("1{}", char::from(b'a' + u8::try_from(at % 26).unwrap()));
        let waiting = see(&mut ledger, "x", &content, 5 * at);
        assert_eq!(waiting, Waiting::Within);
        deliver(&mut ledger, 5 * at);
    }
}
