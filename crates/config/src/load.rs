//! A whole configuration, from text to checked plans.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use meterline_core::{BufferPlan, InputPlan, OutputPlan, ProcessorPlan};
use serde::Deserialize;

use crate::{
    change::{put, set},
    diagnostic::{Diagnostic, Place, Severity, suggestion},
    fields::{Child, GoDuration},
    interpolate::{Interpolated, interpolate},
    node::{Kind, Node},
    plan::{Cx, Index, Registry, Text},
};

/// Larger configurations are refused unread.
const LARGEST: usize = 8 * 1024 * 1024;
const KEYS: &[&str] = &[
    "input",
    "buffer",
    "pipeline",
    "output",
    "logger",
    "metrics",
    "http",
    "shutdown_timeout",
    "input_resources",
    "processor_resources",
    "output_resources",
    "cache_resources",
    "rate_limit_resources",
    "tests",
];

/// The text of a configuration.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name in messages, such as the path as the user wrote it.
    pub name: String,
    /// The YAML.
    pub text: String,
    /// Where relative paths in it start; `None` when it is no file.
    pub dir: Option<PathBuf>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `key=value`
    #[default]
    Logfmt,
    /// A JSON object a line.
    Json,
}

/// The `logger` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logger {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `OFF`.
    pub level: String,
    /// How lines are written.
    pub format: LogFormat,
}

impl Default for Logger {
    fn default() -> Self {
        Self {
            level: "INFO".to_owned(),
            format: LogFormat::Logfmt,
        }
    }
}

/// The `http` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Whether the pages are served.
    pub enabled: bool,
    /// `host:port` to listen on.
    pub address: String,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            enabled: true,
            address: "0.0.0.0:4195".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PipelineSection {
    threads: Option<i64>,
    processors: Vec<Child>,
}

/// A checked configuration.
pub struct Loaded {
    /// Where messages come from.
    pub input: Box<dyn InputPlan>,
    /// What keeps them until they are delivered, and its label.
    pub buffer: Option<(Arc<str>, Box<dyn BufferPlan>)>,
    /// What happens to them.
    pub processors: Vec<Box<dyn ProcessorPlan>>,
    /// How many batches are processed at once, at least 1.
    pub threads: usize,
    /// Where they go.
    pub output: Box<dyn OutputPlan>,
    /// How log lines are written.
    pub logger: Logger,
    /// The pages that watch over the process.
    pub http: Http,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
}

/// Reads and checks a configuration. Touches nothing outside but files that it names.
///
/// `overrides` are fields to change, as path and YAML value; `env` gives variables.
///
/// # Errors
/// Every fault, in the order of the file. The warnings come with success.
pub fn load(
    source: &Source,
    overrides: &[(String, String)],
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<(Loaded, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut reading = Reading::default();
    let root = reading.root(source, overrides, env, registry);
    let Reading { texts, mut found } = reading;
    let Some(root) = root else {
        return Err(sorted(found));
    };
    let index = index(&root);
    let mut cx = Cx {
        registry,
        texts: &texts,
        index: &index,
        found: Vec::new(),
        at: None,
        labels: HashMap::new(),
        resolving: Vec::new(),
    };
    let loaded = plan(&root, &mut cx);
    found.append(&mut cx.found);
    let found = sorted(found);
    match loaded {
        Some(loaded) if found.iter().all(|it| it.severity == Severity::Warning) => {
            Ok((loaded, found))
        }
        _ => Err(found),
    }
}

fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort();
    found.dedup();
    found
}

/// From text to tree.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) texts: Vec<Text>,
    pub(crate) found: Vec<Diagnostic>,
}

impl Reading {
    /// The tree of the whole configuration, with overrides and defaults in it; `None` when it
    /// cannot be read at all.
    pub(crate) fn root(
        &mut self,
        source: &Source,
        overrides: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
        registry: &Registry,
    ) -> Option<Node> {
        if source.text.len() > LARGEST {
            self.fault(
                &source.name,
                format!(
                    "the configuration has {} bytes; at most {LARGEST} are read",
                    source.text.len()
                ),
            );
            return None;
        }
        let interpolated = interpolate(&source.text, env);
        let mut root = self.read(&source.name, interpolated, true, source.dir.clone())?;
        if matches!(root.kind, Kind::Null) {
            root.kind = Kind::Map(Vec::new());
        }
        if !matches!(root.kind, Kind::Map(_)) {
            let what = root.what();
            self.fault(
                &source.name,
                format!("expected a map with `input`, `pipeline` and `output`, found {what}"),
            );
            return None;
        }
        for (path, value) in overrides {
            let name = format!("--set {path}");
            let plain = Interpolated::plain(value);
            if let Some(value) = self.read(&name, plain, false, None)
                && let Err(reason) = set(&mut root, path, value)
            {
                self.fault(&name, reason);
            }
        }
        for (key, default) in [
            ("input", registry.default_input),
            ("output", registry.default_output),
        ] {
            let blank = root
                .get(key)
                .is_none_or(|node| matches!(node.kind, Kind::Null));
            if blank {
                let name = format!("<default {key}>");
                let value = self.read(&name, interpolate(default, env), true, None)?;
                put(&mut root, key, value);
            }
        }
        root.number(&mut 1);
        Some(root)
    }

    fn read(
        &mut self,
        name: &str,
        interpolated: Interpolated,
        has_places: bool,
        dir: Option<PathBuf>,
    ) -> Option<Node> {
        for (variable, place) in &interpolated.missing {
            self.found.push(Diagnostic {
                file: name.to_owned(),
                place: Some(*place),
                path: String::new(),
                severity: Severity::Error,
                message: format!(
                    "the variable `{variable}` is not set; set it, or give a default: \
                     `${{{variable}:default}}`"
                ),
            });
        }
        let parsed = serde_saphyr::from_str::<Node>(&interpolated.text);
        let number = self.texts.len();
        let fault = match parsed {
            Ok(mut node) => {
                node.came_from(number);
                self.texts.push(Text {
                    name: name.to_owned(),
                    interpolated,
                    has_places,
                    dir,
                });
                return Some(node);
            }
            Err(fault) => fault,
        };
        let at = fault.location().map(|location| Place {
            line: usize::try_from(location.line()).unwrap_or(1),
            column: usize::try_from(location.column()).unwrap_or(1),
        });
        let message = fault.without_snippet().to_string();
        // The first line says what is wrong; its own "at line" would be that of the replaced text.
        let message = message.lines().next().unwrap_or_default();
        let message = message.split(" at line ").next().unwrap_or(message);
        self.found.push(Diagnostic {
            file: name.to_owned(),
            place: at.filter(|_| has_places).map(|at| interpolated.place(at)),
            path: String::new(),
            severity: Severity::Error,
            message: interpolated.masked(format!("cannot be read as YAML: {message}")),
        });
        None
    }

    pub(crate) fn fault(&mut self, file: &str, message: String) {
        self.found.push(Diagnostic {
            file: file.to_owned(),
            place: None,
            path: String::new(),
            severity: Severity::Error,
            message,
        });
    }
}

fn index(root: &Node) -> Index<'_> {
    fn walk<'a>(node: &'a Node, path: String, nodes: &mut HashMap<u64, (&'a Node, String)>) {
        let below = |key: &str| {
            if path.is_empty() {
                key.to_owned()
            } else {
                format!("{path}.{key}")
            }
        };
        match &node.kind {
            Kind::Map(entries) => {
                for entry in entries {
                    walk(&entry.value, below(&entry.key), nodes);
                }
            }
            Kind::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, below(&index.to_string()), nodes);
                }
            }
            _ => {}
        }
        nodes.insert(node.id, (node, path));
    }
    let mut nodes = HashMap::new();
    walk(root, String::new(), &mut nodes);
    let mut resources = HashMap::new();
    for (section, kind) in [
        ("input_resources", "input"),
        ("processor_resources", "processor"),
        ("output_resources", "output"),
    ] {
        for node in root.get(section).map(Node::children).unwrap_or_default() {
            if let Some(Kind::Text(label)) = node.get("label").map(|label| &label.kind) {
                resources.insert((kind, label.as_str()), node);
            }
        }
    }
    Index { nodes, resources }
}

/// Checks the sections, all of them, whatever is wrong with one.
fn plan(root: &Node, cx: &mut Cx<'_>) -> Option<Loaded> {
    for entry in root.entries() {
        let key = entry.key.as_str();
        if !KEYS.contains(&key) {
            let message = format!("unknown section `{key}`{}", suggestion(key, KEYS));
            let (text, place) = (entry.value.text, entry.key_place);
            cx.report_at(text, place, String::new(), Severity::Error, message);
        }
        if is_blank(&entry.value) {
            continue;
        }
        match key {
            "metrics"
                if entry.value.get("prometheus").is_none() && entry.value.get("none").is_none() =>
            {
                cx.report_node(
                    &entry.value,
                    Severity::Error,
                    "metrics are shown for Prometheus on /metrics; leave `metrics` out or write `prometheus: {}`"
                        .to_owned(),
                );
            }
            "cache_resources" | "rate_limit_resources" | "tests" => cx.report_node(
                &entry.value,
                Severity::Warning,
                format!("`{key}` is not used yet"),
            ),
            _ => {}
        }
    }
    let input = root.get("input").and_then(|it| cx.input(Child(it.id)));
    let buffer = root
        .get("buffer")
        .filter(|node| !is_blank(node))
        .map(|node| cx.buffer(Child(node.id)));
    let pipeline: Option<PipelineSection> = section(root, "pipeline", cx);
    let processors = pipeline
        .as_ref()
        .and_then(|it| cx.processors(&it.processors));
    let output = root.get("output").and_then(|it| cx.output(Child(it.id)));
    let logger: Option<Logger> = section(root, "logger", cx);
    let http: Option<Http> = section(root, "http", cx);
    let shutdown_timeout: Option<Option<GoDuration>> = section(root, "shutdown_timeout", cx);
    let threads = pipeline
        .and_then(|it| it.threads)
        .and_then(|threads| usize::try_from(threads).ok())
        .filter(|threads| *threads > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let logger = logger?;
    let level = level(&logger.level, root, cx);
    Some(Loaded {
        input: input?,
        buffer: match buffer {
            None => None,
            Some(buffer) => Some(buffer?),
        },
        processors: processors?,
        threads,
        output: output?,
        logger: Logger {
            level: level?,
            ..logger
        },
        http: http?,
        shutdown_timeout: shutdown_timeout?
            .map_or(Duration::from_secs(20), |GoDuration(timeout)| timeout),
    })
}

fn is_blank(node: &Node) -> bool {
    match &node.kind {
        Kind::Null => true,
        Kind::Map(inner) => inner.is_empty(),
        Kind::List(inner) => inner.is_empty(),
        _ => false,
    }
}

/// A section of its type, or the default when it is not there; `None` after a fault.
fn section<T: serde::de::DeserializeOwned + Default>(
    root: &Node,
    key: &str,
    cx: &mut Cx<'_>,
) -> Option<T> {
    match root.get(key) {
        None => Some(T::default()),
        Some(node) => cx.read::<T>(&mut node.clone()).0,
    }
}

fn level(text: &str, root: &Node, cx: &mut Cx<'_>) -> Option<String> {
    const LEVELS: &[&str] = &["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "OFF"];
    let upper = text.to_ascii_uppercase();
    let level = match upper.as_str() {
        "ALL" => "TRACE",
        "FATAL" => "ERROR",
        "NONE" => "OFF",
        other => other,
    };
    if LEVELS.contains(&level) {
        return Some(level.to_owned());
    }
    if let Some(node) = root.get("logger").and_then(|it| it.get("level")) {
        let message = format!("`{text}` is not a level{}", suggestion(&upper, LEVELS));
        cx.report_node(node, Severity::Error, message);
    }
    None
}
