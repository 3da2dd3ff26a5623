//! What one stage of the pipeline hands to the next.

use meterline_core::{Ack, Message};

/// A message and its share of the duty to acknowledge.
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) ack: Ack,
}

/// What a leaf is handed.
pub(crate) struct MessageBatch {
    pub(crate) deliveries: Vec<Delivery>,
    /// The last part of a batch of the input's.
    pub(crate) ends_batch: bool,
    /// Nothing may wait any longer: there will be no more for now.
    pub(crate) flush: bool,
}
