//! What the end-to-end tests share.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, TimeDelta, Utc};
use meterline_testkit::{
    audit::{self, Life, Report},
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    process::{Meterline, MeterlineCommand},
};
use tokio::time::Instant;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Waits for a moment.
pub(crate) async fn until(time: DateTime<Utc>) {
    let wait = (time - Utc::now()).to_std().unwrap_or_default();
    tokio::time::sleep(wait).await;
}

pub(crate) fn seconds(count: i64) -> TimeDelta {
    TimeDelta::seconds(count)
}

/// `meterline` with nothing but what is said.
pub(crate) fn meterline() -> MeterlineCommand {
    Meterline::command(env!("CARGO_BIN_EXE_meterline"))
}

/// The preset against this control plane and this ingest API, in windows of five seconds.
pub(crate) fn preset(
    control_plane: &ControlPlane,
    user: &str,
    ingest: &RecordingIngest,
) -> MeterlineCommand {
    preset_at(&control_plane.kubeconfig_for(user).unwrap(), ingest)
}

/// The preset with this kubeconfig, in windows of five seconds.
pub(crate) fn preset_at(kubeconfig: &Path, ingest: &RecordingIngest) -> MeterlineCommand {
    meterline()
        .args([
            "--config".as_ref(),
            root()
                .join("presets/kubernetes-pod-exec-time.yaml")
                .as_os_str(),
        ])
        .kubeconfig(kubeconfig)
        .env("OPENMETER_URL", ingest.url())
        .env("SCRAPE_INTERVAL", "5s")
        .env("BATCH_PERIOD", "1s")
}

/// Waits until the events cover the lives in `range` exactly, and gives back the last report either
/// way: whoever is impatient sees what is missing.
pub(crate) async fn settled(
    ingest: &RecordingIngest,
    lives: &[Life],
    range: &Range<DateTime<Utc>>,
    limit: Duration,
) -> Report {
    // An error says no more than the report, which the caller asserts on.
    let _ = ingest
        .wait_until(limit, |state| {
            let events = state.events.iter().map(|received| &received.event);
            audit::audit(lives, events, range.clone()).is_exact()
        })
        .await;
    audit::audit(lives, &ingest.events(), range.clone())
}

/// Ends the program as Kubernetes does; it must end well and in time.
pub(crate) async fn stop(meterline: &Meterline) {
    meterline.terminate().unwrap();
    let status = meterline.wait_exit(Duration::from_secs(25)).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", meterline.tail());
}

/// Repeats what the API server refuses while it is away, as a kubelet does.
pub(crate) async fn until_done<T, F>(mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + MINUTE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("{error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A small generator, for moments that differ from run to run and can be repeated.
pub(crate) struct Chance(u64);

impl Chance {
    /// From `SEED`, else from the clock; either way it is printed.
    pub(crate) fn new() -> Self {
        let seed = std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .or_else(|| {
                Some(
                    SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .ok()?
                        .subsec_nanos()
                        .into(),
                )
            });
        let seed = seed.unwrap_or(1);
        eprintln!("SEED={seed} repeats this run");
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // Constants of Knuth's MMIX.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
