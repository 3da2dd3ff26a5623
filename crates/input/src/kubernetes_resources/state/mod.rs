//! The state file, in which the ledger survives a restart and a crash.

mod contents;
mod file;
mod files;
mod ledgers;
mod older;
mod pending;
mod place;
mod rows;
mod shared;
mod tables;
mod writer;

pub(super) use self::{
    file::{Saved, SeenUntil, StateFile},
    files::StateFiles,
    writer::StateWriter,
};

#[cfg(test)]
mod tests;
