//! What an object asks for and is granted a moment later.

use crate::{Accounting, Content, Interval, Ledger, Observation, Times};

#[derive(Debug, Clone, PartialEq)]
struct Reserved {
    asked: u32,
    granted: u32,
}

impl Content for Reserved {
    fn owner(&self) -> &str {
        "tenant"
    }

    fn weight(&self) -> usize {
        8
    }

    fn is_grant(&self, earlier: &Self) -> bool {
        self.asked == earlier.asked && self.granted > earlier.granted
    }
}

fn seen(asked: u32, granted: u32, since: i64, now: i64) -> Observation<Reserved> {
    Observation {
        uid: "pod".into(),
        start: Some(0),
        end: None,
        content: Reserved { asked, granted },
        content_since: Some(since),
        observed_at: now,
        in_scope_since: None,
        times: Times::default(),
    }
}

/// Start, end and what is granted of the pieces of the next window.
fn next(ledger: &mut Ledger<Reserved>, until: i64) -> Vec<(i64, i64, u32)> {
    let batch = ledger.next(until).unwrap();
    let pieces = batch.pieces.iter();
    pieces
        .map(|it| (it.start, it.end, it.content.granted))
        .collect()
}

fn ledger() -> Ledger<Reserved> {
    let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    ledger.apply(seen(1, 1, 0, 0));
    ledger
}

#[test]
fn a_grant_counts_since_the_write_that_asked_for_it() {
    let mut ledger = ledger();
    ledger.apply(seen(2, 1, 3, 3));
    ledger.apply(seen(2, 2, 3, 8));
    assert_eq!(next(&mut ledger, 10), [(0, 3, 1), (3, 10, 2)]);
    // So does a ledger that observes the object only after the grant.
    let mut late = self::ledger();
    late.apply(seen(2, 2, 3, 8));
    assert_eq!(next(&mut late, 10), [(0, 3, 1), (3, 10, 2)]);
}

#[test]
fn what_was_handed_out_before_a_grant_stays() {
    let mut ledger = ledger();
    ledger.apply(seen(2, 1, 3, 3));
    assert_eq!(next(&mut ledger, 10), [(0, 3, 1), (3, 10, 1)]);
    ledger.apply(seen(2, 2, 3, 12));
    assert_eq!(next(&mut ledger, 20), [(10, 20, 2)]);
}

#[test]
fn a_reduction_counts_when_it_is_observed() {
    let mut ledger = ledger();
    ledger.apply(seen(0, 1, 3, 3));
    ledger.apply(seen(0, 0, 3, 8));
    assert_eq!(next(&mut ledger, 10), [(0, 3, 1), (3, 8, 1), (8, 10, 0)]);
}
