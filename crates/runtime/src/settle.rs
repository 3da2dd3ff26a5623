//! Settles messages: delivered, dropped on purpose or rejected.

use std::sync::Arc;

use meterline_core::{
    Ack, Cause, DropRule, IntCounter, Metrics, Outcome, Rejection, Taken, WriterNode,
};

use crate::{chunk::Chunk, output_status::Tally, rejections::Rejections};

/// Returns the counter of messages that an output dropped on purpose.
pub(crate) fn dropped(metrics: &Metrics, label: &str) -> IntCounter {
    metrics.counter(
        "output_dropped",
        "Messages that an output dropped on purpose: because of `drop_on`, or because no case of a \
         `switch` takes them.",
        &[("label", label)],
    )
}

/// The end of a chunk that is not split further.
pub(crate) enum End {
    Taken,
    Dropped,
    Rejected(Cause, String),
}

/// Settles the messages of one output.
pub(crate) struct Settler {
    label: Arc<str>,
    rejections: Arc<Rejections>,
    drops: Option<DropRule>,
    taken: Taken,
    sent: IntCounter,
    batches: IntCounter,
    dropped: IntCounter,
}

impl Settler {
    pub(crate) fn new(node: &WriterNode, metrics: &Metrics, rejections: Arc<Rejections>) -> Self {
        let labels = [("label", node.label.as_ref())];
        Self {
            label: Arc::clone(&node.label),
            rejections,
            drops: node.drops.clone(),
            taken: node.taken,
            sent: metrics.counter("output_sent", "Messages that arrived.", &labels),
            batches: metrics.counter("output_batch_sent", "Batches that arrived.", &labels),
            dropped: dropped(metrics, &node.label),
        }
    }

    /// Settles the messages of a chunk. Waits until the next output can accept the rejected ones.
    pub(crate) async fn settle(&self, chunk: Chunk, end: End, tally: &mut Tally) {
        let count = chunk.len();
        match end {
            End::Taken => {
                tally.delivered(count);
                self.sent.inc_by(count as u64);
                self.batches.inc();
                for ack in chunk.acks {
                    let outcome = self.taken(&ack);
                    ack.resolve(outcome);
                }
            }
            End::Dropped => {
                tally.dropped(count);
                self.dropped.inc_by(count as u64);
                for ack in chunk.acks {
                    ack.resolve(Outcome::Dropped(Arc::clone(&self.label)));
                }
            }
            End::Rejected(cause, reason) => {
                let rejection = Rejection::new(cause, Arc::clone(&self.label), reason.as_str());
                let before = chunk.messages.iter().filter(|it| it.was_rejected());
                let new = count.saturating_sub(before.count());
                tally.rejected(count, new, reason);
                for (message, ack) in chunk.messages.into_iter().zip(chunk.acks) {
                    let rejection = rejection.clone();
                    self.rejections.reject(message, ack, rejection).await;
                }
            }
        }
    }

    /// Returns the outcome of a message that was written.
    fn taken(&self, ack: &Ack) -> Outcome {
        match (self.taken, ack.refused()) {
            (Taken::Dropped, _) => Outcome::Dropped(Arc::clone(&self.label)),
            (Taken::Kept, Some(refused)) => Outcome::Rejected(Arc::clone(refused)),
            (Taken::Kept, None) | (Taken::Delivered, _) => Outcome::Delivered,
        }
    }

    /// Returns the end of a message that is rejected for this reason, or dropped if the configuration
    /// requires it.
    pub(crate) fn rejected_unless_dropped(&self, cause: Cause, reason: String) -> End {
        if self.is_dropped(&reason) {
            End::Dropped
        } else {
            End::Rejected(cause, reason)
        }
    }

    pub(crate) fn is_dropped(&self, reason: &str) -> bool {
        self.drops.as_ref().is_some_and(|drops| drops(reason))
    }
}
