//! The single-use acknowledgement of a batch.
//!
//! An [`Ack`] travels with what was made from a batch and resolves once, when everything made from
//! it is settled. It is consumed by value; the worst outcome wins; an `Ack` that is dropped
//! unresolved (a panic, an aborted task, a forgotten branch) counts as [`Outcome::Lost`], never as
//! success.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// How a batch, or a part of it, ended. Ordered from best to worst.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything arrived, or was dropped on purpose.
    Delivered,
    /// Some of it can never arrive; it was counted, logged and set aside. The batch is settled and
    /// must not come again.
    Rejected(String),
    /// It may arrive when it is sent again.
    Failed(String),
    /// The acknowledgement was dropped without a word; it must be sent again.
    Lost,
}

impl Outcome {
    /// Whether the batch is done with, so that its input need not produce it again.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Delivered | Self::Rejected(_))
    }
}

struct Shared {
    worst: Mutex<Outcome>,
    sender: Mutex<Option<oneshot::Sender<Outcome>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let worst = self.worst.get_mut().unwrap_or_else(PoisonError::into_inner);
        let sender = self
            .sender
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.take() {
            // An input that no longer listens has no use for the outcome.
            let _ = sender.send(worst.clone());
        }
    }
}

/// The duty to say how a batch ended. See the module documentation.
#[must_use = "an Ack must be resolved; dropping it counts as lost"]
pub struct Ack {
    shared: Arc<Shared>,
    done: bool,
}

/// The other end of an [`Ack`]: resolves to the outcome.
#[derive(Debug)]
pub struct Settlement(oneshot::Receiver<Outcome>);

impl Settlement {
    /// Waits until the whole batch is settled. Cancel-safe.
    pub async fn outcome(&mut self) -> Outcome {
        (&mut self.0).await.unwrap_or(Outcome::Lost)
    }
}

impl Ack {
    /// A new acknowledgement and the end that learns of it.
    pub fn new() -> (Self, Settlement) {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::new(Shared {
            worst: Mutex::new(Outcome::Delivered),
            sender: Mutex::new(Some(sender)),
        });
        (
            Self {
                shared,
                done: false,
            },
            Settlement(receiver),
        )
    }

    /// Says how this part ended.
    pub fn resolve(mut self, outcome: Outcome) {
        self.note(outcome);
        self.done = true;
    }

    /// Cuts the duty into `parts`: the batch is settled when all are, and the worst outcome wins.
    /// Zero parts means that nothing is left to deliver, which settles this part as delivered.
    #[must_use]
    pub fn split(mut self, parts: usize) -> Vec<Self> {
        self.done = true;
        (0..parts)
            .map(|_| Self {
                shared: Arc::clone(&self.shared),
                done: false,
            })
            .collect()
    }

    fn note(&self, outcome: Outcome) {
        let mut worst = self
            .shared
            .worst
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *worst < outcome {
            *worst = outcome;
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if !self.done {
            self.note(Outcome::Lost);
        }
    }
}

impl std::fmt::Debug for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ack").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mut settlement: Settlement) -> Option<Outcome> {
        settlement.0.try_recv().ok()
    }

    #[test]
    fn a_dropped_ack_is_lost() {
        let (ack, settlement) = Ack::new();
        drop(ack);
        assert_eq!(now(settlement), Some(Outcome::Lost));
    }

    #[test]
    fn nothing_is_settled_before_the_last_part() {
        let (ack, mut settlement) = Ack::new();
        let mut parts = ack.split(2);
        parts.pop().unwrap().resolve(Outcome::Delivered);
        assert!(settlement.0.try_recv().is_err());
        parts.pop().unwrap().resolve(Outcome::Delivered);
        assert_eq!(now(settlement), Some(Outcome::Delivered));
    }

    #[test]
    fn the_worst_outcome_wins_through_nested_splits() {
        let (ack, settlement) = Ack::new();
        let mut parts = ack.split(2);
        for part in parts.pop().unwrap().split(3) {
            part.resolve(Outcome::Rejected("400".into()));
        }
        parts.pop().unwrap().resolve(Outcome::Delivered);
        assert_eq!(now(settlement), Some(Outcome::Rejected("400".into())));
    }

    #[test]
    fn an_empty_split_is_delivered() {
        let (ack, settlement) = Ack::new();
        assert!(ack.split(0).is_empty());
        assert_eq!(now(settlement), Some(Outcome::Delivered));
    }

    #[test]
    fn one_forgotten_part_loses_the_batch() {
        let (ack, settlement) = Ack::new();
        let mut parts = ack.split(2);
        parts.pop().unwrap().resolve(Outcome::Delivered);
        drop(parts);
        assert_eq!(now(settlement), Some(Outcome::Lost));
    }

    #[test]
    fn a_panicking_owner_loses_the_batch() {
        let (ack, settlement) = Ack::new();
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = ack;
            panic!("the owner died");
        }));
        assert!(died.is_err());
        assert_eq!(now(settlement), Some(Outcome::Lost));
    }
}
