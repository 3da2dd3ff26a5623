//! What somebody says was delivered and nothing here proves.

use crate::{
    interval::{UnixSeconds, Window},
    ledger::Ledger,
    words::Content,
};

impl<C: Content> Ledger<C> {
    /// All up to `delivered` is said to have been delivered by this ledger itself, as when it comes back
    /// from an older state. What it did not hand out, and what it handed out and was not acknowledged, is
    /// not made again and counted in [`Stats::lost_seconds`](crate::Stats::lost_seconds). Returns how many
    /// object-seconds that are; none where it has no past, and so nothing to compare with.
    pub fn adopt_unproved(&mut self, delivered: UnixSeconds) -> i64 {
        if delivered <= self.emitted() || !self.has_past() {
            self.begin_at(delivered);
            return 0;
        }
        let mut lost = self.give_up(delivered);
        // Windows that were cut by another interval end elsewhere.
        let rest = Window {
            start: self.emitted(),
            end: delivered,
        };
        if rest.start < rest.end {
            for piece in self.pieces(rest) {
                self.lose(piece.seconds(), piece.content.owner());
                lost = lost.saturating_add(piece.seconds());
            }
        }
        self.pass(delivered);
        self.forget();
        lost
    }
}

#[cfg(test)]
mod tests {
    use crate::{Accounting, Interval, Ledger, Observation, Settled};

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
        });
    }

    #[test]
    fn what_was_not_handed_out_is_counted_and_not_made() {
        let mut ledger = ledger();
        run(&mut ledger, "a", 2, None);
        run(&mut ledger, "b", 5, Some(23));
        let first = ledger.next(10).unwrap();
        ledger.settle(first.ticket, Settled::Delivered);
        // 30 of the one and 13 of the other, and 3 beyond a border of windows.
        assert_eq!(ledger.adopt_unproved(43), 46);
        assert_eq!(ledger.stats().lost_seconds, 46);
        assert_eq!((ledger.watermark(), ledger.emitted()), (43, 43));
        let next = ledger.next(50).unwrap();
        let pieces: Vec<_> = next.pieces.iter().map(|it| (it.start, it.end)).collect();
        assert_eq!(pieces, [(43, 50)]);
        assert_eq!(ledger.stats().billed_seconds, 13);
    }

    #[test]
    fn what_was_handed_out_is_no_news_and_a_ledger_without_a_past_has_nothing_to_compare() {
        let mut ledger = ledger();
        assert_eq!(ledger.adopt_unproved(40), 0);
        assert_eq!(ledger.emitted(), 40);
        run(&mut ledger, "a", 40, None);
        let window = ledger.next(50).unwrap();
        assert_eq!(ledger.adopt_unproved(50), 0);
        assert_eq!(ledger.stats().lost_seconds, 0);
        // Its acknowledgement is no news either.
        ledger.settle(window.ticket, Settled::Delivered);
        assert_eq!(ledger.watermark(), 50);
    }
}
