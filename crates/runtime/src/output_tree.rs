//! The output tree: routes each message to its outputs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use meterline_core::{
    Cause, Drops, Health, IntCounter, Message, Metrics, Outcome, OutputNode, Processor, Rejection,
    Router, Routing,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    batcher,
    delivery::{Delivery, MessageBatch},
    panics::panicked,
    rejections::Rejections,
    settle,
};

type Processors = Arc<Mutex<Vec<Box<dyn Processor>>>>;

/// A node of the tree.
pub(crate) enum OutputTree {
    Leaf(mpsc::Sender<MessageBatch>),
    Route {
        label: Arc<str>,
        router: Box<dyn Router>,
        children: Vec<OutputTree>,
        rejections: Arc<Rejections>,
        dropped: IntCounter,
    },
    Process {
        processors: Processors,
        child: Box<OutputTree>,
    },
}

impl OutputTree {
    /// Starts the tree; each output becomes a task in `leaves`.
    pub(crate) fn start(
        node: OutputNode,
        metrics: &Metrics,
        health: &Health,
        rejections: &Arc<Rejections>,
        leaves: &mut JoinSet<()>,
    ) -> Self {
        match node {
            OutputNode::Writer(node) => {
                // One batch waits while the output is busy; there is no further buffer.
                let (sender, receiver) = mpsc::channel(1);
                leaves.spawn(batcher::run(
                    node,
                    receiver,
                    metrics.clone(),
                    health.clone(),
                    Arc::clone(rejections),
                ));
                Self::Leaf(sender)
            }
            OutputNode::Route {
                label,
                router,
                children,
            } => Self::Route {
                dropped: settle::dropped(metrics, &label),
                label,
                router,
                children: children
                    .into_iter()
                    .map(|child| Self::start(child, metrics, health, rejections, leaves))
                    .collect(),
                rejections: Arc::clone(rejections),
            },
            OutputNode::Fallback { children } => {
                let mut children = children.into_iter().rev();
                let Some(last) = children.next() else {
                    unreachable!("a fallback has at least one child");
                };
                let mut sink = Self::start(last, metrics, health, rejections, leaves);
                for child in children {
                    let (next, refused) = mpsc::channel(FALLBACK_CAPACITY);
                    leaves.spawn(forward_rejected(refused, sink));
                    let path = Arc::new(Rejections::to(metrics, next));
                    sink = Self::start(child, metrics, health, &path, leaves);
                }
                sink
            }
            OutputNode::Process { processors, child } => Self::Process {
                processors: Arc::new(Mutex::new(processors)),
                child: Box::new(Self::start(*child, metrics, health, rejections, leaves)),
            },
        }
    }

    /// Forwards a batch; returns when it can accept another.
    pub(crate) fn send(&self, batch: MessageBatch) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self {
                Self::Leaf(sender) => {
                    // An output that has ended drops the batch and its acks, so the messages count as lost.
                    let _ = sender.send(batch).await;
                }
                Self::Route { children, .. } => {
                    let batches = self.route(children.len(), batch).await;
                    for (child, batch) in children.iter().zip(batches) {
                        child.send(batch).await;
                    }
                }
                Self::Process { processors, child } => {
                    child.send(processed(processors, batch).await).await;
                }
            }
        })
    }

    /// Returns a batch for each child of a [`Self::Route`], and nothing for other nodes.
    async fn route(&self, count: usize, batch: MessageBatch) -> Vec<MessageBatch> {
        let Self::Route {
            label,
            router,
            rejections,
            dropped,
            ..
        } = self
        else {
            return Vec::new();
        };
        let mut batches: Vec<_> = (0..count)
            .map(|_| MessageBatch {
                deliveries: Vec::new(),
                ends_batch: batch.ends_batch,
                flush: batch.flush,
            })
            .collect();
        for Delivery { message, ack } in batch.deliveries {
            match router.route(&message) {
                Routing::Reject(reason) => {
                    let rejection = Rejection::new(Cause::Unroutable, Arc::clone(label), reason);
                    rejections.reject_failed(message, ack, rejection).await;
                }
                Routing::To(chosen) => {
                    let Some((last, others)) = chosen.split_last() else {
                        dropped.inc();
                        ack.resolve(Outcome::Dropped(Arc::clone(label)));
                        continue;
                    };
                    let mut acks = ack.split(chosen.len()).into_iter();
                    let mut give = |index: usize, message: Message| {
                        if let (Some(batch), Some(ack)) = (batches.get_mut(index), acks.next()) {
                            batch.deliveries.push(Delivery { message, ack });
                        }
                    };
                    for index in others {
                        give(*index, message.clone());
                    }
                    // The last output gets the original. Nearly always it is the only one, so no copy is
                    // made.
                    give(*last, message);
                }
            }
        }
        batches
    }
}

/// The most rejected messages that are forwarded at once.
const FORWARDED_AT_ONCE: usize = 512;
/// The number of rejected messages that may wait for the next output before the rejecting output is
/// blocked. An output that is down must not block another that works, and memory is bounded.
const FALLBACK_CAPACITY: usize = 65_536;

/// Forwards the messages that an output rejected to the next one. They do not wait for others.
async fn forward_rejected(mut refused: mpsc::Receiver<Delivery>, sink: OutputTree) {
    let mut deliveries = Vec::new();
    while refused.recv_many(&mut deliveries, FORWARDED_AT_ONCE).await > 0 {
        sink.send(MessageBatch {
            deliveries: std::mem::take(&mut deliveries),
            ends_batch: true,
            flush: true,
        })
        .await;
    }
}

/// Runs an output's own processors on a thread for blocking work.
async fn processed(processors: &Processors, batch: MessageBatch) -> MessageBatch {
    if batch.deliveries.is_empty() {
        return batch;
    }
    let MessageBatch {
        deliveries,
        ends_batch,
        flush,
    } = batch;
    let processors = Arc::clone(processors);
    let done = tokio::task::spawn_blocking(move || process(&processors, deliveries)).await;
    MessageBatch {
        // If the task panics, its acks are dropped, so the messages count as lost.
        deliveries: done.unwrap_or_default(),
        ends_batch,
        flush,
    }
}

/// Processes the messages one by one, so that each one keeps its ack.
fn process(
    processors: &Mutex<Vec<Box<dyn Processor>>>,
    deliveries: Vec<Delivery>,
) -> Vec<Delivery> {
    let mut processors = processors.lock().unwrap_or_else(PoisonError::into_inner);
    let mut processed = Vec::with_capacity(deliveries.len());
    for Delivery { message, ack } in deliveries {
        let copy = message.clone();
        let mut drops = Drops::default();
        let messages = catch_unwind(AssertUnwindSafe(|| {
            processors
                .iter_mut()
                .fold(vec![message], |batch, processor| {
                    processor.process(batch, &mut drops)
                })
        }));
        let Ok(messages) = messages else {
            let message = panicked(copy, "processors of an output");
            processed.push(Delivery { message, ack });
            continue;
        };
        if messages.is_empty() {
            let place = drops.iter().next();
            let place = place.map_or_else(
                || "processors of an output".into(),
                |it| Arc::clone(&it.place),
            );
            ack.resolve(Outcome::Dropped(place));
            continue;
        }
        let acks = ack.split(messages.len());
        processed.extend(
            messages
                .into_iter()
                .zip(acks)
                .map(|(message, ack)| Delivery { message, ack }),
        );
    }
    processed
}
