//! An hour without the sink: 10,000 pods in windows of 15 s, all of whose events wait.
//!
//! The real binary with a state file runs between a simulated API server and a sink that is unavailable
//! at first. The hour is before the start of the run, which makes no difference to the ledger. Prints how
//! much more memory the outage takes than delivering a minute, how long the delivery takes when the sink
//! is back, and the size of the state file. Run it with `cargo bench --bench outage`.

#![expect(clippy::print_stdout, reason = "what a benchmark prints is its result")]

#[path = "support/mod.rs"]
mod support;

use std::{
    env,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use meterline_testkit::ingest::{Behaviour, RecordingIngest};

use crate::support::{Running, arrival, cluster, cpu_seconds, meterline, number, peak_megabytes};

struct Measured {
    events: u64,
    /// From the return of the sink until every event has arrived.
    seconds: f64,
    cpu: f64,
    megabytes: f64,
    disordered: u64,
    /// The state file with the files that belong to it.
    state_megabytes: f64,
}

/// All files of the state in `dir`.
fn state_megabytes(dir: &Path) -> Result<f64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("state") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes as f64 / 1e6)
}

async fn run(pods: u64, minutes: u64, away: Duration) -> Result<Measured> {
    let sim = cluster(usize::try_from(pods)?, 7_200).await?;
    let ingest = RecordingIngest::start_counting().await?;
    if !away.is_zero() {
        ingest.respond_always(Behaviour::status(503));
    }
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("kubeconfig");
    sim.write_kubeconfig(&kubeconfig)?;
    let child = meterline(&kubeconfig, &ingest.url())
        .env("SCRAPE_INTERVAL", "15s")
        .env("STATE_PATH", dir.path().join("state.sqlite"))
        .env("LOOKBACK", format!("{minutes}m"))
        .spawn();
    let running = Running(child.context("cannot start meterline")?);
    tokio::time::sleep(away).await;
    ingest.respond_normally();
    let back = Instant::now();
    // The windows of the past, and those that end in the meantime.
    let tally = arrival(&ingest, pods * (minutes * 4 + 1)).await?;
    let pid = running.0.id();
    Ok(Measured {
        events: tally.events,
        seconds: back.elapsed().as_secs_f64(),
        cpu: cpu_seconds(pid)?,
        megabytes: peak_megabytes(pid)?,
        disordered: tally.disordered,
        state_megabytes: state_megabytes(dir.path())?,
    })
}

async fn measure(pods: u64, minutes: u64) -> Result<()> {
    let usual = run(pods, 1, Duration::ZERO).await?;
    let outage = run(pods, minutes, Duration::from_secs(20)).await?;
    println!("pods                            {pods:>10}");
    println!("minutes without the sink        {minutes:>10}");
    println!("events                          {:>10}", outage.events);
    println!("events out of order             {:>10}", outage.disordered);
    println!("seconds until all are there     {:>10.1}", outage.seconds);
    println!("CPU seconds                     {:>10.2}", outage.cpu);
    println!("peak resident MB, a minute      {:>10.1}", usual.megabytes);
    println!("peak resident MB                {:>10.1}", outage.megabytes);
    println!(
        "state file MB                   {:>10.1}",
        outage.state_megabytes
    );
    println!(
        "growth in MB                    {:>10.1}",
        outage.megabytes - usual.megabytes
    );
    Ok(())
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this as well; there is nothing to assert.
    if env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let pods = number("PODS", 10_000)?;
    let minutes = number("MINUTES", 60)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(pods, minutes))
}
