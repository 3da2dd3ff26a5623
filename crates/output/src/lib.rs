//! The outputs. To add one, add a file, a `mod` line and a line in [`SPECS`].

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod address;
mod answers;
mod api;
mod batching;
mod broker;
mod drop;
mod drop_on;
mod fallback;
mod http;
mod http_client;
mod openmeter;
mod reject_errored;
mod requests;
mod retry;
mod stdout;
mod switch;
mod tls;
mod token;

pub use address::ApiVersion;
pub use api::{Api, ApiBody, ApiError, ApiResponse, ApiSettings};

use meterline_config::OutputSpec;

/// All outputs, each with its name in the configuration.
pub const SPECS: &[OutputSpec] = &[
    broker::SPEC,
    drop::SPEC,
    drop_on::SPEC,
    fallback::SPEC,
    http_client::SPEC,
    openmeter::SPEC,
    reject_errored::SPEC,
    retry::SPEC,
    stdout::SPEC,
    switch::SPEC,
];
