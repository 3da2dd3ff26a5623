//! Contents that were kept for another configuration.

use std::sync::Arc;

use super::disk::Disk;
use crate::{
    Accounting, Content, DeliveryResult, Fate, Interval, Ledger, Observation, Refusal, Times,
};

/// What is reserved; `None` if it was not kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Kept(Option<u32>);

impl Content for Kept {
    fn owner(&self) -> &str {
        "tenant"
    }

    fn weight(&self) -> usize {
        4
    }

    fn is_partial(&self) -> bool {
        self.0.is_none()
    }
}

fn seen(written: i64, now: i64, reserved: u32) -> Observation<Kept> {
    Observation {
        uid: "pod".into(),
        start: Some(0),
        end: None,
        content: Kept(Some(reserved)),
        content_since: Some(written),
        observed_at: now,
        in_scope_since: None,
        times: Times::default(),
    }
}

/// A ledger that knew the pod as of `written`, and is restored without the content.
fn restored(ledger: &mut Ledger<Kept>) -> Ledger<Kept> {
    let interval = Interval::new(10).unwrap();
    let restored = Disk::of(ledger).read(interval, Accounting::Exact);
    let mut restored = restored.unwrap();
    restored.each_content(&mut |content| content.0.take().is_some());
    restored
}

fn known(written: i64) -> Ledger<Kept> {
    let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    ledger.apply(seen(written, written.max(1), 1));
    ledger
}

/// Start, end and content of the pieces that are handed out next.
fn next(ledger: &mut Ledger<Kept>, until: i64) -> Vec<(i64, i64, Option<u32>)> {
    let batch = ledger.next(until).unwrap();
    let pieces = batch.pieces.iter();
    pieces.map(|it| (it.start, it.end, it.content.0)).collect()
}

#[test]
fn a_partial_content_is_completed_if_the_object_was_not_written_to() {
    let mut ledger = restored(&mut known(0));
    let changes = ledger.take_changes();
    assert!(changes.records.contains_key("pod"));
    ledger.apply(seen(0, 12, 1));
    assert!(ledger.take_changes().records.contains_key("pod"));
    assert_eq!(next(&mut ledger, 10), [(0, 10, Some(1))]);
}

#[test]
fn a_partial_content_stays_partial_before_the_last_write() {
    let mut ledger = restored(&mut known(4));
    ledger.apply(seen(4, 12, 1));
    assert_eq!(next(&mut ledger, 10), [(0, 4, None), (4, 10, Some(1))]);
}

#[test]
fn an_object_that_was_written_to_meanwhile_is_complete_from_then_on() {
    let mut ledger = restored(&mut known(0));
    ledger.apply(seen(7, 12, 2));
    assert_eq!(next(&mut ledger, 10), [(0, 7, None), (7, 10, Some(2))]);
}

#[test]
fn the_content_of_an_object_that_was_deleted_meanwhile_stays_partial() {
    let mut ledger = restored(&mut known(0));
    ledger.deleted("pod", 8);
    assert_eq!(next(&mut ledger, 10), [(0, 8, None)]);
}

#[test]
fn rejected_pieces_are_completed_too() {
    let mut ledger = known(0);
    let batch = ledger.next(10).unwrap();
    let refusal = Refusal {
        cause: Arc::from("processing"),
        component: Arc::from("mapping"),
        reason: Arc::from("no"),
        subject: None,
        may_pass: false,
    };
    let undelivered = vec![(batch.pieces[0].clone(), Fate::Rejected(refusal))];
    ledger.settle(
        batch.tag,
        DeliveryResult::Done {
            at: 10,
            undelivered,
        },
    );
    let mut ledger = restored(&mut ledger);
    ledger.apply(seen(0, 12, 1));
    assert_eq!(next(&mut ledger, 10), [(0, 10, Some(1))]);
}
