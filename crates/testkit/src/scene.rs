//! The one way to set up an end-to-end test: an API server with pods, the recording ingest API, the
//! program between the two, and the audit of what it delivered.
//!
//! A scene on [`Real`] has a control plane and the truth that its API server reports. A scene on
//! [`Simulated`] has the simulated API server, for errors that a real one does not make, for more pods
//! than it takes, and where only the sink matters. Either way the audit of the bill, of the contract
//! with the sink and of the fates in `/stats` is the same.

#![expect(
    clippy::unwrap_used,
    reason = "a test whose surroundings do not start cannot continue"
)]

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tempfile::TempDir;

use crate::audit::{self, Life, Report};
use crate::ingest::{RecordingIngest, State};
use crate::pods;
use crate::process::{Meterline, MeterlineCommand};
use crate::watchdog::Watchdog;

mod real;
mod simulated;

pub use real::Real;
pub use simulated::Simulated;

/// How long a step may take on a busy machine.
const STEP: Duration = Duration::from_secs(60);
/// How long a test may take; the longest, which causes random failures for ten minutes, takes a quarter of an hour.
const LONGEST: Duration = Duration::from_secs(25 * 60);
/// How long the last events may take to arrive: some wait for a back-off of half a minute.
const SETTLE: Duration = Duration::from_secs(300);
/// How far before and after the lives the audit looks for events that belong to none of them, in seconds.
const MARGIN: TimeDelta = TimeDelta::seconds(60);

/// An API server, an ingest API and a folder; see the [module](self). Dereferences to the cluster.
#[derive(Debug)]
pub struct Scene<C = Real> {
    /// Where the program delivers to.
    pub ingest: RecordingIngest,
    /// The second in which the scene was set up.
    pub start: DateTime<Utc>,
    // Declared before the folder: fields are dropped in this order.
    cluster: C,
    kubeconfig: PathBuf,
    folder: TempDir,
    binary: PathBuf,
    _watchdog: Watchdog,
}

/// An API server that can end its pods and knows when each of them ran.
pub trait Cluster {
    /// When each pod ran.
    fn lives(&self) -> Vec<Life>;

    /// Ends every pod that runs, and waits until the API server reports it.
    fn end_all(&self) -> impl Future<Output = ()>;
}

impl<C> Deref for Scene<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.cluster
    }
}

/// The pod that an event bills.
#[must_use]
pub fn pod_of(event: &Value) -> &str {
    field(event, "pod_name")
}

/// The namespace of the pod that an event bills.
#[must_use]
pub fn namespace_of(event: &Value) -> &str {
    field(event, "pod_namespace")
}

fn field<'a>(event: &'a Value, name: &str) -> &'a str {
    let data = event.get("data").and_then(|data| data.get(name));
    data.and_then(Value::as_str).unwrap_or_default()
}

/// The preset that ships with the program.
#[must_use]
pub fn preset() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../presets/kubernetes-pod-exec-time.yaml")
}

impl<C> Scene<C> {
    async fn on(cluster: C, binary: &str, kubeconfig: PathBuf, folder: TempDir) -> Self {
        Self {
            ingest: RecordingIngest::start().await.unwrap(),
            start: pods::now(),
            cluster,
            kubeconfig,
            folder,
            binary: binary.into(),
            _watchdog: Watchdog::start(LONGEST),
        }
    }

    /// The program without a configuration, with the addresses of both servers in its environment.
    #[must_use]
    pub fn command(&self) -> MeterlineCommand {
        Meterline::command(&self.binary)
            .kubeconfig(&self.kubeconfig)
            .env("OPENMETER_URL", self.ingest.url())
            .env("SCRAPE_INTERVAL", "1s")
            .env("LOOKBACK", "2m")
    }

    /// The preset with windows of one second and one request for each window, from before the first pod on.
    #[must_use]
    pub fn preset(&self) -> MeterlineCommand {
        let preset = preset();
        let arguments = ["--config".as_ref(), preset.as_os_str()];
        self.command().args(arguments).env("BATCH_SIZE", "0")
    }

    /// The preset as one of several replicas of this identity, which elect a leader by a Lease of
    /// `duration` seconds in the namespace `default`.
    #[must_use]
    pub fn replica(&self, identity: &str, duration: u32) -> MeterlineCommand {
        self.preset()
            .arg("--leader-election")
            .env("LEASE_LOCK_NAMESPACE", "default")
            .env("K8S_APP_INSTANCE", "meterline")
            .env("K8S_POD_NAME", identity)
            .env("LEASE_DURATION", format!("{duration}s"))
            .env("LEASE_RENEW_DEADLINE", format!("{}s", duration * 3 / 4))
            .env("LEASE_RETRY_PERIOD", "1s")
    }

    /// The preset with a changed text, and with the output `openmeter` that has these fields.
    ///
    /// # Panics
    /// When the preset has no output.
    #[must_use]
    pub fn variant(
        &self,
        change: impl FnOnce(String) -> String,
        openmeter: &str,
    ) -> MeterlineCommand {
        let preset = change(std::fs::read_to_string(preset()).unwrap());
        let (before, _) = preset.split_once("\noutput:").unwrap();
        let config = format!("{before}\noutput:\n  openmeter: {{{openmeter}}}\n");
        self.command().config(&config)
    }

    /// The folder of the scene, which is deleted with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in that folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The kubeconfig that the program gets.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The events of the pods of this name, oldest first.
    #[must_use]
    pub fn events_of(&self, pod: &str) -> Vec<Value> {
        let mut events = self.ingest.events();
        events.retain(|event| pod_of(event) == pod);
        events.sort_by(|one, other| one["time"].as_str().cmp(&other["time"].as_str()));
        events
    }

    /// Waits until an event of a pod of this name has arrived.
    ///
    /// # Panics
    /// When none arrives within a minute.
    pub async fn wait_for_event_of(&self, pod: &str) {
        let is_there = |state: &State| state.events.iter().any(|it| pod_of(&it.event) == pod);
        let waited = self.ingest.wait_until(STEP, is_there).await;
        waited.unwrap();
    }

    /// Waits until the events that have arrived cover these lives exactly.
    ///
    /// # Panics
    /// When they do not, the ingest API saw a violation, or the seconds in `/stats` do not add up; the
    /// message holds the report and the log.
    pub async fn assert_billed(&self, lives: &[Life], meterline: &Meterline) {
        let report = self.settled_by(lives, |_, _| true).await;
        assert!(report.is_exact(), "{report}{}", meterline.log().join("\n"));
        self.ingest.assert_clean();
        let stats = meterline.stats().await.unwrap();
        assert!(stats.pointer("/seconds/ran").is_some(), "{stats}");
        meterline.audit_fates();
    }

    async fn settled_by(&self, lives: &[Life], wanted: impl Fn(&str, &str) -> bool) -> Report {
        let lives = &select(lives, &wanted);
        let range = self.range(lives);
        // The report contains everything that an error would.
        let _ = self
            .ingest
            .wait_until(SETTLE, |state| {
                let events = state.events.iter().map(|received| &received.event);
                judge(lives, events, range.clone(), &wanted).is_exact()
            })
            .await;
        let events = self.ingest.events();
        judge(lives, events.iter(), range, &wanted)
    }

    /// The range of the audit: from before the first life to now, or beyond now if no pod runs any more.
    fn range(&self, lives: &[Life]) -> Range<DateTime<Utc>> {
        let starts = lives.iter().map(|life| life.start);
        let from = starts.min().unwrap_or(self.start).min(self.start);
        let runs = lives.iter().any(|life| life.end.is_none());
        let to = pods::now() + if runs { TimeDelta::zero() } else { MARGIN };
        from - MARGIN..to
    }
}

fn select(lives: &[Life], wanted: &impl Fn(&str, &str) -> bool) -> Vec<Life> {
    let lives = lives.iter().filter(|it| wanted(&it.namespace, &it.name));
    lives.cloned().collect()
}

fn judge<'a>(
    lives: &[Life],
    events: impl Iterator<Item = &'a Value>,
    range: Range<DateTime<Utc>>,
    wanted: &impl Fn(&str, &str) -> bool,
) -> Report {
    let events = events.filter(|event| wanted(namespace_of(event), pod_of(event)));
    audit::audit(lives, events, range)
}

impl<C: Cluster> Scene<C> {
    /// When each pod ran.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        self.cluster.lives()
    }

    /// Ends every pod that runs, and waits until the API server reports it.
    pub async fn end_all(&self) {
        self.cluster.end_all().await;
    }

    /// What is wrong now with the bill of the pods that `wanted` accepts by namespace and name.
    #[must_use]
    pub fn report(&self, wanted: impl Fn(&str, &str) -> bool) -> Report {
        let lives = select(&self.lives(), &wanted);
        let events = self.ingest.events();
        judge(&lives, events.iter(), self.range(&lives), &wanted)
    }

    /// Waits until the events of the pods that `wanted` accepts by namespace and name cover their
    /// lives, and returns the last report, whether it is exact or not.
    pub async fn settled(&self, wanted: impl Fn(&str, &str) -> bool) -> Report {
        self.settled_by(&self.lives(), wanted).await
    }

    /// Ends every pod, and [asserts](Scene::assert_billed) that each is billed for what it ran.
    pub async fn assert_exact(&self, meterline: &Meterline) {
        self.end_all().await;
        self.assert_billed(&self.lives(), meterline).await;
    }

    /// [`Scene::assert_exact`] of all pods but one, of which no event may have arrived.
    ///
    /// # Panics
    /// When a bill is not exact; the message holds the report and the log.
    pub async fn assert_exact_but(&self, name: &str, meterline: &Meterline) {
        self.end_all().await;
        let report = self.settled(|_, it| it != name).await;
        assert!(report.is_exact(), "{report}{}", meterline.log().join("\n"));
        assert!(self.events_of(name).is_empty(), "{name} is billed");
        self.ingest.assert_clean();
        meterline.audit_fates();
    }

    /// [`Scene::assert_exact`], then an orderly end of the program.
    pub async fn finish(&self, meterline: &Meterline) {
        self.assert_exact(meterline).await;
        meterline.stop().await;
    }
}
