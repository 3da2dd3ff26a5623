//! Follows collections of objects, one task each: [`task`] does the I/O, [`view`] decides.

mod client;
mod errors;
mod history;
mod limits;
mod liveness;
#[cfg(test)]
mod lives;
mod namespace;
mod objects;
mod proofs;
mod task;
mod view;
mod warnings;
mod watched;

pub(super) use self::{
    client::{Cluster, ConnectError, client},
    liveness::WatchLiveness,
    objects::Restored,
    task::Watch,
    watched::Watched,
};
