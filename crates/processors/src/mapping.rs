//! `mapping`: turns each message into another with a Rhai script.

use std::sync::Arc;

use meterline_config::{Configure, Cx, Located, ProcessorSpec, Spec};
use meterline_core::{
    Batch, BuildContext, BuildError, Drops, IntCounter, Processor, ProcessorPlan,
    foreseen::Foreseen,
};
use meterline_script::{Engine, Limits, Mapped, Mapping};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "mapping",
    "Turns each message into another with a Rhai script.",
    &[
        "mapping: |\n  root = #{\n    name: this.metadata.name,\n    start: meta(\"schedule_time\"),\n  };\n",
        "mapping: 'root = deleted()'",
    ],
);

/// Configuration of `mapping`: the script. `this` is the message, `root` what it becomes.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Located<String>);

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut Cx<'_>) -> Option<Box<dyn ProcessorPlan>> {
        match Engine::new(Limits::default()).compile_mapping(&self.0.value) {
            Ok(mapping) => {
                for lint in mapping.lints() {
                    let message = with_help(lint.message, lint.help.as_deref());
                    cx.warning_in(&self.0, lint.line, lint.column, message);
                }
                let after = mapping.foresee(cx.foreseen(), self.0.number());
                cx.foresee(after);
                Some(Box::new(Plan {
                    mapping: Arc::new(mapping),
                    path: cx.path(),
                }))
            }
            Err(errors) => {
                for error in errors {
                    let message = with_help(error.message, error.help.as_deref());
                    cx.error_in(&self.0, error.line, error.column, message);
                }
                cx.foresee(Foreseen::default());
                None
            }
        }
    }
}

pub(crate) fn with_help(message: String, help: Option<&str>) -> String {
    match help {
        Some(help) => format!("{message}; {help}"),
        None => message,
    }
}

struct Plan {
    mapping: Arc<Mapping>,
    path: Arc<str>,
}

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(Map {
            mapping: Arc::clone(&self.mapping),
            errors: errors(cx, &self.path),
            path: Arc::clone(&self.path),
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
}

impl Processor for Map {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        batch
            .into_iter()
            .filter_map(|mut message| match self.mapping.run(&mut message) {
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
            })
            .collect()
    }
}
