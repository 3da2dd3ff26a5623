//! Only changes are written.

use proptest::prelude::*;

use super::*;

#[test]
fn changes_hold_only_what_changed() {
    let mut ledger = ledger(10);
    ledger.apply(seen("a", Some(3), None, "x", 3));
    let uids =
        |changes: crate::Changes<String>| -> Vec<_> { changes.records.into_keys().collect() };
    assert_eq!(uids(ledger.take_changes()), ["a".into()]);
    ledger.apply(seen("a", Some(3), None, "x", 9));
    assert_eq!(deliver(&mut ledger, 10).len(), 1);
    assert!(
        uids(ledger.take_changes()).is_empty(),
        "unchanged objects are not written"
    );
    ledger.deleted("a", 12);
    assert_eq!(uids(ledger.take_changes()), ["a".into()]);
    deliver(&mut ledger, 100);
    let changes = ledger.take_changes();
    assert!(changes.records.values().all(Option::is_none), "removed");
    assert_eq!(changes.records.len(), 1);
}

/// The segments that are written: start, end, and the content if it is written.
fn segments(ledger: &mut TestLedger) -> Vec<(i64, Option<i64>, Option<String>)> {
    let changes = ledger.take_changes();
    let changes = changes.records.into_values().flatten();
    changes
        .flat_map(|it| it.segments)
        .map(|it| (it.start, it.end, it.content))
        .collect()
}

#[test]
fn only_changed_segments_are_written() {
    let mut ledger = ledger(1_000);
    for second in 0..100 {
        ledger.apply(seen("a", Some(0), None, &format!("{second}"), second));
    }
    let content = |text: &str| Some(text.to_owned());
    assert_eq!(segments(&mut ledger).len(), 100);
    assert!(segments(&mut ledger).is_empty());
    ledger.apply(seen("a", Some(0), None, "x", 100));
    assert_eq!(
        segments(&mut ledger),
        [(99, Some(100), None), (100, None, content("x"))]
    );
    // A second change in the same second replaces the content.
    ledger.apply(seen("a", Some(0), None, "y", 100));
    assert_eq!(segments(&mut ledger), [(100, None, content("y"))]);
    ledger.deleted("a", 105);
    assert_eq!(segments(&mut ledger), [(100, Some(105), None)]);
    assert_eq!(
        ledger.take_everything().records["a"]
            .as_ref()
            .unwrap()
            .segments
            .len(),
        101
    );
}

#[test]
fn late_spans_do_not_enlarge_the_checkpoint() {
    let mut ledger = ledger(10);
    assert!(deliver(&mut ledger, 100).is_empty());
    let checkpoint = |ledger: &mut TestLedger| {
        let changes = ledger.take_changes();
        let checkpoint = serde_json::to_string(&changes.checkpoint).unwrap().len();
        (checkpoint, changes.late.len(), changes.batches.len())
    };
    let (empty, ..) = checkpoint(&mut ledger);
    for pod in 0..50 {
        let content = "x".repeat(1_000);
        ledger.apply(seen(&format!("pod-{pod}"), Some(60), None, &content, 101));
    }
    assert_eq!(checkpoint(&mut ledger), (empty, 50, 0));
    assert_eq!(checkpoint(&mut ledger), (empty, 0, 0));
    // The pieces of the first window, and the remaining spans.
    let batch = ledger.next(100).unwrap();
    let (length, late, batches) = checkpoint(&mut ledger);
    assert!(length < empty + 10, "{length}");
    assert_eq!((late, batches), (100, 1));
    ledger.settle(batch.tag, DeliveryResult::Failed);
    assert_eq!(checkpoint(&mut ledger).2, 0, "the batch is written already");
    let again = ledger.next(100).unwrap();
    assert_eq!(again.pieces, batch.pieces);
    ledger.settle(again.tag, DeliveryResult::Delivered);
    let changes = ledger.take_changes();
    assert!(changes.batches.len() == 1 && changes.batches.values().all(Option::is_none));
}

#[test]
fn a_segment_that_was_dropped_before_a_gap_is_removed_from_the_state() {
    let mut ledger = ledger(100);
    let mut disk = disk::Disk::default();
    ledger.apply(seen("a", Some(0), None, "x", 0));
    ledger.apply(seen("a", Some(0), None, "y", 10));
    disk.write(&ledger.take_changes());
    // The object leaves the scope in the second in which its content changed, and comes back later.
    ledger.deleted("a", 10);
    ledger.apply(Observation {
        in_scope_since: Some(12),
        ..seen("a", Some(0), None, "x", 12)
    });
    disk.write(&ledger.take_changes());
    assert_eq!(disk, disk::Disk::of(&mut ledger));
}

proptest! {
    #![proptest_config(histories(512))]

    /// For any sequence of observations between two writes, in and out of scope, with times in any order.
    #[test]
    fn written_changes_are_what_a_full_write_holds(
        steps in prop::collection::vec((0..5_u8, 0..4_i64, 0..30_i64, 0..3_u8), 1..60),
    ) {
        let mut ledger = ledger(10);
        let mut disk = disk::Disk::default();
        let mut now = 0;
        for (step, passes, ago, content) in steps {
            now += passes;
            let content = content.to_string();
            match step {
                0 => ledger.deleted("a", now - ago),
                1 => ledger.apply(seen("a", Some(now - ago), Some(now), &content, now)),
                2 => ledger.apply(Observation {
                    in_scope_since: Some(now),
                    ..seen("a", Some(now - ago), None, &content, now)
                }),
                3 => drop(deliver(&mut ledger, now - ago)),
                _ => ledger.apply(seen("a", Some(now - ago), None, &content, now)),
            }
            if ago % 2 == 0 {
                disk.write(&ledger.take_changes());
                prop_assert_eq!(&disk, &disk::Disk::of(&mut ledger.clone()));
            }
        }
    }
}
