//! The cost of a million events: the real binary with the real preset between a simulated API server
//! with 10,000 realistic pods and a sink that counts, over HTTP, in batches of 1,000.
//!
//! Prints CPU-seconds per million events, start-up and the first list included, and the most memory
//! that was resident, for the preset as it is and with the customer from the label of a node and additional data
//! from namespaces, of which there are hundreds. Run it with `cargo bench --bench whole_process`.

#![expect(clippy::print_stdout, reason = "what a benchmark prints is its result")]

#[path = "support/mod.rs"]
mod support;

use std::{env, time::Duration};

use anyhow::{Context, Result};
use meterline_kubesim::{Kind, Kubesim, Store};
use meterline_testkit::ingest::RecordingIngest;
use serde_json::json;

use crate::support::{Running, arrival, cluster, cpu_seconds, meterline, number, peak_megabytes};

/// How many other namespaces and nodes there are. Each second the status of a tenth of the nodes changes.
const OTHERS: usize = 500;

/// The preset with what it reads of namespaces and nodes.
const RELATED: &[(&str, &str)] = &[
    ("SUBJECT_FROM", "node-label:customer"),
    ("DATA_ANNOTATIONS", "namespaces"),
];

/// Sets a namespace or a node, whose status is as large as a node's is.
fn put(store: &mut Store, kind: Kind, name: &str, beat: usize) {
    let images: Vec<_> = (0..50)
        .map(|it| json!({"names": [format!("registry.example/image-{it}")], "sizeBytes": it}))
        .collect();
    let object = json!({
        "metadata": {
            "name": name, "uid": format!("{kind:?}-{name}"),
            "labels": {"customer": "acme", "kubernetes.io/hostname": name},
            "annotations": {"data.openmeter.io/plan": "gold"},
        },
        "status": {"images": images, "beat": beat},
    });
    store.put(kind, object);
}

/// Namespaces and nodes, with those of the pods.
fn populate(sim: &Kubesim) {
    sim.change(|store| {
        put(store, Kind::Namespace, "default", 0);
        for at in 0..OTHERS {
            put(store, Kind::Namespace, &format!("other-{at}"), 0);
            put(store, Kind::Node, &format!("node-{at}"), 0);
        }
    });
}

/// Changes the status of nodes, as kubelets do.
async fn beat(sim: &Kubesim) {
    for beat in 1.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sim.change(|store| {
            for at in (0..OTHERS).filter(|at| at % 10 == beat % 10) {
                put(store, Kind::Node, &format!("node-{at}"), beat);
            }
        });
    }
}

/// Returns the CPU seconds for a million events.
async fn measure(pods: usize, wanted: u64, variables: &[(&str, &str)]) -> Result<f64> {
    let sim = cluster(pods, 60).await?;
    populate(&sim);
    let ingest = RecordingIngest::start_counting().await?;
    let dir = tempfile::tempdir()?;
    let kubeconfig = dir.path().join("kubeconfig");
    sim.write_kubeconfig(&kubeconfig)?;
    let child = meterline(&kubeconfig, &ingest.url())
        .env("SCRAPE_INTERVAL", "1s")
        .envs(variables.iter().copied())
        .spawn();
    let running = Running(child.context("cannot start meterline")?);
    let pid = running.0.id();
    let tally = tokio::select! {
        tally = arrival(&ingest, wanted) => tally?,
        () = beat(&sim) => anyhow::bail!("the nodes stopped"),
    };
    let cpu = cpu_seconds(pid)?;
    let read = if variables.is_empty() {
        "pods"
    } else {
        "pods, namespaces and nodes"
    };
    println!("read                        {read}");
    println!("pods                        {pods:>10}");
    println!("events                      {:>10}", tally.events);
    println!("requests                    {:>10}", tally.requests);
    println!("most events in a request    {:>10}", tally.largest);
    println!("CPU seconds                 {cpu:>10.2}");
    let each = cpu * 1e6 / tally.events as f64;
    println!("CPU seconds / 1e6 events    {each:>10.2}");
    println!("peak resident MB            {:>10.1}", peak_megabytes(pid)?);
    println!();
    Ok(each)
}

async fn compare(pods: usize, wanted: u64) -> Result<()> {
    let plain = measure(pods, wanted, &[]).await?;
    let related = measure(pods, wanted, RELATED).await?;
    println!(
        "with namespaces and nodes   {:>9.0}%",
        related * 100.0 / plain
    );
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
        .block_on(compare(pods, events))
}
