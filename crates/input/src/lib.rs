//! The inputs, and the buffers behind them.
//!
//! A new one needs a file, a `mod` line and an entry in [`SPECS`] or [`BUFFERS`].

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod broker;
mod buffer;
mod generate;
mod kubernetes_resources;
mod replay;
mod schedule;
mod settlements;
mod sqlite;
mod stdin;

use meterline_config::InputSpec;

pub use self::{
    buffer::BUFFERS,
    kubernetes_resources::{KEYS, LeaderElection},
};

/// Every input, by the name it has in a configuration.
pub const SPECS: &[InputSpec] = &[
    broker::SPEC,
    generate::SPEC,
    kubernetes_resources::SPEC,
    schedule::SPEC,
    stdin::SPEC,
];
