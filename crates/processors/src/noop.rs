//! `noop`: does nothing, for places in a configuration that need a processor.

use meterline_config::{Configure, PlanContext, ProcessorSpec, Spec};
use meterline_core::{Batch, BuildContext, BuildError, Drops, Processor, ProcessorPlan, Reads};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: ProcessorSpec =
    Spec::new::<Config>("noop", "Passes messages on unchanged.", &["noop: {}"]);

/// Configuration of `noop`, which has no fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {}

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        cx.reads(&Reads::default());
        Some(Box::new(Noop))
    }
}

struct Noop;

impl ProcessorPlan for Noop {
    fn build(&self, _: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(Self))
    }
}

impl Processor for Noop {
    fn process(&mut self, batch: Batch, _: &mut Drops) -> Batch {
        batch
    }
}
