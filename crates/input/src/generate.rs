//! `generate`: makes messages with a mapping, for tests and trials.

use std::time::Duration;

use async_trait::async_trait;
use meterline_config::{Configure, GoDuration, InputSpec, Located, PlanContext, Spec};
use meterline_core::{Batch, BuildContext, BuildError, Input, InputError, InputPlan, Message};
use meterline_script::{Engine, Limits, Mapped, Mapping};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use crate::replay::{Replay, Source};

/// The component.
pub(crate) const SPEC: InputSpec = Spec::new::<Config>(
    "generate",
    "Makes messages with a mapping, at an interval and up to a count.",
    EXAMPLES,
);

const EXAMPLES: &[&str] = &[
    "generate:\n  mapping: 'root = #{ id: uuid_v4() }'\n  interval: 1s\n  count: 10\n",
    "generate:\n  mapping: 'root = #{ at: now() }'\n",
];

/// Configuration of `generate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Makes each message; `this` is empty.
    mapping: Located<String>,
    /// The pause between messages; `0s` means no pause.
    #[serde(default = "default_interval")]
    interval: GoDuration,
    /// How many messages to make before the input ends; 0 means that it never ends.
    #[serde(default)]
    count: u64,
}

fn default_interval() -> GoDuration {
    GoDuration(Duration::from_secs(1))
}

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        Some(Box::new(Plan {
            mapping: Engine::new(Limits::default()).plan_mapping(&self.mapping, cx)?,
            interval: self.interval.0,
            count: self.count,
        }))
    }
}

struct Plan {
    mapping: Mapping,
    interval: Duration,
    count: u64,
}

#[async_trait]
impl InputPlan for Plan {
    async fn build(self: Box<Self>, _: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        Ok(Box::new(Replay::new(Generate {
            plan: *self,
            made: 0,
            next_at: None,
        })))
    }
}

struct Generate {
    plan: Plan,
    made: u64,
    next_at: Option<Instant>,
}

#[async_trait]
impl Source for Generate {
    async fn next(&mut self) -> Result<Option<Batch>, InputError> {
        if self.plan.count > 0 && self.made >= self.plan.count {
            return Ok(None);
        }
        if let Some(next_at) = self.next_at {
            sleep_until(next_at).await;
        }
        self.next_at = (!self.plan.interval.is_zero()).then(|| Instant::now() + self.plan.interval);
        self.made = self.made.saturating_add(1);
        let mut message = Message::raw("");
        match self.plan.mapping.run(&mut message) {
            Ok(Mapped::Kept) => Ok(Some(vec![message])),
            Ok(Mapped::Dropped) => Ok(Some(Vec::new())),
            Err(error) => {
                message.fail("generate", error.to_string());
                Ok(Some(vec![message]))
            }
        }
    }
}
