//! What the benchmarks of the whole process share.

#![allow(dead_code, reason = "each benchmark uses a part")]
#![expect(
    clippy::disallowed_methods,
    reason = "what stands around a benchmark is not the program"
)]

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use axum::{Router, body::Bytes, extract::State, http::StatusCode};
use meterline_kubesim::{Kubesim, Options, Size, World};
use serde_json::Value;
use tokio::sync::watch;

/// Counts what arrives.
#[derive(Clone)]
pub(crate) struct Sink {
    /// Events that were taken.
    pub(crate) events: watch::Sender<u64>,
    pub(crate) requests: Arc<AtomicU64>,
    /// The most events in a request.
    pub(crate) largest: Arc<AtomicU64>,
    /// Answers 503 and takes nothing.
    pub(crate) is_away: Arc<AtomicBool>,
    /// Events that came more than two windows after later ones.
    pub(crate) disordered: Arc<AtomicU64>,
    newest: Arc<AtomicI64>,
}

async fn take(State(sink): State<Sink>, body: Bytes) -> StatusCode {
    if sink.is_away.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Ok(Value::Array(events)) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let count = events.len() as u64;
    sink.requests.fetch_add(1, Ordering::Relaxed);
    sink.largest.fetch_max(count, Ordering::Relaxed);
    let time = |event: &Value| {
        let time = chrono::DateTime::parse_from_rfc3339(event.get("time")?.as_str()?).ok()?;
        Some(time.timestamp())
    };
    for time in events.iter().filter_map(time) {
        let newest = sink.newest.fetch_max(time, Ordering::Relaxed);
        if time < newest - 30 {
            sink.disordered.fetch_add(1, Ordering::Relaxed);
        }
    }
    sink.events.send_modify(|events| *events += count);
    StatusCode::NO_CONTENT
}

impl Sink {
    /// Listens, and gives back its URL.
    pub(crate) async fn start() -> Result<(Self, String)> {
        let sink = Self {
            events: watch::Sender::new(0),
            requests: Arc::default(),
            largest: Arc::default(),
            is_away: Arc::default(),
            disordered: Arc::default(),
            newest: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .fallback(take)
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((sink, url))
    }

    /// Waits until so many events are there; gives back how many.
    pub(crate) async fn wait(&self, wanted: u64) -> Result<u64> {
        let mut events = self.events.subscribe();
        let arrived = events.wait_for(|events| *events >= wanted);
        match tokio::time::timeout(Duration::from_secs(600), arrived).await {
            Ok(arrived) => Ok(*arrived?),
            Err(_) => bail!("only {} events in ten minutes", *self.events.borrow()),
        }
    }
}

/// A simulated API server with so many realistic pods that have run since `ago` seconds.
pub(crate) async fn cluster(pods: usize, ago: i64) -> Result<Kubesim> {
    let sim = Kubesim::start(Options::default()).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let since = i64::try_from(now)? - ago;
    let mut world = World::new(1, 0, Size::Realistic);
    sim.change(|store| world.populate(pods, since, store));
    Ok(sim)
}

/// The real binary with the real preset, in batches of 1,000.
pub(crate) fn meterline(kubeconfig: &Path, url: &str) -> Command {
    let binary = env::var_os("METERLINE");
    let mut command =
        Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_meterline").into()));
    command
        .args([
            "--preset",
            "kubernetes-pod-exec-time",
            "--set",
            "http.enabled=false",
        ])
        .env("KUBECONFIG", kubeconfig)
        .env("OPENMETER_URL", url)
        .env("BATCH_SIZE", "1000")
        .env("BATCH_PERIOD", "1s")
        .stdin(Stdio::null());
    command
}

/// The program, killed when the measurement is over or fails.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

/// User and system time of a process, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    let rest = stat.rsplit_once(')').context("no process name")?.1;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> {
        Ok(fields
            .get(index)
            .context("too few fields")?
            .parse::<f64>()?)
    };
    // Linux counts 100 ticks a second on every platform that we build for.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// The most memory that was resident, in megabytes.
pub(crate) fn peak_megabytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / 1_000_000.0)
}
