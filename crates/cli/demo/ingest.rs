//! An ingest endpoint as small as one can be that keeps what it takes, and has bad moments.

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

/// The endpoint, and what it did to whoever delivers to it.
pub(super) struct Ingest {
    pub(super) url: String,
    trouble: Arc<Trouble>,
    task: JoinHandle<()>,
}

/// What is still to go wrong, and what went wrong.
#[derive(Debug, Default)]
struct Trouble {
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

type Shared = (Arc<Trouble>, UnboundedSender<Value>);

impl Ingest {
    /// Starts it; the events come out of the channel as they were sent, repeated ones included.
    pub(super) async fn start() -> Result<(Self, UnboundedReceiver<Value>)> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no free port for the ingest endpoint")?;
        let url = format!("http://{}", listener.local_addr()?);
        let trouble = Arc::new(Trouble::default());
        let (events, received) = unbounded_channel();
        let router = Router::new()
            .route("/api/v1/events", post(take))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state((Arc::clone(&trouble), events));
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle ends it when it is dropped"
        )]
        let task = tokio::spawn(async move {
            // Ends with the demo.
            let _ = axum::serve(listener, router).await;
        });
        Ok((Self { url, trouble, task }, received))
    }

    /// Answers the next requests with 503.
    pub(super) fn refuse(&self, requests: u64) {
        self.trouble.to_refuse.store(requests, Ordering::Relaxed);
    }

    /// Takes the next requests, but tells the sender that it did not.
    pub(super) fn lose_answers(&self, requests: u64) {
        self.trouble.to_lose.store(requests, Ordering::Relaxed);
    }

    /// How many requests were refused, and how many answers lost.
    pub(super) fn went_wrong(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.trouble.refused), count(&self.trouble.lost))
    }
}

async fn take(State((trouble, events)): State<Shared>, body: Bytes) -> StatusCode {
    if one_less(&trouble.to_refuse) {
        trouble.refused.fetch_add(1, Ordering::Relaxed);
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
    if one_less(&trouble.to_lose) {
        trouble.lost.fetch_add(1, Ordering::Relaxed);
        // Longer than a person would notice, shorter than the sender's own limit.
        tokio::time::sleep(Duration::from_millis(50)).await;
        return StatusCode::GATEWAY_TIMEOUT;
    }
    StatusCode::NO_CONTENT
}

/// Takes one away, if there is one.
fn one_less(counter: &AtomicU64) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}
