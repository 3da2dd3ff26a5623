//! `memory`: keeps messages in memory, to absorb bursts. They are lost when the process ends, so a stop
//! delivers them first.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use meterline_config::{BufferSpec, Configure, PlanContext, Spec};
use meterline_core::{Batch, BufferPlan, BuildContext, BuildError, Content, Input};
use serde::Deserialize;

use super::{Store, buffered};

/// The component.
pub(super) const SPEC: BufferSpec = Spec::new::<Config>(
    "memory",
    "Keeps messages in memory and acknowledges them at once; a crash loses them.",
    &["memory: {}", "memory:\n  limit: 10000000\n"],
)
.keeps("in memory");

/// Configuration of `memory`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The maximum number of bytes to keep; the input waits while the buffer is full.
    #[serde(default = "default_limit")]
    limit: u64,
}

const fn default_limit() -> u64 {
    524_288_000
}

impl Configure for Config {
    type Plan = dyn BufferPlan;

    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn BufferPlan>> {
        Some(Box::new(self))
    }
}

#[async_trait]
impl BufferPlan for Config {
    async fn build(
        self: Box<Self>,
        input: Box<dyn Input>,
        cx: &BuildContext,
    ) -> Result<Box<dyn Input>, BuildError> {
        Ok(buffered(Box::<Memory>::default(), self.limit, input, cx))
    }
}

#[derive(Default)]
pub(super) struct Memory {
    batches: BTreeMap<u64, (Batch, u64)>,
    waiting: BTreeSet<u64>,
    last: u64,
    bytes: u64,
}

impl Store for Memory {
    fn push(&mut self, batch: Batch) -> Result<(), String> {
        let size = batch.iter().map(size).sum();
        self.last = self.last.saturating_add(1);
        self.bytes = self.bytes.saturating_add(size);
        self.batches.insert(self.last, (batch, size));
        self.waiting.insert(self.last);
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(u64, Batch)>, String> {
        Ok(self.waiting.pop_first().and_then(|number| {
            let (batch, _) = self.batches.get(&number)?;
            Some((number, batch.clone()))
        }))
    }

    fn done(&mut self, number: u64) -> Result<(), String> {
        if let Some((_, size)) = self.batches.remove(&number) {
            self.bytes = self.bytes.saturating_sub(size);
        }
        Ok(())
    }

    fn again(&mut self, number: u64) {
        self.waiting.insert(number);
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn batches(&mut self) -> usize {
        self.batches.len()
    }

    fn survives(&self) -> bool {
        false
    }
}

fn size(message: &meterline_core::Message) -> u64 {
    let size = match message.content() {
        Content::Raw(bytes) => bytes.len(),
        Content::Document(document) => document.size(),
        Content::Rendered(_) => message.bytes().map_or(0, |bytes| bytes.len()),
    };
    size as u64
}
