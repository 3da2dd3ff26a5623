//! The steps whose instructions are counted.

use std::{hint::black_box, sync::Mutex};

use async_trait::async_trait;
use meterline_config::{Configure, InputSpec, PlanContext, Registry, Spec};
use meterline_core::{
    BuildContext, BuildError, Content, Document, Drops, Identity, Input, InputPlan, Message,
    Processor, Reads,
};
use meterline_ledger::{
    Accounting, Content as Billed, DeliveryResult, Interval, Ledger, Observation,
};
use serde::Deserialize;

use crate::{pod, processors::processors};

/// How many pods each round of a step has.
pub(crate) const PODS: usize = 200;

/// A step that each pod goes through.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Rounds that are counted.
    pub(crate) rounds: u64,
    /// Runs this many rounds.
    pub(crate) run: fn(u64),
}

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "parse a pod",
        rounds: 2,
        run: parse,
    },
    Step {
        name: "projection",
        rounds: 10,
        run: projection,
    },
    Step {
        name: "ledger: a change",
        rounds: 10,
        run: changes,
    },
    Step {
        name: "ledger: a window",
        rounds: 50,
        run: windows,
    },
    Step {
        name: "encode a pod seen first",
        rounds: 2,
        run: first,
    },
    Step {
        name: "encode a pod seen before",
        rounds: 20,
        run: later,
    },
];

fn parse(rounds: u64) {
    // The documents of a running program have the keys of its registry.
    registry();
    let text = pod::pod().to_string();
    for _ in 0..rounds {
        for _ in 0..PODS {
            black_box(Document::from_json(text.as_bytes()).ok());
        }
    }
}

fn projection(rounds: u64) {
    let (_, reads) = preset();
    let pod = Document::from(&pod::pod());
    for _ in 0..rounds {
        for _ in 0..PODS {
            black_box(pod.project(&reads));
        }
    }
}

/// The smallest possible content, so that the ledger is counted and not the comparison of contents.
#[derive(Debug, Clone, PartialEq)]
struct Label(u64);

impl Billed for Label {
    fn owner(&self) -> &'static str {
        "default"
    }

    fn weight(&self) -> usize {
        300
    }
}

fn observe(ledger: &mut Ledger<Label>, label: u64, now: i64) {
    for number in 0..PODS {
        ledger.apply(Observation {
            uid: format!("00000000-0000-4000-8000-{number:012}").into(),
            start: Some(5),
            end: None,
            content: Label(label),
            content_since: None,
            observed_at: now,
            in_scope_since: None,
            times: meterline_ledger::Times::default(),
        });
    }
}

fn ledger() -> Ledger<Label> {
    let Some(interval) = Interval::new(10) else {
        unreachable!("ten seconds are an interval")
    };
    let mut ledger = Ledger::new(interval, Accounting::Exact, 0);
    observe(&mut ledger, 0, 5);
    ledger
}

/// Hands out a window and settles it as delivered.
fn window(ledger: &mut Ledger<Label>, end: i64) {
    let Some(window) = ledger.next(end) else {
        unreachable!("the window up to {end} is over")
    };
    ledger.settle(black_box(window).tag, DeliveryResult::Delivered);
}

fn windows(rounds: u64) {
    let mut ledger = ledger();
    for end in (10..).step_by(10).zip(0..rounds).map(|(end, _)| end) {
        window(&mut ledger, end);
    }
}

/// Each pod changes once in every window.
fn changes(rounds: u64) {
    let mut ledger = ledger();
    for (round, end) in (0..rounds).zip((10..).step_by(10)) {
        observe(&mut ledger, round + 1, end - 3);
        window(&mut ledger, end);
    }
}

fn first(rounds: u64) {
    let (mut processors, _) = preset();
    let pod = pod::pod();
    for _ in 0..rounds {
        let pods: Vec<_> = (0..PODS).map(|_| Document::from(&pod)).collect();
        encode(&mut processors, &pods);
    }
}

fn later(rounds: u64) {
    let (mut processors, _) = preset();
    let pod = pod::pod();
    let pods: Vec<_> = (0..PODS).map(|_| Document::from(&pod)).collect();
    for _ in 0..rounds {
        encode(&mut processors, &pods);
    }
}

/// Runs all processors of the preset and encodes the result.
fn encode(processors: &mut [Box<dyn Processor>], pods: &[Document]) {
    let mut drops = Drops::default();
    let batch = pods.iter().map(message).collect();
    let batch = processors.iter_mut().fold(batch, |batch, processor| {
        processor.process(batch, &mut drops)
    });
    for message in &batch {
        assert!(message.failure().is_none(), "{:?}", message.failure());
        black_box(message.bytes().ok());
    }
}

fn message(pod: &Document) -> Message {
    let mut message = Message::new(Content::Document(pod.clone()));
    for key in ["schedule_time", "window_time"] {
        message.metadata.set(key, "2025-01-01T00:00:00Z");
    }
    for key in ["schedule_interval", "window_interval"] {
        message.metadata.set(key, "15s");
    }
    message.with_identity(Identity {
        about: "pod customer-a/web".into(),
        uid: "6b1c5a1e-5d55-4b1e-9a55-0d9f9f0f2a11".into(),
        start: 1_735_689_600,
        end: 1_735_689_615,
        cluster: None,
    })
}

/// Replaces the input of the preset, and records what is read of its objects.
#[derive(Deserialize)]
struct Learns {}

static LEARNED: Mutex<Option<Reads>> = Mutex::new(None);

impl Configure for Learns {
    type Plan = dyn InputPlan;

    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        Some(Box::new(self))
    }
}

#[async_trait]
impl InputPlan for Learns {
    fn take_reads(&mut self, reads: &Reads) {
        if let Ok(mut learned) = LEARNED.lock() {
            *learned = Some(reads.clone());
        }
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        let component = cx.label.clone();
        let reason = "this input only learns what is read".to_owned();
        Err(BuildError { component, reason })
    }
}

const INPUTS: &[InputSpec] = &[Spec::new::<Learns>("schedule", "Learns what is read.", &[])];

/// The components, with the input that learns.
fn registry() -> Registry {
    match meterline_components::registry() {
        Ok(registry) => Registry {
            inputs: INPUTS,
            ..registry
        },
        Err(error) => unreachable!("{error}"),
    }
}

/// The processors of the preset, as a pipeline thread has them, and what they read of a pod.
fn preset() -> (Vec<Box<dyn Processor>>, Reads) {
    let processors = processors(&registry());
    let reads = LEARNED.lock().ok().and_then(|mut learned| learned.take());
    (processors, reads.unwrap_or_default())
}
