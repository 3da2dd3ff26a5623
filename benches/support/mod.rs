//! What the benchmarks of the whole process share.

#![allow(dead_code, reason = "each benchmark uses a part")]
#![expect(
    clippy::disallowed_methods,
    reason = "what surrounds a benchmark is not the program"
)]

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use meterline_kubesim::{Kubesim, Options, Size, World};
use meterline_testkit::ingest::{RecordingIngest, Tally};

/// Waits until this many events have arrived, and returns what arrived.
pub(crate) async fn arrival(ingest: &RecordingIngest, events: u64) -> Result<Tally> {
    const LIMIT: Duration = Duration::from_secs(600);
    ingest
        .wait_until(LIMIT, |state| state.tally.events >= events)
        .await?;
    Ok(ingest.state().tally)
}

/// A simulated API server with this many realistic pods, which have run for `ago` seconds.
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
