//! The top-level sections of a configuration.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use meterline_core::{BufferPlan, InputPlan, OutputPlan, ProcessorPlan};
use serde::Deserialize;

use crate::{
    context::PlanContext,
    diagnostic::{Severity, suggestion},
    fields::{Child, GoDuration},
    node::{Kind, Node},
};

const KEYS: &[&str] = &[
    "input",
    "buffer",
    "pipeline",
    "output",
    "logger",
    "metrics",
    "http",
    "admin",
    "shutdown_timeout",
    "input_resources",
    "processor_resources",
    "output_resources",
    "cache_resources",
    "rate_limit_resources",
    "tables",
    "tests",
];

/// The sections that list resources, and the kind of component in each.
pub(crate) const RESOURCES: &[(&str, &str)] = &[
    ("input_resources", "input"),
    ("processor_resources", "processor"),
    ("output_resources", "output"),
];

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `key=value`
    #[default]
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// The `logger` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logger {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `OFF`.
    pub level: String,
    /// The format of log lines.
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
    /// Whether the endpoints are served.
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

/// The `admin` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Whether the endpoints that name customers are served.
    pub enabled: bool,
    /// `host:port` to listen on. Anything but the loopback interface needs other protection.
    pub address: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            enabled: true,
            address: "127.0.0.1:4196".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PipelineSection {
    threads: Option<i64>,
    processors: Vec<Child>,
}

/// The `metrics` section, which has no options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Metrics {
    #[serde(rename = "prometheus")]
    _prometheus: Option<Nothing>,
    #[serde(rename = "none")]
    _none: Option<Nothing>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A checked configuration.
pub struct Loaded {
    /// The input.
    pub input: Box<dyn InputPlan>,
    /// The buffer that keeps messages until they are delivered, with its label.
    pub buffer: Option<(Arc<str>, Box<dyn BufferPlan>)>,
    /// The processors of the pipeline.
    pub processors: Vec<Box<dyn ProcessorPlan>>,
    /// How many batches are processed at once, at least 1.
    pub threads: usize,
    /// The output.
    pub output: Box<dyn OutputPlan>,
    /// The `logger` section.
    pub logger: Logger,
    /// The `http` section: health and metrics.
    pub http: Http,
    /// The `admin` section: endpoints that name customers.
    pub admin: Admin,
    /// The longest time that a stop may take.
    pub shutdown_timeout: Duration,
}

/// Checks all sections, even when one has errors.
pub(crate) fn plan(root: &Node, cx: &mut PlanContext<'_>) -> Option<Loaded> {
    keys(root, cx);
    if let Some(tables) = section(root, "tables", cx) {
        cx.take_tables(tables);
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
    let reads = std::mem::take(&mut cx.reads);
    unused_resources(root, cx);
    let logger: Option<Logger> = section(root, "logger", cx);
    let http: Option<Http> = section(root, "http", cx);
    let admin: Option<Admin> = section(root, "admin", cx);
    let shutdown_timeout: Option<Option<GoDuration>> = section(root, "shutdown_timeout", cx);
    let threads = pipeline
        .and_then(|it| it.threads)
        .and_then(|threads| usize::try_from(threads).ok())
        .filter(|threads| *threads > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let logger = logger.and_then(|logger| {
        let level = level(&logger.level, root, cx)?;
        Some(Logger { level, ..logger })
    });
    let http = http.filter(|it| is_address(&it.address, "http", root, cx));
    let admin = admin.filter(|it| is_address(&it.address, "admin", root, cx));
    let mut input = input?;
    input.take_reads(&reads);
    Some(Loaded {
        input,
        buffer: match buffer {
            None => None,
            Some(buffer) => Some(buffer?),
        },
        processors: processors?,
        threads,
        output: output?,
        logger: logger?,
        http: http?,
        admin: admin?,
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

/// Reports unknown and unsupported sections.
fn keys(root: &Node, cx: &mut PlanContext<'_>) {
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
            "metrics" => metrics(&entry.value, cx),
            "tests" => cx.report_node(
                &entry.value,
                Severity::Error,
                "no command runs `tests` yet; remove the section".to_owned(),
            ),
            "cache_resources" | "rate_limit_resources" => cx.report_node(
                &entry.value,
                Severity::Error,
                format!("no component uses `{key}` yet; remove the section"),
            ),
            _ => {}
        }
    }
}

fn metrics(node: &Node, cx: &mut PlanContext<'_>) {
    if node.get("prometheus").is_some() || node.get("none").is_some() {
        cx.read::<Metrics>(&mut node.clone());
    } else {
        cx.report_node(
            node,
            Severity::Error,
            "metrics are only served for Prometheus, on /metrics; leave `metrics` out or write `prometheus: {}`"
                .to_owned(),
        );
    }
}

/// Reports the resources that nothing refers to, and checks them, so that their errors show before
/// something uses them.
fn unused_resources(root: &Node, cx: &mut PlanContext<'_>) {
    // A resource that only unused resources refer to is unused, too.
    let used = cx.used.clone();
    for (section, kind) in RESOURCES {
        let Some(list) = root.get(section).filter(|node| !is_blank(node)) else {
            continue;
        };
        let Kind::List(items) = &list.kind else {
            let message = format!(
                "expected a list of {kind}s with labels, found {}",
                list.what()
            );
            cx.report_node(list, Severity::Error, message);
            continue;
        };
        for item in items {
            let labelled = item
                .get("label")
                .is_some_and(|it| matches!(&it.kind, Kind::Text(label) if !label.is_empty()));
            if matches!(item.kind, Kind::Map(_)) && !labelled {
                let message = "a resource needs a `label`, which others refer to".to_owned();
                cx.report_node(item, Severity::Error, message);
            }
            if let Some(Kind::Text(label)) = item.get("label").map(|it| &it.kind)
                && !label.is_empty()
                && !used.contains(&item.id)
            {
                let message = format!(
                    "nothing uses this {kind}; refer to it with `resource: {label}` or remove it"
                );
                cx.report_node(item, Severity::Warning, message);
            }
            if cx.used.contains(&item.id) {
                continue;
            }
            // Unused resources receive no messages.
            cx.leave_process();
            match *kind {
                "input" => drop(cx.input(Child(item.id))),
                "processor" => drop(cx.processor(Child(item.id))),
                _ => drop(cx.output(Child(item.id))),
            }
        }
    }
}

/// Reads a section, or returns the default when it is missing; `None` after an error.
fn section<T: serde::de::DeserializeOwned + Default>(
    root: &Node,
    key: &str,
    cx: &mut PlanContext<'_>,
) -> Option<T> {
    match root.get(key) {
        None => Some(T::default()),
        Some(node) => cx.read::<T>(&mut node.clone()).0,
    }
}

/// Whether the text is an address to listen on, `host:port`; reports it when it is not.
fn is_address(text: &str, section: &str, root: &Node, cx: &mut PlanContext<'_>) -> bool {
    let is_name = |host: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !host.is_empty() && host.chars().all(plain)
    };
    let good = text.parse::<SocketAddr>().is_ok()
        || text
            .rsplit_once(':')
            .is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok());
    if !good && let Some(node) = root.get(section).and_then(|it| it.get("address")) {
        let example = match section {
            "admin" => Admin::default().address,
            _ => Http::default().address,
        };
        let message = format!("expected `host:port`, such as `{example}`");
        cx.report_node(node, Severity::Error, message);
    }
    good
}

/// Returns the log level that a Benthos level stands for.
///
/// # Errors
/// When the text is not a level; the message lists the levels.
pub fn log_level(text: &str) -> Result<&'static str, String> {
    const LEVELS: &[&str] = &["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "OFF"];
    let upper = text.to_ascii_uppercase();
    let level = match upper.as_str() {
        "ALL" => "TRACE",
        "FATAL" => "ERROR",
        "NONE" => "OFF",
        other => other,
    };
    let known = LEVELS.iter().find(|it| **it == level);
    known.copied().ok_or_else(|| {
        let suggestion = suggestion(&upper, LEVELS);
        format!("`{text}` is not a level{suggestion}")
    })
}

fn level(text: &str, root: &Node, cx: &mut PlanContext<'_>) -> Option<String> {
    match log_level(text) {
        Ok(level) => Some(level.to_owned()),
        Err(message) => {
            if let Some(node) = root.get("logger").and_then(|it| it.get("level")) {
                cx.report_node(node, Severity::Error, message);
            }
            None
        }
    }
}
