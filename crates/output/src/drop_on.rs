//! `drop_on`: drops messages whose write fails with one of the configured errors.
//!
//! Such a message is dropped, counted and settled. In a pipeline that bills, this gives up revenue
//! on purpose; `fallback` keeps the message.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Child, Configure, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, OutputNode, OutputPlan};
use regex::RegexSet;
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "drop_on",
    "Drops messages whose write fails with an error that matches a pattern.",
    &[
        "drop_on:\n  error_patterns: ['subject .* unknown']\n  output:\n    openmeter:\n      url: https://openmeter.cloud\n",
    ],
);

/// Configuration of `drop_on`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Regular expressions. If the error of a write matches one of them, the messages of that write
    /// are dropped. This includes errors that a retry could resolve: the messages are dropped at
    /// the first attempt.
    error_patterns: Located<Vec<Located<String>>>,
    /// The output.
    output: Child,
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        let output = cx.output(self.output);
        if self.error_patterns.value.is_empty() {
            cx.error_at(&self.error_patterns, "at least one pattern is needed");
            return None;
        }
        for pattern in &self.error_patterns.value {
            if let Err(error) = regex::Regex::new(&pattern.value) {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim().to_owned();
                cx.error_at(
                    pattern,
                    format!("this is not a regular expression: {reason}"),
                );
            }
        }
        let patterns = self.error_patterns.value.iter().map(|it| it.value.as_str());
        Some(Box::new(Plan {
            patterns: RegexSet::new(patterns).ok()?,
            output: output?,
        }))
    }
}

struct Plan {
    patterns: RegexSet,
    output: Box<dyn OutputPlan>,
}

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let mut node = self.output.build(cx).await?;
        let patterns = Arc::new(self.patterns);
        node.each_writer(&mut |writer| {
            let (patterns, inner) = (Arc::clone(&patterns), writer.drops.take());
            writer.drops = Some(Arc::new(move |reason: &str| {
                patterns.is_match(reason) || inner.as_ref().is_some_and(|inner| inner(reason))
            }));
        });
        Ok(node)
    }
}
