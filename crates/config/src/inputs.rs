//! Several inputs of one process: what is known of their messages together, and what is read of each.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use meterline_core::{BuildContext, BuildError, Input, InputPlan, Reads, foreseen::Foreseen};

use crate::{
    context::PlanContext, diagnostic::Severity, fields::Child, node::Node, replaced::Replaced,
};

impl PlanContext<'_> {
    /// Checks all nested inputs, even when one has errors. What follows receives the messages of all of them.
    pub fn inputs(&mut self, children: &[Child]) -> Vec<Option<Box<dyn InputPlan>>> {
        let outside = std::mem::take(&mut self.reads);
        let mut replaced = std::mem::take(&mut self.replaced);
        let mut together: Option<Foreseen> = None;
        let mut keeps_objects = false;
        let mut plans = Vec::with_capacity(children.len());
        for child in children {
            self.foreseen = Foreseen::default();
            self.keeps_objects = false;
            let plan = self.input(*child);
            let reads = Arc::new(Mutex::new(std::mem::take(&mut self.reads)));
            let foreseen = std::mem::take(&mut self.foreseen);
            replaced.add(std::mem::take(&mut self.replaced));
            let is_original = foreseen.is_original;
            if is_original {
                keeps_objects |= self.keeps_objects;
            } else {
                replaced.add(Replaced::of(Arc::clone(&reads), self.keeps_objects));
            }
            together = Some(match together {
                Some(others) => others.beside(foreseen),
                None => foreseen,
            });
            plans.push(plan.map(|plan| -> Box<dyn InputPlan> {
                Box::new(OneOfSeveral {
                    plan,
                    reads,
                    is_original,
                })
            }));
        }
        self.foreseen = together.unwrap_or_default();
        self.foreseen.is_recovered = false;
        self.keeps_objects = keeps_objects;
        self.reads = outside;
        self.replaced = replaced;
        plans
    }

    /// Reports an input that the process has twice, through its resource.
    pub(crate) fn check_is_used_once(&mut self, child: Child, body: &Node) {
        if self.inputs.insert(body.id) {
            return;
        }
        let node = self.index.nodes.get(&child.0).map(|(node, _)| *node);
        let message = format!(
            "the input `{}` is used already, and each message of it would arrive twice; remove this, or \
             write another input with its own label",
            self.path()
        );
        self.report(node, None, Severity::Error, message);
    }
}

/// An input beside others, with what is read of the content of its messages up to where they come together.
struct OneOfSeveral {
    plan: Box<dyn InputPlan>,
    reads: Arc<Mutex<Reads>>,
    /// Whether a message that did not fail may still have the content that the input gave it there.
    is_original: bool,
}

#[async_trait]
impl InputPlan for OneOfSeveral {
    fn take_schedule(&mut self, interval: Duration) -> bool {
        self.plan.take_schedule(interval)
    }

    /// `reads` is what is read behind where the messages come together. If the content of this input's messages is
    /// replaced before that, what is read of them was added to [`Replaced`].
    fn take_reads(&mut self, reads: &Reads) {
        let mut all = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_original {
            all.join(reads);
        }
        self.plan.take_reads(&all);
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        self.plan.build(cx).await
    }
}
