//! Who may have a request under way, and where messages wait that must not keep others from being
//! written.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::part::{Crowd, Parts};

/// So many messages that failed alone, or very often, wait without keeping others from being written. There is an end
/// to it, for they are held in memory.
const UNPROVEN: usize = 256;
/// So many kibibytes of messages that failed alone while others were taken wait likewise. Where half
/// of it is full less evidence is asked for.
const SUSPECTS: usize = 65_536;

/// The rights and the room of one output.
pub(crate) struct Room {
    /// The rights to have a request under way.
    slots: Arc<Semaphore>,
    /// The room for messages that failed alone, or very often, and the most of them that are tried at
    /// once.
    unproven: Arc<Semaphore>,
    trials: Semaphore,
    /// The room for suspects, and the right to try one, which is beyond the slots: a sink that hangs
    /// for each of them takes no slot from others.
    suspected: Arc<Semaphore>,
    lane: Semaphore,
}

/// What a request holds while it is under way, beyond the slot of its batch.
pub(crate) struct Rights<'a> {
    _trial: Option<SemaphorePermit<'a>>,
    _slot: Option<SemaphorePermit<'a>>,
}

impl Room {
    /// For so many requests under way at once.
    pub(crate) fn new(max_in_flight: usize) -> Self {
        let most = max_in_flight.max(1);
        Self {
            slots: Arc::new(Semaphore::new(most)),
            unproven: Arc::new(Semaphore::new(UNPROVEN)),
            trials: Semaphore::new(most.div_ceil(2)),
            suspected: Arc::new(Semaphore::new(SUSPECTS)),
            lane: Semaphore::new(1),
        }
    }

    /// The right to have a request under way, once there is one.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// Messages that failed alone, or very often, wait where they keep no others from being written.
    pub(crate) fn make_way(&self, parts: &mut Parts) {
        if parts.among_suspects {
            return;
        }
        let (room, cost, among_suspects) = match parts.crowd() {
            Some(Crowd::Suspects(kibibytes)) => (&self.suspected, kibibytes, true),
            Some(Crowd::Unproven(messages)) if parts.room.is_none() => {
                (&self.unproven, messages, false)
            }
            _ => return,
        };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(room).try_acquire_many_owned(cost) {
            (parts.room, parts.slot) = (Some(room), None);
            parts.among_suspects = among_suspects;
        }
    }

    /// The rights that a request needs beyond the slot of its batch.
    pub(crate) async fn rights(&self, parts: &Parts) -> Rights<'_> {
        if parts.slot.is_some() {
            return Rights {
                _trial: None,
                _slot: None,
            };
        }
        if parts.among_suspects {
            return Rights {
                _trial: self.lane.acquire().await.ok(),
                _slot: None,
            };
        }
        Rights {
            _trial: self.trials.acquire().await.ok(),
            _slot: self.slots.acquire().await.ok(),
        }
    }

    /// Whether so many suspects wait that less evidence is asked for.
    pub(crate) fn is_crowded(&self) -> bool {
        self.suspected.available_permits() < SUSPECTS / 2
    }
}
