//! A list of child processors, for `catch`, `try` and `switch`.

use meterline_core::{Batch, BuildContext, BuildError, Drops, Processor, ProcessorPlan};

/// The plans of the children.
pub(crate) type ChainPlan = Vec<Box<dyn ProcessorPlan>>;

/// Builds all children.
pub(crate) fn build(plans: &ChainPlan, cx: &BuildContext) -> Result<Chain, BuildError> {
    plans
        .iter()
        .map(|plan| plan.build(cx))
        .collect::<Result<_, _>>()
        .map(Chain)
}

/// Children that run in sequence.
pub(crate) struct Chain(pub(crate) Vec<Box<dyn Processor>>);

impl Chain {
    /// Runs all children.
    pub(crate) fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        self.0
            .iter_mut()
            .fold(batch, |batch, processor| processor.process(batch, drops))
    }
}
