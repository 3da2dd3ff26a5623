//! `openmeter`: sends CloudEvents to OpenMeter or Konnect Metering & Billing.
//!
//! Batches are posted as JSON arrays (`application/cloudevents-batch+json`). Without batching, a
//! single event is posted as an object (`application/cloudevents+json`).

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use meterline_config::{Configure, GoDuration, Located, OutputSpec, PlanContext, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, Message, OutputNode, OutputPlan, RetryPolicy, Taken,
    WriteError, Writer, WriterNode,
};
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tracing::warn;

use crate::{
    answers::Protocol,
    batching::Batching,
    http::{client, parse_url, send, shown},
    requests::{array, in_flight, time_limit, unsendable},
    tls::Tls,
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
            Some(text) => token(text, &url, cx)?,
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

/// Parses a token. It may come from a variable and have white space around it.
fn token(text: &Located<String>, url: &Url, cx: &mut PlanContext<'_>) -> Option<Token> {
    let token = text.value.trim();
    if token.is_empty() {
        return Some(Token::None);
    }
    if !url.username().is_empty() || url.password().is_some() {
        cx.error_at(
            text,
            "the URL has a user or a password, and a request can carry either these or a token; \
             leave out one",
        );
        return None;
    }
    if let Some(path) = token.strip_prefix("file://") {
        return Some(Token::File(path.into()));
    }
    if let Err(error) = bearer(token) {
        cx.error_at(text, error.to_string());
        return None;
    }
    Some(Token::Text(token.to_owned()))
}

/// Returns a warning about a token and its destination. The configuration may be intended, so this
/// is no error.
fn token_warning(url: &Url, token: &Token) -> Option<String> {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    if host == "localhost" || address.is_ok_and(|it| it.is_loopback()) {
        return None;
    }
    let has_user = !url.username().is_empty() || url.password().is_some();
    match token {
        Token::None if has_user => None,
        Token::None => Some(format!(
            "there is no token for {host}; if it requires one, set `token` (the variable \
             OPENMETER_TOKEN of the presets)"
        )),
        Token::Text(_) | Token::File(_) if url.scheme() == "http" => Some(format!(
            "the token is sent to {host} over http, without encryption; use https"
        )),
        Token::Text(_) | Token::File(_) => None,
    }
}

/// Returns the URL that events are posted to.
fn endpoint(base: &str) -> Result<Url, String> {
    let mut url = parse_url(base.trim())?;
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if path.ends_with("/v3/openmeter") {
        format!("{path}/events")
    } else {
        format!("{path}/api/v1/events")
    };
    url.set_path(&path);
    Ok(url)
}

enum Token {
    None,
    Text(String),
    File(PathBuf),
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
            token: self.token,
            read: Mutex::new(None),
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
    token: Token,
    /// The content of the token file, and its modification time when it was read.
    read: Mutex<Option<(SystemTime, HeaderValue)>>,
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
        if let Some(authorization) = self.authorization()? {
            request = request.header("authorization", authorization);
        }
        let sent = send(request, &self.shown, &Protocol::OpenMeter, batch.len()).await;
        if matches!(sent, Err(WriteError::Unauthorized { .. })) {
            // A replaced token file may have the same modification time.
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

    fn authorization(&self) -> Result<Option<HeaderValue>, WriteError> {
        match &self.token {
            Token::None => Ok(None),
            Token::Text(token) => bearer(token).map(Some),
            Token::File(path) => {
                let cannot = |why: &dyn std::fmt::Display| WriteError::Unauthorized {
                    reason: format!("cannot read the token in {}: {why}", path.display()),
                };
                let problem = |error: std::io::Error| cannot(&error);
                let changed = std::fs::metadata(path)
                    .and_then(|metadata| metadata.modified())
                    .map_err(problem)?;
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((at, value)) = read.as_ref()
                    && *at == changed
                {
                    return Ok(Some(value.clone()));
                }
                let text = std::fs::read_to_string(path).map_err(problem)?;
                if text.trim().is_empty() {
                    return Err(cannot(&"it is empty"));
                }
                let value = bearer(text.trim())?;
                *read = Some((changed, value.clone()));
                Ok(Some(value))
            }
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, WriteError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        WriteError::Unauthorized {
            reason: "the token contains characters that an HTTP header must not contain".to_owned(),
        }
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
