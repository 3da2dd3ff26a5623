//! `broker`: sends every message to every output.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Child, Configure, Located, OutputSpec, Overlap, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, Message, OutputNode, OutputPlan, Router, Routing};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "broker",
    "Sends every message to each of its outputs; it is delivered when all of them have accepted it.",
    &["broker:\n  pattern: fan_out\n  outputs:\n    - stdout: {}\n    - drop: {}\n"],
);

/// Configuration of `broker`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// How messages are distributed: `fan_out` sends each message to all outputs.
    #[serde(default, rename = "pattern")]
    _pattern: Pattern,
    /// The outputs.
    outputs: Located<Vec<Child>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pattern {
    #[default]
    FanOut,
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        if self.outputs.is_empty() {
            cx.error_at(&self.outputs, "at least one output is needed");
            return None;
        }
        let outputs = cx.outputs(&self.outputs, |_, _| Overlap::Surely);
        Some(Box::new(Plan(outputs.into_iter().collect::<Option<_>>()?)))
    }
}

struct Plan(Vec<Box<dyn OutputPlan>>);

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let mut children = Vec::with_capacity(self.0.len());
        for output in self.0 {
            children.push(output.build(cx).await?);
        }
        Ok(OutputNode::Route {
            label: Arc::clone(&cx.label),
            router: Box::new(FanOut(children.len())),
            children,
        })
    }
}

struct FanOut(usize);

impl Router for FanOut {
    fn route(&self, _: &Message) -> Routing {
        Routing::To((0..self.0).collect())
    }
}
