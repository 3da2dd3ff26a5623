//! `kubernetes_resources`: what ran in the cluster, window by window.
//!
//! Watches objects, keeps their lives in the ledger and yields one batch a window, with one message
//! for each stretch in which an object ran unchanged. A window is made once it is complete: its end
//! lies `settle` behind and every watch is known to be current past that end. Failed batches come
//! again with the same events.
//!
//! The watches run in tasks of their own, which the input owns: they must go on while nobody reads,
//! for the ledger has to stay true while the sink is away.

mod budgets;
mod clock;
mod fates;
mod input;
mod leader;
mod ledger;
mod lifetime;
mod messages;
mod metrics;
mod object;
mod rejected;
mod resource_type;
mod state;
mod watch;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use meterline_config::{Configure, GoDuration, InputSpec, Located, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, Input, InputPlan, Reads, foreseen::Foreseen};
use meterline_ledger::{Completeness, Interval, Ledger};
use serde::Deserialize;
use tracing::{error, info};

use self::{
    clock::Clock,
    input::{KubernetesResources, StateWriter},
    leader::LeaderElector,
    ledger::{Options, SharedLedger},
    object::Projection,
    rejected::RejectedUsage,
    resource_type::ResourceType,
    state::{Report, Saved, StateFile},
    watch::{Restored, Watch, WatchWarnings},
};

/// The component.
pub(crate) const SPEC: InputSpec = Spec::new::<Config>(
    "kubernetes_resources",
    "Yields what ran in a Kubernetes cluster in each window of a schedule, to the second.",
    EXAMPLES,
)
.keeps("in its ledger, which `state` (the variable STATE_PATH of the presets) makes durable");

const EXAMPLES: &[&str] = &[
    "kubernetes_resources: {}",
    "kubernetes_resources:\n  namespaces: [team-a, team-b]\n  label_selector: billing=on\n  settle: 5s\n",
    "kubernetes_resources:\n  resource_type: node\n",
];

/// The interval of an input that no `schedule` drives.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

/// Configuration of `kubernetes_resources`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The namespaces to watch, each with a watch of its own, so that a Role in each is enough.
    /// None, or an empty name, means all. A name may be a comma-separated list of names.
    #[serde(default)]
    namespaces: Vec<Located<String>>,
    /// What to watch: `pod`, `node`, `persistentvolume` or `persistentvolumeclaim`.
    #[serde(default)]
    resource_type: ResourceType,
    /// Only objects whose labels match, in kubectl's syntax.
    #[serde(default)]
    label_selector: Option<Located<String>>,
    /// Whether pods are billed from their creation on, instead of from the start of their first
    /// container.
    #[serde(default)]
    include_pending_pods: bool,
    /// `exact` bills the seconds that an object ran; `nominal` bills a whole interval for every
    /// object that ran when the interval began, and nothing for one that ran within an interval only.
    #[serde(default)]
    accounting: Accounting,
    /// How long after its end a window is made, so that news of it can arrive.
    #[serde(default = "default_settle")]
    settle: GoDuration,
    /// Where the ledger is kept, so that it survives restarts and crashes.
    #[serde(default)]
    state: State,
    /// How far back windows are made again at the start, from the times that the API server has,
    /// where no state says up to where they were delivered.
    #[serde(default = "default_lookback")]
    lookback: GoDuration,
    /// How old a window may get while it cannot be delivered. What is older is given up, with an
    /// error: the ingest API would not recognise it if it came twice.
    #[serde(default = "default_max_backlog")]
    max_backlog: GoDuration,
    /// The cluster's name. Part of every event's id, for clusters restored from one backup, whose
    /// objects have the same UIDs.
    #[serde(default)]
    cluster: Option<String>,
}

/// Where the ledger is kept.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The file, of this input alone; made if it is not there. None, or an empty path: the ledger is
    /// in memory only.
    #[serde(default)]
    path: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Accounting {
    #[default]
    Exact,
    Nominal,
}

fn default_settle() -> GoDuration {
    GoDuration(Duration::from_secs(3))
}

fn default_lookback() -> GoDuration {
    GoDuration(Duration::ZERO)
}

/// How long the ingest API of OpenMeter recognises what comes twice.
fn default_max_backlog() -> GoDuration {
    GoDuration(Duration::from_secs(32 * 24 * 3600))
}

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        cx.foresee(Foreseen::usage());
        let mut namespaces = BTreeSet::new();
        let mut all = self.namespaces.is_empty();
        for entry in &self.namespaces {
            for name in entry.value.split(',').map(str::trim) {
                if name.is_empty() {
                    all = true;
                } else if is_namespace_name(name) {
                    namespaces.insert(name.to_owned());
                } else {
                    cx.error_at(
                        entry,
                        format!(
                            "`{name}` is not a namespace's name: it may hold lower-case letters, \
                             digits and `-`, and at most 63 of them"
                        ),
                    );
                }
            }
        }
        if all {
            namespaces.clear();
        }
        if !self.resource_type.is_namespaced() {
            if let Some(entry) = self.namespaces.iter().find(|it| !it.value.is_empty()) {
                cx.warning_at(
                    entry,
                    format!(
                        "objects of the type `{}` belong to no namespace; `namespaces` has no effect",
                        self.resource_type.word()
                    ),
                );
            }
            namespaces.clear();
        }
        let label_selector = self
            .label_selector
            .map(|it| it.value)
            .filter(|it| !it.trim().is_empty());
        Some(Box::new(Plan {
            namespaces: namespaces.into_iter().collect(),
            resource_type: self.resource_type,
            label_selector,
            include_pending: self.include_pending_pods,
            accounting: match self.accounting {
                Accounting::Exact => meterline_ledger::Accounting::Exact,
                Accounting::Nominal => meterline_ledger::Accounting::Nominal,
            },
            settle: self.settle.0,
            state: self
                .state
                .path
                .filter(|it| !it.trim().is_empty())
                .map(Into::into),
            lookback: self.lookback.0,
            max_backlog: self.max_backlog.0,
            cluster: self.cluster.filter(|it| !it.is_empty()).map(Into::into),
            interval: DEFAULT_INTERVAL,
            reads: Reads::All,
        }))
    }
}

/// RFC 1123 label, which a namespace's name must be.
fn is_namespace_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[derive(Debug)]
struct Plan {
    /// Empty: all.
    namespaces: Vec<String>,
    resource_type: ResourceType,
    label_selector: Option<String>,
    include_pending: bool,
    accounting: meterline_ledger::Accounting,
    settle: Duration,
    state: Option<PathBuf>,
    lookback: Duration,
    max_backlog: Duration,
    cluster: Option<Arc<str>>,
    interval: Duration,
    /// What the pipeline reads of objects.
    reads: Reads,
}

#[async_trait]
impl InputPlan for Plan {
    fn take_schedule(&mut self, interval: Duration) -> bool {
        self.interval = interval;
        true
    }

    fn take_reads(&mut self, reads: &Reads) {
        self.reads = reads.clone();
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        let fail = |reason: String| BuildError {
            component: Arc::clone(&cx.label),
            reason,
        };
        let seconds = i64::try_from(self.interval.as_secs()).unwrap_or(i64::MAX);
        let interval = Interval::new(seconds)
            .ok_or_else(|| fail("the interval must be at least one second".to_owned()))?;
        // Nothing is asked of the server here: it may be away, and that is no reason not to start.
        // But without an address and credentials there is nothing to wait for.
        kube::Config::infer().await.map_err(|error| {
            fail(format!(
                "no usable cluster configuration: {error}; set KUBECONFIG, provide \
                 ~/.kube/config, or run in a pod with a service account"
            ))
        })?;
        let names = self.watches();
        let settle_seconds =
            i64::try_from(self.settle.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let mut completeness = Completeness::new(settle_seconds);
        for (name, _) in &names {
            completeness.register(name);
        }
        let projection = Arc::new(Projection::of(&self.reads, self.resource_type));
        let (file, saved) = match self.open(&projection, cx).map_err(fail)? {
            Some((file, saved)) => (Some(file), saved),
            None => (None, None),
        };
        let clock = Clock::default();
        let mut seen = None;
        let ledger = match saved {
            Some(saved) => {
                seen = Some(saved.seen);
                let mut ledger = Ledger::restore(
                    interval,
                    self.accounting,
                    saved.checkpoint,
                    saved.records,
                    saved.rejected,
                );
                let kept_for = Arc::new(saved.reads);
                ledger.each_content(&mut |content| content.adapt(&kept_for, &projection));
                ledger
            }
            None => Ledger::new(interval, self.accounting, self.horizon(interval, &clock)),
        };
        info!(label = %cx.label, from = %messages::rfc3339(ledger.watermark()), "billing begins");
        let is_namespaced = self.resource_type.is_namespaced();
        let shared = Arc::new(SharedLedger::new(
            ledger,
            completeness,
            Options {
                resource_type: self.resource_type,
                projection,
                label_selector: self.label_selector,
                include_pending: self.include_pending,
                settle: self.settle,
                max_backlog: self.max_backlog,
                clock,
                is_kept: file.is_some(),
                is_elected: cx.leader_election.is_some(),
            },
            cx.health.register(format!("input {}", cx.label)),
            cx.health.register(format!("billing {}", cx.label)),
            &cx.metrics,
            &cx.label,
        ));
        cx.rejected.register(
            Arc::clone(&cx.label),
            Arc::new(RejectedUsage(Arc::downgrade(&shared))),
        );
        let (shown, metrics, label) = (
            Arc::downgrade(&shared),
            cx.metrics.clone(),
            Arc::clone(&cx.label),
        );
        cx.metrics.refresh_with(move || {
            let Some(shared) = shown.upgrade() else {
                return false;
            };
            shared.show(&metrics, &label);
            true
        });
        let mut placed = seen.as_ref().map_or_else(HashMap::new, |seen| {
            shared.restored(seen, |known| {
                let place = names.iter().find(|(_, namespace)| {
                    !is_namespaced || namespace.is_none() || *namespace == known.namespace
                });
                place.map(|(name, _)| Arc::clone(name))
            })
        });
        let health = cx.health.register(format!("watches {}", cx.label));
        let remarks = Arc::new(WatchWarnings::new(health, &cx.metrics, &cx.label));
        let watches = names.into_iter().map(|(name, namespace)| Watch {
            restored: seen.as_ref().map(|seen| Restored {
                known: placed.remove(&name).unwrap_or_default(),
                seen_at: seen.at,
                version: seen.versions.get(&name).copied(),
            }),
            name,
            namespace,
            shared: Arc::clone(&shared),
            remarks: Arc::clone(&remarks),
        });
        let watches = watches.collect();
        let journal = file.map(|file| {
            let health = cx.health.register(format!("state {}", cx.label));
            let report = Report::new(health, &cx.metrics, &cx.label);
            StateWriter::Waiting(Box::new((file, report)))
        });
        let candidate = cx.leader_election.as_ref().map(|election| {
            let health = cx
                .health
                .register(format!("lease {}/{}", election.namespace, election.name));
            LeaderElector::new(
                Arc::clone(election),
                Arc::clone(&shared),
                health,
                &cx.metrics,
            )
        });
        Ok(Box::new(KubernetesResources::new(
            watches,
            journal,
            candidate,
            self.cluster,
            shared,
        )))
    }
}

impl Plan {
    /// The watches by name, each with its namespace, if it has one. What is selected otherwise is another
    /// watch to a ledger that comes back.
    fn watches(&self) -> Vec<(Arc<str>, Option<String>)> {
        let name = |namespace: &str| match &self.label_selector {
            Some(selector) => format!("{namespace} {selector}").into(),
            None => namespace.into(),
        };
        if self.namespaces.is_empty() {
            return vec![(name("*"), None)];
        }
        self.namespaces
            .iter()
            .map(|it| (name(it), Some(it.clone())))
            .collect()
    }

    /// From where a ledger without a past bills. The window that is running now is billed whole:
    /// the server still knows when what runs in it began.
    fn horizon(&self, interval: Interval, clock: &Clock) -> i64 {
        let lookback = i64::try_from(self.lookback.as_secs()).unwrap_or(i64::MAX);
        interval.floor(clock.seconds().saturating_sub(lookback))
    }

    /// Takes the state file, if there is to be one.
    fn open(
        &self,
        projection: &Projection,
        cx: &BuildContext,
    ) -> Result<Option<(StateFile, Option<Saved>)>, String> {
        let Some(path) = &self.state else {
            info!(
                label = %cx.label,
                "no state file is configured: the ledger is in memory only and does not survive a \
                 restart"
            );
            return Ok(None);
        };
        let subject = self.resource_type.word();
        let (file, saved, damage) =
            StateFile::open(path, subject, &projection.kept, Clock::default().seconds())
                .map_err(|error| format!("the state file {}: {error}", path.display()))?;
        if let Some(damage) = damage {
            error!(
                label = %cx.label,
                path = %path.display(),
                "the state file was damaged: {damage}. The ledger is rebuilt from the API server; what \
                 ran before and is gone there cannot be billed any more"
            );
        }
        Ok(Some((file, saved)))
    }
}
