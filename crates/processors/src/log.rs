//! `log`: logs a line for each message and passes it on.

use std::sync::Arc;

use meterline_config::{Configure, Located, PlanContext, ProcessorSpec, Spec};
use meterline_core::{Batch, BuildContext, BuildError, Drops, Message, Processor, ProcessorPlan};
use meterline_script::{Engine, Limits, Mapped, Mapping, Template};
use serde::Deserialize;
use tracing::{Level, debug, error, info, trace, warn};

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "log",
    "Logs a line for each message and passes it on.",
    &[
        "log:\n  level: ERROR\n  message: 'refused: ${! error() }'\n",
        "log:\n  message: mapped\n  fields_mapping: 'root = #{ subject: this.subject }'\n",
    ],
);

/// Configuration of `log`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN` or `ERROR`.
    #[serde(default)]
    level: Option<Located<String>>,
    /// The text of the line; `${! … }` is replaced by the value of a Rhai expression.
    #[serde(default)]
    message: Option<Located<String>>,
    /// A mapping whose result is added to the line.
    #[serde(default)]
    fields_mapping: Option<Located<String>>,
}

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        let engine = Engine::new(Limits::default());
        let level = match &self.level {
            None => Some(Level::INFO),
            Some(text) => match level(&text.value) {
                Some(level) => Some(level),
                None => {
                    cx.error_at(
                        text,
                        format!(
                            "`{}` is not a level; use TRACE, DEBUG, INFO, WARN or ERROR",
                            text.value
                        ),
                    );
                    None
                }
            },
        };
        let empty = Located::from(String::new());
        let source = self.message.unwrap_or(empty);
        let message = engine.plan_template(&source, cx);
        // `Some(None)` when there is no such field, `None` when it has errors.
        let fields = match &self.fields_mapping {
            None => Some(None),
            Some(source) => engine.plan_mapping(source, cx).map(Some),
        };
        let mut reads = message.as_ref().map(Template::reads).unwrap_or_default();
        if let Some(Some(mapping)) = &fields {
            reads.join(mapping.reads());
        }
        cx.reads(&reads);
        Some(Box::new(Log {
            level: level?,
            message: Arc::new(message?),
            fields: fields?.map(Arc::new),
            path: cx.path(),
        }))
    }
}

fn level(text: &str) -> Option<Level> {
    Some(match text.to_ascii_uppercase().as_str() {
        "TRACE" => Level::TRACE,
        "DEBUG" => Level::DEBUG,
        "INFO" => Level::INFO,
        "WARN" => Level::WARN,
        "ERROR" => Level::ERROR,
        _ => return None,
    })
}

#[derive(Clone)]
struct Log {
    level: Level,
    message: Arc<Template>,
    fields: Option<Arc<Mapping>>,
    path: Arc<str>,
}

impl ProcessorPlan for Log {
    fn build(&self, _: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(self.clone()))
    }
}

impl Processor for Log {
    fn process(&mut self, batch: Batch, _: &mut Drops) -> Batch {
        for message in &batch {
            self.print(message);
        }
        batch
    }
}

impl Log {
    /// Logs the line. If the template or mapping fails, the line contains the reason, and the message is unchanged.
    fn print(&self, message: &Message) {
        let text = match self.message.render(message) {
            Ok(text) => text,
            Err(reason) => format!("(`message` of this log processor failed: {reason})"),
        };
        let fields = match self.fields(message) {
            Ok(fields) => fields,
            Err(reason) => format!("(`fields_mapping` of this log processor failed: {reason})"),
        };
        let (path, about) = (self.path.as_ref(), &*message.about());
        macro_rules! print {
            ($macro:ident) => {
                if fields.is_empty() {
                    $macro!(path, about, "{text}")
                } else {
                    $macro!(path, about, fields = %fields, "{text}")
                }
            };
        }
        match self.level {
            Level::TRACE => print!(trace),
            Level::DEBUG => print!(debug),
            Level::INFO => print!(info),
            Level::WARN => print!(warn),
            _ => print!(error),
        }
    }

    fn fields(&self, message: &Message) -> Result<String, String> {
        let Some(mapping) = &self.fields else {
            return Ok(String::new());
        };
        let mut copy = message.clone();
        match mapping.run(&mut copy) {
            Ok(Mapped::Kept) => copy
                .bytes()
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|error| error.to_string()),
            Ok(Mapped::Dropped) => Ok(String::new()),
            Err(error) => Err(error.to_string()),
        }
    }
}
