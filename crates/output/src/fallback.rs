//! `fallback`: sends what an output can never deliver to the next output.
//!
//! The metadata `fallback_error` holds the reason. The last output is the dead letter: a file, a
//! topic or a log. What an output may still deliver is not forwarded but retried, so an outage does
//! not fill the dead letter.

use async_trait::async_trait;
use meterline_config::{Child, Configure, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, OutputNode, OutputPlan};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "fallback",
    "Sends what an output can never deliver, such as events that the API refuses, to the next.",
    &[
        "fallback:\n  - openmeter:\n      url: https://openmeter.cloud\n  - stdout: {}\n    processors:\n      - mapping: 'root = #{ event: this, reason: meta(\"fallback_error\") }'\n",
    ],
);

/// Configuration of `fallback`: the outputs in the order in which they are tried.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Located<Vec<Child>>);

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        if self.0.value.len() < 2 {
            cx.error_at(
                &self.0,
                "at least two outputs are needed: the main output, and one for the messages that it rejects",
            );
            return None;
        }
        let outputs: Vec<_> = self.0.iter().map(|it| cx.output(*it)).collect();
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
        Ok(OutputNode::Fallback { children })
    }
}
