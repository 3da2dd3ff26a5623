//! The words every room of Meterline shares: what a message is, how a batch is acknowledged, and
//! what an input, a processor and an output promise.
//!
//! Nothing here knows YAML, HTTP, Kubernetes or a scheduler, so nothing here can fail for reasons
//! outside the process.

mod ack;
mod backoff;
mod document;
mod drops;
pub mod duration;
mod election;
mod fate;
pub mod foreseen;
mod health;
mod ids;
mod lines;
mod log_interval;
mod message;
mod metrics;
mod nearest;
mod reads;
mod rejected;
pub mod template;
mod traits;

pub use ack::{Ack, Outcome, Settled, Settlement};
pub use backoff::Backoff;
pub use document::{Builder, Document, Entries, Items, Limits, Mark, Node, Open, Scalar};
pub use drops::Drops;
pub use election::LeaderElection;
pub use fate::{Cause, Rejection};
pub use health::{Health, HealthHandle, HealthReport};
pub use ids::event_id;
pub use lines::Lines;
pub use log_interval::LogInterval;
pub use message::{Batch, Content, ContentError, Failure, Identity, Message, Metadata};
pub use metrics::{Labelled, Metrics};
pub use nearest::nearest;
pub use prometheus::{IntCounter, IntGauge};
pub use reads::{Parts, Reads, Step};
pub use rejected::{Rejected, RejectedItem, RejectedPage, RejectedStore};
pub use traits::{
    BatchPolicy, BufferPlan, BuildContext, BuildError, Chain, DropRule, FALLBACK_ERROR, Input,
    InputError, InputPlan, OutputNode, OutputPlan, Processing, Processor, ProcessorPlan, PutBehind,
    RetryPolicy, Router, Routing, Taken, Undelivered, WriteError, Writer, WriterNode,
};
