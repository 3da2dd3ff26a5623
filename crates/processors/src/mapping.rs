//! `mapping`: transforms messages with a Rhai script.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use meterline_config::{Configure, Located, PlanContext, ProcessorSpec, Spec};
use meterline_core::{
    Batch, BuildContext, BuildError, Drops, IntCounter, Message, Processor, ProcessorPlan,
    foreseen::Foreseen,
};
use meterline_script::{Engine, Limits, Loss, Mapped, Mapping, Note};
use serde::Deserialize;
use tracing::warn;

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "mapping",
    "Transforms each message with a Rhai script.",
    &[
        "mapping: |\n  root = #{\n    name: this.metadata.name,\n    start: meta(\"schedule_time\"),\n  };\n",
        "mapping: 'root = deleted()'",
    ],
);

/// Configuration of `mapping`: the script. `this` is the message, `root` the result.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Located<String>);

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        let Some(mapping) = Engine::new(Limits::default()).plan_mapping(&self.0, cx) else {
            cx.foresee(Foreseen::default());
            return None;
        };
        mapping.report_lints(&self.0, cx);
        cx.reads(mapping.reads());
        let after = mapping.foresee(cx.foreseen(), self.0.number());
        cx.foresee(after);
        Some(Box::new(Plan {
            mapping: Arc::new(mapping),
            path: cx.path(),
            reported: Arc::default(),
        }))
    }
}

struct Plan {
    mapping: Arc<Mapping>,
    path: Arc<str>,
    reported: Arc<Mutex<Reported>>,
}

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        let losses = |loss: &str| {
            cx.metrics.counter(
                "mapping_left_out",
                "Invalid metrics that a mapping omitted, and texts and fields that it truncated or \
                 omitted, counted when a message is mapped.",
                &[("loss", loss), ("path", &self.path)],
            )
        };
        Ok(Box::new(Map {
            mapping: Arc::clone(&self.mapping),
            errors: errors(cx, &self.path),
            metrics_omitted: losses("metric"),
            texts_cut: losses("text"),
            path: Arc::clone(&self.path),
            reported: Arc::clone(&self.reported),
        }))
    }
}

/// The counter of messages that a processor flagged.
pub(crate) fn errors(cx: &BuildContext, path: &str) -> IntCounter {
    cx.metrics.counter(
        "processor_error",
        "Messages that a processor flagged as failed.",
        &[("path", path)],
    )
}

struct Map {
    mapping: Arc<Mapping>,
    path: Arc<str>,
    errors: IntCounter,
    metrics_omitted: IntCounter,
    texts_cut: IntCounter,
    reported: Arc<Mutex<Reported>>,
}

impl Processor for Map {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        let mut notes = Vec::new();
        batch
            .into_iter()
            .filter_map(|mut message| {
                let outcome = self.mapping.run_noting(&mut message, &mut notes);
                if !notes.is_empty() {
                    self.report(&message, &notes);
                    notes.clear();
                }
                match outcome {
                    Ok(Mapped::Kept) => Some(message),
                    Ok(Mapped::Dropped) => {
                        drops.note(&message, &self.path);
                        None
                    }
                    Err(error) => {
                        self.errors.inc();
                        message.fail(Arc::clone(&self.path), error.to_string());
                        Some(message)
                    }
                }
            })
            .collect()
    }
}

impl Map {
    /// Counts what was omitted or truncated, and logs it once for each object. It is not logged again
    /// when the object changes, because a tenant could fill the log with changes.
    fn report(&self, message: &Message, notes: &[Note]) {
        let object = message.identity().map_or("", |it| &it.uid);
        let (path, about) = (&self.path, message.about());
        let is_first = |loss: Loss| {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            reported.is_first(object, loss)
        };
        let metrics = of_loss(notes, Loss::Metric);
        self.metrics_omitted.inc_by(metrics.len() as u64);
        if !metrics.is_empty() && is_first(Loss::Metric) {
            warn!(
                %path,
                "invalid metrics of {about} are omitted from its events, its other metrics are billed: \
                 {}; correct the field",
                metrics.join("; ")
            );
        }
        let texts = of_loss(notes, Loss::Text);
        self.texts_cut.inc_by(texts.len() as u64);
        if !texts.is_empty() && is_first(Loss::Text) {
            warn!(
                %path,
                "texts of {about} exceed the limits of an event: {}; all of its time is billed, \
                 shorten them if you need the omitted parts",
                texts.join("; ")
            );
        }
    }
}

fn of_loss(notes: &[Note], loss: Loss) -> Vec<&str> {
    let notes = notes.iter().filter(|note| note.loss == loss);
    notes.map(|note| note.text.as_str()).collect()
}

/// The losses logged so far, by object; bounded, the oldest are removed first.
#[derive(Default)]
struct Reported {
    hasher: RandomState,
    known: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Reported {
    /// The limit, which takes about two hundred kilobytes. Beyond it losses may be logged again.
    const MAX: usize = 10_000;

    /// Adds a loss of an object. Returns whether it is new.
    fn is_first(&mut self, object: &str, loss: Loss) -> bool {
        let key = self.hasher.hash_one((object, loss));
        if !self.known.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Identity;
    use serde_json::json;

    use super::*;
    use crate::testing::cx;

    #[test]
    fn each_loss_is_reported_once_per_object_in_bounded_memory() {
        let mut reported = Reported::default();
        assert!(reported.is_first("a", Loss::Text));
        assert!(!reported.is_first("a", Loss::Text));
        assert!(reported.is_first("a", Loss::Metric));
        assert!(reported.is_first("b", Loss::Text));
        for object in 0..3 * Reported::MAX {
            reported.is_first(&object.to_string(), Loss::Text);
        }
        assert_eq!(reported.known.len(), Reported::MAX);
        assert_eq!(reported.order.len(), Reported::MAX);
        assert!(
            reported.is_first("a", Loss::Text),
            "the oldest one was removed"
        );
    }

    #[test]
    fn losses_are_counted_and_the_event_is_kept() {
        let source =
            "root = pod_metrics(15); root.data = this.metadata.annotations.select_prefix(\"a/\")";
        let mapping = Engine::new(Limits::default())
            .compile_mapping(source)
            .unwrap();
        let plan = Plan {
            mapping: Arc::new(mapping),
            path: "pipeline.processors.0".into(),
            reported: Arc::default(),
        };
        let cx = cx();
        let mut processor = plan.build(&cx).unwrap();
        let message = |memory: &str, value: &str| {
            let identity = Identity {
                about: "pod default/web-0".into(),
                uid: "u".into(),
                start: 0,
                end: 15,
                cluster: None,
            };
            Message::value(&json!({"metadata": {"annotations": {"a/b": value}},
                "spec": {"containers": [{"resources": {"limits": {"memory": memory}}}]}}))
            .with_identity(identity)
        };
        let good = message("8Ei", "x");
        let bad = message("-1", &"x".repeat(5_000));
        let batch = processor.process(vec![good, bad.clone(), bad], &mut Drops::default());
        assert_eq!(batch.len(), 3);
        assert!(batch.iter().all(|message| message.failure().is_none()));
        let page = cx.metrics.render();
        for line in [
            "mapping_left_out{loss=\"metric\",path=\"pipeline.processors.0\"} 2",
            "mapping_left_out{loss=\"text\",path=\"pipeline.processors.0\"} 2",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }
}
