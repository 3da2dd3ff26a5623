//! `broker`: reads several inputs, whichever has messages.
//!
//! Each input keeps its own acknowledgements, schedule and processors. One that waits, ends or fails does not stop
//! the others. The runtime reads an input again after its end, once everything that it yielded is settled, because
//! what was not delivered may have to be repeated; here this holds for each input by itself.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join_all, select_all};
use meterline_config::{Child, Configure, InputSpec, Located, PlanContext, Spec};
use meterline_core::{
    Ack, Batch, BuildContext, BuildError, HealthHandle, Input, InputError, InputPlan, Reads,
    Settled, Undelivered,
};
use serde::Deserialize;
use tracing::{error, info};

use crate::{schedule, settlements::Settlements};

/// The component.
pub(crate) const SPEC: InputSpec = Spec::new::<Config>(
    "broker",
    "Yields the messages of several inputs, whichever has some.",
    &[
        "broker:\n  inputs:\n    - kubernetes_resources: {}\n    - kubernetes_resources:\n        resource_type: node\n",
        "broker:\n  inputs:\n    - schedule:\n        interval: 15s\n        input:\n          kubernetes_resources: {}\n      processors:\n        - mapping: 'root = #{ kind: \"pod\", name: this.metadata.name }'\n    - generate:\n        mapping: 'root = #{ kind: \"tick\" }'\n        interval: 1m\n",
    ],
);

/// Configuration of `broker`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The inputs. Each may have a `label` and `processors` of its own. Processors of the pipeline receive the messages
    /// of all of them. A `schedule` around the broker is the schedule of each.
    inputs: Located<Vec<Child>>,
    /// Each input is read once, so any number but 1 has no effect.
    #[serde(default)]
    copies: Option<Located<i64>>,
}

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        if let Some(copies) = self.copies.as_ref().filter(|it| it.value != 1) {
            cx.warning_at(
                copies,
                "`copies` has no effect: a copy of an input would yield the same messages again, and each would \
                 be counted twice; remove it",
            );
        }
        if self.inputs.is_empty() {
            cx.error_at(
                &self.inputs,
                "at least one input is needed: list them, as in `inputs: [{kubernetes_resources: {}}]`",
            );
            return None;
        }
        let children = cx.inputs(&self.inputs).into_iter();
        Some(Box::new(Plan {
            children: children.collect::<Option<_>>()?,
        }))
    }
}

struct Plan {
    children: Vec<Box<dyn InputPlan>>,
}

#[async_trait]
impl InputPlan for Plan {
    /// Each input makes the windows itself, or is read for each window.
    fn take_schedule(&mut self, interval: Duration) -> bool {
        let children = std::mem::take(&mut self.children).into_iter();
        self.children = children
            .map(|child| schedule::scheduled(child, interval))
            .collect();
        true
    }

    fn take_reads(&mut self, reads: &Reads) {
        for child in &mut self.children {
            child.take_reads(reads);
        }
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        let mut inputs = Vec::with_capacity(self.children.len());
        for (index, child) in self.children.into_iter().enumerate() {
            let name = format!("{}.inputs.{index}", cx.label);
            inputs.push((name, child.build(cx).await?));
        }
        let health = cx.health.register(format!("inputs of {}", cx.label));
        Ok(Box::new(Broker::new(inputs, health)))
    }
}

/// Whether an input may yield more.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is read.
    Reading,
    /// It yielded `None`. It is read again once everything that it yielded is settled.
    Paused,
    /// It yields nothing any more.
    Ended,
    /// It can never yield again, for this reason.
    Failed(String),
}

struct Member {
    /// For the log and `/ready`.
    name: String,
    input: Box<dyn Input>,
    state: State,
    /// How many of its batches are not settled.
    unsettled: usize,
}

struct Broker {
    members: Vec<Member>,
    /// The one that is asked first: the one after the last that yielded, so that each has its turn.
    first: usize,
    /// The batches that were yielded, each with its input and that input's acknowledgement.
    settlements: Settlements<(usize, Ack)>,
    health: HealthHandle,
}

impl Broker {
    fn new(inputs: Vec<(String, Box<dyn Input>)>, health: HealthHandle) -> Self {
        health.ready("");
        let members = inputs.into_iter().map(|(name, input)| Member {
            name,
            input,
            state: State::Reading,
            unsettled: 0,
        });
        Self {
            members: members.collect(),
            first: 0,
            settlements: Settlements::default(),
            health,
        }
    }

    /// Passes the outcome of a batch to its input.
    fn settled(&mut self, (index, ack): (usize, Ack), outcome: Settled) {
        ack.resolve_as(outcome);
        if let Some(member) = self.members.get_mut(index) {
            member.unsettled = member.unsettled.saturating_sub(1);
            if member.unsettled == 0 && member.state == State::Paused {
                member.state = State::Reading;
            }
        }
    }

    /// Takes what an input yielded, and returns its batch.
    fn take(
        &mut self,
        index: usize,
        read: Result<Option<(Batch, Ack)>, InputError>,
    ) -> Option<(Batch, Ack)> {
        let count = self.members.len();
        let member = self.members.get_mut(index)?;
        match read {
            Ok(Some((batch, ack))) => {
                member.unsettled = member.unsettled.saturating_add(1);
                self.first = index.saturating_add(1) % count.max(1);
                return Some((batch, self.settlements.add((index, ack))));
            }
            Ok(None) if member.unsettled > 0 => member.state = State::Paused,
            Ok(None) => {
                info!("the input {} has ended", member.name);
                member.state = State::Ended;
            }
            Err(InputError(reason)) => {
                error!(
                    "the input {} has failed: {reason}; the others continue",
                    member.name
                );
                member.state = State::Failed(reason);
                let failures = self.failures();
                self.health.not_ready(failures);
            }
        }
        None
    }

    /// The inputs that failed, with the reasons; empty if none did.
    fn failures(&self) -> String {
        let failed = self.members.iter().filter_map(|it| match &it.state {
            State::Failed(reason) => Some(format!("{} has failed: {reason}", it.name)),
            _ => None,
        });
        failed.collect::<Vec<_>>().join("; ")
    }
}

/// Waits for the first of the inputs that yields, and returns its index. Without any it waits forever.
async fn next(
    members: &mut [Member],
    first: usize,
) -> (usize, Result<Option<(Batch, Ack)>, InputError>) {
    let (before, after) = members.split_at_mut(first.min(members.len()));
    let indexed = after
        .iter_mut()
        .zip(first..)
        .chain(before.iter_mut().zip(0..));
    let reads: Vec<_> = indexed
        .filter(|(member, _)| member.state == State::Reading)
        .map(|(member, index)| Box::pin(async move { (index, member.input.read().await) }))
        .collect();
    if reads.is_empty() {
        return std::future::pending().await;
    }
    // Of those that are ready at once, the first one wins.
    select_all(reads).await.0
}

#[async_trait]
impl Input for Broker {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        loop {
            // What is settled already may make an input yield again.
            while let Some((key, outcome)) = self.settlements.try_next() {
                self.settled(key, outcome);
            }
            if !self.members.iter().any(|it| it.state == State::Reading) {
                // What waits in the pipeline is flushed now, and all is read again once it is settled.
                let failures = self.failures();
                return match self.settlements.is_empty() && !failures.is_empty() {
                    true => Err(InputError(failures)),
                    false => Ok(None),
                };
            }
            tokio::select! {
                Some((key, outcome)) = self.settlements.next() => self.settled(key, outcome),
                (index, read) = next(&mut self.members, self.first) => {
                    if let Some(batch) = self.take(index, read) {
                        return Ok(Some(batch));
                    }
                }
            }
        }
    }

    fn stop(&mut self) -> bool {
        let mut reads_on = false;
        for member in &mut self.members {
            let has_more = member.input.stop();
            if matches!(member.state, State::Failed(_)) {
                continue;
            }
            member.state = if has_more {
                State::Reading
            } else {
                State::Ended
            };
            reads_on |= has_more;
        }
        reads_on
    }

    async fn close(&mut self) {
        // Every acknowledgement has been resolved or dropped by now, and the inputs wait for theirs.
        while let Some((key, outcome)) = self.settlements.next().await {
            self.settled(key, outcome);
        }
        join_all(self.members.iter_mut().map(|it| it.input.close())).await;
    }

    fn left(&self) -> Undelivered {
        let mut all = Undelivered::default();
        for left in self.members.iter().map(|it| it.input.left()) {
            all.lost = all.lost.saturating_add(left.lost);
            all.persisted = all.persisted.saturating_add(left.persisted);
        }
        all
    }
}

#[cfg(test)]
mod tests;
