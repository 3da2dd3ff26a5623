//! Wraps an input that cannot read the same data twice.
//!
//! It keeps each batch until it is settled, and yields it again if it was not delivered. Inputs that keep
//! their own state, such as `kubernetes_resources`, do not need this.

use std::collections::VecDeque;

use async_trait::async_trait;
use meterline_core::{Ack, Batch, Input, InputError, Outcome, Undelivered};
use tracing::warn;

use crate::settlements::Settlements;

/// The source of new batches.
#[async_trait]
pub(crate) trait Source: Send {
    /// Returns the next new batch, or `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Result<Option<Batch>, InputError>;
}

/// An input that yields a batch again when its delivery failed.
pub(crate) struct Replay<S> {
    source: S,
    ended: bool,
    failed: VecDeque<Batch>,
    unsettled: Settlements<Batch>,
}

impl<S: Source> Replay<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            ended: false,
            failed: VecDeque::new(),
            unsettled: Settlements::default(),
        }
    }

    fn yield_batch(&mut self, batch: Batch) -> (Batch, Ack) {
        let ack = self.unsettled.add(batch.clone());
        (batch, ack)
    }

    fn note(&mut self, batch: Batch, outcome: &Outcome) {
        if !outcome.is_settled() {
            warn!(
                messages = batch.len(),
                ?outcome,
                "a batch was not delivered; it is sent again"
            );
            self.failed.push_back(batch);
        }
    }
}

#[async_trait]
impl<S: Source> Input for Replay<S> {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        loop {
            if let Some(batch) = self.failed.pop_front() {
                return Ok(Some(self.yield_batch(batch)));
            }
            if self.ended {
                // The pipeline reads again once everything is settled, and a failed batch is then repeated.
                match self.unsettled.try_next() {
                    Some((batch, settled)) => self.note(batch, &settled.outcome),
                    None => return Ok(None),
                }
                continue;
            }
            tokio::select! {
                biased;
                Some((batch, settled)) = self.unsettled.next() => self.note(batch, &settled.outcome),
                new = self.source.next() => match new? {
                    Some(batch) => return Ok(Some(self.yield_batch(batch))),
                    None => self.ended = true,
                },
            }
        }
    }

    /// Only this process has the failed batches, so it has to be read until `None`.
    fn stop(&mut self) -> bool {
        self.ended = true;
        true
    }

    async fn close(&mut self) {
        while let Some((batch, settled)) = self.unsettled.next().await {
            self.note(batch, &settled.outcome);
        }
    }

    fn left(&self) -> Undelivered {
        Undelivered {
            lost: self.failed.len(),
            persisted: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Cause, Message};

    use super::*;

    struct Lines(VecDeque<&'static str>);

    #[async_trait]
    impl Source for Lines {
        async fn next(&mut self) -> Result<Option<Batch>, InputError> {
            Ok(self.0.pop_front().map(|line| vec![Message::raw(line)]))
        }
    }

    fn text(batch: &Batch) -> String {
        String::from_utf8(batch[0].bytes().unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_undelivered_batch_is_yielded_again_before_the_end() {
        let mut input = Replay::new(Lines(["a", "b"].into()));
        let (first, lost) = input.read().await.unwrap().unwrap();
        assert_eq!(text(&first), "a");
        drop(lost);
        let (second, delivered) = input.read().await.unwrap().unwrap();
        delivered.resolve(Outcome::Delivered);
        let (third, delivered_too) = input.read().await.unwrap().unwrap();
        delivered_too.resolve(Outcome::rejected(Cause::Refused, "sink", "bad"));
        let mut seen = [text(&second), text(&third)];
        seen.sort();
        assert_eq!(seen, ["a", "b"]);
        assert!(input.read().await.unwrap().is_none());
    }
}
