//! `kubernetes_resources`: what ran in the cluster, window by window.
//!
//! Watches objects, records their lifetimes in the ledger and yields one batch per window, with one message for
//! each segment in which an object ran unchanged. A window is made once it is complete: its end lies `settle`
//! in the past and every watch is known to be current past that end. A batch that failed is sent again with the
//! same events.
//!
//! The watches run in tasks that the input owns: they continue while back-pressure stops the reads, because the
//! ledger has to be complete when the sink is available again.

mod budgets;
mod build;
mod clock;
mod delivery;
mod device_slices;
mod input;
mod keys;
mod leader;
mod ledger;
mod ledger_name;
mod lifetime;
mod lookup_tables;
mod messages;
mod metrics;
mod object;
mod options;
mod rejected;
mod related;
mod related_watches;
mod resource_type;
mod state;
mod table_watch;
#[cfg(test)]
mod testing;
mod unbilled;
mod unknown_devices;
mod watch;

use std::{collections::BTreeSet, path::Path, time::Duration};

use meterline_config::{Configure, GoDuration, InputSpec, Located, PlanContext, Spec};
use meterline_core::{InputPlan, Reads, foreseen::Foreseen};
use meterline_script::{Engine, Limits};
use serde::Deserialize;

use self::{
    build::{Nothing, Plan, Tables},
    ledger_name::LedgerName,
    lifetime::{BilledFrom, VolumePhase},
    resource_type::ResourceType,
    state::StateFiles,
};
pub use self::{keys::KEYS, leader::LeaderElection};

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
    "kubernetes_resources:\n  resource_type: persistentvolume\n  phase: Released\n",
];

/// The interval of an input that no `schedule` drives.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

/// Configuration of `kubernetes_resources`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The namespaces to watch. Each has its own watch, so a Role in each is enough. No name, or an empty
    /// one, means all namespaces. A name may be a comma-separated list of names.
    #[serde(default)]
    namespaces: Vec<Located<String>>,
    /// What to watch. `pod`: see `from`. `node`: from creation to removal. `persistentvolumeclaim`: from when it is
    /// bound to its removal, or until its volume is lost. `persistentvolume`: from creation to removal, or see `phase`.
    /// `service`: services of the type `LoadBalancer`, from when they are of it until they are not or are removed,
    /// once they have an address; other services cost nothing. `volumesnapshot`: from when the snapshot was taken to
    /// its removal, once it is ready to use. `resourceclaim`: while devices are allocated to the claim, other than for
    /// administration; a claim that stands for a resource that a pod requests costs nothing, because that is billed
    /// with the pod; `claim_devices()` says what the devices are. The cluster may do without the last two. A removal is
    /// when the object is gone, not when its deletion is requested.
    #[serde(default)]
    resource_type: ResourceType,
    /// Whether the input watches anything: a script that returns true or false and reads no message, such as
    /// `'"${BILL_VOLUMES}" == "yes"'`. Without it the input does.
    #[serde(default)]
    enabled: Option<Located<String>>,
    /// Watches only objects whose labels match this selector, in kubectl's syntax.
    #[serde(default)]
    label_selector: Option<Located<String>>,
    /// From when on pods are billed. `started`: when the first container of any kind started, init containers and
    /// sidecars included. `scheduled`: when the pod was bound to its node (condition `PodScheduled`). `running`: when
    /// the first regular container started, once the phase is `Running`; a pod that is over counts if one of its
    /// regular containers ran. Where a status says that a container ran but not since when, the pod's `startTime`
    /// stands for it, or else when it was scheduled or created.
    #[serde(default)]
    from: Option<Located<From>>,
    /// The phase in which persistent volumes are billed: `Available`, `Bound`, `Released` or `Failed`, each time from
    /// when a volume enters it (`status.lastPhaseTransitionTime`) until it leaves it or is removed. Without it they are
    /// billed in every phase.
    #[serde(default)]
    phase: Option<Located<VolumePhase>>,
    /// Whether pods are billed from their creation, whatever `from` says.
    #[serde(default)]
    include_pending_pods: bool,
    /// Whether `devices()` and `pod_gpu_type()` use the labels of a pod's node, where it has them: product and memory of
    /// its devices, and how they are shared. Then the input watches nodes, needs the right to read them, and a window
    /// waits until that watch is current, too. What else a mapping reads of `node()` does not depend on it.
    #[serde(default)]
    node_labels: Option<Located<bool>>,
    /// `exact` bills the seconds that an object ran; `nominal` bills a whole interval for each object that ran when
    /// the interval began, and nothing for an object that started and ended within one interval.
    #[serde(default)]
    accounting: Accounting,
    /// How long after its end a window is made, so that late events of it can arrive.
    #[serde(default = "default_settle")]
    settle: GoDuration,
    /// The state file, with which the ledger survives restarts and crashes.
    #[serde(default)]
    state: State,
    /// How far back windows are made again at the start, from the times that the API server has. Used if no state
    /// shows which windows were delivered. An object does not hold everything that was seen. For these pods the state
    /// decides, and without one the windows that are made again may differ: a finish that is not recorded counts as
    /// the last report of the status or, without managed fields, as the moment at which it is seen again; the clock
    /// of a node that is ahead of the API server's is corrected by the last report only; a start before the last but
    /// one restart of a container is not known, nor is a pause of a pod that had failed and that runs again.
    #[serde(default = "default_lookback")]
    lookback: GoDuration,
    /// How old a window may get while it cannot be delivered. An older window is given up, with an error: the
    /// ingest API would not recognise a duplicate of it.
    #[serde(default = "default_max_backlog")]
    max_backlog: GoDuration,
    /// The name of the cluster. It is part of each event's id, for clusters that were restored from one backup and
    /// whose objects have the same UIDs.
    #[serde(default)]
    cluster: Option<String>,
}

/// The state file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The path of the file, which is created if it does not exist and which no other process uses. Inputs of one
    /// process may share it: each has its own ledger in it, which is found again by the resource type and the label of
    /// the input, so inputs of the same type need labels. Ledgers in it that no input has any more stay. Without a path
    /// the ledger is in memory only.
    #[serde(default)]
    path: Option<Located<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum From {
    Started,
    Scheduled,
    Running,
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

/// How long the ingest API of OpenMeter recognises duplicates.
fn default_max_backlog() -> GoDuration {
    GoDuration(Duration::from_secs(32 * 24 * 3600))
}

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        cx.foresee(Foreseen::usage());
        let is_enabled = self.is_enabled(cx);
        let namespaces = self.namespaces(cx);
        let from = self.from(cx);
        let node_labels = self.node_labels(cx);
        let name = LedgerName::new(self.resource_type.word(), cx.label());
        let files = cx.shared();
        let state = self.state.path.filter(|it| !it.value.trim().is_empty());
        if let Some(path) = state.as_ref().filter(|_| is_enabled) {
            claim(&files, path, &name, cx);
        }
        let label_selector = self
            .label_selector
            .map(|it| it.value)
            .filter(|it| !it.trim().is_empty());
        if !is_enabled {
            return Some(Box::new(Nothing));
        }
        Some(Box::new(Plan {
            namespaces,
            resource_type: self.resource_type,
            label_selector,
            from,
            accounting: match self.accounting {
                Accounting::Exact => meterline_ledger::Accounting::Exact,
                Accounting::Nominal => meterline_ledger::Accounting::Nominal,
            },
            settle: self.settle.0,
            state: state.map(|it| it.value.into()),
            lookback: self.lookback.0,
            max_backlog: self.max_backlog.0,
            cluster_name: self.cluster.filter(|it| !it.is_empty()).map(Into::into),
            interval: DEFAULT_INTERVAL,
            node_labels,
            reads: Reads::All,
            tables: Tables::of(cx),
            name,
            files,
            election: cx.shared(),
        }))
    }
}

/// Records whose ledger is in which file, and reports two inputs that would keep the same one.
fn claim(files: &StateFiles, path: &Located<String>, name: &LedgerName, cx: &mut PlanContext<'_>) {
    let Err(other) = files.claim(Path::new(&path.value), name, &cx.place()) else {
        return;
    };
    let place = cx.place();
    cx.error_at(
        path,
        format!(
            "this input (`{place}`) and `{other}` would keep the same ledger in one file, because both are of the \
             type `{}` and neither has a label; give one of them a `label`, beside `kubernetes_resources`, \
             or another file",
            name.subject
        ),
    );
}

impl Config {
    /// Whether the input watches anything.
    fn is_enabled(&self, cx: &mut PlanContext<'_>) -> bool {
        let Some(enabled) = &self.enabled else {
            return true;
        };
        let engine = Engine::new(Limits::default());
        let Some(expression) = engine.plan_expression(enabled, cx) else {
            return true;
        };
        expression.fixed().unwrap_or_else(|| {
            cx.error_at(
                enabled,
                "this has to be true or false for all messages; compare a variable with a text, as in \
                 `'\"${BILL_VOLUMES:yes}\" == \"yes\"'`",
            );
            true
        })
    }

    /// From when on objects are billed.
    fn from(&self, cx: &mut PlanContext<'_>) -> BilledFrom {
        if let Some(phase) = &self.phase {
            if self.resource_type == ResourceType::PersistentVolume {
                return BilledFrom::InPhase(phase.value);
            }
            cx.error_at(
                phase,
                format!(
                    "`phase` is for persistent volumes, and this input bills objects of the type `{}`",
                    self.resource_type.word()
                ),
            );
        }
        let Some(from) = &self.from else {
            return if self.include_pending_pods {
                BilledFrom::Created
            } else {
                BilledFrom::default()
            };
        };
        if self.resource_type != ResourceType::Pod {
            cx.warning_at(
                from,
                format!(
                    "`from` is for pods; it has no effect on objects of the type `{}`",
                    self.resource_type.word()
                ),
            );
        } else if self.include_pending_pods {
            cx.warning_at(
                from,
                "`include_pending_pods` bills pods from their creation; `from` has no effect"
                    .to_owned(),
            );
            return BilledFrom::Created;
        }
        match from.value {
            From::Started => BilledFrom::Started,
            From::Scheduled => BilledFrom::Scheduled,
            From::Running => BilledFrom::Running,
        }
    }

    /// Whether functions for devices use the labels of nodes.
    fn node_labels(&self, cx: &mut PlanContext<'_>) -> bool {
        let Some(node_labels) = self.node_labels.as_ref().filter(|it| it.value) else {
            return false;
        };
        let is_pod = self.resource_type == ResourceType::Pod;
        if !is_pod {
            let word = self.resource_type.word();
            let text = format!(
                "objects of the type `{word}` have no devices; `node_labels` has no effect"
            );
            cx.warning_at(node_labels, text);
        }
        is_pod
    }

    /// The namespaces to watch; none for all.
    fn namespaces(&self, cx: &mut PlanContext<'_>) -> Vec<String> {
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
                            "`{name}` is not a namespace's name: it may contain lower-case letters, \
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
        namespaces.into_iter().collect()
    }
}

/// Whether this is an RFC 1123 label, which the name of a namespace must be.
fn is_namespace_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use meterline_config::{OutputSpec, Registry, Source, load};
    use meterline_core::{BuildContext, BuildError, OutputNode, OutputPlan};

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Nowhere {}

    impl Configure for Nowhere {
        type Plan = dyn OutputPlan;

        fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
            Some(Box::new(Self {}))
        }
    }

    #[async_trait]
    impl OutputPlan for Nowhere {
        async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
            let component = cx.label.clone();
            let reason = "this output sends nothing".to_owned();
            Err(BuildError { component, reason })
        }
    }

    const OUTPUTS: &[OutputSpec] = &[Spec::new::<Nowhere>("nowhere", "Accepts everything.", &[])];

    /// The errors and warnings of a configuration of this input.
    fn found(config: &str) -> Vec<String> {
        let registry = Registry {
            inputs: crate::SPECS,
            buffers: crate::BUFFERS,
            processors: &[],
            outputs: OUTPUTS,
            default_input: "stdin: {}",
            default_output: "nowhere: {}",
        };
        let source = Source {
            name: "c".to_owned(),
            text: format!("input: {{kubernetes_resources: {{{config}}}}}\n"),
            dir: None,
        };
        let found = match load(&source, &[], &|_: &str| None, &registry) {
            Ok((_, warnings)) => warnings,
            Err(errors) => errors,
        };
        let found = found.iter().map(ToString::to_string);
        // The output reads everything, which is warned of as well.
        found.filter(|it| it.starts_with("c:")).collect()
    }

    #[test]
    fn namespaces_may_be_listed_in_one_text_and_blank_ones_mean_all() {
        for config in [
            "",
            "namespaces: ['a, b-2', c]",
            "namespaces: ['']",
            "namespaces: []",
        ] {
            assert_eq!(found(config), [""; 0], "{config}");
        }
    }

    #[test]
    fn a_name_that_no_namespace_can_have_is_refused_with_its_place() {
        for wrong in ["Team", "a_b", "-a", "a-", &"a".repeat(64)] {
            let found = found(&format!("namespaces: [a, {wrong}]"));
            let [error] = found.as_slice() else {
                panic!("{wrong}: {found:?}");
            };
            assert!(
                error.contains(&format!("`{wrong}` is not a namespace's name")),
                "{error}"
            );
            assert!(error.starts_with("c:1:"), "{error}");
        }
    }

    #[test]
    fn namespaces_of_objects_that_belong_to_none_are_warned_of() {
        let found = found("resource_type: node, namespaces: [a]");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("warning") && found[0].contains("has no effect"),
            "{found:?}"
        );
    }

    #[test]
    fn from_is_one_of_three_words_and_warned_of_where_it_has_no_effect() {
        for from in ["started", "scheduled", "running"] {
            assert_eq!(found(&format!("from: {from}")), [""; 0], "{from}");
        }
        let wrong = found("from: created");
        assert!(wrong[0].contains("scheduled"), "{wrong:?}");
        for config in [
            "from: started, resource_type: node",
            "from: scheduled, include_pending_pods: true",
        ] {
            let found = found(config);
            assert_eq!(found.len(), 1, "{config}");
            assert!(found[0].contains("has no effect"), "{found:?}");
        }
    }

    #[test]
    fn a_phase_is_one_of_four_words_and_of_persistent_volumes_only() {
        for phase in ["Available", "Bound", "Released", "Failed"] {
            let config = format!("resource_type: persistentvolume, phase: {phase}");
            assert_eq!(found(&config), [""; 0], "{phase}");
        }
        let wrong = found("resource_type: persistentvolume, phase: Pending");
        assert!(wrong[0].contains("Released"), "{wrong:?}");
        for of in [
            "pod",
            "persistentvolumeclaim",
            "service",
            "volumesnapshot",
            "resourceclaim",
        ] {
            let found = found(&format!("resource_type: {of}, phase: Bound"));
            assert_eq!(found.len(), 1, "{of}");
            assert!(found[0].contains("is for persistent volumes"), "{found:?}");
        }
    }

    #[test]
    fn node_labels_are_warned_of_where_they_have_no_effect() {
        for config in [
            "node_labels: true",
            "node_labels: 'false', resource_type: node",
        ] {
            assert_eq!(found(config), [""; 0], "{config}");
        }
        let warned = found("node_labels: true, resource_type: persistentvolume");
        assert!(
            warned[0].contains("`node_labels` has no effect"),
            "{warned:?}"
        );
        assert!(!found("node_labels: nodes")[0].contains("warning"));
    }

    #[test]
    fn an_input_is_enabled_by_a_script_that_needs_no_message() {
        for enabled in [r#"\"a\" == \"b\""#, "true"] {
            assert_eq!(
                found(&format!("enabled: \"{enabled}\"")),
                [""; 0],
                "{enabled}"
            );
        }
        for (enabled, error) in [
            ("this.a", "true or false for all messages"),
            ("1 +", "enabled"),
            ("1", "true or false for all messages"),
        ] {
            let found = found(&format!("enabled: \"{enabled}\""));
            assert!(found[0].contains(error), "{enabled}: {found:?}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused() {
        assert!(found("namespace: a")[0].contains("namespaces"));
        assert!(found("resource_type: pods")[0].contains("pod"));
    }
}
