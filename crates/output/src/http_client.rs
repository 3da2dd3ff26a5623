//! `http_client`: messages to any HTTP endpoint.
//!
//! A batch is one request whose body is its messages, a line each. Without batching each of the
//! input's batches is cut into single messages, a request for each, as in Benthos.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_config::{Configure, Cx, GoDuration, Located, OutputSpec, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, Content, Message, OutputNode, OutputPlan, RetryPolicy,
    Taken, WriteError, Writer, WriterNode,
};
use meterline_script::{Engine, Limits, Template};
use reqwest::{
    Client, Method,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;

use crate::{
    batching::Batching,
    http::{client, parse_url, send, shown},
    requests::{in_flight, time_limit},
    tls::Tls,
};

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "http_client",
    "Sends messages to an HTTP endpoint.",
    &[
        "http_client:\n  url: https://example.com/events\n  verb: POST\n  headers:\n    Content-Type: application/json\n",
        "http_client:\n  url: 'https://example.com/${! meta(\"kind\") }'\n  batching:\n    count: 100\n    period: 1s\n",
    ],
);

/// Configuration of `http_client`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The URL; `${! … }` is evaluated for the first message of a batch.
    url: Located<String>,
    /// The HTTP method.
    #[serde(default = "default_verb")]
    verb: Located<String>,
    /// Headers; their values may hold `${! … }`, evaluated for the first message of a batch.
    #[serde(default)]
    headers: BTreeMap<String, Located<String>>,
    /// How messages are gathered; none: one request a message.
    #[serde(default)]
    batching: Option<Batching>,
    /// The most requests under way at once.
    #[serde(default = "default_max_in_flight")]
    max_in_flight: Located<usize>,
    /// The time within which a request must be answered.
    #[serde(default = "default_timeout")]
    timeout: Located<GoDuration>,
    /// Whom to trust.
    #[serde(default)]
    tls: Tls,
}

fn default_verb() -> Located<String> {
    Located::from("POST".to_owned())
}

fn default_max_in_flight() -> Located<usize> {
    Located::from(8)
}

fn default_timeout() -> Located<GoDuration> {
    Located::from(GoDuration(Duration::from_secs(5)))
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut Cx<'_>) -> Option<Box<dyn OutputPlan>> {
        let engine = Engine::new(Limits::default());
        let url = template(&engine, &self.url, cx);
        if let Some(text) = url.as_ref().and_then(Template::is_static)
            && let Err(reason) = parse_url(text)
        {
            cx.error_at(&self.url, reason);
        }
        let method = Method::from_bytes(self.verb.value.to_ascii_uppercase().as_bytes());
        if method.is_err() {
            cx.error_at(&self.verb, "this is not an HTTP method");
        }
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => headers.push(header(&engine, value, cx).map(|value| (name, value))),
                Err(_) => cx.error_at(value, format!("`{name}` cannot be the name of a header")),
            }
        }
        Some(Box::new(Plan {
            url: url?,
            method: method.ok()?,
            headers: headers.into_iter().collect::<Option<_>>()?,
            batching: self.batching.map_or(
                BatchPolicy {
                    count: 1,
                    ..BatchPolicy::default()
                },
                Into::into,
            ),
            max_in_flight: in_flight(&self.max_in_flight, cx),
            timeout: time_limit(&self.timeout, cx),
            tls: self.tls,
        }))
    }
}

fn template(engine: &Engine, source: &Located<String>, cx: &mut Cx<'_>) -> Option<Template> {
    match engine.compile_template(&source.value) {
        Ok(template) => Some(template),
        Err(errors) => {
            for error in errors {
                cx.error_in(source, error.line, error.column, error.message);
            }
            None
        }
    }
}

/// The value of a header.
enum Value {
    /// The same for every request, and checked: it cannot be an event's fault.
    Fixed(HeaderValue),
    /// Evaluated for each.
    Made(Template),
}

fn header(engine: &Engine, source: &Located<String>, cx: &mut Cx<'_>) -> Option<Value> {
    let template = template(engine, source, cx)?;
    let Some(text) = template.is_static() else {
        return Some(Value::Made(template));
    };
    let value = header_value(text);
    if value.is_none() {
        cx.error_at(
            source,
            "this cannot be the value of a header, which is one line of text",
        );
    }
    value.map(Value::Fixed)
}

/// White space around it means nothing, and comes with what is read from files.
fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text.trim()).ok()
}

struct Plan {
    url: Template,
    method: Method,
    headers: Vec<(HeaderName, Value)>,
    batching: BatchPolicy,
    max_in_flight: usize,
    timeout: Duration,
    tls: Tls,
}

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let client = client(self.timeout, &self.tls).map_err(|reason| BuildError {
            component: Arc::clone(&cx.label),
            reason,
        })?;
        let (batching, max_in_flight) = (self.batching.clone(), self.max_in_flight);
        Ok(OutputNode::Writer(WriterNode {
            label: Arc::clone(&cx.label),
            component: "http_client",
            taken: Taken::Delivered,
            writer: Arc::new(HttpClient {
                client,
                plan: *self,
            }),
            batching,
            max_in_flight,
            accepts_failed: false,
            retry: RetryPolicy::default(),
            drops: None,
            objects_only: false,
        }))
    }
}

struct HttpClient {
    client: Client,
    plan: Plan,
}

#[async_trait]
impl Writer for HttpClient {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let rejected = |reason: String| WriteError::Rejected { reason };
        let url = self
            .plan
            .url
            .render(first)
            .map_err(|error| rejected(format!("url: {error}")))?;
        let url = parse_url(&url).map_err(|error| rejected(format!("url: {error}")))?;
        let shown = shown(&url);
        let mut request = self.client.request(self.plan.method.clone(), url);
        for (name, value) in &self.plan.headers {
            let value = match value {
                Value::Fixed(value) => value.clone(),
                Value::Made(template) => {
                    let text = template
                        .render(first)
                        .map_err(|error| rejected(format!("header {name}: {error}")))?;
                    header_value(&text)
                        .ok_or_else(|| rejected(format!("header {name}: not a header's value")))?
                }
            };
            request = request.header(name, value);
        }
        send(request.body(body(batch)), &shown).await
    }
}

/// A single message as it is, several a line each.
fn body(batch: &[Message]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, message) in batch.iter().enumerate() {
        if index > 0 {
            body.push(b'\n');
        }
        if let Content::Raw(bytes) = message.content() {
            body.extend_from_slice(bytes);
        }
    }
    body
}
