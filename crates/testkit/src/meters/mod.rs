//! An API for meters in the forms v1 and v3, which checks requests and definitions as the real one
//! does, records the requests, and misbehaves on request.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

mod definition;
mod server;
#[cfg(test)]
mod tests;

use definition::Definition;
use server::accept;

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub struct MetersApi {
    state: Arc<Mutex<State>>,
    address: String,
    server: JoinHandle<()>,
}

/// A request and the status of its answer; 0 for one that is never answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The method and the path with the decoded query, such as `GET /api/v1/meters?page=1`.
    pub request: String,
    /// The status of the answer.
    pub status: u16,
}

/// An answer that a test chooses.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    hangs: bool,
}

impl Reply {
    /// A web page.
    #[must_use]
    pub fn page(status: u16) -> Self {
        Self::text(
            status,
            "text/html",
            "<!DOCTYPE html><html><body>Sign in</body></html>",
        )
    }

    /// Any text.
    #[must_use]
    pub fn text(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type,
            body: body.into(),
            hangs: false,
        }
    }

    /// None: the request is never answered.
    #[must_use]
    pub fn never() -> Self {
        Self {
            hangs: true,
            ..Self::text(0, "", "")
        }
    }
}

#[derive(Debug, Default)]
struct State {
    meters: Vec<Definition>,
    exchanges: Vec<Exchange>,
    violations: Vec<String>,
    replies: VecDeque<Option<Reply>>,
    token: Option<String>,
    ignores_pages: bool,
    /// A meter that somebody else creates just before the next one.
    rival: Option<Definition>,
    /// Ids that were given so far.
    ids: u64,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The data is consistent after every statement, so a panic does not damage it.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MetersApi {
    /// Starts the server on a free loopback port, without meters.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free_port()?)).await?;
        let address = listener.local_addr()?.to_string();
        let state = Arc::default();
        let server = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            state,
            address,
            server,
        })
    }

    /// The base URL of the form v1, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL of the form v3 of Konnect, `http://127.0.0.1:PORT/v3/openmeter`.
    #[must_use]
    pub fn konnect_url(&self) -> String {
        format!("http://{}/v3/openmeter", self.address)
    }

    /// Answers 401 to every request without `Authorization: Bearer TOKEN`.
    pub fn require_token(&self, token: &str) {
        lock(&self.state).token = Some(token.to_owned());
    }

    /// Lists every meter on each page of the form v1, and answers 200 instead of 201 to a meter that was
    /// created, as some versions of OpenMeter do.
    pub fn ignore_pages(&self) {
        lock(&self.state).ignores_pages = true;
    }

    /// Answers the next requests with these, in this order; `None` is the usual answer.
    pub fn reply(&self, replies: impl IntoIterator<Item = Option<Reply>>) {
        lock(&self.state).replies.extend(replies);
    }

    /// Creates a meter from the body of a request of the form v1, as somebody else.
    ///
    /// # Errors
    /// When the real API would not accept it.
    pub fn put(&self, body: &Value) -> anyhow::Result<()> {
        let mut state = lock(&self.state);
        let meter = Definition::from_v1(body).and_then(|meter| meter.checked());
        let meter = meter.map_err(anyhow::Error::msg)?;
        state.create(meter).map(drop).context("a duplicate")
    }

    /// Creates a meter from the body of a request of the form v1, as somebody else, just before the
    /// next request that creates one.
    ///
    /// # Errors
    /// When the real API would not accept it.
    pub fn put_before_next(&self, body: &Value) -> anyhow::Result<()> {
        let meter = Definition::from_v1(body).and_then(|meter| meter.checked());
        lock(&self.state).rival = Some(meter.map_err(anyhow::Error::msg)?);
        Ok(())
    }

    /// The meters, in the form v1, in the order of their creation.
    #[must_use]
    pub fn meters(&self) -> Vec<Value> {
        lock(&self.state)
            .meters
            .iter()
            .map(Definition::v1)
            .collect()
    }

    /// The requests so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.state).exchanges.clone()
    }

    /// # Panics
    /// When a request was malformed, or a definition breaks a rule of the API.
    #[track_caller]
    pub fn assert_clean(&self) {
        let violations = &lock(&self.state).violations;
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

impl Drop for MetersApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    /// Adds a meter; `None` when its slug is taken.
    fn create(&mut self, mut meter: Definition) -> Option<&Definition> {
        if self.meters.iter().any(|it| it.slug == meter.slug) {
            return None;
        }
        self.ids += 1;
        // As long as a ULID.
        meter.id = format!("01J{:023}", self.ids);
        self.meters.push(meter);
        self.meters.last()
    }
}
