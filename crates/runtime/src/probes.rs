//! Sends pieces of batches while every request fails.
//!
//! If every batch contains a message that makes the server fail, no batch ever succeeds, although the
//! server works. So a smaller piece is sent now and then: half a batch, then a quarter, down to single
//! messages.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::Rng;
use tokio::time::{Duration, Instant};

use crate::{failure::TransientFailure, search_limit::SHORTEST, suspected::Suspected};

/// After this many consecutive failures, every second request is a piece of a batch.
const FAILURES_BEFORE_PIECES: u32 = 4;
/// The number of single messages that are sent in one outage. After that, one is sent per [`A_WHILE`],
/// so that what only looks like an outage ends eventually.
const SINGLES: usize = 10;
const SINGLES_INTERVAL: Duration = Duration::from_secs(3_600);

/// What to send instead of a whole batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The positions of the messages.
    pub(crate) range: Range<usize>,
    /// The time limit, if whole batches take long to fail.
    pub(crate) limit: Option<Duration>,
}

/// The pieces that were sent in this outage.
#[derive(Default)]
pub(crate) struct Probes(Mutex<Tried>);

#[derive(Default)]
struct Tried {
    /// How often the size of the pieces was halved.
    halvings: u32,
    singles: usize,
    /// The objects of the single messages that were sent.
    objects: Vec<Suspected>,
    /// When a single message was sent last.
    last: Option<Instant>,
    /// How long the last whole batch took to fail, if it took long.
    hung: Option<Duration>,
    /// Whether a piece was sent after that batch, and how long such pieces took to fail in total.
    since: Option<Duration>,
    /// The time limit of the next piece, if whole batches take long to fail. It doubles with each piece
    /// that fails, in case the server is slow for all requests.
    limit: Option<Duration>,
}

impl Tried {
    /// Whether a piece is due after this many consecutive failures. Pieces alternate with whole batches.
    /// If whole batches take long to fail, one is enough, and several pieces may follow it as long as
    /// they take no longer in total.
    fn is_due(&self, failures: u32) -> bool {
        match (self.hung, self.since) {
            (Some(_), None) => failures > 0,
            (Some(hung), Some(since)) => since.saturating_add(self.limit()) <= hung,
            (None, since) => failures >= FAILURES_BEFORE_PIECES && since.is_none(),
        }
    }

    fn limit(&self) -> Duration {
        self.limit.unwrap_or(SHORTEST)
    }

    fn single(
        &mut self,
        len: usize,
        object: impl Fn(usize) -> Option<Suspected>,
    ) -> Option<Range<usize>> {
        let now = Instant::now();
        let is_early = |last: Instant| now.duration_since(last) < SINGLES_INTERVAL;
        if self.singles >= SINGLES && self.last.is_some_and(is_early) {
            return None;
        }
        // Batches are alike, so other positions mean other objects. If there are more positions than
        // tries, no pattern is better than a random choice.
        let at = if len <= SINGLES {
            self.singles % len.max(1)
        } else {
            rand::rng().random_range(0..len)
        };
        // The failure of one object proves nothing about another, so another one is tried first.
        let is_new = |at: &usize| object(*at).is_some_and(|it| !self.objects.contains(&it));
        let at = (at..len).chain(0..at).find(is_new).unwrap_or(at);
        if self.objects.len() < SINGLES {
            self.objects.extend(object(at));
        }
        self.singles = self.singles.saturating_add(1);
        self.last = Some(now);
        Some(at..at.saturating_add(1))
    }
}

impl Probes {
    /// Returns the piece to send after this many consecutive failures, if one is due. The batch has
    /// `len` messages, and `object` returns the object of each.
    pub(crate) fn piece(
        &self,
        len: usize,
        failures: u32,
        object: impl Fn(usize) -> Option<Suspected>,
    ) -> Option<Piece> {
        let mut tried = self.tried();
        if len < 2 || !tried.is_due(failures) {
            return None;
        }
        let limit = tried.hung.map(|_| tried.limit());
        let size = 1_usize
            .checked_shl(tried.halvings.saturating_add(1))
            .map_or(1, |pieces| len / pieces);
        let range = if size < 2 {
            tried.single(len, object)?
        } else {
            tried.halvings = tried.halvings.saturating_add(1);
            let pieces = len.div_ceil(size);
            let start = rand::rng().random_range(0..pieces).saturating_mul(size);
            start..start.saturating_add(size).min(len)
        };
        Some(Piece { range, limit })
    }

    /// Notes that a request for a piece or for a whole batch failed.
    pub(crate) fn failed(&self, failure: &TransientFailure, is_piece: bool) {
        let mut tried = self.tried();
        if is_piece {
            let since = tried.since.unwrap_or_default();
            tried.since = Some(since.saturating_add(failure.lasted));
            tried.limit = tried.hung.map(|_| tried.limit().saturating_mul(2));
        } else {
            let hangs = failure.cause.is_some() && failure.is_slow();
            tried.hung = hangs.then_some(failure.lasted);
            tried.since = None;
        }
    }

    /// Notes that the outage is over.
    pub(crate) fn reset(&self) {
        *self.tried() = Tried::default();
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::WriteError;

    use super::*;

    /// A failure after this many seconds.
    fn failure(seconds: u64) -> TransientFailure {
        let error = WriteError::Failed {
            reason: "500".to_owned(),
            after: None,
        };
        TransientFailure::new(error, Duration::from_secs(seconds))
    }

    /// Returns the pieces of batches of `len` messages. Each piece fails at once, like its whole batch.
    fn pieces_of(
        probes: &Probes,
        len: usize,
        object: impl Fn(usize) -> Option<Suspected>,
    ) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        for failures in 0..100 {
            let piece = probes.piece(len, failures, &object);
            probes.failed(&failure(0), piece.is_some());
            pieces.extend(piece);
        }
        pieces
            .into_iter()
            .map(|piece| {
                assert_eq!(piece.limit, None);
                assert!(piece.range.end <= len);
                piece.range
            })
            .collect()
    }

    fn pieces(probes: &Probes, len: usize) -> Vec<Range<usize>> {
        pieces_of(probes, len, |_| None)
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_get_smaller_down_to_ten_single_messages_and_then_one_per_interval() {
        let probes = Probes::default();
        let sizes: Vec<_> = pieces(&probes, 20).into_iter().map(|it| it.len()).collect();
        assert_eq!(sizes[..3], [10, 5, 2]);
        assert_eq!(sizes[3..], [1; 10]);
        assert!(pieces(&probes, 20).is_empty());
        tokio::time::advance(SINGLES_INTERVAL).await;
        assert_eq!(pieces(&probes, 20).len(), 1);
        probes.reset();
        assert_eq!(pieces(&probes, 20).len(), 13);
        assert_eq!(Probes::default().piece(1, 8, |_| None), None);
        assert_eq!(Probes::default().piece(20, 3, |_| None), None);
    }

    #[test]
    fn after_a_piece_a_whole_batch_is_sent_again() {
        let probes = Probes::default();
        assert!(probes.piece(20, 4, |_| None).is_some());
        probes.failed(&failure(0), true);
        assert_eq!(probes.piece(20, 5, |_| None), None);
        probes.failed(&failure(0), false);
        assert!(probes.piece(20, 6, |_| None).is_some());
    }

    /// Whole batches hang for half a minute. The pieces together take no longer.
    #[test]
    fn if_batches_hang_pieces_follow_at_once_with_doubling_time_limits() {
        let probes = Probes::default();
        probes.failed(&failure(30), false);
        let mut limits = Vec::new();
        let mut failures = 1;
        for _ in 0..3 {
            while let Some(piece) = probes.piece(1_000, failures, |_| None) {
                let limit = piece.limit.unwrap();
                limits.push(limit.as_secs());
                probes.failed(&failure(limit.as_secs().min(30)), true);
                failures += 1;
            }
            limits.push(0);
            probes.failed(&failure(30), false);
            failures += 1;
        }
        assert_eq!(limits, [3, 6, 12, 0, 24, 0, 48, 0]);
        probes.reset();
        assert_eq!(probes.piece(1_000, 0, |_| None), None);
    }

    /// Batches that are collected during an outage contain many messages of few objects.
    #[tokio::test(start_paused = true)]
    async fn every_object_is_tried_if_there_are_few() {
        let object = |at: usize| Some(Suspected::from((at % 7).to_string()));
        for _ in 0..100 {
            let probes = Probes::default();
            let pieces = pieces_of(&probes, 70, object).into_iter();
            let singles = pieces.filter(|it| it.len() == 1);
            let objects: std::collections::HashSet<_> =
                singles.map(|it| object(it.start)).collect();
            assert_eq!(objects.len(), 7);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_message_of_a_small_batch_is_tried() {
        for len in 2..=10 {
            let singles = pieces(&Probes::default(), len).into_iter();
            let tried: std::collections::HashSet<_> = singles
                .filter(|it| it.len() == 1)
                .map(|it| it.start)
                .collect();
            assert_eq!(tried.len(), len);
        }
    }
}
