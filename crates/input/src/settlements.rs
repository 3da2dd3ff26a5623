//! The batches of an input that are not settled yet.

use std::{future::Future, pin::Pin};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use meterline_core::{Ack, Settled};
use tokio::task::unconstrained;

type Pending<K> = Pin<Box<dyn Future<Output = (K, Settled)> + Send>>;

/// Batches that were handed out, each with the key that its input uses for it.
pub(crate) struct Settlements<K>(FuturesUnordered<Pending<K>>);

impl<K> Default for Settlements<K> {
    fn default() -> Self {
        Self(FuturesUnordered::new())
    }
}

impl<K: Send + 'static> Settlements<K> {
    /// Adds a batch. Returns its acknowledgement.
    pub(crate) fn add(&self, key: K) -> Ack {
        let (ack, mut settlement) = Ack::new();
        self.0
            .push(Box::pin(async move { (key, settlement.settled().await) }));
        ack
    }

    /// Whether every batch is settled and was returned.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the next batch that is settled; `None` if there are none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<(K, Settled)> {
        self.0.next().await
    }

    /// Returns a batch that is settled already. It ignores Tokio's budget for a task, because otherwise a
    /// settled batch could look unsettled.
    pub(crate) fn try_next(&mut self) -> Option<(K, Settled)> {
        unconstrained(self.0.next()).now_or_never().flatten()
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Outcome;

    use super::*;

    #[tokio::test]
    async fn each_batch_comes_with_its_key_and_its_outcome_once() {
        let mut settlements = Settlements::default();
        let (first, second) = (settlements.add("first"), settlements.add("second"));
        assert!(settlements.try_next().is_none());
        second.resolve(Outcome::Delivered);
        let (key, settled) = settlements.next().await.unwrap();
        assert_eq!((key, settled.outcome), ("second", Outcome::Delivered));
        // A batch whose ack is dropped is lost, and no batch is left out.
        assert!(!settlements.is_empty());
        drop(first);
        let (key, settled) = settlements.try_next().unwrap();
        assert_eq!((key, settled.outcome), ("first", Outcome::Lost));
        assert!(settlements.is_empty());
        assert!(settlements.next().await.is_none());
    }
}
