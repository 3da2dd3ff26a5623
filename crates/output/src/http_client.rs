//! `http_client`: sends messages to any HTTP endpoint.
//!
//! A batch is one request. Its body contains the messages as lines or as a JSON array. Without
//! `batching`, each message of the input's batches is sent in a separate request, as in Benthos.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_config::{Configure, GoDuration, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, ContentError, Message, OutputNode, OutputPlan, Reads,
    RetryPolicy, Taken, WriteError, Writer, WriterNode,
};
use meterline_script::{Engine, Limits, Template};
use reqwest::{
    Client, Method, RequestBuilder,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;

use crate::{
    answers::{Protocol, Statuses},
    batching::Batching,
    http::{client, parse_url, send, shown},
    requests::{array, in_flight, joined, time_limit, unsendable},
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
    /// Headers; their values may contain `${! … }`, which is evaluated for the first message of a
    /// batch.
    #[serde(default)]
    headers: BTreeMap<String, Located<String>>,
    /// How messages are collected into batches. Without it, each message is one request.
    #[serde(default)]
    batching: Option<Batching>,
    /// The most requests in flight at once. One additional request retries events that failed alone
    /// while others were accepted, so that these events take no request from the others.
    #[serde(default = "default_max_in_flight")]
    max_in_flight: Located<usize>,
    /// The time within which a request must be answered. While the output searches for an event
    /// that the server does not answer, some requests get less time: 3s, or five times the duration
    /// of the slowest of the last successful requests. No event is rejected before it has failed
    /// alone with the whole time.
    #[serde(default = "default_timeout")]
    timeout: Located<GoDuration>,
    /// How the messages of a batch form the body: `lines` writes one message per line, `json_array`
    /// an array. The default is an array if the header `Content-Type` is `application/json` or
    /// `application/cloudevents-batch+json`, otherwise lines. Without `batching`, the message
    /// itself is the body.
    #[serde(default)]
    batch_as: Option<BatchAs>,
    /// Status codes that count as success, in addition to those from 200 to 299 that are in neither
    /// of the other lists.
    #[serde(default)]
    successful_on: Vec<u16>,
    /// Status codes after which the request is retried, with growing pauses.
    #[serde(default = "default_backoff_on")]
    backoff_on: Vec<u16>,
    /// Status codes after which the request is not retried. The batch is halved until the message
    /// that causes the status is alone in a request; that message is dropped and counted.
    #[serde(default)]
    drop_on: Vec<u16>,
    /// Which certificates to trust.
    #[serde(default)]
    tls: Tls,
}

/// How the messages of a batch form the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BatchAs {
    /// One message per line.
    Lines,
    /// A JSON array of the messages.
    JsonArray,
}

impl BatchAs {
    /// Returns the format that the header `Content-Type` implies.
    fn by_content_type(headers: &BTreeMap<String, Located<String>>) -> Self {
        let mut headers = headers.iter();
        let content_type = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let content_type = content_type.map_or("", |(_, value)| value.value.as_str());
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let arrays = ["application/json", "application/cloudevents-batch+json"];
        if arrays.iter().any(|it| kind.eq_ignore_ascii_case(it)) {
            Self::JsonArray
        } else {
            Self::Lines
        }
    }
}

fn default_backoff_on() -> Vec<u16> {
    vec![429]
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

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        cx.reads(&Reads::All);
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
        let batch_as = self.batch_as;
        let batch_as = batch_as.unwrap_or_else(|| BatchAs::by_content_type(&self.headers));
        Some(Box::new(Plan {
            // Without batching, the message itself is the body.
            batch_as: self.batching.as_ref().map(|_| batch_as),
            protocol: Protocol::Any(Statuses {
                drop_on: self.drop_on,
                backoff_on: self.backoff_on,
                successful_on: self.successful_on,
            }),
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

fn template(
    engine: &Engine,
    source: &Located<String>,
    cx: &mut PlanContext<'_>,
) -> Option<Template> {
    let template = engine.plan_template(source, cx)?;
    cx.reads(&template.reads());
    Some(template)
}

/// The value of a header.
enum Value {
    /// The same for every request and already checked, so an event cannot make it invalid.
    Fixed(HeaderValue),
    /// Evaluated for each request.
    Made(Template),
}

fn header(engine: &Engine, source: &Located<String>, cx: &mut PlanContext<'_>) -> Option<Value> {
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

/// Parses the value of a header. Surrounding white space has no meaning and is common in values read from
/// files, so it is removed.
fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text.trim()).ok()
}

struct Plan {
    batch_as: Option<BatchAs>,
    protocol: Protocol,
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

impl HttpClient {
    /// Returns a request for this message, without a body, and its URL for people.
    fn request(&self, first: &Message) -> Result<(String, RequestBuilder), String> {
        let url = self.plan.url.render(first);
        let url = url.map_err(|error| format!("url: {error}"))?;
        let url = parse_url(&url).map_err(|error| format!("url: {error}"))?;
        let shown = shown(&url);
        let mut request = self.client.request(self.plan.method.clone(), url);
        for (name, value) in &self.plan.headers {
            let value = match value {
                Value::Fixed(value) => value.clone(),
                Value::Made(template) => {
                    let text = template.render(first);
                    let text = text.map_err(|error| format!("header {name}: {error}"))?;
                    header_value(&text)
                        .ok_or_else(|| format!("header {name}: not a header's value"))?
                }
            };
            request = request.header(name, value);
        }
        Ok((shown, request))
    }
}

#[async_trait]
impl Writer for HttpClient {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let request = self.request(first);
        let (shown, request) = request.map_err(|reason| WriteError::Unsendable { reason })?;
        let body = body(batch, self.plan.batch_as).map_err(unsendable)?;
        send(request.body(body), &shown, &self.plan.protocol, batch.len()).await
    }
}

/// Returns the body that contains these messages. Without batching there is exactly one message.
fn body(batch: &[Message], batch_as: Option<BatchAs>) -> Result<Vec<u8>, ContentError> {
    match batch_as {
        Some(BatchAs::JsonArray) => array(batch),
        Some(BatchAs::Lines) | None => joined(batch, [b"", b"\n", b""]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Templates that fail for a message, or render a value that cannot be sent.
    #[tokio::test]
    async fn a_request_that_cannot_be_made_rejects_no_event() {
        let engine = Engine::new(Limits::default());
        let template = |text: &str| engine.compile_template(text).unwrap();
        let name = HeaderName::from_static("x");
        for (url, header, place) in [
            ("${! this.url }", None, "url: "),
            ("ftp://${! this.id }", None, "url: "),
            ("http://127.0.0.1:9", Some("${! this.a.b.c }"), "header x: "),
            ("http://127.0.0.1:9", Some("${! this.lines }"), "header x: "),
        ] {
            let header = header.map(|text| (name.clone(), Value::Made(template(text))));
            let writer = HttpClient {
                client: client(Duration::from_secs(1), &Tls::default()).unwrap(),
                plan: Plan {
                    batch_as: None,
                    protocol: Protocol::Any(Statuses::default()),
                    url: template(url),
                    method: Method::POST,
                    headers: header.into_iter().collect(),
                    batching: BatchPolicy::default(),
                    max_in_flight: 1,
                    timeout: Duration::from_secs(1),
                    tls: Tls::default(),
                },
            };
            let message = Message::raw(r#"{"id": 1, "lines": "a\nb"}"#);
            let error = writer.write(&[message]).await.unwrap_err();
            assert!(
                matches!(&error, WriteError::Unsendable { reason } if reason.starts_with(place)),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_batch_is_an_array_where_the_content_type_is_json_and_lines_elsewhere() {
        let batch = [Message::raw("{}"), Message::raw("[1]")];
        assert_eq!(body(&batch, Some(BatchAs::JsonArray)).unwrap(), b"[{},[1]]");
        assert_eq!(
            body(&batch[..1], Some(BatchAs::JsonArray)).unwrap(),
            b"[{}]"
        );
        assert_eq!(body(&batch, Some(BatchAs::Lines)).unwrap(), b"{}\n[1]");
        assert_eq!(body(&batch[..1], None).unwrap(), b"{}");
        for (name, value, batch_as) in [
            (
                "Content-Type",
                "application/json; charset=utf-8",
                BatchAs::JsonArray,
            ),
            (
                "content-type",
                "Application/CloudEvents-Batch+JSON",
                BatchAs::JsonArray,
            ),
            ("content-type", "application/x-ndjson", BatchAs::Lines),
            ("accept", "application/json", BatchAs::Lines),
        ] {
            let headers = BTreeMap::from([(name.to_owned(), Located::from(value.to_owned()))]);
            assert_eq!(
                BatchAs::by_content_type(&headers),
                batch_as,
                "{name}: {value}"
            );
        }
    }
}
