//! An ingest API that validates every request against the published contract, records everything,
//! de-duplicates by source and id as the real one does, and misbehaves on request.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod behaviour;
mod server;
mod state;
#[cfg(test)]
mod tests;
mod validate;

pub use behaviour::Behaviour;
use server::{Rules, Shared, accept, lock};
pub use state::{Answer, Conflict, Received, Request, State, Tally};
use validate::Contract;

/// How long events may take to arrive.
const MINUTE: Duration = Duration::from_secs(60);

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub struct RecordingIngest {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl RecordingIngest {
    /// Starts the server on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> anyhow::Result<Self> {
        Self::serve(Shared::new(Some(Contract::new()?))).await
    }

    /// Starts a server that uses little CPU, for benchmarks: it parses each request and counts its events in
    /// [`State::tally`], and neither validates nor keeps them.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start_counting() -> anyhow::Result<Self> {
        Self::serve(Shared::new(None)).await
    }

    async fn serve(shared: Shared) -> anyhow::Result<Self> {
        let shared = Arc::new(shared);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free_port()?)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            shared,
            address,
            server: Mutex::new(Some(server)),
        })
    }

    /// The base URL of the OpenMeter form of the API, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL of the Konnect form of the API, `http://127.0.0.1:PORT/v3/openmeter`.
    #[must_use]
    pub fn konnect_url(&self) -> String {
        format!("http://{}/v3/openmeter", self.address)
    }

    /// Uses `behaviour` for the next `count` requests, after those for which another one is queued.
    pub fn respond(&self, count: usize, behaviour: &Behaviour) {
        let mut rules = self.rules();
        rules
            .next
            .extend(std::iter::repeat_n(behaviour.clone(), count));
    }

    /// Uses `behaviour` for every request from now on, and discards the queued ones.
    pub fn respond_always(&self, behaviour: Behaviour) {
        let mut rules = self.rules();
        rules.next.clear();
        rules.otherwise = behaviour;
    }

    /// Treats every request as the real API does from now on.
    pub fn respond_normally(&self) {
        self.respond_always(Behaviour::normal());
    }

    /// Releases every request that [`Behaviour::hold`] holds now.
    pub fn release(&self) {
        self.shared.releases.send_modify(|releases| *releases += 1);
    }

    /// Answers 401 to every request without `Authorization: Bearer TOKEN`; `None` requires no token.
    pub fn require_token(&self, token: Option<&str>) {
        self.rules().token = token.map(str::to_owned);
    }

    /// Answers 413 to every request with more than `count` events; `None` lifts the limit.
    pub fn limit_events(&self, count: Option<usize>) {
        self.rules().max_events = count.unwrap_or(usize::MAX);
    }

    /// Answers 413 to every request with a larger body; `None` lifts the limit.
    pub fn limit_bytes(&self, bytes: Option<usize>) {
        self.rules().max_bytes = bytes.unwrap_or(usize::MAX);
    }

    /// Answers 400 to every request with an event for which `bad` is true; none of its events is
    /// kept. It is not recorded as a violation.
    pub fn refuse_when(&self, bad: impl Fn(&Value) -> bool + Send + 'static) {
        self.rules().refuse = Some(Box::new(bad));
    }

    /// Lifts [`RecordingIngest::refuse_when`].
    pub fn refuse_nothing(&self) {
        self.rules().refuse = None;
    }

    /// Answers 500 to every request with an event for which `poison` is true, as the real API does when
    /// Kafka does not accept the message. The events before it are kept.
    pub fn poison_when(&self, poison: impl Fn(&Value) -> bool + Send + 'static) {
        self.rules().poison = Some(Box::new(poison));
    }

    /// From now on de-duplication claims an id before the event is written, as the real API does when
    /// `dedupe` is on. An event that makes a request fail is then not written, and counts as a duplicate
    /// when it is sent again.
    pub fn claim_ids_first(&self) {
        self.rules().claimed = Some(HashSet::new());
    }

    /// Closes the port and every connection: from now on connections are refused.
    pub async fn go_away(&self) {
        let server = self.server().take();
        if let Some(server) = server {
            server.abort();
            // The port is free only when the task has ended; its result is that it was aborted.
            let _ = server.await;
        }
    }

    /// Opens the same port again after [`RecordingIngest::go_away`].
    ///
    /// # Errors
    /// When the port has been taken in the meantime.
    pub async fn come_back(&self) -> anyhow::Result<()> {
        self.go_away().await;
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("cannot bind {} again", self.address))?;
        let server = tokio::spawn(accept(listener, Arc::clone(&self.shared)));
        *self.server() = Some(server);
        Ok(())
    }

    /// What has arrived so far. Do not hold the guard across an await.
    #[must_use]
    pub fn state(&self) -> watch::Ref<'_, State> {
        // `borrow` of a sender is the same lock as that of a receiver.
        self.shared.state.borrow()
    }

    /// A copy of the distinct events that have arrived so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let state = self.state();
        state.events.iter().map(|kept| kept.event.clone()).collect()
    }

    /// Waits until `condition` holds for what has arrived.
    ///
    /// # Errors
    /// When it does not hold within `limit`; the error summarises what has arrived.
    pub async fn wait_until(
        &self,
        limit: Duration,
        condition: impl FnMut(&State) -> bool,
    ) -> anyhow::Result<()> {
        let mut state = self.shared.state.subscribe();
        if tokio::time::timeout(limit, state.wait_for(condition))
            .await
            .is_ok()
        {
            return Ok(());
        }
        let state = self.state();
        let last = state.requests.iter().rev().take(5);
        let last: Vec<_> = last.map(|request| request.answer).collect();
        bail!(
            "the condition did not hold within {limit:?}: {} requests (newest first: {last:?}), {} events, violations {:?}",
            state.requests.len(),
            state.events.len(),
            state.violations,
        );
    }

    /// Waits until `count` distinct events have arrived.
    ///
    /// # Errors
    /// When they have not arrived within a minute; the error summarises what has.
    pub async fn wait_for_events(&self, count: usize) -> anyhow::Result<()> {
        self.wait_until(MINUTE, |state| state.events.len() >= count)
            .await
    }

    /// Waits until `count` more distinct events have arrived than there are now.
    ///
    /// # Errors
    /// As [`RecordingIngest::wait_for_events`].
    pub async fn wait_for_more_events(&self, count: usize) -> anyhow::Result<()> {
        let seen = self.state().events.len();
        self.wait_for_events(seen + count).await
    }

    /// # Panics
    /// When a request broke the contract, or two events with one id had different contents.
    #[track_caller]
    pub fn assert_clean(&self) {
        let state = self.state();
        assert!(
            state.violations.is_empty() && state.conflicts.is_empty(),
            "violations: {:#?}\nconflicts: {:#?}",
            state.violations,
            state.conflicts
        );
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.shared.rules)
    }

    fn server(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        lock(&self.server)
    }
}

impl Drop for RecordingIngest {
    fn drop(&mut self) {
        if let Some(server) = self.server().take() {
            server.abort();
        }
    }
}
