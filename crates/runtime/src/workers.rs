//! Threads that run processors, and the results of the batches that they process.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use meterline_core::{Ack, Batch, Chain, Drops, HealthHandle, IntCounter, Message, Metrics};
use tokio::{sync::Semaphore, task::JoinHandle};
use tracing::{error, info};

use crate::{failure_rate::FailureRate, panics::panicked};

/// The most messages in one chunk. A large batch is processed in chunks, so that it uses all threads and
/// is never held twice as a whole.
const CHUNK: usize = 512;

/// Splits a batch into chunks of at most [`CHUNK`] messages. The parts of one message stay in one chunk,
/// because whether nothing is left of the message is decided for each chunk. Returns at least one chunk, so
/// that an empty batch is settled as well.
pub(crate) fn cut(mut batch: Batch) -> Vec<Batch> {
    let mut chunks = Vec::with_capacity(batch.len() / CHUNK + 1);
    while batch.len() > CHUNK {
        let rest = batch.split_off(end_of_chunk(&batch));
        chunks.push(std::mem::replace(&mut batch, rest));
    }
    if chunks.is_empty() || !batch.is_empty() {
        chunks.push(batch);
    }
    chunks
}

/// Returns how many messages the first chunk of a batch has.
fn end_of_chunk(batch: &[Message]) -> usize {
    let (chunk, rest) = batch.split_at_checked(CHUNK).unwrap_or((batch, &[]));
    let last = chunk.last().and_then(Message::origin);
    let is_same = |it: &&Message| last.is_some() && it.origin() == last;
    chunk.len() + rest.iter().take_while(is_same).count()
}

/// The result of processing a chunk.
#[derive(Default)]
pub(crate) struct Processed {
    batch: Batch,
    /// The numbers of the messages of which nothing is left.
    missing: Vec<u32>,
    drops: Drops,
}

impl Processed {
    pub(crate) fn add(&mut self, other: Self) {
        self.batch.extend(other.batch);
        self.missing.extend(other.missing);
        self.drops.extend(other.drops);
    }
}

/// A chain of processors for each thread. Clones share the chains.
#[derive(Clone)]
pub(crate) struct Workers {
    idle: Arc<Mutex<Vec<Chain>>>,
    /// One permit for each idle chain.
    free: Arc<Semaphore>,
    /// The place of a failure, if no processor names one.
    place: Arc<str>,
    panics: IntCounter,
}

impl Workers {
    pub(crate) fn new(mut chains: Vec<Chain>, place: &Arc<str>, metrics: &Metrics) -> Self {
        if chains.is_empty() {
            chains.push(Chain::new());
        }
        Self {
            free: Arc::new(Semaphore::new(chains.len())),
            idle: Arc::new(Mutex::new(chains)),
            place: Arc::clone(place),
            panics: metrics.counter(
                "processor_panics",
                "Messages whose processing panicked, which are rejected.",
                &[],
            ),
        }
    }

    /// Starts to process a chunk as soon as a thread is free.
    pub(crate) async fn start(&self, chunk: Batch) -> JoinHandle<Processed> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let idle = || this.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = idle().pop();
            let mut chain = taken.unwrap_or_default();
            let processed = safely(&mut chain, chunk, &this.place, &this.panics);
            idle().push(chain);
            drop(permit);
            processed
        })
    }
}

/// Processes a chunk. If that panics, its messages are processed one by one, and those that panic alone
/// are flagged as failed. So the content of one message can never block the others.
fn safely(chain: &mut Chain, chunk: Batch, place: &str, panics: &IntCounter) -> Processed {
    let copy = chunk.clone();
    if let Ok(processed) = catch_unwind(AssertUnwindSafe(|| process(chain, chunk))) {
        return processed;
    }
    let mut all = Processed::default();
    for message in copy {
        let one = vec![message.clone()];
        match catch_unwind(AssertUnwindSafe(|| process(chain, one))) {
            Ok(processed) => all.add(processed),
            Err(_) => {
                panics.inc();
                all.batch.push(panicked(message, place));
            }
        }
    }
    all
}

fn process(chain: &mut Chain, chunk: Batch) -> Processed {
    let mut missing: Vec<_> = chunk.iter().filter_map(Message::origin).collect();
    let mut drops = Drops::default();
    let batch = chain.iter_mut().fold(chunk, |batch, processor| {
        processor.process(batch, &mut drops)
    });
    if batch
        .iter()
        .filter_map(Message::origin)
        .eq(missing.iter().copied())
    {
        missing.clear();
    } else {
        let left: HashSet<_> = batch.iter().filter_map(Message::origin).collect();
        missing.retain(|origin| !left.contains(origin));
    }
    Processed {
        batch,
        missing,
        drops,
    }
}

/// Reports on processed chunks: whether processing works in general, and what it dropped.
pub(crate) struct Results {
    verdict: Verdict,
    metrics: Metrics,
    /// The place of a drop that no processor noted.
    place: Arc<str>,
}

impl Results {
    pub(crate) fn new(health: HealthHandle, place: &Arc<str>, metrics: &Metrics) -> Self {
        Self {
            verdict: Verdict::new(health),
            metrics: metrics.clone(),
            place: Arc::clone(place),
        }
    }

    /// Returns the messages that remain, and notes the dropped ones on the acknowledgement.
    pub(crate) fn take(&mut self, processed: Processed, ack: &Ack) -> Batch {
        let Processed {
            batch,
            missing,
            drops,
        } = processed;
        self.verdict.judge(&batch);
        for drop in drops.iter() {
            self.metrics
                .counter(
                    "processor_dropped",
                    "Messages that a processor dropped on purpose.",
                    &[("path", &drop.place)],
                )
                .inc();
        }
        ack.note_dropped(missing.into_iter(), &drops, &self.place);
        batch
    }
}

/// Whether processing works in general. A single message that fails is rejected. If most messages fail,
/// the mapping is wrong.
struct Verdict {
    health: HealthHandle,
    failure_rate: FailureRate,
}

impl Verdict {
    fn new(health: HealthHandle) -> Self {
        health.ready("");
        Self {
            health,
            failure_rate: FailureRate::default(),
        }
    }

    fn judge(&mut self, chunk: &Batch) {
        let new = || chunk.iter().filter(|it| !it.was_rejected());
        let seen = new().count();
        if seen == 0 {
            return;
        }
        let failures = || new().filter_map(Message::failure);
        let was_ready = !self.failure_rate.most_failed();
        self.failure_rate.note(seen, failures().count());
        if !self.failure_rate.most_failed() {
            if !was_ready {
                info!("most messages can be processed again");
                self.health.ready("");
            }
        } else if let Some(first) = failures().next() {
            let reason = format!(
                "most messages fail in {}: {}",
                first.component, first.reason
            );
            if was_ready {
                error!("{reason}");
            }
            self.health.not_ready(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Health;

    use super::*;

    #[test]
    fn the_parts_of_one_message_stay_in_one_chunk() {
        let parts = |count: usize, origin: u32| vec![Message::raw("x").with_origin(origin); count];
        let sizes = |batches: &[Batch]| -> Vec<_> {
            let chunks = cut(batches.concat());
            chunks.iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[Batch::new()]), [0]);
        assert_eq!(sizes(&[parts(CHUNK, 1)]), [CHUNK]);
        assert_eq!(sizes(&[parts(CHUNK + 3, 1)]), [CHUNK + 3]);
        assert_eq!(
            sizes(&[parts(CHUNK - 1, 1), parts(3, 2), parts(1, 3)]),
            [CHUNK + 2, 1]
        );
        assert_eq!(sizes(&[parts(CHUNK, 1), parts(3, 2)]), [CHUNK, 3]);
        let unnumbered = vec![Message::raw("x"); 2 * CHUNK + 1];
        assert_eq!(sizes(&[unnumbered]), [CHUNK, CHUNK, 1]);
    }

    #[test]
    fn what_was_rejected_before_does_not_make_it_unready() {
        let health = Health::default();
        let mut verdict = Verdict::new(health.register("processors"));
        let failed = |again: bool| {
            let mut message = Message::raw("x");
            message.fail("mapping", "no");
            if again {
                message.tried_again()
            } else {
                message
            }
        };
        verdict.judge(&vec![failed(true); 500]);
        assert!(health.report().ready);
        verdict.judge(&vec![failed(false); 2]);
        assert!(!health.report().ready);
    }
}
