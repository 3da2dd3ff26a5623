//! What every input and output may have beside its type: a label, and processors of its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_core::{
    Ack, Batch, BuildContext, BuildError, Drops, Input, InputError, InputPlan, Message, OutputNode,
    OutputPlan, Processor, ProcessorPlan, Reads,
};

fn build_all(
    plans: &[Box<dyn ProcessorPlan>],
    cx: &BuildContext,
) -> Result<Vec<Box<dyn Processor>>, BuildError> {
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
        let processors = build_all(&self.processors, &cx)?;
        let input = self.plan.build(&cx).await?;
        Ok(if processors.is_empty() {
            input
        } else {
            Box::new(Processed {
                input,
                processors,
                label: Arc::clone(&cx.label),
            })
        })
    }
}

struct Processed {
    input: Box<dyn Input>,
    processors: Vec<Box<dyn Processor>>,
    /// The place of a drop that no processor noted.
    label: Arc<str>,
}

#[async_trait]
impl Input for Processed {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        Ok(self.input.read().await?.map(|(batch, ack)| {
            let mut missing: Vec<_> = batch.iter().filter_map(Message::origin).collect();
            let mut drops = Drops::default();
            let batch = self.processors.iter_mut().fold(batch, |batch, processor| {
                processor.process(batch, &mut drops)
            });
            let left: HashSet<_> = batch.iter().filter_map(Message::origin).collect();
            missing.retain(|origin| !left.contains(origin));
            ack.note_dropped(missing.into_iter(), &drops, &self.label);
            (batch, ack)
        }))
    }

    async fn close(&mut self) {
        self.input.close().await;
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
