//! Processors for tests.

use std::sync::{Arc, Mutex};

use meterline_core::{Batch, BuildContext, Drops, Processor};

/// A context in which a processor can be built.
pub(crate) fn cx() -> BuildContext {
    BuildContext::default()
}

/// Flags every message.
pub(crate) struct Fail(pub(crate) &'static str);

impl Processor for Fail {
    fn process(&mut self, mut batch: Batch, _: &mut Drops) -> Batch {
        for message in &mut batch {
            message.fail("fail", self.0);
        }
        batch
    }
}

/// Records the failure of every message, or "" for none.
pub(crate) struct Record(Arc<Mutex<Vec<String>>>);

impl Record {
    pub(crate) fn new() -> (Self, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::default();
        (Self(Arc::clone(&seen)), seen)
    }
}

impl Processor for Record {
    fn process(&mut self, batch: Batch, _: &mut Drops) -> Batch {
        let reasons = batch.iter().map(|it| {
            it.failure()
                .map_or_else(String::new, |failure| failure.reason.to_string())
        });
        self.0.lock().unwrap().extend(reasons);
        batch
    }
}
