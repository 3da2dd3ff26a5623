//! How much may wait, and what happens beyond that.

use super::{Books, deliver, ledger, seen};
use crate::{Budget, DeliveryResult, Waiting};

const BUDGET: Budget = Budget {
    segments: 2,
    bytes: 1_000,
};

/// The number of a content is its bill, and the letter behind it a label.
fn see(books: &mut Books, uid: &str, content: &str, at: i64) -> Waiting {
    let bill = |it: &String| Some(it.trim_end_matches(char::is_alphabetic).to_owned());
    books.apply_within(seen(uid, Some(0), None, content, at), BUDGET, bill)
}

#[test]
fn beyond_the_budget_the_label_that_was_first_stays() {
    let mut books = ledger(100);
    let seen: Vec<_> = ["1a", "1b", "1c", "1d", "1e"]
        .into_iter()
        .zip(0..)
        .map(|(content, at)| see(&mut books, "x", content, 10 * at))
        .collect();
    let within = Waiting::Within;
    assert_eq!(
        seen,
        [within, within, within, Waiting::Joined, Waiting::Joined]
    );
    assert_eq!(
        deliver(&mut books, 100),
        ["x 0..10 1a", "x 10..40 1b", "x 40..100 1e"]
    );
    super::balance(&books, 100);
}

#[test]
fn what_is_billed_differently_is_never_joined_and_only_that_is_kept_of_it() {
    let mut books = ledger(100);
    for (number, at) in (0..6).zip(0..) {
        let waiting = see(&mut books, "x", &format!("{number}label"), 10 * at);
        assert_eq!(waiting == Waiting::Beyond, number > 2, "{number}");
    }
    assert_eq!(
        deliver(&mut books, 100),
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
fn where_nobody_knows_what_the_bill_is_made_from_all_is_kept() {
    let mut books = ledger(100);
    for (content, at) in [("1a", 0), ("1b", 1), ("1c", 2), ("1d", 3), ("1e", 4)] {
        books.apply_within(seen("x", Some(0), None, content, at), BUDGET, |_| None);
    }
    assert_eq!(deliver(&mut books, 100).len(), 5);
    super::balance(&books, 100);
}

#[test]
fn an_owner_has_its_budget_for_itself() {
    let mut books = ledger(100);
    for at in 0..5 {
        see(
            &mut books,
            "x",
            &format!("greedy:1{}", char::from(b'a' + at)),
            i64::from(at),
        );
        let content = format!("modest:1{}", char::from(b'a' + at.min(2)));
        assert_eq!(
            see(&mut books, "y", &content, i64::from(at)),
            Waiting::Within
        );
    }
    let lines = deliver(&mut books, 100);
    let of = |uid| lines.iter().filter(|it| it.starts_with(uid)).count();
    assert_eq!((of("x"), of("y")), (3, 3));
}

#[test]
fn the_weight_of_what_waits_counts_too() {
    let mut books = ledger(100);
    let label = |letter: char| format!("1{}", letter.to_string().repeat(600));
    assert_eq!(see(&mut books, "x", &label('a'), 0), Waiting::Within);
    assert_eq!(see(&mut books, "x", &label('b'), 1), Waiting::Within);
    assert_eq!(see(&mut books, "x", &label('c'), 2), Waiting::Joined);
}

#[test]
fn what_was_handed_out_comes_again_as_it_was() {
    let mut books = ledger(10);
    for (content, at) in [("1a", 0), ("1b", 3), ("1c", 6), ("1d", 8)] {
        see(&mut books, "x", content, at);
    }
    let first = books.next(10).unwrap();
    // It waits, and so does all that comes; its border with what comes is no border of the windows.
    for (content, at) in [("1e", 11), ("1f", 12), ("1g", 13), ("1h", 14)] {
        see(&mut books, "x", content, at);
    }
    books.settle(first.tag, DeliveryResult::Failed);
    let again = books.next(10).unwrap();
    assert_eq!(again.pieces, first.pieces);
    books.settle(again.tag, DeliveryResult::Delivered);
    assert_eq!(deliver(&mut books, 20), ["x 10..14 1d", "x 14..20 1h"]);
}

#[test]
fn what_was_delivered_makes_room() {
    let mut books = ledger(10);
    for at in 0..200 {
        let content = format!("1{}", char::from(b'a' + u8::try_from(at % 26).unwrap()));
        let waiting = see(&mut books, "x", &content, 5 * at);
        assert_eq!(waiting, Waiting::Within);
        deliver(&mut books, 5 * at);
    }
}
