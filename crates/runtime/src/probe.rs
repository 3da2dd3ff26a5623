//! Whether an outage is one: what is tried while everything fails.
//!
//! Where one message that makes the other side fail is in every batch, nothing ever passes, though the
//! other side works. So now and then a smaller piece is tried: half a batch, then a quarter, down to
//! single messages.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use rand::Rng;
use tokio::time::{Duration, Instant};

/// After so many failures in a row every second try is a piece of a batch.
const PATIENCE: u32 = 4;
/// So many single messages are tried in one outage, and then one in a while: no outage that is none
/// lasts for ever.
const SINGLES: usize = 10;
const A_WHILE: Duration = Duration::from_secs(3_600);

/// What was tried in this outage.
#[derive(Default)]
pub(crate) struct Probes(Mutex<Tried>);

#[derive(Default)]
struct Tried {
    /// How often the pieces were made half as large.
    halvings: u32,
    singles: usize,
    /// The objects of those.
    objects: Vec<Arc<str>>,
    /// When a single message was tried last.
    last: Option<Instant>,
}

impl Tried {
    fn single(
        &mut self,
        len: usize,
        object: impl Fn(usize) -> Option<Arc<str>>,
    ) -> Option<Range<usize>> {
        let now = Instant::now();
        let is_early = |last: Instant| now.duration_since(last) < A_WHILE;
        if self.singles >= SINGLES && self.last.is_some_and(is_early) {
            return None;
        }
        // Batches are alike, so that other places mean other objects. Where there are more places
        // than tries no pattern is better than chance.
        let at = if len <= SINGLES {
            self.singles % len.max(1)
        } else {
            rand::rng().random_range(0..len)
        };
        // One object that fails says nothing of another, so another comes first.
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
    /// The piece of a batch of `len` messages, of which `object` knows what they are about, to try
    /// after so many failures in a row, if it is time for one.
    pub(crate) fn piece(
        &self,
        len: usize,
        failures: u32,
        object: impl Fn(usize) -> Option<Arc<str>>,
    ) -> Option<Range<usize>> {
        if len < 2 || failures < PATIENCE || !failures.is_multiple_of(2) {
            return None;
        }
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size = 1_usize
            .checked_shl(tried.halvings.saturating_add(1))
            .map_or(1, |pieces| len / pieces);
        if size < 2 {
            return tried.single(len, object);
        }
        tried.halvings = tried.halvings.saturating_add(1);
        let pieces = len.div_ceil(size);
        let start = rand::rng().random_range(0..pieces).saturating_mul(size);
        Some(start..start.saturating_add(size).min(len))
    }

    /// The outage is over.
    pub(crate) fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Tried::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(probes: &Probes, len: usize) -> Vec<Range<usize>> {
        (0..100)
            .filter_map(|failures| probes.piece(len, failures, |_| None))
            .inspect(|piece| assert!(piece.end <= len))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_get_smaller_and_of_single_messages_there_are_ten_and_one_in_a_while() {
        let probes = Probes::default();
        let sizes: Vec<_> = pieces(&probes, 20).into_iter().map(|it| it.len()).collect();
        assert_eq!(sizes[..3], [10, 5, 2]);
        assert_eq!(sizes[3..], [1; 10]);
        assert!(pieces(&probes, 20).is_empty());
        tokio::time::advance(A_WHILE).await;
        assert_eq!(pieces(&probes, 20).len(), 1);
        probes.reset();
        assert_eq!(pieces(&probes, 20).len(), 13);
        assert_eq!(Probes::default().piece(1, 8, |_| None), None);
        assert_eq!(Probes::default().piece(20, 3, |_| None), None);
        assert_eq!(Probes::default().piece(20, 5, |_| None), None);
    }

    /// Batches that gathered while nothing passed hold many messages of few objects.
    #[tokio::test(start_paused = true)]
    async fn every_object_is_tried_where_there_are_few() {
        let object = |at: usize| Some(Arc::from((at % 7).to_string()));
        for _ in 0..100 {
            let probes = Probes::default();
            let singles = (0..100)
                .filter_map(|failures| probes.piece(70, failures, object))
                .filter(|it| it.len() == 1);
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
