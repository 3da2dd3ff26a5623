//! `try`: processors that stop at the first failure.
//!
//! Each message passes through the children until one fails; the rest is skipped for that message
//! only. A message that is already flagged passes unchanged.

use meterline_config::{Child, Configure, PlanContext, ProcessorSpec, Spec};
use meterline_core::{Batch, BuildContext, BuildError, Drops, Processor, ProcessorPlan};
use serde::Deserialize;

use crate::chain::{self, Chain, ChainPlan};

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "try",
    "Runs processors until the first one fails; the rest is skipped for that message.",
    &[
        "try:\n  - mapping: 'root = this'\n  - json_schema:\n      schema_path: 'file://./cloudevents.spec.json'\n",
    ],
);

/// Configuration of `try`: the processors.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Vec<Child>);

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        Some(Box::new(Plan(cx.processors(&self.0)?)))
    }
}

struct Plan(ChainPlan);

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(Try(chain::build(&self.0, cx)?)))
    }
}

struct Try(Chain);

impl Processor for Try {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        let mut passed = Batch::with_capacity(batch.len());
        for message in batch {
            let mut going = vec![message];
            for child in &mut self.0.0 {
                let (failed, good): (Batch, Batch) =
                    going.into_iter().partition(|it| it.failure().is_some());
                passed.extend(failed);
                if good.is_empty() {
                    going = good;
                    break;
                }
                going = child.process(good, drops);
            }
            passed.extend(going);
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

    #[test]
    fn processors_after_a_failure_are_skipped() {
        let (record, seen) = Record::new();
        let mut attempt = Try(Chain(vec![Box::new(Fail("bad")), Box::new(record)]));
        let batch = attempt.process(vec![Message::value(&json!(1))], &mut Drops::default());
        assert_eq!(batch[0].failure().unwrap().reason.as_ref(), "bad");
        assert!(seen.lock().unwrap().is_empty());
    }

    #[test]
    fn a_message_that_is_already_flagged_is_skipped() {
        let (record, seen) = Record::new();
        let mut attempt = Try(Chain(vec![Box::new(record)]));
        let mut message = Message::value(&json!(1));
        message.fail("mapping", "before");
        let batch = attempt.process(
            vec![message, Message::value(&json!(2))],
            &mut Drops::default(),
        );
        assert_eq!(batch.len(), 2);
        assert_eq!(*seen.lock().unwrap(), [""]);
    }
}
