//! The endpoints of the `http` section: `/ping`, `/ready`, `/version`, `/metrics` and `/stats`.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use meterline_core::{Health, HealthReport, Metrics};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex, time::Instant};

/// The most connections at once.
pub(crate) const CONNECTIONS: usize = 64;

#[derive(Clone)]
struct Endpoints {
    health: Health,
    metrics: Metrics,
    /// The last rendering of `/metrics` and when it started. The lock is held while the metrics are
    /// rendered, so that concurrent requests share one rendering.
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

/// Binds the address of the section `http` or `admin`. It runs at the start, so that an address in
/// use is reported at once.
pub(crate) async fn bind(address: &str, section: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; choose another with \
             `--set {section}.address=HOST:PORT`, or `--set {section}.enabled=false`"
        )
    })
}

/// The routes of these endpoints.
pub(crate) fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/ping", get(|| async { "pong" }))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(prometheus))
        .route("/stats", get(stats))
        .route("/", get(index))
        .with_state(Endpoints {
            health,
            metrics,
            last: Arc::default(),
        })
}

async fn index() -> &'static str {
    "meterline\n\n/ping     alive\n/ready    ready to bill, with reasons\n/version  version\n/metrics  Prometheus metrics\n/stats    all of it as JSON\n"
}

/// The health that each part reports.
fn parts(report: &HealthReport) -> Vec<Value> {
    let part = |(part, ready, detail): &(Arc<str>, bool, Arc<str>)| json!({"part": part.as_ref(), "ready": ready, "detail": detail.as_ref()});
    report.parts.iter().map(part).collect()
}

async fn stats(State(endpoints): State<Endpoints>) -> impl IntoResponse {
    // This costs as much as `/metrics`.
    let one_at_a_time = endpoints.last.lock().await;
    let report = endpoints.health.report();
    let values = endpoints.metrics.values();
    drop(one_at_a_time);
    let leads = values
        .iter()
        .find(|(name, _)| name.starts_with("leader_election_leader"));
    let role = match leads {
        None => "alone",
        Some((_, leads)) if *leads > 0.0 => "leader",
        Some(_) => "standby",
    };
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "role": role,
        "ready": report.ready,
        "parts": parts(&report),
        "seconds": seconds(&values),
        "metrics": values,
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
}

/// Sums the object-seconds by fate over all inputs that have a ledger.
fn seconds(values: &BTreeMap<String, f64>) -> Value {
    let sum = |metric: &str, fate: &str| -> f64 {
        values
            .iter()
            .filter(|(name, _)| name.starts_with(metric) && name.contains(fate))
            .map(|(_, value)| value)
            .sum()
    };
    let fate = |word: &str| sum("ledger_seconds_total{", &format!("fate=\"{word}\"")) as i64;
    json!({
        "ran": sum("ledger_ran_seconds_total{", "") as i64,
        "delivered": fate("delivered"),
        "rejected": fate("rejected"),
        "dropped": fate("dropped"),
        "waiting": fate("waiting"),
        "unproved": fate("unproved"),
    })
}

async fn ready(State(endpoints): State<Endpoints>) -> impl IntoResponse {
    let report = endpoints.health.report();
    let parts = parts(&report);
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"ready": report.ready, "parts": parts});
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
}

async fn version() -> impl IntoResponse {
    let body = json!({"name": "meterline", "version": env!("CARGO_PKG_VERSION")});
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
}

async fn prometheus(State(endpoints): State<Endpoints>) -> impl IntoResponse {
    let arrived = Instant::now();
    let mut last = endpoints.last.lock().await;
    let text = match &*last {
        // It started after this request arrived, so all waiting requests share it.
        Some((started, text)) if *started >= arrived => text.clone(),
        _ => {
            let started = Instant::now();
            let ready = endpoints
                .metrics
                .gauge("ready", "1 while /ready answers 200.", &[]);
            ready.set(i64::from(endpoints.health.report().ready));
            let text = Bytes::from(endpoints.metrics.render());
            *last = Some((started, text.clone()));
            text
        }
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
