//! What a million events cost: the real binary with the real preset between a simulated API server
//! with 10,000 realistic pods and a recording sink, over HTTP, in batches of 1,000.
//!
//! Prints CPU-seconds per million events, start-up and the first list included, and the most memory
//! that was resident. Run it with `cargo bench --bench whole_process`.

#![expect(clippy::print_stdout, reason = "what a benchmark prints is its result")]

use std::{
    env, fs,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
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
struct Sink {
    events: watch::Sender<u64>,
    requests: Arc<AtomicU64>,
    largest: Arc<AtomicU64>,
}

async fn take(State(sink): State<Sink>, body: Bytes) -> StatusCode {
    let Ok(Value::Array(events)) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let count = events.len() as u64;
    sink.requests.fetch_add(1, Ordering::Relaxed);
    sink.largest.fetch_max(count, Ordering::Relaxed);
    sink.events.send_modify(|events| *events += count);
    StatusCode::NO_CONTENT
}

/// The program, killed when the measurement is over or fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
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
fn peak_megabytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / 1_000_000.0)
}

async fn measure(pods: usize, wanted: u64) -> Result<()> {
    let sim = Kubesim::start(Options::default()).await?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64 - 60;
    let mut world = World::new(1, 0, Size::Realistic);
    sim.change(|store| world.populate(pods, since, store));
    let sink = Sink {
        events: watch::Sender::new(0),
        requests: Arc::default(),
        largest: Arc::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = Router::new()
        .fallback(take)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(sink.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("kubeconfig");
    sim.write_kubeconfig(&kubeconfig)?;
    let child = Command::new(
        env::var_os("METERLINE").unwrap_or_else(|| env!("CARGO_BIN_EXE_meterline").into()),
    )
    .args([
        "--preset",
        "kubernetes-pod-exec-time",
        "--set",
        "http.enabled=false",
    ])
    .env("KUBECONFIG", &kubeconfig)
    .env("OPENMETER_URL", &url)
    .env("SCRAPE_INTERVAL", "1s")
    .env("BATCH_SIZE", "1000")
    .env("BATCH_PERIOD", "1s")
    .stdin(Stdio::null())
    .spawn()
    .context("cannot start meterline")?;
    let running = Running(child);
    let pid = running.0.id();
    let mut events = sink.events.subscribe();
    let arrived = events.wait_for(|events| *events >= wanted);
    let arrived = match tokio::time::timeout(Duration::from_secs(600), arrived).await {
        Ok(arrived) => *arrived?,
        Err(_) => bail!("only {} events in ten minutes", *sink.events.borrow()),
    };
    let cpu = cpu_seconds(pid)?;
    println!("pods                        {pods:>10}");
    println!("events                      {arrived:>10}");
    println!(
        "requests                    {:>10}",
        sink.requests.load(Ordering::Relaxed)
    );
    println!(
        "most events in a request    {:>10}",
        sink.largest.load(Ordering::Relaxed)
    );
    println!("CPU seconds                 {cpu:>10.2}");
    println!(
        "CPU seconds / 1e6 events    {:>10.2}",
        cpu * 1e6 / arrived as f64
    );
    println!("peak resident MB            {:>10.1}", peak_megabytes(pid)?);
    Ok(())
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this as well; there is nothing to assert.
    if env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let pods = usize::try_from(number("PODS", 10_000)?)?;
    let events = number("EVENTS", 300_000)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(pods, events))
}
