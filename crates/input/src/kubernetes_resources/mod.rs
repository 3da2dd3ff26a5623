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
mod input;
mod keys;
mod leader;
mod ledger;
mod lifetime;
mod messages;
mod metrics;
mod object;
mod options;
mod rejected;
mod related;
mod resource_type;
mod state;
#[cfg(test)]
mod testing;
mod unbilled;
mod watch;

use std::{collections::BTreeSet, time::Duration};

use meterline_config::{Configure, GoDuration, InputSpec, Located, PlanContext, Spec};
use meterline_core::{InputPlan, Reads, foreseen::Foreseen};
use serde::Deserialize;

use self::{build::Plan, lifetime::BilledFrom, resource_type::ResourceType};
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
    /// What to watch: `pod`, `node`, `persistentvolume` or `persistentvolumeclaim`.
    #[serde(default)]
    resource_type: ResourceType,
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
    /// Whether pods are billed from their creation, whatever `from` says.
    #[serde(default)]
    include_pending_pods: bool,
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
    /// The path of the file, which no other input uses; the file is created if it does not exist. Without a path the
    /// ledger is in memory only.
    #[serde(default)]
    path: Option<String>,
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
        let namespaces = self.namespaces(cx);
        let from = self.from(cx);
        let label_selector = self
            .label_selector
            .map(|it| it.value)
            .filter(|it| !it.trim().is_empty());
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
            state: self
                .state
                .path
                .filter(|it| !it.trim().is_empty())
                .map(Into::into),
            lookback: self.lookback.0,
            max_backlog: self.max_backlog.0,
            cluster_name: self.cluster.filter(|it| !it.is_empty()).map(Into::into),
            interval: DEFAULT_INTERVAL,
            reads: Reads::All,
        }))
    }
}

impl Config {
    /// From when on pods are billed.
    fn from(&self, cx: &mut PlanContext<'_>) -> BilledFrom {
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
                    "objects of the type `{}` are billed from their creation; `from` has no effect",
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
            assert!(found[0].contains("`from` has no effect"), "{found:?}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused() {
        assert!(found("namespace: a")[0].contains("namespaces"));
        assert!(found("resource_type: pods")[0].contains("pod"));
    }
}
