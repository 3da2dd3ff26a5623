//! What changed is what is written.

use proptest::prelude::*;

use super::*;

#[test]
fn the_changes_are_what_changed() {
    let mut books = ledger(10);
    books.apply(seen("a", Some(3), None, "x", 3));
    let uids =
        |changes: crate::Changes<String>| -> Vec<_> { changes.records.into_keys().collect() };
    assert_eq!(uids(books.take_changes()), ["a".into()]);
    books.apply(seen("a", Some(3), None, "x", 9));
    assert_eq!(deliver(&mut books, 10).len(), 1);
    assert!(
        uids(books.take_changes()).is_empty(),
        "nothing is written that is there"
    );
    books.deleted("a", 12);
    assert_eq!(uids(books.take_changes()), ["a".into()]);
    deliver(&mut books, 100);
    let changes = books.take_changes();
    assert!(changes.records.values().all(Option::is_none), "forgotten");
    assert_eq!(changes.records.len(), 1);
}

/// What the state is told of the segments of an object: start, end, and the content if it is told.
fn segments(books: &mut Books) -> Vec<(i64, Option<i64>, Option<String>)> {
    let changes = books.take_changes();
    let changes = changes.records.into_values().flatten();
    changes
        .flat_map(|it| it.segments)
        .map(|it| (it.start, it.end, it.content))
        .collect()
}

#[test]
fn of_many_segments_those_are_written_that_changed() {
    let mut books = ledger(1_000);
    for second in 0..100 {
        books.apply(seen("a", Some(0), None, &format!("{second}"), second));
    }
    let content = |text: &str| Some(text.to_owned());
    assert_eq!(segments(&mut books).len(), 100);
    assert!(segments(&mut books).is_empty());
    books.apply(seen("a", Some(0), None, "x", 100));
    assert_eq!(
        segments(&mut books),
        [(99, Some(100), None), (100, None, content("x"))]
    );
    // A second change in the same second replaces the content.
    books.apply(seen("a", Some(0), None, "y", 100));
    assert_eq!(segments(&mut books), [(100, None, content("y"))]);
    books.deleted("a", 105);
    assert_eq!(segments(&mut books), [(100, Some(105), None)]);
    assert_eq!(
        books.take_everything().records["a"]
            .as_ref()
            .unwrap()
            .segments
            .len(),
        101
    );
}

#[test]
fn what_is_learned_late_leaves_the_head_as_small_as_it_is() {
    let mut books = ledger(10);
    assert!(deliver(&mut books, 100).is_empty());
    let checkpoint = |books: &mut Books| {
        let changes = books.take_changes();
        let checkpoint = serde_json::to_string(&changes.checkpoint).unwrap().len();
        (checkpoint, changes.late.len(), changes.batches.len())
    };
    let (empty, ..) = checkpoint(&mut books);
    for pod in 0..50 {
        let content = "x".repeat(1_000);
        books.apply(seen(&format!("pod-{pod}"), Some(60), None, &content, 101));
    }
    assert_eq!(checkpoint(&mut books), (empty, 50, 0));
    assert_eq!(checkpoint(&mut books), (empty, 0, 0));
    // The pieces of the first window, and what is left of the spans.
    let batch = books.next(100).unwrap();
    let (length, late, batches) = checkpoint(&mut books);
    assert!(length < empty + 10, "{length}");
    assert_eq!((late, batches), (100, 1));
    books.settle(batch.tag, DeliveryResult::Failed);
    assert_eq!(checkpoint(&mut books).2, 0, "it is there");
    let again = books.next(100).unwrap();
    assert_eq!(again.pieces, batch.pieces);
    books.settle(again.tag, DeliveryResult::Delivered);
    let changes = books.take_changes();
    assert!(changes.batches.len() == 1 && changes.batches.values().all(Option::is_none));
}

#[test]
fn a_segment_that_was_dropped_before_a_gap_is_removed_from_the_state() {
    let mut ledger = ledger(100);
    let mut disk = disk::Disk::default();
    ledger.apply(seen("a", Some(0), None, "x", 0));
    ledger.apply(seen("a", Some(0), None, "y", 10));
    disk.write(&ledger.take_changes());
    // Its label goes in the second in which the content changed, and comes back later.
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

    /// Whatever an object does between two writes, in and out of scope, in any order of times.
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
