//! A simulated Kubernetes API server over real HTTP, with pods that start, finish, change and are deleted,
//! and the truth about them.
//!
//! It implements what watchers use: lists (whole and in pages), watches from a resource version,
//! streaming lists, bookmarks, selectors, and the errors that matter (410 when a version is too
//! old, refusals, cut connections). The demo, tests and benchmarks use it; nothing that bills may.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod pod;
mod selector;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod world;

pub use pod::{PodShape, Size, rfc3339};
pub use selector::Selector;
pub use server::{Kubesim, Options};
pub use store::{Kind, Store};
pub use world::{Bill, World};
