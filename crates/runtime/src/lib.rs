//! Runs a pipeline: channels, threads, batching, retries, rejection and shutdown.
//!
//! Only this crate spawns tasks, apart from the watches of `kubernetes_resources`. It uses the traits
//! of `meterline-core` and no component.
//!
//! Messages flow in one direction. The pipeline reads batches from the input, processes them in parallel
//! and forwards them in order. The output tree routes each message to its outputs. Each output collects
//! messages into batches, writes them and retries. Every message carries its share of the
//! acknowledgement of its batch. Back-pressure is a full channel.

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
mod suspected;
mod suspects;
#[cfg(test)]
mod tests;
mod workers;
mod write;

pub use pipeline::{Ended, Pipeline, Report};
pub use processed::processed;
