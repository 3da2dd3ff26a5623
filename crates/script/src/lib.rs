//! Rhai mappings: engine limits, the function library and run-time interpolation.
//!
//! In a script `this` is the message (read-only) and `root` the result; `meta("key")` reads metadata and
//! `meta["key"] = value` sets it; `deleted()` drops the message. JSON null and a missing field are both
//! `()`. A script that fails affects only its message: every run has limits on steps, CPU time and
//! sizes, and scripts cannot do I/O.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod accelerators;
mod analysis;
mod blank;
mod claim;
mod configured;
mod context;
mod convert;
mod cpu;
mod decimal;
mod device_reads;
mod engine;
mod error;
mod exact;
mod expression;
mod foresee;
mod functions;
mod lookups;
mod mapping;
mod materialise;
mod notes;
mod paths;
mod pod;
mod prefix;
pub mod quantity;
mod reads;
mod relation;
mod reuse;
mod script;
mod slice_reads;
mod statements;
mod syntax;
mod table;
mod template;
mod wildcard;

pub use claim::unknown_claim_devices;
pub use device_reads::DeviceReads;
pub use engine::{Engine, Limits, STACK_SIZE};
pub use error::{RunError, ScriptError};
pub use expression::Expression;
pub use functions::{Example, FunctionDoc, Group, NODE_READY, Purity};
pub use lookups::{LOOKUP, TABLE, key_at};
pub use mapping::{Mapped, Mapping};
pub use notes::{Loss, Note};
pub use pod::{UNKNOWN_DEVICES, UnknownDevice, compare_reserved, granted, unknown_devices};
pub use relation::Relation;
pub use slice_reads::{CLAIM_DEVICES, SliceReads};
pub use table::{MOST_BYTES as MOST_TABLE_BYTES, Table, TableFormat};
pub use template::Template;

#[cfg(test)]
mod tests;
