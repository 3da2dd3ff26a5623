//! What is read of messages that are replaced before they come together with those of other inputs.

use std::sync::{Arc, Mutex, PoisonError};

use meterline_core::Reads;

/// The inputs whose own processors replaced the content of their messages before these came together with those of
/// others. What follows reads the original content only of their messages that failed.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    /// What is read of each.
    reads: Vec<Arc<Mutex<Reads>>>,
    /// Whether one of them keeps objects for as long as they exist.
    pub(crate) keeps_objects: bool,
}

impl Replaced {
    /// Changes what is read of each.
    pub(crate) fn each(&self, change: impl Fn(&mut Reads)) {
        for reads in &self.reads {
            change(&mut reads.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// One input.
    pub(crate) fn of(reads: Arc<Mutex<Reads>>, keeps_objects: bool) -> Self {
        Self {
            reads: vec![reads],
            keeps_objects,
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.reads.extend(other.reads);
        self.keeps_objects |= other.keeps_objects;
    }
}
