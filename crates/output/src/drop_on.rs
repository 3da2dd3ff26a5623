//! `drop_on`: errors that are no reason to go on.
//!
//! A message whose write fails with such an error is dropped, counted and settled. For what bills this
//! is revenue given up on purpose; `fallback` keeps it.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Child, Configure, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, OutputNode, OutputPlan};
use regex::RegexSet;
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "drop_on",
    "Drops messages whose write fails with an error of a kind that is named.",
    &[
        "drop_on:\n  error_patterns: ['subject .* unknown']\n  output:\n    openmeter:\n      url: https://openmeter.cloud\n",
    ],
);

/// Configuration of `drop_on`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Regular expressions; an error in which one is found drops what was to be written. What may
    /// still arrive is dropped by them too, at the first try.
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
