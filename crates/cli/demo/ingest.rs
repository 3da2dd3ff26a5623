//! A minimal ingest endpoint that keeps the events it receives, and fails on demand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::post,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

/// The endpoint, with the faults that it injects and counts.
pub(super) struct Ingest {
    pub(super) url: String,
    faults: Arc<Faults>,
    task: JoinHandle<()>,
}

/// The faults still to inject, and the counts of those injected.
#[derive(Debug, Default)]
struct Faults {
    to_refuse: AtomicU64,
    to_lose: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Shared = (Arc<Faults>, UnboundedSender<Value>);

impl Ingest {
    /// Starts the endpoint. The channel returns the events as they were received, duplicates included.
    pub(super) async fn start() -> Result<(Self, UnboundedReceiver<Value>)> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("cannot start the ingest endpoint")?;
        let url = format!("http://{}", listener.local_addr()?);
        let faults = Arc::new(Faults::default());
        let (events, received) = unbounded_channel();
        let router = Router::new()
            .route("/api/v1/events", post(ingest))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state((Arc::clone(&faults), events));
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle ends it when it is dropped"
        )]
        let task = tokio::spawn(async move {
            // An error ends the demo by its timeout.
            let _ = axum::serve(listener, router).await;
        });
        Ok((Self { url, faults, task }, received))
    }

    /// Responds to the next requests with 503.
    pub(super) fn refuse(&self, requests: u64) {
        self.faults.to_refuse.store(requests, Ordering::Relaxed);
    }

    /// Accepts the next requests, but responds with 504.
    pub(super) fn lose_responses(&self, requests: u64) {
        self.faults.to_lose.store(requests, Ordering::Relaxed);
    }

    /// Returns how many requests were refused, and how many responses were lost.
    pub(super) fn faults(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.faults.refused), count(&self.faults.lost))
    }
}

async fn ingest(State((faults, events)): State<Shared>, body: Bytes) -> StatusCode {
    if decrement(&faults.to_refuse) {
        faults.refused.fetch_add(1, Ordering::Relaxed);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let batch = match serde_json::from_slice(&body) {
        Ok(Value::Array(batch)) => batch,
        Ok(event @ Value::Object(_)) => vec![event],
        _ => return StatusCode::BAD_REQUEST,
    };
    for event in batch {
        if events.send(event).is_err() {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    }
    if decrement(&faults.to_lose) {
        faults.lost.fetch_add(1, Ordering::Relaxed);
        // A gateway responds only after a while, but before the sender's own timeout.
        tokio::time::sleep(Duration::from_millis(50)).await;
        return StatusCode::GATEWAY_TIMEOUT;
    }
    StatusCode::NO_CONTENT
}

/// Decrements the counter unless it is zero. Returns whether it did.
fn decrement(counter: &AtomicU64) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}
