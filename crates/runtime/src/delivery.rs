//! What one stage of the pipeline passes to the next.

use meterline_core::{Ack, Message};

/// A message and its share of the acknowledgement.
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) ack: Ack,
}

/// The messages that an output receives at once.
pub(crate) struct MessageBatch {
    pub(crate) deliveries: Vec<Delivery>,
    /// Whether this is the last part of an input batch.
    pub(crate) ends_batch: bool,
    /// Whether nothing may wait any longer, because no more messages come for now.
    pub(crate) flush: bool,
}
