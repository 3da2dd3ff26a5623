//! Makes an input that cannot read the same thing twice safe: what was not delivered comes again.
//!
//! Batches are kept until they are settled. Inputs with a memory of their own, such as
//! `kubernetes_resources`, do not need this.

use std::{collections::VecDeque, pin::Pin};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use meterline_core::{Ack, Batch, Input, InputError, Outcome, Settlement, Undelivered};
use tokio::task::unconstrained;
use tracing::warn;

/// Where fresh batches come from.
#[async_trait]
pub(crate) trait Source: Send {
    /// The next fresh batch; `None` when there will be no more. Cancel-safe.
    async fn next(&mut self) -> Result<Option<Batch>, InputError>;
}

type Unsettled = Pin<Box<dyn Future<Output = (Batch, Outcome)> + Send>>;

/// An input that repeats what failed.
pub(crate) struct Replay<S> {
    source: S,
    ended: bool,
    failed: VecDeque<Batch>,
    unsettled: FuturesUnordered<Unsettled>,
}

impl<S: Source> Replay<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            ended: false,
            failed: VecDeque::new(),
            unsettled: FuturesUnordered::new(),
        }
    }

    fn hand_out(&mut self, batch: Batch) -> (Batch, Ack) {
        let (ack, settlement) = Ack::new();
        self.unsettled
            .push(Box::pin(outcome(batch.clone(), settlement)));
        (batch, ack)
    }

    fn note(&mut self, batch: Batch, outcome: &Outcome) {
        if !outcome.is_settled() {
            warn!(
                messages = batch.len(),
                ?outcome,
                "a batch was not delivered; it comes again"
            );
            self.failed.push_back(batch);
        }
    }
}

async fn outcome(batch: Batch, mut settlement: Settlement) -> (Batch, Outcome) {
    let outcome = settlement.outcome().await;
    (batch, outcome)
}

#[async_trait]
impl<S: Source> Input for Replay<S> {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        loop {
            if let Some(batch) = self.failed.pop_front() {
                return Ok(Some(self.hand_out(batch)));
            }
            if self.ended {
                // Asked again once everything is settled, for what failed has to come again.
                // Not out of turn: one that is not heard of now would not come again.
                match unconstrained(self.unsettled.next())
                    .now_or_never()
                    .flatten()
                {
                    Some((batch, outcome)) => self.note(batch, &outcome),
                    None => return Ok(None),
                }
                continue;
            }
            tokio::select! {
                biased;
                Some((batch, outcome)) = self.unsettled.next() => self.note(batch, &outcome),
                fresh = self.source.next() => match fresh? {
                    Some(batch) => return Ok(Some(self.hand_out(batch))),
                    None => self.ended = true,
                },
            }
        }
    }

    /// What failed only this process has.
    fn stop(&mut self) -> bool {
        self.ended = true;
        true
    }

    async fn close(&mut self) {
        while let Some((batch, outcome)) = self.unsettled.next().await {
            self.note(batch, &outcome);
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
    async fn what_was_not_delivered_comes_again_before_the_end() {
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
