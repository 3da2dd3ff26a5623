//! `split`: breaks batches into smaller ones.
//!
//! Batches are formed at the outputs. An output without `batching` writes each batch of the input in one
//! request; a message that passed `split` shares a request with no more messages, and no more bytes, than
//! `split` allows. The limit stays with the messages, so messages that are dropped later leave no gaps, and
//! the last batch has what is left. An output with `batching` forms batches of its own, as in Benthos. To
//! make several messages of one, there is `unarchive`.

use std::sync::Arc;

use meterline_config::{Configure, Located, PlanContext, ProcessorSpec, Spec};
use meterline_core::{
    Batch, BatchLimit, BuildContext, BuildError, Drops, Processor, ProcessorPlan, Reads,
};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "split",
    "Breaks batches into smaller ones, for outputs without `batching`.",
    &[
        "split: {}",
        "split:\n  size: 100\n",
        "split:\n  size: 0\n  byte_size: 100000\n",
    ],
);

/// Configuration of `split`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The most messages in one batch. 0: no such rule.
    #[serde(default = "default_size")]
    size: Located<usize>,
    /// The most bytes in one batch, unless a single message is larger. 0: no such rule.
    #[serde(default)]
    byte_size: usize,
}

fn default_size() -> Located<usize> {
    1.into()
}

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        // It does not look at messages; their bytes are counted when they are written.
        cx.reads(&Reads::default());
        if self.size.value == 0 && self.byte_size == 0 {
            cx.warning_at(
                &self.size,
                "this splits nothing: set `size` to the most messages, or `byte_size` to the most \
                 bytes, of a batch",
            );
        }
        let or_any = |most: usize| if most == 0 { usize::MAX } else { most };
        Some(Box::new(Split(Arc::new(BatchLimit {
            count: or_any(self.size.value),
            byte_size: or_any(self.byte_size),
        }))))
    }
}

#[derive(Clone)]
struct Split(Arc<BatchLimit>);

impl ProcessorPlan for Split {
    fn build(&self, _: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(self.clone()))
    }
}

impl Processor for Split {
    fn process(&mut self, mut batch: Batch, _: &mut Drops) -> Batch {
        for message in &mut batch {
            message.limit_batch(&self.0);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Message;

    use super::*;

    #[test]
    fn every_message_gets_the_limit_and_nothing_else_changes() {
        let limit = BatchLimit {
            count: 2,
            byte_size: usize::MAX,
        };
        let batch = vec![Message::raw("a"), Message::raw("b"), Message::raw("c")];
        let mut drops = Drops::default();
        let split = Split(Arc::new(limit)).process(batch, &mut drops);
        let bytes: Vec<_> = split.iter().map(|it| it.bytes().unwrap()).collect();
        assert_eq!(bytes, ["a", "b", "c"]);
        assert!(split.iter().all(|it| it.batch_limit() == Some(&limit)));
        assert_eq!(drops.iter().count(), 0);
    }
}
