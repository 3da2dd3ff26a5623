//! Reads Benthos-style YAML into checked plans and reports every error with its place.
//!
//! The crate contains no component: a [`Registry`] supplies them. It reads no file except those that a
//! configuration names.

mod component;
mod context;
mod decorate;
mod diagnostic;
mod echo;
mod fields;
mod foresight;
mod inputs;
mod interpolate;
mod load;
mod node;
mod overrides;
mod plan;
mod post;
mod quotes;
mod replaced;
mod report;
mod sections;
mod tables;
#[cfg(test)]
mod tests;

pub use context::{
    BufferSpec, Configure, InputSpec, OutputSpec, PlanContext, ProcessorSpec, Registry, Spec,
};
pub use diagnostic::{Diagnostic, Place, Severity};
pub use echo::echo;
pub use fields::{Child, GoDuration, Located, optional_duration};
pub use foresight::Overlap;
pub use load::{Source, load};
pub use sections::{Admin, Http, Loaded, LogFormat, Logger, log_level};
pub use tables::file;
