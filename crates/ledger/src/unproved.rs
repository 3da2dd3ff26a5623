//! What somebody says was delivered and nothing here proves.

use crate::{
    durable::UNPROVED,
    interval::{UnixSeconds, Window},
    ledger::Ledger,
    types::Content,
    windows::WindowState,
};

impl<C: Content> Ledger<C> {
    /// All up to `delivered` is said to have been delivered, and not by another ledger. Where it `is_own`,
    /// this one said so itself, and may have come back from an older state: what it handed out is taken
    /// for delivered. Else nobody knows who says so. What is not taken for delivered is not made again
    /// and counted in [`Stats::lost_seconds`](crate::Stats::lost_seconds). Returns how many
    /// object-seconds that are.
    ///
    /// A ledger without a past has nothing to compare with. It begins where it said that it was or, on
    /// nobody's word, there or where it was to begin, whichever is earlier.
    pub fn adopt_unproved(&mut self, delivered: UnixSeconds, is_own: bool) -> i64 {
        if !self.has_past() {
            let horizon = self.emitted();
            self.begin_at(if is_own {
                delivered
            } else {
                delivered.min(horizon)
            });
            return 0;
        }
        if delivered <= self.watermark() {
            return 0;
        }
        if is_own && delivered <= self.emitted() {
            self.adopt(delivered);
            return 0;
        }
        let is_open = |state| state != WindowState::Delivered;
        let mut lost = self.give_up_for(UNPROVED, delivered, is_open);
        // Windows that were cut by another interval end elsewhere.
        let rest = Window {
            start: self.emitted(),
            end: delivered,
        };
        if rest.start < rest.end {
            for piece in self.pieces_over(rest) {
                self.lose(piece.seconds(), piece.content.owner());
                lost = lost.saturating_add(piece.seconds());
            }
        }
        self.pass(delivered);
        self.forget();
        lost
    }
}
