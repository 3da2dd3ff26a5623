//! What changed is what is written.

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
