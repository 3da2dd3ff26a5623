//! Decorators of inputs and outputs: the label and the processors that stand beside the type.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_core::{
    BuildContext, BuildError, Chain, Input, InputPlan, OutputNode, OutputPlan, ProcessorPlan, Reads,
};

fn build_all(plans: &[Box<dyn ProcessorPlan>], cx: &BuildContext) -> Result<Chain, BuildError> {
    plans.iter().map(|plan| plan.build(cx)).collect()
}

pub(crate) struct ProcessedInput {
    pub(crate) label: Arc<str>,
    pub(crate) plan: Box<dyn InputPlan>,
    pub(crate) processors: Vec<Box<dyn ProcessorPlan>>,
}

#[async_trait]
impl InputPlan for ProcessedInput {
    fn take_schedule(&mut self, interval: Duration) -> bool {
        self.plan.take_schedule(interval)
    }

    fn take_reads(&mut self, reads: &Reads) {
        self.plan.take_reads(reads);
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        let cx = cx.labelled(self.label);
        let input = self.plan.build(&cx).await?;
        if self.processors.is_empty() {
            return Ok(input);
        }
        let Some(processing) = cx.processing else {
            return Err(BuildError {
                component: Arc::clone(&cx.label),
                reason: "this context cannot run the processors of an input".to_owned(),
            });
        };
        let chains = (0..processing.threads.max(1)).map(|_| build_all(&self.processors, &cx));
        let chains = chains.collect::<Result<_, _>>()?;
        Ok((processing.behind)(input, chains, &cx))
    }
}

pub(crate) struct LabelledOutput {
    pub(crate) label: Arc<str>,
    pub(crate) plan: Box<dyn OutputPlan>,
    pub(crate) processors: Vec<Box<dyn ProcessorPlan>>,
}

#[async_trait]
impl OutputPlan for LabelledOutput {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let cx = cx.labelled(self.label);
        let processors = build_all(&self.processors, &cx)?;
        let child = self.plan.build(&cx).await?;
        Ok(if processors.is_empty() {
            child
        } else {
            OutputNode::Process {
                processors,
                child: Box::new(child),
            }
        })
    }
}
