//! The state file, in which the ledger survives a restart and a crash.

mod contents;
mod file;
mod older;
mod pending;
mod place;
mod rows;
mod tables;
mod writer;

pub(super) use self::{
    file::{Saved, SeenUntil, StateFile},
    writer::StateWriter,
};

#[cfg(test)]
mod tests;
