//! A part of the content that records since when it is as it is.

use super::{balance_of, seen};
use crate::{Accounting, Content, Interval, Ledger, Observation};

/// Whether an object is ready and since when, and its label.
#[derive(Debug, Clone)]
struct Node {
    is_ready: bool,
    since: i64,
    label: &'static str,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        (self.is_ready, self.label) == (other.is_ready, other.label)
    }
}

impl Content for Node {
    fn owner(&self) -> &'static str {
        ""
    }

    fn weight(&self) -> usize {
        8
    }

    fn dated_change(&self, earlier: &Self) -> Option<(i64, Self)> {
        let label = earlier.label;
        (self.is_ready != earlier.is_ready).then(|| {
            (
                self.since,
                Self {
                    label,
                    ..self.clone()
                },
            )
        })
    }

    fn before_dated_change(&self) -> Option<(i64, Self)> {
        let is_ready = !self.is_ready;
        Some((
            self.since,
            Self {
                is_ready,
                ..self.clone()
            },
        ))
    }
}

fn ledger() -> Ledger<Node> {
    Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0)
}

/// A node that exists since 0, written at `written` and seen at `at`.
fn node(
    is_ready: bool,
    since: i64,
    label: &'static str,
    written: i64,
    at: i64,
) -> Observation<Node> {
    let text = seen("node", Some(0), None, "", at);
    Observation {
        uid: text.uid,
        start: text.start,
        end: text.end,
        content: Node {
            is_ready,
            since,
            label,
        },
        content_since: Some(written),
        observed_at: at,
        in_scope_since: None,
        times: text.times,
    }
}

/// Start, end, whether it is ready, and label of what is handed out.
fn next(ledger: &mut Ledger<Node>, until: i64) -> Vec<(i64, i64, bool, &'static str)> {
    let mut found = Vec::new();
    while let Some(batch) = ledger.next(until) {
        let pieces = batch.pieces.iter();
        found.extend(pieces.map(|it| (it.start, it.end, it.content.is_ready, it.content.label)));
        ledger.settle(batch.tag, crate::DeliveryResult::Delivered);
    }
    found
}

#[test]
fn a_dated_change_counts_since_its_time_and_writes_divide_nothing() {
    let mut ledger = ledger();
    ledger.apply(node(true, 0, "a", 0, 0));
    for beat in [1, 2, 3, 7] {
        ledger.apply(node(true, 0, "a", beat, beat));
    }
    // The write of a heartbeat was seen after it.
    ledger.apply(node(false, 5, "a", 8, 8));
    ledger.apply(node(false, 6, "a", 9, 9));
    assert_eq!(
        next(&mut ledger, 10),
        [(0, 5, true, "a"), (5, 10, false, "a")]
    );
    // What was handed out is not changed, and nothing happens after it was seen.
    ledger.apply(node(true, 8, "a", 12, 12));
    ledger.apply(node(false, 99, "a", 15, 15));
    assert_eq!(
        next(&mut ledger, 20),
        [(10, 15, true, "a"), (15, 20, false, "a")]
    );
}

#[test]
fn changes_of_a_gap_each_count_since_their_time_and_in_the_order_in_which_they_are_seen() {
    let mut ledger = ledger();
    ledger.apply(node(true, 0, "a", 0, 0));
    ledger.apply(node(false, 3, "b", 6, 9));
    let billed = [(0, 3, true, "a"), (3, 6, false, "a"), (6, 10, false, "b")];
    assert_eq!(next(&mut ledger, 10), billed);
    // Another clock wrote the second time.
    ledger.apply(node(true, 15, "b", 15, 15));
    ledger.apply(node(false, 12, "b", 16, 16));
    ledger.apply(node(true, 18, "b", 18, 18));
    assert_eq!(
        next(&mut ledger, 20),
        [
            (10, 15, false, "b"),
            (15, 18, false, "b"),
            (18, 20, true, "b")
        ]
    );
    balance_of(&ledger, 20);
}

#[test]
fn what_an_object_was_before_counts_when_it_is_observed_first() {
    let mut early = ledger();
    early.apply(node(true, 4, "a", 8, 8));
    balance_of(&early, 8);
    assert_eq!(
        next(&mut early, 10),
        [(0, 4, false, "a"), (4, 10, true, "a")]
    );
    // Also if the window is over, or nothing lies before it or after it.
    for (since, until, expected) in [
        (4, 10, vec![(0, 4, false, "a"), (4, 10, true, "a")]),
        (0, 10, vec![(0, 10, true, "a")]),
        (
            14,
            20,
            vec![
                (0, 10, false, "a"),
                (10, 14, false, "a"),
                (14, 20, true, "a"),
            ],
        ),
        (
            99,
            20,
            vec![
                (0, 10, false, "a"),
                (10, 18, false, "a"),
                (18, 20, true, "a"),
            ],
        ),
    ] {
        let mut late = ledger();
        assert_eq!(next(&mut late, 10), []);
        late.apply(node(true, since, "a", 18, 18));
        balance_of(&late, 18);
        let mut found = next(&mut late, until);
        found.sort_unstable();
        assert_eq!(found, expected, "{since}");
    }
}
