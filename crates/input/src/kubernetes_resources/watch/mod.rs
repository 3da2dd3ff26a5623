//! Follows a collection of objects.

mod client;
mod errors;
mod history;
mod limits;
mod liveness;
mod namespace;
mod proofs;
mod task;
mod view;
mod warnings;

pub(super) use self::{
    client::client, liveness::WatchLiveness, task::Watch, view::Restored, warnings::WatchWarnings,
};
