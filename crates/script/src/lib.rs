//! Rhai mappings: engine limits, the function library and run-time interpolation
//!
//! In a script `this` is the message (read-only) and `root` what it becomes; `meta("key")` reads
//! metadata and `meta["key"] = value` sets it; `deleted()` drops. JSON null and a missing field are
//! both `()`. A script fails for its message alone: limits on steps, time and sizes hold for every
//! run, and nothing in a script reaches outside it.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod analysis;
mod blank;
mod configured;
mod context;
mod convert;
mod cpu;
mod decimal;
mod engine;
mod error;
mod exact;
mod expression;
mod foresee;
mod functions;
mod mapping;
mod materialise;
mod notes;
mod paths;
mod pod;
mod prefix;
pub mod quantity;
mod reads;
mod reuse;
mod script;
mod statements;
mod syntax;
mod template;

pub use engine::{Engine, Limits, STACK_SIZE};
pub use error::{RunError, ScriptError};
pub use expression::Expression;
pub use functions::{Example, FunctionDoc, Group, Purity};
pub use mapping::{Mapped, Mapping};
pub use notes::{Loss, Note};
pub use template::Template;

#[cfg(test)]
mod tests;
