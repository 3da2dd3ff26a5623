//! The processors. To add one, add a file, a `mod` line and a line in [`SPECS`].

mod catch;
mod chain;
mod json_schema;
mod log;
mod mapping;
mod noop;
mod split;
mod switch;
#[cfg(test)]
mod testing;
mod r#try;
mod unarchive;

use meterline_config::ProcessorSpec;

/// Every processor, sorted by its name in a configuration.
pub const SPECS: &[ProcessorSpec] = &[
    catch::SPEC,
    json_schema::SPEC,
    log::SPEC,
    mapping::SPEC,
    noop::SPEC,
    split::SPEC,
    switch::SPEC,
    r#try::SPEC,
    unarchive::SPEC,
];
