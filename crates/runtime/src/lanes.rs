//! Limits the requests in flight, and the memory of messages that wait without blocking others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::chunk::{Backlog, Chunks, Lane};

/// The most messages that failed alone, or very often, and that wait without blocking others. The number
/// is limited because they are held in memory.
const UNPROVEN: usize = 256;
/// The most KiB of messages that failed alone while others were accepted, or that took long to fail, and
/// that wait in the same way. If more than half of it is used, less evidence is required.
const SUSPECTS: usize = 65_536;

/// The permits and the capacity of one output.
pub(crate) struct Lanes {
    /// The permits to have a request in flight.
    slots: Arc<Semaphore>,
    /// The capacity for messages that failed alone, or very often.
    unproven: Arc<Semaphore>,
    /// Limits how many of them are tried at once.
    trials: Semaphore,
    /// The capacity for suspects and for messages that took long to fail.
    suspected: Arc<Semaphore>,
    /// The extra lane: the right to try one of them, in addition to the slots. If a sink hangs for each of
    /// them, they take no slot from others.
    lane: Semaphore,
    /// The right of one slow batch to use the extra lane.
    lead: Arc<Semaphore>,
    /// Whether there is only one slot.
    is_single: bool,
}

/// The permits that a request holds while it is in flight, in addition to the slot of its batch.
pub(crate) struct Rights<'a> {
    _trial: Option<SemaphorePermit<'a>>,
    _slot: Option<SemaphorePermit<'a>>,
}

impl Lanes {
    /// Returns the lanes for this many requests in flight.
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

    /// Waits for the right to have a request in flight.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// Moves messages that failed alone, very often or slowly to a lane where they do not block others.
    pub(crate) fn change_lane(&self, chunks: &mut Chunks) {
        let (permit, cost, lane) = match (chunks.backlog(), chunks.lane) {
            (Some(Backlog::Suspects(_)), Lane::Slow) => {
                // It has the capacity already.
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
        if let Ok(permit) = Arc::clone(permit).try_acquire_many_owned(cost) {
            (chunks.capacity, chunks.slot, chunks.lane) = (Some(permit), None, lane);
            self.lead(chunks);
        }
    }

    /// Lets one of the slow batches lead. It is split first, because the others may have failed because
    /// of the same object.
    fn lead(&self, chunks: &mut Chunks) {
        if chunks.lane == Lane::Slow && chunks.leads.is_none() {
            chunks.leads = Arc::clone(&self.lead).try_acquire_owned().ok();
        }
    }

    /// Acquires the permits that a request needs in addition to the slot of its batch. `is_short` is
    /// whether its time limit is short.
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
            // A suspect may occupy the lane for half a minute. This request occupies a slot for a few
            // seconds only.
            Lane::Slow if is_short => tokio::select! {
                rights = lane => rights,
                rights = spare => rights,
            },
            // If there is only one slot, it is reserved for other batches.
            Lane::Slow if chunks.leads.is_some() || self.is_single => lane.await,
            Lane::Slow => spare.await,
        }
    }

    /// Whether so many suspects wait that less evidence is required.
    pub(crate) fn is_crowded(&self) -> bool {
        self.suspected.available_permits() < SUSPECTS / 2
    }
}
