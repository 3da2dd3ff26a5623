//! The inputs. Adding one: a file, a `mod` line and a line in [`SPECS`].

mod generate;
mod kubernetes_resources;
mod replay;
mod schedule;
mod stdin;

use meterline_config::InputSpec;

/// Every input, by the name it has in a configuration.
pub const SPECS: &[InputSpec] = &[
    generate::SPEC,
    kubernetes_resources::SPEC,
    schedule::SPEC,
    stdin::SPEC,
];
