//! What the end-to-end tests share in addition to the [`Scene`](meterline_testkit::scene::Scene).

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, TimeDelta, Utc};
use meterline_testkit::process::{Meterline, MeterlineCommand};
use serde_json::Value;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_meterline");

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Start and seconds of the events of a pod, each with what `of` returns for it, in order. Neighbours for which it is the
/// same are joined.
pub(crate) fn stretches_of(
    events: &[Value],
    of: impl Fn(&Value) -> String,
) -> Vec<(DateTime<Utc>, i64, String)> {
    let mut found: Vec<_> = events
        .iter()
        .map(|event| {
            let time = event["time"].as_str().unwrap().parse().unwrap();
            let seconds = event["data"]["duration_seconds"].as_i64().unwrap();
            (time, seconds, of(event))
        })
        .collect();
    found.sort();
    found.dedup_by(|next, first| {
        let is_same = next.2 == first.2;
        if is_same {
            first.1 += next.1;
        }
        is_same
    });
    found
}

/// Waits until the clock shows `time`.
pub(crate) async fn until(time: DateTime<Utc>) {
    let wait = (time - Utc::now()).to_std().unwrap_or_default();
    tokio::time::sleep(wait).await;
}

pub(crate) fn seconds(count: i64) -> TimeDelta {
    TimeDelta::seconds(count)
}

/// `meterline` in an empty folder, without a cluster: what a test needs that has no
/// [`Scene`](meterline_testkit::scene::Scene).
pub(crate) fn meterline() -> MeterlineCommand {
    Meterline::command(BINARY)
}

/// A small generator of random numbers whose seed repeats a run.
pub(crate) struct Chance(u64);

impl Chance {
    /// Takes the seed from `SEED`, else from the clock, and prints it.
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

    /// A time below `limit`.
    pub(crate) fn pause(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap();
        Duration::from_millis(self.below(limit))
    }
}
