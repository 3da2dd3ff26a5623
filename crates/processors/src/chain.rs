//! A list of child processors, as `catch`, `try` and `switch` have them.

use meterline_core::{Batch, BuildContext, BuildError, Drops, Processor, ProcessorPlan};

/// Checked children that have not been built.
pub(crate) type ChainPlan = Vec<Box<dyn ProcessorPlan>>;

/// Builds each child.
pub(crate) fn build(plans: &ChainPlan, cx: &BuildContext) -> Result<Chain, BuildError> {
    plans
        .iter()
        .map(|plan| plan.build(cx))
        .collect::<Result<_, _>>()
        .map(Chain)
}

/// Children that run one after the other.
pub(crate) struct Chain(pub(crate) Vec<Box<dyn Processor>>);

impl Chain {
    /// Runs all of them.
    pub(crate) fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        self.0
            .iter_mut()
            .fold(batch, |batch, processor| processor.process(batch, drops))
    }
}
