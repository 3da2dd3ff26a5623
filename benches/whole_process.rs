//! The cost of a million events: the real binary with the real preset between a simulated API server
//! with 10,000 realistic pods and a sink that counts, over HTTP, in batches of 1,000.
//!
//! Prints CPU-seconds per million events, start-up and the first list included, and the most memory
//! that was resident. Run it with `cargo bench --bench whole_process`.

#![expect(clippy::print_stdout, reason = "what a benchmark prints is its result")]

#[path = "support/mod.rs"]
mod support;

use std::env;

use anyhow::{Context, Result};
use meterline_testkit::ingest::RecordingIngest;

use crate::support::{Running, arrival, cluster, cpu_seconds, meterline, number, peak_megabytes};

async fn measure(pods: usize, wanted: u64) -> Result<()> {
    let sim = cluster(pods, 60).await?;
    let ingest = RecordingIngest::start_counting().await?;
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("kubeconfig");
    sim.write_kubeconfig(&kubeconfig)?;
    let child = meterline(&kubeconfig, &ingest.url())
        .env("SCRAPE_INTERVAL", "1s")
        .spawn();
    let running = Running(child.context("cannot start meterline")?);
    let pid = running.0.id();
    let tally = arrival(&ingest, wanted).await?;
    let cpu = cpu_seconds(pid)?;
    println!("pods                        {pods:>10}");
    println!("events                      {:>10}", tally.events);
    println!("requests                    {:>10}", tally.requests);
    println!("most events in a request    {:>10}", tally.largest);
    println!("CPU seconds                 {cpu:>10.2}");
    println!(
        "CPU seconds / 1e6 events    {:>10.2}",
        cpu * 1e6 / tally.events as f64
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
