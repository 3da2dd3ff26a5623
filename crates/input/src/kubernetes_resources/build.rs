//! From the plan to the input: opens the state file, restores the ledger, and puts the parts together.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_config::PlanContext;
use meterline_core::{
    Ack, Batch, BuildContext, BuildError, Input, InputError, InputPlan, Reads, Undelivered,
};
use meterline_ledger::{Accounting, Completeness, Interval, Ledger};
use meterline_script::{CLAIM_DEVICES, DeviceReads, TABLE, UNKNOWN_DEVICES};
use tracing::{error, info};

use super::{
    clock::Clock,
    input::KubernetesResources,
    leader::{LeaderElection, Membership, ProcessElection},
    ledger::SharedLedger,
    ledger_name::LedgerName,
    lifetime::BilledFrom,
    messages,
    metrics::LedgerReport,
    object::{BilledObject, Known, Projection},
    options::Options,
    rejected::RejectedUsage,
    related_watches::{RelatedWatch, related_watches},
    resource_type::ResourceType,
    state::{Saved, SeenUntil, StateFile, StateFiles, StateWriter},
    table_watch::{TableReport, TableWatch},
    unbilled,
    unknown_devices::UnknownDevices,
    watch::{Cluster, Restored, Watch, Watched},
};

/// A checked configuration of the input.
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
    /// Whether functions for devices use the labels of nodes.
    pub(super) node_labels: bool,
    /// What the pipeline reads of objects.
    pub(super) reads: Reads,
    /// Where the files of tables are.
    pub(super) tables: Tables,
    /// By which its ledger is found again.
    pub(super) name: LedgerName,
    /// The state files of the process.
    pub(super) files: Arc<StateFiles>,
    /// The election in which the process takes part, if there is one.
    pub(super) election: Arc<ProcessElection>,
}

/// Where the files of tables are.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    /// The files of the section `tables`, by name.
    files: BTreeMap<String, PathBuf>,
    /// The directory of the configuration file, if it is a file.
    dir: Option<PathBuf>,
}

impl Tables {
    pub(super) fn of(cx: &PlanContext<'_>) -> Self {
        Self {
            files: cx.tables().clone(),
            dir: cx.file_dir().map(Into::into),
        }
    }

    /// The file of a table by its name, or by `table:` and its path.
    ///
    /// # Errors
    /// If the configuration has no such table.
    fn file(&self, name: &str) -> Result<PathBuf, String> {
        match name.strip_prefix(TABLE) {
            Some(path) => Ok(meterline_config::file(path, self.dir.as_deref())),
            None => self.files.get(name).cloned().ok_or_else(|| {
                format!("there is no table `{name}`; add it to the section `tables`")
            }),
        }
    }
}

/// The plan of an input that is not enabled.
#[derive(Debug)]
pub(super) struct Nothing;

#[async_trait]
impl InputPlan for Nothing {
    fn take_schedule(&mut self, _: Duration) -> bool {
        true
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        info!(label = %cx.label, "this input is not enabled");
        Ok(Box::new(Self))
    }
}

#[async_trait]
impl Input for Nothing {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        Ok(None)
    }

    fn stop(&mut self) -> bool {
        false
    }

    async fn close(&mut self) {}

    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
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
        let projection = Arc::clone(&options.projection);
        let related = related_watches(&projection.related, &self.namespaces);
        let completeness = self.completeness(&names, &related, &projection);
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
        if self.names_subjects(&options.projection) {
            watched.warnings.say_who_names_subjects();
        }
        let restored_at = seen.as_ref().map(|it| it.at);
        let tables = self.table_watches(&watched, restored_at, cx)?;
        let mut watches = self.watches(names, seen.as_ref(), &watched);
        watches.extend(watches_of_others(related, &watched));
        let writer = file.map(|file| writer(file, &ledger, clock, cx));
        let election = self.join(&ledger, &options, cx)?;
        let unknown = UnknownDevices::of(&options, cx);
        let input =
            KubernetesResources::new(watches, tables, writer, election, options, ledger, report);
        Ok(match unknown {
            Some(unknown) => input.reporting(unknown),
            None => input,
        })
    }

    /// Whether the objects of all namespaces name who pays for them.
    fn names_subjects(&self, projection: &Projection) -> bool {
        let subject = Reads::of(&["metadata.annotations.openmeter~1io/subject"]);
        self.resource_type.is_namespaced()
            && self.namespaces.is_empty()
            && projection.billed_by.covers(&subject)
    }

    /// What follows the files of the tables that the pipeline looks values up in.
    fn table_watches(
        &self,
        watched: &Watched,
        restored_at: Option<i64>,
        cx: &BuildContext,
    ) -> Result<Vec<TableWatch>, String> {
        let Watched {
            options,
            ledger,
            budgets,
            ..
        } = watched;
        let tables = options.projection.tables.iter().map(|table| {
            let health = cx.health.register(format!("table {}", table.name));
            Ok(TableWatch {
                name: Arc::clone(&table.name),
                path: self.tables.file(&table.name)?,
                ledger: Arc::clone(ledger),
                budgets: Arc::clone(budgets),
                clock: options.clock.clone(),
                report: TableReport::new(health, &cx.metrics, &cx.label, &table.name),
                restored_at,
            })
        });
        tables.collect()
    }

    fn options(&self, cluster: Cluster, cx: &BuildContext) -> Options {
        let mut reads = self.reads.clone();
        let devices = DeviceReads::take(&mut reads);
        if self.node_labels {
            devices.read_labels(&mut reads);
        }
        let mut projection = Projection::of(&reads, self.resource_type);
        let is_pod = self.resource_type == ResourceType::Pod;
        let counted = devices.counts && (is_pod || projection.slices.is_some());
        if counted && is_pod {
            projection = projection.keeping(&Reads::of(&[UNKNOWN_DEVICES]));
        }
        Options {
            resource_type: self.resource_type,
            projection: Arc::new(projection),
            named_devices: counted.then_some(devices.named),
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

    fn completeness(
        &self,
        names: &[Named],
        related: &[RelatedWatch<'_>],
        projection: &Projection,
    ) -> Completeness {
        let settle = self.settle.as_millis().div_ceil(1_000);
        let mut completeness = Completeness::new(i64::try_from(settle).unwrap_or(i64::MAX));
        for (name, _) in names {
            completeness.register(name);
        }
        for watch in related {
            completeness.register(&watch.name);
        }
        for table in &projection.tables {
            completeness.register(&table.name);
        }
        if projection.slices.is_some() {
            completeness.register(CLAIM_DEVICES);
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
        let now = Clock::default().seconds();
        let opened = self.files.open(path, &self.name, &projection.kept, now);
        let (file, saved, damage) =
            opened.map_err(|error| format!("the state file {}: {error}", path.display()))?;
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

    /// Takes part in the election, if there is one.
    fn join(
        &self,
        ledger: &Arc<SharedLedger>,
        options: &Options,
        cx: &BuildContext,
    ) -> Result<Option<Membership>, String> {
        let Some(election) = cx.extensions.get::<LeaderElection>() else {
            return Ok(None);
        };
        let reports = (&cx.health, &cx.metrics);
        let member = (&self.name, ledger);
        let joined = self.election.join(&election, member, options, reports)?;
        Ok(Some(joined))
    }
}

/// The watches of objects that belong to those that are billed.
fn watches_of_others(related: Vec<RelatedWatch<'_>>, watched: &Watched) -> Vec<Watch> {
    let related = related.into_iter().map(|it| Watch {
        name: it.name,
        namespace: it.namespace,
        watched: Arc::new(watched.of_related(it.relation, it.resource_type, it.reads)),
        restored: None,
    });
    let slices = watched.options.projection.slices.iter();
    let slices = slices.map(|reads| Watch {
        name: CLAIM_DEVICES.into(),
        namespace: None,
        watched: Arc::new(watched.of_slices(reads)),
        restored: None,
    });
    related.chain(slices).collect()
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
            node_labels: false,
            reads: Reads::All,
            tables: Tables::default(),
            name: LedgerName::new("pod", None),
            files: Arc::default(),
            election: Arc::default(),
        }
    }

    #[test]
    fn objects_of_all_namespaces_that_name_who_pays_are_warned_of() {
        let subject = Reads::of(&["metadata.annotations.openmeter~1io/subject"]);
        let warned = |namespaces: &[&str], resource_type, reads: &Reads| {
            let mut plan = plan(namespaces);
            plan.resource_type = resource_type;
            plan.names_subjects(&Projection::of(reads, resource_type))
        };
        assert!(warned(&[], ResourceType::Pod, &subject));
        assert!(!warned(&["a"], ResourceType::Pod, &subject));
        assert!(!warned(&[], ResourceType::Node, &subject));
        let namespace = Reads::of(&["namespace().annotations.openmeter~1io/subject"]);
        assert!(!warned(&[], ResourceType::Pod, &namespace));
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
    fn labels_of_nodes_are_watched_only_if_the_configuration_says_so() {
        let declared = [
            "metadata.labels.app",
            "node_labels().nvidia~1com/gpu~1product",
            "devices().counts~",
        ];
        let projection = |node_labels, more: &[&str]| {
            let mut plan = plan(&[]);
            plan.node_labels = node_labels;
            plan.reads = Reads::of(&[&declared[..], more].concat());
            plan.options(Cluster::default(), &context()).projection
        };
        let related = |projection: &Projection| -> Vec<String> {
            let related = projection.related.iter();
            related
                .map(|(relation, reads)| format!("{relation:?} {reads}"))
                .collect()
        };
        let without = projection(false, &[]);
        assert_eq!(related(&without), [""; 0]);
        let kept = without.kept.to_string();
        assert!(!kept.contains("()"), "{kept}");
        // What is kept only for reports need not be in an object that an earlier configuration kept.
        assert!(kept.contains("spec.resourceClaims"), "{kept}");
        let read = without.read.to_string();
        assert!(!read.contains("spec.resourceClaims"), "{read}");
        let label = "Node labels.nvidia~1com/gpu~1product";
        assert_eq!(related(&projection(true, &[])), [label]);
        let more = ["node().labels.owner"];
        assert_eq!(related(&projection(false, &more)), ["Node labels.owner"]);
        let both = "Node labels.nvidia~1com/gpu~1product, labels.owner";
        assert_eq!(related(&projection(true, &more)), [both]);
    }

    #[test]
    fn slices_are_watched_only_where_devices_of_claims_are_read() {
        let watches = |resource_type, reads: &[&str]| -> (Vec<String>, bool) {
            let mut plan = plan(&[]);
            plan.resource_type = resource_type;
            plan.reads = Reads::of(reads);
            let options = plan.options(Cluster::default(), &context());
            let counts = options.named_devices.is_some();
            let parts = Parts::new(options, 0);
            let related = related_watches(&parts.options.projection.related, &[]);
            let watches = watches_of_others(related, &parts.watched()).into_iter();
            (watches.map(|it| it.name.to_string()).collect(), counts)
        };
        let reads = ["claim_devices()", "devices().counts~", "namespace().name"];
        let both = ["namespace()", "claim_devices()"].map(ToOwned::to_owned);
        assert_eq!(
            watches(ResourceType::ResourceClaim, &reads),
            (both.to_vec(), true)
        );
        let namespace = vec!["namespace()".to_owned()];
        assert_eq!(watches(ResourceType::Pod, &reads), (namespace, true));
        assert_eq!(
            watches(ResourceType::ResourceClaim, &["status"]),
            (vec![], false)
        );
        assert!(!watches(ResourceType::ResourceClaim, &["devices().counts~"]).1);
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
            let state = dir.path().join("state.sqlite");
            plan.files.claim(&state, &plan.name, "input").unwrap();
            plan.state = Some(state);
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
