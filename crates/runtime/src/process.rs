//! Processes batches in parallel and forwards them in order.

use std::sync::Arc;

use meterline_core::{Ack, Batch, Chain, Health, Message, Metrics, Outcome};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use crate::{
    delivery::{Delivery, MessageBatch},
    output_tree::OutputTree,
    workers::{Processed, Results, Workers, cut},
};

/// A job from the reader.
pub(crate) enum Job {
    Batch(Batch, Ack),
    /// No more batches come for now.
    Flush,
}

struct Chunk {
    done: JoinHandle<Processed>,
    ack: Ack,
    ends_batch: bool,
}

enum Step {
    Chunk(Chunk),
    Flush,
}

/// Why a chunk counts as failed if its task does not return.
pub(crate) const PANICKED: &str = "processing panicked";

/// Starts the two tasks of this stage: one dispatches chunks to threads, one forwards the results.
pub(crate) fn start(
    chains: Vec<Chain>,
    work: mpsc::Receiver<Job>,
    sink: OutputTree,
    metrics: &Metrics,
    health: &Health,
    stages: &mut JoinSet<()>,
) {
    let place = Arc::from("pipeline.processors");
    let (steps, in_order) = mpsc::channel(chains.len().max(1));
    let results = Results::new(health.register("processors"), &place, metrics);
    stages.spawn(dispatch(Workers::new(chains, &place, metrics), work, steps));
    stages.spawn(forward(in_order, sink, results));
}

async fn dispatch(workers: Workers, mut work: mpsc::Receiver<Job>, steps: mpsc::Sender<Step>) {
    while let Some(item) = work.recv().await {
        let (batch, ack) = match item {
            Job::Batch(batch, ack) => (batch, ack),
            Job::Flush => {
                if steps.send(Step::Flush).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let chunks = cut(batch);
        let count = chunks.len();
        for (index, (chunk, ack)) in chunks.into_iter().zip(ack.split(count)).enumerate() {
            let chunk = Chunk {
                done: workers.start(chunk).await,
                ack,
                ends_batch: index + 1 == count,
            };
            if steps.send(Step::Chunk(chunk)).await.is_err() {
                return;
            }
        }
    }
}

async fn forward(mut in_order: mpsc::Receiver<Step>, sink: OutputTree, mut results: Results) {
    while let Some(step) = in_order.recv().await {
        let batch = match step {
            Step::Flush => MessageBatch {
                deliveries: Vec::new(),
                ends_batch: true,
                flush: true,
            },
            Step::Chunk(chunk) => {
                let deliveries = match chunk.done.await {
                    Ok(processed) => {
                        let batch = results.take(processed, &chunk.ack);
                        let acks = chunk
                            .ack
                            .split_by_message(batch.iter().map(Message::origin));
                        batch
                            .into_iter()
                            .zip(acks)
                            .map(|(message, ack)| Delivery { message, ack })
                            .collect()
                    }
                    Err(_) => {
                        chunk.ack.resolve(Outcome::Failed(PANICKED.to_owned()));
                        Vec::new()
                    }
                };
                MessageBatch {
                    deliveries,
                    ends_batch: chunk.ends_batch,
                    flush: false,
                }
            }
        };
        sink.send(batch).await;
    }
}
