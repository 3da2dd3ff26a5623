//! `catch`: processors for messages that failed.
//!
//! The processors run for flagged messages only, and can read the reason with `error()`. Afterwards the
//! flag is cleared, unless one of them failed: a failure while handling a failure must not count as
//! handled.

use meterline_config::{Child, Configure, PlanContext, ProcessorSpec, Spec};
use meterline_core::{Batch, BuildContext, BuildError, Drops, Processor, ProcessorPlan};
use serde::Deserialize;

use crate::chain::{self, Chain, ChainPlan};

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "catch",
    "Runs processors for messages that failed, then clears the failure.",
    &[
        "catch:\n  - log:\n      level: ERROR\n      message: 'refused: ${! error() }'\n  - mapping: 'root = deleted()'\n",
    ],
);

/// Configuration of `catch`: the processors.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Vec<Child>);

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        let processors = cx.aside(|cx| cx.processors(&self.0));
        Some(Box::new(Plan(processors?)))
    }
}

struct Plan(ChainPlan);

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(Catch(chain::build(&self.0, cx)?)))
    }
}

struct Catch(Chain);

impl Processor for Catch {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        if batch.iter().all(|message| message.failure().is_none()) {
            return batch;
        }
        let mut passed = Batch::with_capacity(batch.len());
        for mut message in batch {
            if message.failure().is_none() {
                passed.push(message);
                continue;
            }
            message.catch_failure();
            passed.extend(
                self.0
                    .process(vec![message], drops)
                    .into_iter()
                    .map(|mut message| {
                        if message.is_caught() {
                            message.clear_failure();
                        }
                        message
                    }),
            );
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Message;
    use serde_json::json;

    use super::*;
    use crate::testing::{Fail, Record};

    fn failed(reason: &str) -> Message {
        let mut message = Message::value(&json!({}));
        message.fail("mapping", reason);
        message
    }

    #[test]
    fn only_failed_messages_are_caught_and_their_flag_is_cleared() {
        let (record, seen) = Record::new();
        let mut catch = Catch(Chain(vec![Box::new(record)]));
        let batch = catch.process(
            vec![failed("a"), Message::value(&json!(1)), failed("b")],
            &mut Drops::default(),
        );
        assert_eq!(batch.len(), 3);
        assert!(batch.iter().all(|it| it.failure().is_none()));
        assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_failure_while_catching_keeps_the_flag() {
        let mut catch = Catch(Chain(vec![Box::new(Fail("worse"))]));
        let batch = catch.process(vec![failed("bad")], &mut Drops::default());
        assert_eq!(batch[0].failure().unwrap().reason.as_ref(), "worse");
    }
}
