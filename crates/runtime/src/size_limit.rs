//! The largest request that the server accepts, as far as it is known.
//!
//! The server reports it only by rejecting requests (413). Its limit is nearly always in bytes, so the
//! limit is kept in bytes: small events are sent together although two large ones did not fit. After
//! many successful batches a slightly higher limit is tried, because the server may have changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use meterline_core::Message;

/// The number of batches near the limit that must succeed before a higher limit is tried. It doubles
/// each time that the server rejects the higher limit, up to the maximum.
const BATCHES_BEFORE_GROWTH: u32 = 16;
const MOST_BATCHES_BEFORE_GROWTH: u32 = 1_024;

/// The observations while one batch was written in chunks.
#[derive(Default)]
pub(crate) struct Seen {
    /// The largest chunk that was not too large, whether it was accepted or not.
    fit: usize,
    /// The smallest chunk of several messages that was too large, and the server's reason.
    refused: Option<(usize, String)>,
    /// The smallest message that is too large alone.
    alone: Option<usize>,
}

impl Seen {
    pub(crate) fn fit(&mut self, chunk: &[Message]) {
        self.fit = self.fit.max(bytes(chunk));
    }

    pub(crate) fn refused(&mut self, chunk: &[Message], reason: String) {
        let size = bytes(chunk);
        if chunk.len() == 1 {
            self.alone = Some(self.alone.map_or(size, |least| least.min(size)));
        } else if self.refused.as_ref().is_none_or(|(least, _)| size < *least) {
            self.refused = Some((size, reason));
        }
    }
}

pub(crate) fn bytes(chunk: &[Message]) -> usize {
    chunk.iter().map(Message::size).sum()
}

/// The most bytes to put into one batch.
pub(crate) struct Limit(Mutex<State>);

struct State {
    bytes: usize,
    /// The largest chunk that has fitted.
    fit: usize,
    /// The batches near the limit that fitted since the limit changed.
    full: u32,
    batches_before_growth: u32,
}

impl Default for Limit {
    fn default() -> Self {
        Self(Mutex::new(State {
            bytes: usize::MAX,
            fit: 0,
            full: 0,
            batches_before_growth: BATCHES_BEFORE_GROWTH,
        }))
    }
}

impl Limit {
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Learns from a batch; returns a new limit with its reason.
    pub(crate) fn learn(&self, seen: Seen) -> Option<(usize, String)> {
        let mut state = self.state();
        // A chunk may have been too large only because it contained the message that is too large alone.
        let too_large = seen
            .refused
            .filter(|(size, _)| seen.alone.is_none_or(|alone| *size < alone));
        let Some((refused, reason)) = too_large else {
            state.grow(seen.fit);
            return None;
        };
        state.full = 0;
        // A chunk larger than the limit was made before the limit was known, so it proves nothing about
        // it.
        if state.bytes != usize::MAX && refused <= state.bytes {
            state.batches_before_growth = state
                .batches_before_growth
                .saturating_mul(2)
                .min(MOST_BATCHES_BEFORE_GROWTH);
        }
        state.fit = if state.fit < refused {
            state.fit.max(seen.fit)
        } else {
            seen.fit
        };
        let most = if state.fit == 0 {
            refused / 2
        } else {
            state.fit
        };
        if most >= state.bytes {
            return None;
        }
        state.bytes = most;
        Some((most, reason))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn grow(&mut self, fit: usize) {
        if fit > self.fit.saturating_add(self.fit / 8) {
            // The server accepts more than before.
            self.batches_before_growth = BATCHES_BEFORE_GROWTH;
        }
        self.fit = self.fit.max(fit);
        if self.bytes == usize::MAX || fit.saturating_mul(2) <= self.bytes {
            return;
        }
        self.full = self.full.saturating_add(1);
        if self.full >= self.batches_before_growth {
            self.full = 0;
            self.bytes = self.bytes.saturating_add(self.bytes / 4 + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(sizes: &[usize]) -> Vec<Message> {
        sizes
            .iter()
            .map(|size| Message::raw(vec![b'x'; *size]))
            .collect()
    }

    fn seen(fit: &[&[usize]], refused: &[&[usize]]) -> Seen {
        let mut seen = Seen::default();
        for chunk in fit {
            seen.fit(&messages(chunk));
        }
        for chunk in refused {
            seen.refused(&messages(chunk), "413".to_owned());
        }
        seen
    }

    #[test]
    fn the_limit_is_the_largest_size_in_bytes_that_fitted() {
        let limit = Limit::default();
        let learned = limit.learn(seen(&[&[90], &[95]], &[&[90, 95]]));
        assert_eq!(learned, Some((95, "413".to_owned())));
        assert_eq!(limit.bytes(), 95);
        // A message that is too large alone does not change the limit.
        assert_eq!(limit.learn(seen(&[&[1]], &[&[200], &[200, 1]])), None);
        assert_eq!(limit.bytes(), 95);
        // A chunk without that message does.
        assert!(limit.learn(seen(&[&[9]], &[&[200], &[9, 9]])).is_some());
        assert_eq!(limit.bytes(), 9);
    }

    #[test]
    fn a_higher_limit_is_tried_after_many_successes_and_less_often_after_failures() {
        let limit = Limit::default();
        limit.learn(seen(&[&[100]], &[&[100, 100]]));
        let mut tries = 0;
        for _ in 0..10_000 {
            if limit.bytes() > 100 {
                tries += 1;
                limit.learn(seen(&[&[100]], &[&[100, 20]]));
            } else {
                limit.learn(seen(&[&[100]], &[]));
            }
            assert!((100..=126).contains(&limit.bytes()));
        }
        assert!((8..=20).contains(&tries), "{tries}");
        // When the server accepts everything again, the limit soon follows.
        let mut batches = 0;
        while limit.bytes() < 100_000 {
            limit.learn(seen(&[&[limit.bytes()]], &[]));
            batches += 1;
        }
        assert!(batches < 3_000, "{batches}");
    }
}
