//! `kubernetes_resources`: what ran in the cluster, window by window.
//!
//! Watches objects, keeps their lives in the ledger and yields one batch a window, with one message
//! for each stretch in which an object ran unchanged. A window is made once it is complete: its end
//! lies `settle` behind and every watch is known to be current past that end. Failed batches come
//! again with the same events.
//!
//! The watches run in tasks of their own, which the input owns: they must go on while nobody reads,
//! for the ledger has to stay true while the sink is away.

mod client;
mod emit;
mod life;
mod object;
mod recover;
mod resource_type;
mod shared;
mod watch;

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use meterline_config::{Configure, Cx, GoDuration, InputSpec, Located, Spec};
use meterline_core::{
    Ack, Batch, BuildContext, BuildError, Input, InputError, InputPlan, Outcome, Settlement,
};
use meterline_ledger::{Completeness, Interval, Ledger, Settled, Ticket};
use serde::Deserialize;
use tokio::{task::JoinSet, time::Instant};
use tracing::{info, warn};

use self::{
    resource_type::ResourceType,
    shared::{Clock, Shared, Subject},
    watch::Watch,
};

/// The component.
pub(crate) const SPEC: InputSpec = Spec::new::<Config>(
    "kubernetes_resources",
    "Yields what ran in a Kubernetes cluster in each window of a schedule, to the second.",
    EXAMPLES,
);

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
    /// object that ran when the interval began.
    #[serde(default)]
    accounting: Accounting,
    /// How long after its end a window is made, so that news of it can arrive.
    #[serde(default = "default_settle")]
    settle: GoDuration,
    /// The cluster's name. Part of every event's id, for clusters restored from one backup, whose
    /// objects have the same UIDs.
    #[serde(default)]
    cluster: Option<String>,
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

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, cx: &mut Cx<'_>) -> Option<Box<dyn InputPlan>> {
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
            cluster: self.cluster.filter(|it| !it.is_empty()).map(Into::into),
            interval: DEFAULT_INTERVAL,
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
    cluster: Option<Arc<str>>,
    interval: Duration,
}

#[async_trait]
impl InputPlan for Plan {
    fn take_schedule(&mut self, interval: Duration) -> bool {
        self.interval = interval;
        true
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
        // The window that is running now is billed whole: the server still knows when what runs
        // in it began.
        let horizon = interval.floor(Clock.seconds());
        let ledger = Ledger::new(interval, self.accounting, horizon);
        let settle_seconds =
            i64::try_from(self.settle.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let mut completeness = Completeness::new(settle_seconds);
        let names: Vec<(Arc<str>, Option<String>)> = if self.namespaces.is_empty() {
            vec![("*".into(), None)]
        } else {
            self.namespaces
                .iter()
                .map(|it| (it.as_str().into(), Some(it.clone())))
                .collect()
        };
        for (name, _) in &names {
            completeness.register(name);
        }
        let shared = Arc::new(Shared::new(
            ledger,
            completeness,
            Subject {
                resource_type: self.resource_type,
                label_selector: self.label_selector,
                include_pending: self.include_pending,
                settle: self.settle,
            },
            cx.health.register(format!("input {}", cx.label)),
            &cx.metrics,
            &cx.label,
        ));
        info!(
            label = %cx.label,
            "no state file is configured: the ledger is in memory only and does not survive a restart"
        );
        Ok(Box::new(KubernetesResources {
            waiting: names,
            watches: JoinSet::new(),
            unsettled: FuturesUnordered::new(),
            cluster: self.cluster,
            shared,
            paused_until: None,
        }))
    }
}

/// Outputs retry by themselves, so a window that failed met something unexpected: not in a hot loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

type Unsettled = Pin<Box<dyn Future<Output = (Ticket, Outcome)> + Send>>;

struct KubernetesResources {
    /// Watches that the first read begins.
    waiting: Vec<(Arc<str>, Option<String>)>,
    /// Ended when this is dropped.
    watches: JoinSet<()>,
    unsettled: FuturesUnordered<Unsettled>,
    cluster: Option<Arc<str>>,
    shared: Arc<Shared>,
    /// After a window failed, the pause before it comes again.
    paused_until: Option<Instant>,
}

impl KubernetesResources {
    fn begin(&mut self) {
        for (name, namespace) in std::mem::take(&mut self.waiting) {
            let watch = Watch {
                name,
                namespace,
                shared: Arc::clone(&self.shared),
            };
            self.watches.spawn(watch.run());
        }
    }

    fn settle(&mut self, ticket: Ticket, outcome: &Outcome) {
        let settled = if outcome.is_settled() {
            Settled::Delivered
        } else {
            warn!(
                ?outcome,
                "a window was not delivered; its events come again"
            );
            self.paused_until = Some(Instant::now() + PAUSE_AFTER_FAILURE);
            Settled::Failed
        };
        self.shared.settle(ticket, settled);
    }

    /// The next window if one is ready.
    fn next(&mut self) -> Option<(Batch, Ack)> {
        if self
            .paused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return None;
        }
        let emission = self.shared.next(self.shared.clock.seconds())?;
        let batch = emit::batch(&emission, self.shared.resource_type, self.cluster.as_ref());
        let (ack, settlement) = Ack::new();
        self.unsettled
            .push(Box::pin(outcome(emission.ticket, settlement)));
        Some((batch, ack))
    }
}

async fn outcome(ticket: Ticket, mut settlement: Settlement) -> (Ticket, Outcome) {
    (ticket, settlement.outcome().await)
}

#[async_trait]
impl Input for KubernetesResources {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        self.begin();
        loop {
            if let Some(window) = self.next() {
                return Ok(Some(window));
            }
            let due = self.shared.next_due();
            let ready_in = self
                .shared
                .clock
                .until(due)
                .saturating_add(self.shared.settle)
                // The wall clock may be set while we sleep, so never sleep for long by it.
                .clamp(Duration::from_millis(20), Duration::from_secs(1));
            tokio::select! {
                Some((ticket, outcome)) = self.unsettled.next() => self.settle(ticket, &outcome),
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(ready_in) => {}
                Some(ended) = self.watches.join_next() => {
                    // A watch never ends by itself, so it panicked.
                    return Err(InputError(format!("a watch stopped unexpectedly: {ended:?}")));
                }
            }
        }
    }

    async fn close(&mut self) {
        self.watches.shutdown().await;
        // Every acknowledgement has been resolved or dropped by now.
        while let Some((ticket, outcome)) = self.unsettled.next().await {
            self.settle(ticket, &outcome);
        }
        self.shared.update_gauges(self.shared.clock.seconds());
    }
}
