//! `drop`: accepts every message and discards it.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Configure, OutputSpec, PlanContext, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, Message, OutputNode, OutputPlan, Reads, RetryPolicy,
    Taken, WriteError, Writer, WriterNode,
};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "drop",
    "Accepts every message and discards it.",
    &["drop: {}"],
);

/// Configuration of `drop`: none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        cx.reads(&Reads::default());
        Some(Box::new(Drop))
    }
}

struct Drop;

#[async_trait]
impl OutputPlan for Drop {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        Ok(OutputNode::Writer(WriterNode {
            label: Arc::clone(&cx.label),
            taken: Taken::Dropped,
            writer: Arc::new(Self),
            batching: BatchPolicy::default(),
            max_in_flight: 1,
            accepts_failed: true,
            retry: RetryPolicy::default(),
            drops: None,
            objects_only: false,
        }))
    }
}

#[async_trait]
impl Writer for Drop {
    async fn write(&self, _: &[Message]) -> Result<(), WriteError> {
        Ok(())
    }
}
