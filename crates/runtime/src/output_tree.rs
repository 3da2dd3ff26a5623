//! The output tree: each message to the leaves that it is meant for.

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
    /// Brings the tree up; each leaf becomes a task in `leaves`.
    pub(crate) fn start(
        node: OutputNode,
        metrics: &Metrics,
        health: &Health,
        rejections: &Arc<Rejections>,
        leaves: &mut JoinSet<()>,
    ) -> Self {
        match node {
            OutputNode::Writer(node) => {
                // One parcel waits while the leaf is busy: that is all the room there is.
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

    /// Hands on a parcel; returns when there is room for another.
    pub(crate) fn send(&self, parcel: MessageBatch) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self {
                Self::Leaf(sender) => {
                    // A leaf that is gone drops the parcel, and with it the acks: lost, as it is.
                    let _ = sender.send(parcel).await;
                }
                Self::Route { children, .. } => {
                    let parcels = self.route(children.len(), parcel).await;
                    for (child, parcel) in children.iter().zip(parcels) {
                        child.send(parcel).await;
                    }
                }
                Self::Process { processors, child } => {
                    child.send(processed(processors, parcel).await).await;
                }
            }
        })
    }

    /// A parcel for each child of a [`Self::Route`]; none for anything else.
    async fn route(&self, count: usize, parcel: MessageBatch) -> Vec<MessageBatch> {
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
        let mut parcels: Vec<_> = (0..count)
            .map(|_| MessageBatch {
                deliveries: Vec::new(),
                ends_batch: parcel.ends_batch,
                flush: parcel.flush,
            })
            .collect();
        for Delivery { message, ack } in parcel.deliveries {
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
                        if let (Some(parcel), Some(ack)) = (parcels.get_mut(index), acks.next()) {
                            parcel.deliveries.push(Delivery { message, ack });
                        }
                    };
                    for index in others {
                        give(*index, message.clone());
                    }
                    // Nearly always there is only one, which needs no copy.
                    give(*last, message);
                }
            }
        }
        parcels
    }
}

/// The most that is handed down at once.
const PARCEL: usize = 512;
/// So many refused messages wait for the next output before the one that refused them has to wait:
/// an output that is down must not stop another that works, and memory has an end.
const FALLBACK_CAPACITY: usize = 65_536;

/// Hands what an output refused to the next. Nothing of it waits for company.
async fn forward_rejected(mut refused: mpsc::Receiver<Delivery>, sink: OutputTree) {
    let mut deliveries = Vec::new();
    while refused.recv_many(&mut deliveries, PARCEL).await > 0 {
        sink.send(MessageBatch {
            deliveries: std::mem::take(&mut deliveries),
            ends_batch: true,
            flush: true,
        })
        .await;
    }
}

/// Runs an output's own processors, and not on a thread that others need to get on.
async fn processed(processors: &Processors, parcel: MessageBatch) -> MessageBatch {
    if parcel.deliveries.is_empty() {
        return parcel;
    }
    let MessageBatch {
        deliveries,
        ends_batch,
        flush,
    } = parcel;
    let processors = Arc::clone(processors);
    let done = tokio::task::spawn_blocking(move || process(&processors, deliveries)).await;
    MessageBatch {
        // One that does not come back has dropped its acks: lost, as it is.
        deliveries: done.unwrap_or_default(),
        ends_batch,
        flush,
    }
}

/// Message by message, so that each keeps its ack.
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
