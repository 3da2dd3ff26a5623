//! Processing in parallel, handing on in order.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use meterline_core::{
    Ack, Batch, Drops, Health, HealthHandle, IntCounter, Message, Metrics, Outcome, Processor,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tracing::{error, info};

use crate::{
    lately::Lately,
    panics::panicked,
    sink::{Delivery, Parcel, Sink},
};

/// A batch is processed in parts of so many messages, so that a large one uses all threads and is
/// never held twice as a whole.
const PART: usize = 512;

/// What the reader hands on.
pub(crate) enum Work {
    Batch(Batch, Ack),
    /// Nothing more comes for now.
    Flush,
}

/// The processors of one thread.
pub(crate) type Chain = Vec<Box<dyn Processor>>;

struct Part {
    done: JoinHandle<Processed>,
    ack: Ack,
    ends_batch: bool,
}

/// What became of a part.
#[derive(Default)]
struct Processed {
    batch: Batch,
    /// The numbers of the messages of which nothing is left.
    missing: Vec<u32>,
    drops: Drops,
}

impl Processed {
    fn add(&mut self, other: Self) {
        self.batch.extend(other.batch);
        self.missing.extend(other.missing);
        self.drops.extend(other.drops);
    }
}

enum Step {
    Part(Part),
    Flush,
}

/// Starts the two tasks of this stage: one gives parts to threads, one hands on what comes back.
pub(crate) fn start(
    chains: Vec<Chain>,
    work: mpsc::Receiver<Work>,
    sink: Sink,
    metrics: &Metrics,
    health: &Health,
    stages: &mut JoinSet<()>,
) {
    let threads = chains.len().max(1);
    let (steps, in_order) = mpsc::channel(threads);
    let panics = metrics.counter(
        "processor_panics",
        "Messages whose processing panicked, which are rejected.",
        &[],
    );
    stages.spawn(give_out(chains, work, steps, panics));
    let verdict = Verdict::new(health.register("processors"));
    stages.spawn(hand_on(in_order, sink, verdict, Dropped::new(metrics)));
}

/// Whether processing works on the whole: one message that fails is set aside, but when most of them
/// fail it is the mapping that is wrong.
struct Verdict {
    health: HealthHandle,
    lately: Lately,
}

impl Verdict {
    fn new(health: HealthHandle) -> Self {
        health.ready("");
        Self {
            health,
            lately: Lately::default(),
        }
    }

    fn judge(&mut self, part: &Batch) {
        let fresh = || part.iter().filter(|it| !it.was_rejected());
        let seen = fresh().count();
        if seen == 0 {
            return;
        }
        let failures = || fresh().filter_map(Message::failure);
        let was_ready = !self.lately.most_failed();
        self.lately.note(seen, failures().count());
        if !self.lately.most_failed() {
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

/// Counts what processors drop on purpose.
struct Dropped {
    metrics: Metrics,
    /// The place of a drop that no processor noted.
    otherwise: Arc<str>,
}

impl Dropped {
    fn new(metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.clone(),
            otherwise: PLACE.into(),
        }
    }

    fn count(&self, drops: &Drops) {
        for drop in drops.iter() {
            self.metrics
                .counter(
                    "processor_dropped",
                    "Messages that a processor dropped on purpose.",
                    &[("path", &drop.place)],
                )
                .inc();
        }
    }
}

async fn give_out(
    chains: Vec<Chain>,
    mut work: mpsc::Receiver<Work>,
    steps: mpsc::Sender<Step>,
    panics: IntCounter,
) {
    let (idle, mut waiting) = mpsc::channel(chains.len().max(1));
    for chain in chains {
        // There is room for all of them.
        let _ = idle.try_send(chain);
    }
    let idle = Arc::new(idle);
    while let Some(item) = work.recv().await {
        let (batch, ack) = match item {
            Work::Batch(batch, ack) => (batch, ack),
            Work::Flush => {
                if steps.send(Step::Flush).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let parts = cut(batch);
        let count = parts.len();
        for (index, (part, ack)) in parts.into_iter().zip(ack.split(count)).enumerate() {
            let Some(chain) = waiting.recv().await else {
                return;
            };
            let idle = Arc::clone(&idle);
            let panics = panics.clone();
            let done = tokio::task::spawn_blocking(move || {
                let mut chain: Chain = chain;
                let processed = safely(&mut chain, part, &panics);
                let _ = idle.try_send(chain);
                processed
            });
            let part = Part {
                done,
                ack,
                ends_batch: index + 1 == count,
            };
            if steps.send(Step::Part(part)).await.is_err() {
                return;
            }
        }
    }
}

/// The place of a failure of which only the pipeline knows.
const PLACE: &str = "pipeline.processors";

/// Processes a part. Where that panics its messages are processed one by one, so that those which
/// panic alone are flagged as failed: no content of one may hold up the others, today or for ever.
fn safely(chain: &mut Chain, part: Batch, panics: &IntCounter) -> Processed {
    let copy = part.clone();
    if let Ok(processed) = catch_unwind(AssertUnwindSafe(|| process(chain, part))) {
        return processed;
    }
    let mut all = Processed::default();
    for message in copy {
        let one = vec![message.clone()];
        match catch_unwind(AssertUnwindSafe(|| process(chain, one))) {
            Ok(processed) => all.add(processed),
            Err(_) => {
                panics.inc();
                all.batch.push(panicked(message, PLACE));
            }
        }
    }
    all
}

fn process(chain: &mut Chain, part: Batch) -> Processed {
    let mut missing: Vec<_> = part.iter().filter_map(Message::origin).collect();
    let mut drops = Drops::default();
    let batch = chain.iter_mut().fold(part, |batch, processor| {
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

/// Parts of at most [`PART`] messages; at least one, so that an empty batch is settled as well.
fn cut(mut batch: Batch) -> Vec<Batch> {
    let mut parts = Vec::with_capacity(batch.len() / PART + 1);
    while batch.len() > PART {
        let rest = batch.split_off(PART);
        parts.push(std::mem::replace(&mut batch, rest));
    }
    parts.push(batch);
    parts
}

async fn hand_on(
    mut in_order: mpsc::Receiver<Step>,
    sink: Sink,
    mut verdict: Verdict,
    dropped: Dropped,
) {
    while let Some(step) = in_order.recv().await {
        let parcel = match step {
            Step::Flush => Parcel {
                deliveries: Vec::new(),
                ends_batch: true,
                flush: true,
            },
            Step::Part(part) => {
                let deliveries = match part.done.await {
                    Ok(Processed {
                        batch,
                        missing,
                        drops,
                    }) => {
                        verdict.judge(&batch);
                        dropped.count(&drops);
                        part.ack
                            .note_dropped(missing.into_iter(), &drops, &dropped.otherwise);
                        let acks = part.ack.split_by_message(batch.iter().map(Message::origin));
                        batch
                            .into_iter()
                            .zip(acks)
                            .map(|(message, ack)| Delivery { message, ack })
                            .collect()
                    }
                    Err(_) => {
                        part.ack
                            .resolve(Outcome::Failed("processing panicked".to_owned()));
                        Vec::new()
                    }
                };
                Parcel {
                    deliveries,
                    ends_batch: part.ends_batch,
                    flush: false,
                }
            }
        };
        sink.send(parcel).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
