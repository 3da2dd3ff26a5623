//! The outputs. Adding one: a file, a `mod` line and a line in [`SPECS`].

mod batching;
mod broker;
mod drop;
mod fallback;
mod http;
mod http_client;
mod openmeter;
mod reject_errored;
mod stdout;
mod switch;

use meterline_config::OutputSpec;

/// Every output, by the name it has in a configuration.
pub const SPECS: &[OutputSpec] = &[
    broker::SPEC,
    drop::SPEC,
    fallback::SPEC,
    http_client::SPEC,
    openmeter::SPEC,
    reject_errored::SPEC,
    stdout::SPEC,
    switch::SPEC,
];
