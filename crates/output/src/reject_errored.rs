//! `reject_errored`: rejects messages that failed and passes the others on.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Child, Configure, OutputSpec, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, Message, OutputNode, OutputPlan, Router, Routing};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "reject_errored",
    "Rejects messages that a processor flagged as failed and passes the others on.",
    &["reject_errored:\n  drop: {}\n"],
);

/// Configuration of `reject_errored`: the output for the other messages.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Child);

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        Some(Box::new(Plan(cx.output(self.0)?)))
    }
}

struct Plan(Box<dyn OutputPlan>);

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        Ok(OutputNode::Route {
            label: Arc::clone(&cx.label),
            router: Box::new(RejectErrored),
            children: vec![self.0.build(cx).await?],
        })
    }
}

struct RejectErrored;

impl Router for RejectErrored {
    fn route(&self, message: &Message) -> Routing {
        match message.failure() {
            Some(failure) => Routing::Reject(failure.reason.to_string()),
            None => Routing::To(vec![0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_messages_are_rejected_with_their_reason() {
        let mut message = Message::raw("x");
        assert_eq!(RejectErrored.route(&message), Routing::To(vec![0]));
        message.fail("mapping", "no such field");
        assert_eq!(
            RejectErrored.route(&message),
            Routing::Reject("no such field".to_owned())
        );
    }
}
