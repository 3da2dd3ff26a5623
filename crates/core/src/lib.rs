//! The types that every crate of Meterline shares: messages, acknowledgements of batches, and the traits
//! of inputs, processors and outputs.
//!
//! Nothing here depends on YAML, HTTP, Kubernetes or an async runtime's scheduler.

mod ack;
mod backoff;
mod document;
mod drops;
pub mod duration;
mod extensions;
mod fate;
pub mod foreseen;
mod health;
mod ids;
mod lines;
mod log_interval;
mod message;
mod metrics;
mod nearest;
mod part;
mod reads;
mod rejected;
mod scratch;
pub mod template;
mod traits;

pub use ack::{Ack, Outcome, Settled, Settlement};
pub use backoff::Backoff;
pub use document::{
    Builder, DictionaryInUse, Document, Entries, Items, KeyDictionary, Limits, Mark, Node, Open,
    Scalar,
};
pub use drops::Drops;
pub use extensions::Extensions;
pub use fate::{Cause, Rejection};
pub use health::{Health, HealthHandle, HealthReport};
pub use ids::{event_id, part_id, uuid_v5};
pub use lines::Lines;
pub use log_interval::LogInterval;
pub use message::{About, Batch, Content, ContentError, Failure, Identity, Message, Metadata};
pub use metrics::{Labelled, Metrics};
pub use nearest::nearest;
pub use part::{BatchLimit, Part};
pub use prometheus::{IntCounter, IntGauge};
pub use reads::{Parts, Reads, Step};
pub use rejected::{Rejected, RejectedError, RejectedItem, RejectedPage, RejectedStore};
pub use traits::{
    BatchPolicy, BufferPlan, BuildContext, BuildError, Chain, DropRule, FALLBACK_ERROR, Input,
    InputError, InputPlan, OutputNode, OutputPlan, Processing, Processor, ProcessorPlan, PutBehind,
    RetryPolicy, Router, Routing, Taken, Undelivered, WriteError, Writer, WriterNode,
};
