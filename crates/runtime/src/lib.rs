//! Brings a pipeline to life: channels, threads, batching, retries, rejection and shutdown.
//!
//! The only crate that spawns (but for the watches of `kubernetes_resources`). It knows the traits
//! of `meterline-core` and no component.
//!
//! One direction: the input is read, batches are processed in parallel and handed on in order, the
//! output tree routes each message to its leaves, and a leaf gathers, writes and retries. Every
//! message carries its share of its batch's acknowledgement; back-pressure is a full channel.

mod attempt;
mod backoff;
mod batch;
mod batcher;
mod chunk;
mod delivery;
mod evidence;
mod failure;
mod failure_rate;
mod lanes;
mod outage;
mod output_status;
mod output_tree;
mod panics;
mod pipeline;
mod probes;
mod process;
mod processed;
mod rejections;
mod search_limit;
mod settle;
mod size_limit;
mod suspects;
#[cfg(test)]
mod tests;
mod workers;
mod write;

pub use pipeline::{Ended, Pipeline, Report};
pub use processed::processed;
