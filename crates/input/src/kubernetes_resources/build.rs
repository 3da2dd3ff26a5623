//! From the plan to the input: opens the state file, restores the ledger, and puts the parts together.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_core::{BuildContext, BuildError, Input, InputPlan, Reads};
use meterline_ledger::{Accounting, Completeness, Interval, Ledger};
use tracing::{error, info};

use super::{
    clock::Clock,
    input::KubernetesResources,
    leader::{LeaderElection, LeaderElector},
    ledger::SharedLedger,
    lifetime::BilledFrom,
    messages,
    metrics::LedgerReport,
    object::{BilledObject, Known, Projection},
    options::Options,
    rejected::RejectedUsage,
    resource_type::ResourceType,
    state::{Saved, SeenUntil, StateFile, StateWriter},
    unbilled,
    watch::{Cluster, Restored, Watch, Watched},
};

/// A checked configuration of the input.
#[derive(Debug)]
pub(super) struct Plan {
    /// The namespaces to watch; none for all.
    pub(super) namespaces: Vec<String>,
    pub(super) resource_type: ResourceType,
    pub(super) label_selector: Option<String>,
    pub(super) from: BilledFrom,
    pub(super) accounting: Accounting,
    pub(super) settle: Duration,
    pub(super) state: Option<PathBuf>,
    pub(super) lookback: Duration,
    pub(super) max_backlog: Duration,
    pub(super) cluster_name: Option<Arc<str>>,
    pub(super) interval: Duration,
    /// What the pipeline reads of objects.
    pub(super) reads: Reads,
}

/// A watch by its name, with its namespace, if it has one.
type Named = (Arc<str>, Option<String>);

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
        let input = self.connect(Cluster::default(), cx).await;
        let input = input.map_err(|reason| BuildError {
            component: Arc::clone(&cx.label),
            reason,
        })?;
        Ok(Box::new(input))
    }
}

impl Plan {
    /// Builds the input for the cluster.
    ///
    /// # Errors
    /// The error names the cause and the remedy.
    async fn connect(
        self,
        cluster: Cluster,
        cx: &BuildContext,
    ) -> Result<KubernetesResources, String> {
        let seconds = i64::try_from(self.interval.as_secs()).unwrap_or(i64::MAX);
        let interval = Interval::new(seconds)
            .ok_or_else(|| "the interval must be at least one second".to_owned())?;
        // The program also starts while the server is unavailable. But without an address and credentials
        // there is nothing to wait for.
        cluster.config().await.map_err(|error| {
            format!(
                "{error}; set KUBECONFIG, provide ~/.kube/config, or run in a pod with a service account"
            )
        })?;
        let options = self.options(cluster, cx);
        let (file, saved) = match self.open(&options.projection, cx)? {
            Some((file, saved)) => (Some(file), saved),
            None => (None, None),
        };
        let names = self.names();
        let (ledger, seen) = self.ledger(interval, saved, &options);
        info!(label = %cx.label, from = %messages::rfc3339(ledger.watermark()), "billing begins");
        let mut completeness = self.completeness(&names);
        let related = options.projection.related.clone();
        for (relation, _) in &related {
            completeness.register(relation.key());
        }
        let ledger = Arc::new(SharedLedger::new(ledger, completeness, &options));
        let (has_state, clock) = (options.has_state, options.clock.clone());
        let report = Arc::new(LedgerReport::new(
            options.resource_type,
            has_state,
            &cx.health,
            &cx.metrics,
            &cx.label,
        ));
        register(&ledger, &options, cx);
        let watched = Arc::new(Watched::new(
            options.clone(),
            Arc::clone(&ledger),
            Arc::clone(&report),
            &cx.health,
            &cx.metrics,
            &cx.label,
        ));
        let mut watches = self.watches(names, seen.as_ref(), &watched);
        watches.extend(related.iter().map(|(relation, reads)| Watch {
            name: relation.key().into(),
            namespace: None,
            watched: Arc::new(watched.of_related(*relation, reads)),
            restored: None,
        }));
        let writer = file.map(|file| writer(file, &ledger, clock, cx));
        let elector = elector(&ledger, &options, cx);
        Ok(KubernetesResources::new(
            watches, writer, elector, options, ledger, report,
        ))
    }

    fn options(&self, cluster: Cluster, cx: &BuildContext) -> Options {
        Options {
            resource_type: self.resource_type,
            projection: Arc::new(Projection::of(&self.reads, self.resource_type)),
            label_selector: self.label_selector.clone(),
            from: self.from,
            settle: self.settle,
            max_backlog: i64::try_from(self.max_backlog.as_secs()).unwrap_or(i64::MAX),
            has_state: self.state.is_some(),
            is_elected: cx.extensions.get::<LeaderElection>().is_some(),
            cluster_name: self.cluster_name.clone(),
            clock: Clock::default(),
            cluster,
        }
    }

    /// The names of the watches. With another selection it is another watch for a restored ledger.
    fn names(&self) -> Vec<Named> {
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

    fn completeness(&self, names: &[Named]) -> Completeness {
        let settle = self.settle.as_millis().div_ceil(1_000);
        let mut completeness = Completeness::new(i64::try_from(settle).unwrap_or(i64::MAX));
        for (name, _) in names {
            completeness.register(name);
        }
        completeness
    }

    /// The ledger, restored if there is something saved, and how far the view of the saved one went.
    fn ledger(
        &self,
        interval: Interval,
        saved: Option<Saved>,
        options: &Options,
    ) -> (Ledger<BilledObject>, Option<SeenUntil>) {
        let Some(saved) = saved else {
            let horizon = self.horizon(interval, &options.clock);
            return (Ledger::new(interval, self.accounting, horizon), None);
        };
        let mut ledger = Ledger::restore(
            interval,
            self.accounting,
            saved.checkpoint,
            saved.records,
            saved.rejected,
        );
        let kept_for = Arc::new(saved.reads);
        ledger.each_content(&mut |content| content.adapt(&kept_for, &options.projection));
        (ledger, Some(saved.seen))
    }

    /// The second from which a new ledger bills. The current window is billed whole: the server still knows
    /// when the objects that run in it started.
    fn horizon(&self, interval: Interval, clock: &Clock) -> i64 {
        let lookback = i64::try_from(self.lookback.as_secs()).unwrap_or(i64::MAX);
        interval.floor(clock.seconds().saturating_sub(lookback))
    }

    /// The watches, each with the objects of its collection that a restored ledger contains.
    fn watches(
        &self,
        names: Vec<Named>,
        seen: Option<&SeenUntil>,
        watched: &Arc<Watched>,
    ) -> Vec<Watch> {
        let is_namespaced = self.resource_type.is_namespaced();
        let place = |known: &Known| {
            let sees = |namespace: &Option<String>| {
                !is_namespaced
                    || namespace.is_none()
                    || namespace.as_deref() == known.namespace.as_deref()
            };
            let place = names.iter().find(|(_, namespace)| sees(namespace));
            place.map(|(name, _)| Arc::clone(name))
        };
        let (mut placed, lives) = seen.map_or_else(Default::default, |seen| {
            watched.ledger.restored(seen, place)
        });
        let lives = Arc::new(lives);
        let nothing = BTreeMap::new();
        let versions = seen.map_or(&nothing, |seen| &seen.versions);
        let watches = names.iter().map(|(name, namespace)| Watch {
            restored: seen.map(|seen| Restored {
                known: placed.remove(name).unwrap_or_default(),
                seen_at: seen.at,
                version: versions.get(name).copied(),
                lives: Arc::clone(&lives),
            }),
            name: Arc::clone(name),
            namespace: namespace.clone(),
            watched: Arc::clone(watched),
        });
        watches.collect()
    }

    /// Opens the state file, if there is to be one. Returns what it held.
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
        let now = Clock::default().seconds();
        let (file, saved, damage) = StateFile::open(path, subject, &projection.kept, now)
            .map_err(|error| format!("the state file {}: {error}", path.display()))?;
        if let Some(damage) = damage {
            error!(
                label = %cx.label,
                path = %path.display(),
                "the state file was damaged: {damage}. The ledger is rebuilt from the API server; usage \
                 that the API server no longer knows cannot be billed any more"
            );
        }
        Ok(Some((file, saved)))
    }
}

fn writer(
    file: StateFile,
    ledger: &Arc<SharedLedger>,
    clock: Clock,
    cx: &BuildContext,
) -> StateWriter {
    let health = cx.health.register(format!("state {}", cx.label));
    let ledger = Arc::clone(ledger);
    StateWriter::new(file, ledger, clock, health, &cx.metrics, &cx.label)
}

fn elector(
    ledger: &Arc<SharedLedger>,
    options: &Options,
    cx: &BuildContext,
) -> Option<LeaderElector> {
    let election = cx.extensions.get::<LeaderElection>()?;
    let ledger = Arc::clone(ledger);
    Some(LeaderElector::new(
        election,
        ledger,
        options,
        &cx.health,
        &cx.metrics,
    ))
}

/// Registers what the ledger shows to the endpoints.
fn register(ledger: &Arc<SharedLedger>, options: &Options, cx: &BuildContext) {
    let usage = RejectedUsage {
        ledger: Arc::downgrade(ledger),
        clock: options.clock.clone(),
        resource_type: options.resource_type,
    };
    cx.rejected.register(Arc::clone(&cx.label), Arc::new(usage));
    let (shown, clock) = (Arc::downgrade(ledger), options.clock.clone());
    let (metrics, label) = (cx.metrics.clone(), Arc::clone(&cx.label));
    cx.metrics.refresh_with(move || {
        let Some(ledger) = shown.upgrade() else {
            return false;
        };
        let now = clock.seconds();
        ledger.with_ledger(|ledger| unbilled::show(ledger, &metrics, &label, now));
        true
    });
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::kubernetes_resources::testing::{Parts, WATCH, observation};

    fn plan(namespaces: &[&str]) -> Plan {
        Plan {
            namespaces: namespaces.iter().map(|&it| it.to_owned()).collect(),
            resource_type: ResourceType::Pod,
            label_selector: None,
            from: BilledFrom::Started,
            accounting: Accounting::Exact,
            settle: Duration::from_millis(300),
            state: None,
            lookback: Duration::ZERO,
            max_backlog: Duration::from_secs(3_600),
            cluster_name: None,
            interval: Duration::from_secs(10),
            reads: Reads::All,
        }
    }

    fn context() -> BuildContext {
        BuildContext::default().labelled("x")
    }

    fn names(plan: &Plan) -> Vec<String> {
        let names = plan.names().into_iter();
        names.map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn each_namespace_has_a_watch_whose_name_contains_the_selection() {
        assert_eq!(names(&plan(&[])), [WATCH]);
        assert_eq!(names(&plan(&["a", "b"])), ["a", "b"]);
        let mut selecting = plan(&["a"]);
        selecting.label_selector = Some("billing=on".to_owned());
        assert_eq!(names(&selecting), ["a billing=on"]);
    }

    #[test]
    fn a_new_ledger_bills_the_current_window_whole_and_the_lookback_before_it() {
        let interval = Interval::new(10).unwrap();
        let clock = Clock::default();
        let mut plan = plan(&[]);
        let now = clock.seconds();
        let horizon = plan.horizon(interval, &clock);
        assert!(horizon % 10 == 0 && (now - 10..=now + 1).contains(&horizon));
        plan.lookback = Duration::from_secs(100);
        let back = horizon - plan.horizon(interval, &clock);
        assert!((90..=100).contains(&back), "{back}");
    }

    #[test]
    fn a_restored_object_goes_to_the_watch_of_its_namespace() {
        let plan = plan(&["other", "n"]);
        let parts = Parts::new(plan.options(Cluster::default(), &context()), 0);
        parts.ledger.observe(observation("a", 1, None));
        let seen = SeenUntil {
            at: 5,
            versions: [("n".into(), 9)].into(),
        };
        let watches = plan.watches(plan.names(), Some(&seen), &parts.watched());
        let restored: Vec<_> = watches
            .iter()
            .map(|it| {
                let restored = it.restored.as_ref().unwrap();
                (&*it.name, restored.known.len(), restored.version)
            })
            .collect();
        assert_eq!(restored, [("other", 0, None), ("n", 1, Some(9))]);
        assert!(
            plan.watches(plan.names(), None, &parts.watched())[0]
                .restored
                .is_none()
        );
    }

    #[tokio::test]
    async fn an_interval_below_a_second_is_refused() {
        let mut plan = plan(&[]);
        plan.interval = Duration::from_millis(999);
        let error = plan.connect(Cluster::default(), &context()).await;
        assert!(error.err().unwrap().contains("at least one second"));
    }

    #[tokio::test]
    async fn an_input_reads_windows_from_a_cluster_and_continues_after_a_restart() {
        use meterline_core::Outcome;
        use meterline_kubesim::{Kind, Kubesim, Options as Server};

        use crate::kubernetes_resources::testing::{at, pod};

        let dir = tempfile::tempdir().unwrap();
        let sim = Kubesim::start(Server::default()).await.unwrap();
        let now = Clock::default().seconds();
        sim.change(|store| store.put(Kind::Pod, pod("a", now - 100)));
        let build = async || {
            let mut plan = plan(&[]);
            plan.interval = Duration::from_secs(1);
            plan.state = Some(dir.path().join("state.sqlite"));
            plan.lookback = Duration::from_secs(5);
            let cx = context();
            let input = plan.connect(at(sim.url()), &cx).await.unwrap();
            (input, cx)
        };
        let mut next = None;
        for _ in 0..2 {
            let (mut input, cx) = build().await;
            for _ in 0..5 {
                let (batch, ack) = input.read().await.unwrap().unwrap();
                let identity = batch[0].identity().unwrap();
                assert_eq!((&*identity.uid, identity.end - identity.start), ("a", 1));
                // Each second is billed once, also across the restart.
                assert_eq!(
                    next.replace(identity.end).unwrap_or(identity.start),
                    identity.start
                );
                ack.resolve(Outcome::Delivered);
            }
            let parts: Vec<_> = cx.health.report().parts;
            let parts: Vec<_> = parts.iter().map(|(name, ..)| name.to_string()).collect();
            assert_eq!(parts, ["billing x", "input x", "state x", "watches x"]);
            input.stop();
            input.close().await;
        }
    }
}
