//! `retry`: limits how long an output retries.
//!
//! Without it, an output retries without limit. A pipeline that bills needs this: the ledger keeps what
//! is not delivered. With a limit, messages that could not be written in time are rejected, and go to a
//! `fallback` if there is one.

use std::time::Duration;

use async_trait::async_trait;
use meterline_config::{Child, Configure, GoDuration, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, OutputNode, OutputPlan, RetryPolicy};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "retry",
    "Sets how often an output retries a write that may still succeed, and how long it pauses.",
    &[
        "retry:\n  max_retries: 10\n  backoff:\n    initial_interval: 1s\n    max_interval: 1m\n  output:\n    http_client:\n      url: https://example.com\n",
    ],
);

/// Configuration of `retry`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The number of retries before giving up. 0: no limit.
    #[serde(default)]
    max_retries: u32,
    /// The pauses between retries.
    #[serde(default)]
    backoff: Backoff,
    /// The output.
    output: Child,
}

/// Pauses that double; half of each pause is random.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Backoff {
    /// The first pause.
    initial_interval: Located<GoDuration>,
    /// The longest pause.
    max_interval: GoDuration,
    /// How long to retry before giving up. 0s: no limit.
    max_elapsed_time: GoDuration,
}

impl Default for Backoff {
    fn default() -> Self {
        let RetryPolicy { first, longest, .. } = RetryPolicy::default();
        Self {
            initial_interval: Located::from(GoDuration(first)),
            max_interval: GoDuration(longest),
            max_elapsed_time: GoDuration(Duration::ZERO),
        }
    }
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        let first = self.backoff.initial_interval.value.0;
        if first.is_zero() {
            cx.error_at(
                &self.backoff.initial_interval,
                "a pause must be longer than 0; write for example `500ms`",
            );
            return None;
        }
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Some(Box::new(Plan {
            policy: RetryPolicy {
                first,
                longest: self.backoff.max_interval.0.max(first),
                most: (self.max_retries > 0).then_some(self.max_retries),
                no_longer_than: some(self.backoff.max_elapsed_time.0),
            },
            output: cx.output(self.output)?,
        }))
    }
}

struct Plan {
    policy: RetryPolicy,
    output: Box<dyn OutputPlan>,
}

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let mut node = self.output.build(cx).await?;
        node.each_writer(&mut |writer| writer.retry = self.policy.clone());
        Ok(node)
    }
}
