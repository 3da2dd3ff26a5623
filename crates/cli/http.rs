//! The pages that watch over the process: `/ping`, `/ready`, `/version`, `/metrics` and `/stats`.

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

/// So many connections at once.
pub(crate) const CONNECTIONS: usize = 64;

#[derive(Clone)]
struct Pages {
    health: Health,
    metrics: Metrics,
    /// The last page of metrics and when it was begun. Held while one is made, so that however many
    /// ask, one is made at a time.
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

/// Takes the address of the section `http` or `admin` now, so that one that is taken is told at the
/// start.
pub(crate) async fn bind(address: &str, section: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; choose another with \
             `--set {section}.address=HOST:PORT`, or `--set {section}.enabled=false`"
        )
    })
}

/// The pages.
pub(crate) fn pages(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/ping", get(|| async { "pong" }))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(metrics_page))
        .route("/stats", get(stats))
        .route("/", get(index))
        .with_state(Pages {
            health,
            metrics,
            last: Arc::default(),
        })
}

async fn index() -> &'static str {
    "meterline\n\n/ping     alive\n/ready    ready to bill, with reasons\n/version  version\n/metrics  Prometheus metrics\n/stats    all of it as JSON\n"
}

/// What each part says of itself.
fn parts(report: &HealthReport) -> Vec<Value> {
    let part = |(part, ready, detail): &(Arc<str>, bool, Arc<str>)| json!({"part": part.as_ref(), "ready": ready, "detail": detail.as_ref()});
    report.parts.iter().map(part).collect()
}

async fn stats(State(pages): State<Pages>) -> impl IntoResponse {
    // It costs what the page of metrics does.
    let one_at_a_time = pages.last.lock().await;
    let report = pages.health.report();
    let values = pages.metrics.values();
    drop(one_at_a_time);
    let leads = values
        .iter()
        .find(|(name, _)| name.starts_with("leader_election_leader"));
    let role = match leads {
        None => "alone",
        Some((_, leads)) if *leads > 0.0 => "leader",
        Some(_) => "standby",
    };
    let page = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "role": role,
        "ready": report.ready,
        "parts": parts(&report),
        "seconds": seconds(&values),
        "metrics": values,
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{page}\n"),
    )
}

/// Object-seconds by fate, over all inputs that have a ledger.
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

async fn ready(State(pages): State<Pages>) -> impl IntoResponse {
    let report = pages.health.report();
    let parts = parts(&report);
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let page = json!({"ready": report.ready, "parts": parts});
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{page}\n"),
    )
}

async fn version() -> impl IntoResponse {
    let page = json!({"name": "meterline", "version": env!("CARGO_PKG_VERSION")});
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{page}\n"),
    )
}

async fn metrics_page(State(pages): State<Pages>) -> impl IntoResponse {
    let asked = Instant::now();
    let mut last = pages.last.lock().await;
    let page = match &*last {
        // It was begun after this one was asked for: all who wait get the same.
        Some((begun, page)) if *begun >= asked => page.clone(),
        _ => {
            let begun = Instant::now();
            let ready = pages
                .metrics
                .gauge("ready", "1 while /ready answers 200.", &[]);
            ready.set(i64::from(pages.health.report().ready));
            let page = Bytes::from(pages.metrics.render());
            *last = Some((begun, page.clone()));
            page
        }
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page)
}
