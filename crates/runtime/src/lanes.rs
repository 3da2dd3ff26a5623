//! Limits the requests under way, and the memory of messages that wait without blocking others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::chunk::{Backlog, Chunks, Lane};

/// So many messages that failed alone, or very often, wait without keeping others from being written. There is an end
/// to it, for they are held in memory.
const UNPROVEN: usize = 256;
/// So many kibibytes of messages that failed alone while others were taken, or took long to fail, wait
/// likewise. Where half of it is full less evidence is asked for.
const SUSPECTS: usize = 65_536;

/// The rights and the room of one output.
pub(crate) struct Lanes {
    /// The rights to have a request under way.
    slots: Arc<Semaphore>,
    /// The room for messages that failed alone, or very often, and the most of them that are tried at
    /// once.
    unproven: Arc<Semaphore>,
    trials: Semaphore,
    /// The room for suspects and what took long to fail, and the right to try one of those, which is
    /// beyond the slots: a sink that hangs for each of them takes no slot from others.
    suspected: Arc<Semaphore>,
    lane: Semaphore,
    /// The right of one slow batch to that.
    lead: Arc<Semaphore>,
    /// There is one slot only.
    is_single: bool,
}

/// What a request holds while it is under way, beyond the slot of its batch.
pub(crate) struct Rights<'a> {
    _trial: Option<SemaphorePermit<'a>>,
    _slot: Option<SemaphorePermit<'a>>,
}

impl Lanes {
    /// For so many requests under way at once.
    pub(crate) fn new(max_in_flight: usize) -> Self {
        let most = max_in_flight.max(1);
        Self {
            slots: Arc::new(Semaphore::new(most)),
            unproven: Arc::new(Semaphore::new(UNPROVEN)),
            trials: Semaphore::new(most.div_ceil(2)),
            suspected: Arc::new(Semaphore::new(SUSPECTS)),
            lane: Semaphore::new(1),
            lead: Arc::new(Semaphore::new(1)),
            is_single: most == 1,
        }
    }

    /// The right to have a request under way, once there is one.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// Messages that failed alone, very often or slowly wait where they keep no others from being
    /// written.
    pub(crate) fn change_lane(&self, chunks: &mut Chunks) {
        let (room, cost, lane) = match (chunks.backlog(), chunks.lane) {
            (Some(Backlog::Suspects(_)), Lane::Slow) => {
                // It has the room already.
                (chunks.lane, chunks.leads) = (Lane::Suspects, None);
                return;
            }
            (_, Lane::Slow) => return self.lead(chunks),
            (Some(Backlog::Suspects(kibibytes)), Lane::Slot | Lane::Unproven) => {
                (&self.suspected, kibibytes, Lane::Suspects)
            }
            (Some(Backlog::Slow(kibibytes)), Lane::Slot | Lane::Unproven) => {
                (&self.suspected, kibibytes, Lane::Slow)
            }
            (Some(Backlog::Unproven(messages)), Lane::Slot) => {
                (&self.unproven, messages, Lane::Unproven)
            }
            _ => return,
        };
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(room).try_acquire_many_owned(cost) {
            (chunks.capacity, chunks.slot, chunks.lane) = (Some(room), None, lane);
            self.lead(chunks);
        }
    }

    /// Of the slow batches one is cut down first, for the others may have failed for the same object.
    fn lead(&self, chunks: &mut Chunks) {
        if chunks.lane == Lane::Slow && chunks.leads.is_none() {
            chunks.leads = Arc::clone(&self.lead).try_acquire_owned().ok();
        }
    }

    /// The rights that a request needs beyond the slot of its batch; `is_short` if its time limit is.
    pub(crate) async fn rights(&self, chunks: &Chunks, is_short: bool) -> Rights<'_> {
        let lane = async {
            Rights {
                _trial: self.lane.acquire().await.ok(),
                _slot: None,
            }
        };
        let spare = async {
            Rights {
                _trial: self.trials.acquire().await.ok(),
                _slot: self.slots.acquire().await.ok(),
            }
        };
        match chunks.lane {
            Lane::Slot => Rights {
                _trial: None,
                _slot: None,
            },
            Lane::Suspects => lane.await,
            Lane::Unproven => spare.await,
            // A suspect may take the lane for half a minute, and a slot is not missed for some seconds.
            Lane::Slow if is_short => tokio::select! {
                rights = lane => rights,
                rights = spare => rights,
            },
            // Where there is one slot only it is for others.
            Lane::Slow if chunks.leads.is_some() || self.is_single => lane.await,
            Lane::Slow => spare.await,
        }
    }

    /// Whether so many suspects wait that less evidence is asked for.
    pub(crate) fn is_crowded(&self) -> bool {
        self.suspected.available_permits() < SUSPECTS / 2
    }
}
