//! The single-use acknowledgement of a batch.
//!
//! An [`Ack`] accompanies the messages that were made from a batch and resolves once, when all of them are
//! settled. It is consumed by value; the worst outcome wins; an `Ack` that is dropped
//! unresolved (a panic, an aborted task, a missed branch) counts as [`Outcome::Lost`], never as
//! success.
//!
//! It reports the fate of each message to the input: a part that belongs to one message has the number of
//! that message in the input's batch, and its fate is recorded where it is decided.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::{Cause, Drops, Rejection};

/// How a batch, or a part of it, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was dropped on purpose, at this place in the configuration.
    Dropped(Arc<str>),
    /// It arrived.
    Delivered,
    /// Some of it cannot be delivered at present; this was counted, logged and set aside. The batch is
    /// settled and must not be repeated.
    Rejected(Arc<Rejection>),
    /// It was not delivered and has to be repeated.
    Failed(String),
    /// The acknowledgement was dropped unresolved; the batch has to be repeated.
    Lost,
}

impl Outcome {
    /// A rejection of a message whose subject is not known.
    #[must_use]
    pub fn rejected(cause: Cause, component: &str, reason: &str) -> Self {
        Self::Rejected(Arc::new(Rejection::new(cause, component, reason)))
    }

    /// Whether the batch is settled, so that its input need not repeat it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !matches!(self, Self::Failed(_) | Self::Lost)
    }

    /// The worst outcome has the highest rank. A message that was delivered to one output and dropped by
    /// another is delivered.
    fn rank(&self) -> u8 {
        match self {
            Self::Dropped(_) => 0,
            Self::Delivered => 1,
            Self::Rejected(_) => 2,
            Self::Failed(_) => 3,
            Self::Lost => 4,
        }
    }
}

/// How a batch ended as a whole, and which of its messages were not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The worst outcome of any part. [`Outcome::Dropped`] only if all parts were dropped.
    pub outcome: Outcome,
    /// The messages that were dropped or rejected, by their number in the input's batch, each
    /// once. All others were delivered, if the batch is settled.
    pub undelivered: Vec<(u32, Outcome)>,
}

impl Settled {
    fn lost() -> Self {
        Self {
            outcome: Outcome::Lost,
            undelivered: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Noted {
    worst: Option<Outcome>,
    /// The fates of single messages, unordered and with duplicates. A delivery is recorded only for a message
    /// that has several parts.
    fates: Vec<(u32, Outcome)>,
}

impl Noted {
    fn note(&mut self, outcome: Outcome) {
        if self
            .worst
            .as_ref()
            .is_none_or(|worst| worst.rank() < outcome.rank())
        {
            self.worst = Some(outcome);
        }
    }

    fn settled(self) -> Settled {
        let mut fates = self.fates;
        // The worst fate of each message is first, and is kept.
        fates.sort_by_key(|(origin, fate)| (*origin, std::cmp::Reverse(fate.rank())));
        fates.dedup_by_key(|(origin, _)| *origin);
        fates.retain(|(_, fate)| matches!(fate, Outcome::Dropped(_) | Outcome::Rejected(_)));
        Settled {
            outcome: self.worst.unwrap_or(Outcome::Delivered),
            undelivered: fates,
        }
    }
}

struct Shared {
    noted: Mutex<Noted>,
    sender: Mutex<Option<oneshot::Sender<Settled>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let noted = self.noted.get_mut().unwrap_or_else(PoisonError::into_inner);
        let settled = std::mem::take(noted).settled();
        let sender = self
            .sender
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.take() {
            // An input that dropped its settlement does not need the outcome.
            let _ = sender.send(settled);
        }
    }
}

/// The obligation to report how a batch ended. It resolves once, when all its parts have; the worst outcome
/// wins, and a part that is dropped counts as lost.
///
/// ```
/// use meterline_core::{Ack, Outcome};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let unavailable = Outcome::Failed("the sink is unavailable".to_owned());
/// let (ack, mut settlement) = Ack::new();
/// let mut parts = ack.split(2);
/// parts.remove(0).resolve(unavailable.clone());
/// parts.remove(0).resolve(Outcome::Delivered);
/// assert_eq!(settlement.outcome().await, unavailable);
///
/// let (dropped, mut settlement) = Ack::new();
/// drop(dropped);
/// assert_eq!(settlement.outcome().await, Outcome::Lost);
/// # });
/// ```
#[must_use = "an Ack must be resolved; dropping it counts as lost"]
pub struct Ack {
    shared: Arc<Shared>,
    /// The message that this part belongs to, if it belongs to a single one.
    origin: Option<u32>,
    /// Whether the same message has other parts.
    branched: bool,
    /// Why an output rejected the message, which is now passed to the next output.
    refused: Option<Arc<Rejection>>,
    done: bool,
}

/// The other end of an [`Ack`]: resolves to the outcome.
#[derive(Debug)]
pub struct Settlement(oneshot::Receiver<Settled>);

impl Settlement {
    /// Waits until the whole batch is settled. Cancel-safe.
    pub async fn outcome(&mut self) -> Outcome {
        self.settled().await.outcome
    }

    /// Waits until the whole batch is settled. Returns the fates of its messages. Cancel-safe.
    pub async fn settled(&mut self) -> Settled {
        (&mut self.0).await.unwrap_or_else(|_| Settled::lost())
    }
}

impl Ack {
    /// A new acknowledgement and its settlement.
    pub fn new() -> (Self, Settlement) {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::new(Shared {
            noted: Mutex::default(),
            sender: Mutex::new(Some(sender)),
        });
        (Self::part(shared, None, false), Settlement(receiver))
    }

    fn part(shared: Arc<Shared>, origin: Option<u32>, branched: bool) -> Self {
        Self {
            shared,
            origin,
            branched,
            refused: None,
            done: false,
        }
    }

    /// Reports how this part ended.
    pub fn resolve(mut self, outcome: Outcome) {
        self.note(outcome);
        self.done = true;
    }

    /// Reports that this part ended like another batch whose messages have the same numbers.
    pub fn resolve_as(mut self, settled: Settled) {
        let mut noted = self.noted();
        noted.note(settled.outcome);
        noted.fates.extend(settled.undelivered);
        drop(noted);
        self.done = true;
    }

    /// Splits the acknowledgement into `parts`: the batch is settled when all are, and the worst outcome wins.
    /// Zero parts means that nothing is left to deliver, which settles this part as delivered.
    #[must_use]
    pub fn split(mut self, parts: usize) -> Vec<Self> {
        self.done = true;
        let branched = self.branched || parts > 1;
        (0..parts)
            .map(|_| {
                let mut part = Self::part(Arc::clone(&self.shared), self.origin, branched);
                part.refused.clone_from(&self.refused);
                part
            })
            .collect()
    }

    /// Splits the acknowledgement into one part for each message, with its number if it has one.
    #[must_use]
    pub fn split_by_message(mut self, origins: impl Iterator<Item = Option<u32>>) -> Vec<Self> {
        self.done = true;
        let mut last = None;
        let mut repeats = false;
        let mut parts: Vec<_> = origins
            .map(|origin| {
                // Usually the numbers are ascending and unique; otherwise a number may occur twice.
                repeats |= origin.is_some() && origin <= last;
                last = origin.or(last);
                Self::part(Arc::clone(&self.shared), origin, false)
            })
            .collect();
        if repeats {
            for part in &mut parts {
                part.branched = true;
            }
        }
        parts
    }

    /// Records the messages of `origins` that were dropped, and where. If the place is not known, it is
    /// `otherwise`.
    pub fn note_dropped(
        &self,
        origins: impl Iterator<Item = u32>,
        drops: &Drops,
        otherwise: &Arc<str>,
    ) {
        let mut origins = origins.peekable();
        if origins.peek().is_none() {
            return;
        }
        let places = drops.places();
        let mut noted = self.noted();
        for origin in origins {
            let place = places.get(&origin).copied().unwrap_or(otherwise);
            let fate = Outcome::Dropped(Arc::clone(place));
            noted.note(fate.clone());
            noted.fates.push((origin, fate));
        }
    }

    /// Records that an output rejected the message, which is now passed to the next.
    pub fn refuse(&mut self, rejection: Arc<Rejection>) {
        self.refused = Some(rejection);
    }

    /// Why an output rejected the message before, if one did.
    #[must_use]
    pub fn refused(&self) -> Option<&Arc<Rejection>> {
        self.refused.as_ref()
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.shared
            .noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: Outcome) {
        let mut noted = self.noted();
        if let Some(origin) = self.origin {
            match &outcome {
                Outcome::Delivered if !self.branched => {}
                Outcome::Failed(_) | Outcome::Lost => {}
                fate => noted.fates.push((origin, fate.clone())),
            }
        }
        noted.note(outcome);
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

    fn now(settlement: Settlement) -> Option<Outcome> {
        settled(settlement).map(|it| it.outcome)
    }

    fn settled(mut settlement: Settlement) -> Option<Settled> {
        settlement.0.try_recv().ok()
    }

    fn rejected(reason: &str) -> Outcome {
        Outcome::rejected(Cause::Refused, "sink", reason)
    }

    fn dropped(place: &str) -> Outcome {
        Outcome::Dropped(place.into())
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
            part.resolve(rejected("400"));
        }
        parts.pop().unwrap().resolve(Outcome::Delivered);
        assert_eq!(now(settlement), Some(rejected("400")));
    }

    #[test]
    fn an_empty_split_is_delivered() {
        let (ack, settlement) = Ack::new();
        assert!(ack.split(0).is_empty());
        assert_eq!(now(settlement), Some(Outcome::Delivered));
    }

    #[test]
    fn a_dropped_part_loses_the_batch() {
        let (ack, settlement) = Ack::new();
        let mut parts = ack.split(2);
        parts.pop().unwrap().resolve(Outcome::Delivered);
        drop(parts);
        assert_eq!(now(settlement), Some(Outcome::Lost));
    }

    #[test]
    fn a_panic_loses_the_batch() {
        let (ack, settlement) = Ack::new();
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = ack;
            panic!("the task panics");
        }));
        assert!(died.is_err());
        assert_eq!(now(settlement), Some(Outcome::Lost));
    }

    #[test]
    fn each_undelivered_message_is_reported_once_with_its_fate() {
        let (ack, settlement) = Ack::new();
        let parts = ack.split(2);
        let [first, second]: [Ack; 2] = parts.try_into().unwrap();
        first.note_dropped([1].into_iter(), &Drops::default(), &"a mapping".into());
        for part in first.split_by_message([Some(0), Some(2)].into_iter()) {
            part.resolve(Outcome::Delivered);
        }
        let [three, four]: [Ack; 2] = second
            .split_by_message([Some(3), Some(4)].into_iter())
            .try_into()
            .unwrap();
        three.resolve(rejected("400"));
        four.resolve(dropped("a switch"));
        let settled = settled(settlement).unwrap();
        assert_eq!(settled.outcome, rejected("400"));
        assert_eq!(
            settled.undelivered,
            [
                (1, dropped("a mapping")),
                (3, rejected("400")),
                (4, dropped("a switch")),
            ]
        );
    }

    #[test]
    fn of_several_fates_a_rejection_wins_over_a_delivery_and_a_delivery_over_a_drop() {
        for (fates, expected) in [
            (vec![dropped("a"), Outcome::Delivered], None),
            (vec![Outcome::Delivered, rejected("x")], Some(rejected("x"))),
            (vec![dropped("a"), rejected("x")], Some(rejected("x"))),
            (vec![dropped("a"), dropped("a")], Some(dropped("a"))),
        ] {
            // Copies for several outputs, and several messages that a processor made from one.
            for by_output in [true, false] {
                let (ack, settlement) = Ack::new();
                let parts = if by_output {
                    let mut one = ack.split_by_message([Some(7)].into_iter());
                    one.pop().unwrap().split(fates.len())
                } else {
                    ack.split_by_message(fates.iter().map(|_| Some(7)))
                };
                for (part, fate) in parts.into_iter().zip(&fates) {
                    part.resolve(fate.clone());
                }
                let undelivered = settled(settlement).unwrap().undelivered;
                let found = undelivered.into_iter().next();
                assert_eq!(found, expected.clone().map(|fate| (7, fate)));
            }
        }
    }

    #[test]
    fn fates_are_forwarded_through_another_acknowledgement() {
        let (outer, settlement) = Ack::new();
        let (inner, mut within) = Ack::new();
        for part in inner.split_by_message([Some(0), Some(1)].into_iter()) {
            part.resolve(rejected("no"));
        }
        outer.resolve_as(within.0.try_recv().unwrap());
        let settled = settled(settlement).unwrap();
        assert_eq!(settled.undelivered.len(), 2);
        assert_eq!(settled.outcome, rejected("no"));
    }
}
