//! A watermark that was not written by another ledger, and that nothing here proves.

use crate::{Accounting, DeliveryResult, Interval, Ledger, Observation, Times};

fn ledger() -> Ledger<String> {
    Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0)
}

fn run(ledger: &mut Ledger<String>, uid: &str, start: i64, end: Option<i64>) {
    ledger.apply(Observation {
        uid: uid.into(),
        start: Some(start),
        end,
        content: String::new(),
        content_since: None,
        observed_at: start,
        in_scope_since: None,
        times: Times::default(),
    });
}

#[test]
fn usage_that_was_not_handed_out_is_counted_as_lost() {
    let mut ledger = ledger();
    run(&mut ledger, "a", 2, None);
    run(&mut ledger, "b", 5, Some(23));
    let first = ledger.next(10).unwrap();
    ledger.settle(first.tag, DeliveryResult::Delivered);
    // 30 of the one and 13 of the other, and 3 after a window boundary.
    assert_eq!(ledger.adopt_unproved(43, true), 46);
    assert_eq!(ledger.stats().lost_seconds, 46);
    assert_eq!(
        (ledger.watermark(), ledger.timeline.windows.emitted),
        (43, 43)
    );
    let next = ledger.next(50).unwrap();
    let pieces: Vec<_> = next.pieces.iter().map(|it| (it.start, it.end)).collect();
    assert_eq!(pieces, [(43, 50)]);
    assert_eq!(ledger.stats().billed_seconds, 13);
}

#[test]
fn an_own_watermark_counts_nothing_that_was_handed_out_or_without_a_past() {
    let mut ledger = ledger();
    assert_eq!(ledger.adopt_unproved(40, true), 0);
    assert_eq!(ledger.timeline.windows.emitted, 40);
    run(&mut ledger, "a", 40, None);
    let window = ledger.next(50).unwrap();
    assert_eq!(ledger.adopt_unproved(50, true), 0);
    assert_eq!(ledger.stats().lost_seconds, 0);
    // Its acknowledgement changes nothing either.
    ledger.settle(window.tag, DeliveryResult::Delivered);
    assert_eq!(ledger.watermark(), 50);
}

#[test]
fn an_unsigned_watermark_counts_undelivered_usage_as_lost() {
    let mut ledger = ledger();
    run(&mut ledger, "a", 0, None);
    let first = ledger.next(10).unwrap();
    ledger.settle(first.tag, DeliveryResult::Delivered);
    let failed = ledger.next(20).unwrap();
    ledger.settle(failed.tag, DeliveryResult::Failed);
    let failed = ledger.next(20).unwrap();
    let on_its_way = ledger.next(30).unwrap();
    ledger.settle(failed.tag, DeliveryResult::Failed);
    assert_eq!(ledger.adopt_unproved(5, false), 0);
    assert_eq!(ledger.adopt_unproved(30, false), 20);
    // It has been counted.
    ledger.settle(on_its_way.tag, DeliveryResult::Delivered);
    let seconds = ledger.seconds(35);
    assert_eq!((seconds.delivered, seconds.unproved), (10, 20));
    assert_eq!((seconds.ran, seconds.waiting), (35, 5));
    assert_eq!(ledger.unbilled()[0].reason.as_ref(), "no_proof");
}

#[test]
fn an_unsigned_watermark_does_not_move_the_horizon_forward() {
    for (watermark, begins) in [(80, 80), (100, 100), (150, 100)] {
        let interval = Interval::new(10).unwrap();
        let mut ledger: Ledger<String> = Ledger::new(interval, Accounting::Exact, 100);
        assert_eq!(ledger.adopt_unproved(watermark, false), 0);
        assert_eq!(ledger.timeline.windows.emitted, begins);
    }
}
