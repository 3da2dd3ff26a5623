//! `openmeter`: sends CloudEvents to OpenMeter or Konnect Metering & Billing.
//!
//! Batches are posted as JSON arrays (`application/cloudevents-batch+json`). Without batching, a
//! single event is posted as an object (`application/cloudevents+json`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use meterline_config::{Configure, GoDuration, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, Message, OutputNode, OutputPlan, RetryPolicy, Taken,
    WriteError, Writer, WriterNode,
};
use reqwest::{Client, Url, header::CONTENT_TYPE};
use serde::Deserialize;
use tracing::warn;

use crate::{
    address::operation,
    answers::Protocol,
    batching::Batching,
    http::{client, send, shown},
    requests::{array, in_flight, time_limit, unsendable},
    tls::Tls,
    token::{Token, TokenReader, token_warning},
};

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "openmeter",
    "Delivers CloudEvents to OpenMeter or Konnect Metering & Billing.",
    &[
        "openmeter:\n  url: https://openmeter.cloud\n  token: om_example\n  batching:\n    count: 20\n    period: 5s\n",
        "openmeter:\n  url: https://eu.api.konghq.com/v3/openmeter\n  token: file:///run/secrets/token\n",
        "openmeter:\n  url: https://openmeter.internal\n  tls:\n    root_cas_file: /etc/ssl/our-authority.pem\n",
    ],
);

/// Configuration of `openmeter`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The base URL of the API. `/events` is appended if it ends in `/v3/openmeter`, otherwise
    /// `/api/v1/events`.
    url: Located<String>,
    /// The bearer token. For `file://` and a path, the file is read again whenever it changes.
    #[serde(default)]
    token: Option<Located<String>>,
    /// How events are collected into batches.
    #[serde(default)]
    batching: Batching,
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
    /// Which certificates to trust.
    #[serde(default)]
    tls: Tls,
}

fn default_max_in_flight() -> Located<usize> {
    Located::from(8)
}

fn default_timeout() -> Located<GoDuration> {
    Located::from(GoDuration(Duration::from_secs(30)))
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        let url = match endpoint(&self.url) {
            Ok(url) => url,
            Err(reason) => {
                cx.error_at(&self.url, reason);
                return None;
            }
        };
        let token = match self.token.as_ref() {
            None => Token::None,
            Some(text) => match Token::parse(&text.value, &url) {
                Ok(token) => token,
                Err(reason) => {
                    cx.error_at(text, reason);
                    return None;
                }
            },
        };
        let account = self.token.as_ref().map_or("", |token| token.value.trim());
        cx.posts_events(&self.url, url.as_str(), account);
        if let Some(warning) = token_warning(&url, &token) {
            cx.warning_at(self.token.as_ref().unwrap_or(&self.url), warning);
        }
        Some(Box::new(Plan {
            url,
            token,
            batching: self.batching.into(),
            max_in_flight: in_flight(&self.max_in_flight, cx),
            timeout: time_limit(&self.timeout, cx),
            tls: self.tls,
        }))
    }
}

/// Returns the URL that events are posted to.
fn endpoint(base: &str) -> Result<Url, String> {
    operation(base, None, "events").map(|(_, url)| url)
}

struct Plan {
    url: Url,
    token: Token,
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
        if let Some(warning) = token_warning(&self.url, &self.token) {
            warn!(output = %cx.label, "{warning}");
            let part = cx.health.register(format!("token of output {}", cx.label));
            part.ready(format!("warning: {warning}"));
        }
        let single = self.batching == BatchPolicy::default() || self.batching.count == 1;
        let writer = OpenMeter {
            client,
            shown: shown(&self.url),
            url: self.url,
            token: TokenReader::new(self.token),
            single,
        };
        Ok(OutputNode::Writer(WriterNode {
            label: Arc::clone(&cx.label),
            taken: Taken::Delivered,
            writer: Arc::new(writer),
            batching: self.batching,
            max_in_flight: self.max_in_flight,
            accepts_failed: false,
            retry: RetryPolicy::default(),
            drops: None,
            objects_only: true,
        }))
    }
}

struct OpenMeter {
    client: Client,
    url: Url,
    shown: String,
    token: TokenReader,
    /// Whether a single event is sent as an object and not as an array.
    single: bool,
}

#[async_trait]
impl Writer for OpenMeter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let (body, content_type) = self.body(batch)?;
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, content_type)
            .body(body);
        if let Some(authorization) = self.token.authorization()? {
            request = request.header("authorization", authorization);
        }
        let sent = send(request, &self.shown, &Protocol::OpenMeter, batch.len()).await;
        if matches!(sent, Err(WriteError::Unauthorized { .. })) {
            self.token.forget();
        }
        sent
    }
}

impl OpenMeter {
    fn body(&self, batch: &[Message]) -> Result<(Bytes, &'static str), WriteError> {
        if let (true, [only]) = (self.single, batch) {
            let event = only.bytes().map_err(unsendable)?;
            return Ok((event, "application/cloudevents+json"));
        }
        let body = array(batch).map_err(unsendable)?;
        Ok((body.into(), "application/cloudevents-batch+json"))
    }
}

#[cfg(test)]
mod tests;
