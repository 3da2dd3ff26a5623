//! Reports the time for which pods hold what may be devices although nothing says so, on `/metrics`, on `/ready` and
//! once in the log.
//!
//! An extended resource that is not in the table of accelerators is billed by no mapping, unless the mapping names it;
//! nor is a device that a pod claims, nor, of a claim, a device of a driver that is not in the table of drivers. Their time is counted once the window is settled; rejected usage is made again,
//! and counted then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use meterline_core::{BuildContext, HealthHandle, Metrics, Outcome, Settled};
use meterline_ledger::{Content as _, DeliveryTag, OTHER, WindowBatch};
use meterline_script::{unknown_claim_devices, unknown_devices};
use tracing::warn;

use super::{messages, object::BilledObject, options::Options, resource_type::ResourceType};

/// How many resources and how many namespaces have a name in the metric: the first ones. The rest is [`OTHER`].
const MOST_NAMES: usize = 50;
/// How many resources the text on `/ready` names.
const MOST_SHOWN: usize = 5;

/// What one piece of a window holds of one resource.
struct Held {
    /// The number of the piece in its window.
    piece: usize,
    resource: Arc<str>,
    namespace: Arc<str>,
    seconds: i64,
}

/// See the module documentation.
pub(super) struct UnknownDevices {
    /// The resources that the pipeline names.
    named: BTreeSet<String>,
    kind: ResourceType,
    label: Arc<str>,
    metrics: Metrics,
    health: HealthHandle,
    /// Of windows that are being sent; most have nothing.
    sent: HashMap<DeliveryTag, Vec<Held>>,
    /// The names in the metric, and of the resources an example.
    resources: BTreeMap<Arc<str>, String>,
    namespaces: BTreeSet<Arc<str>>,
    /// Device-seconds by resource and namespace.
    seconds: BTreeMap<(Arc<str>, Arc<str>), i64>,
}

impl UnknownDevices {
    /// Of the input that is being built; `None` if its pipeline counts no devices.
    pub(super) fn of(options: &Options, cx: &BuildContext) -> Option<Self> {
        let named = options.named_devices.clone()?;
        let health = cx.health.register(format!("devices {}", cx.label));
        health.ready("");
        Some(Self {
            named,
            kind: options.resource_type,
            label: Arc::clone(&cx.label),
            metrics: cx.metrics.clone(),
            health,
            sent: HashMap::new(),
            resources: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            seconds: BTreeMap::new(),
        })
    }

    /// A window is sent.
    pub(super) fn sent(&mut self, batch: &WindowBatch<BilledObject>) {
        let mut held = Vec::new();
        for (number, piece) in batch.pieces.iter().enumerate() {
            let object = piece.content.document.root();
            let unknown = match self.kind {
                ResourceType::ResourceClaim => unknown_claim_devices(object, &self.named),
                _ => unknown_devices(object, &self.named),
            };
            for device in unknown {
                let (resource, namespace) = self.names(device.resource, &piece.content);
                held.push(Held {
                    piece: number,
                    resource,
                    namespace,
                    seconds: device.count.saturating_mul(piece.seconds()),
                });
            }
        }
        if !held.is_empty() {
            self.sent.insert(batch.tag, held);
        }
    }

    /// A window has a result. What is rejected is made again.
    pub(super) fn settled(&mut self, tag: DeliveryTag, outcomes: &Settled) {
        let Some(held) = self.sent.remove(&tag) else {
            return;
        };
        let is_rejected = |outcome: &Outcome| matches!(outcome, Outcome::Rejected(_));
        let undelivered = &outcomes.undelivered;
        if !outcomes.outcome.is_settled()
            || (undelivered.is_empty() && is_rejected(&outcomes.outcome))
        {
            return;
        }
        let rejected = undelivered.iter().filter(|(_, it)| is_rejected(it));
        let rejected: HashSet<_> = rejected
            .filter_map(|(number, _)| usize::try_from(*number).ok())
            .collect();
        for held in held {
            if !rejected.contains(&held.piece) {
                let key = (held.resource, held.namespace);
                let sum = self.seconds.entry(key).or_default();
                *sum = sum.saturating_add(held.seconds);
            }
        }
        self.show();
    }

    /// The names of a resource and of a namespace in the metric. Logs a resource that is new.
    fn names(&mut self, resource: &str, content: &BilledObject) -> (Arc<str>, Arc<str>) {
        let owner = content.owner();
        let namespace = match self.namespaces.get(owner) {
            Some(known) => Arc::clone(known),
            None if self.namespaces.len() < MOST_NAMES => {
                let name: Arc<str> = owner.into();
                self.namespaces.insert(Arc::clone(&name));
                name
            }
            None => OTHER.into(),
        };
        if let Some((known, _)) = self.resources.get_key_value(resource) {
            return (Arc::clone(known), namespace);
        }
        let name: Arc<str> = match self.resources.len() {
            ..MOST_NAMES => resource.into(),
            _ if self.resources.contains_key(OTHER) => return (OTHER.into(), namespace),
            _ => OTHER.into(),
        };
        let example = messages::about(content, self.kind).to_string();
        warn!(
            label = %self.label,
            resource = &*name,
            of = %example,
            "nothing says whether this is a device, and its time is not billed: {}",
            self.remedy(&name),
        );
        self.resources.insert(Arc::clone(&name), example);
        (name, namespace)
    }

    /// What to do about a resource or a driver.
    fn remedy(&self, resource: &str) -> String {
        match resource {
            OTHER => format!("all beyond {MOST_NAMES} names"),
            _ if self.kind == ResourceType::ResourceClaim => format!(
                "say what its devices are in the argument of `claim_devices`, such as `#{{ \"{resource}\": #{{ unit: \
                 \"card\" }} }}`; the unit `share` stands for no device"
            ),
            _ if resource.contains('/') => format!(
                "say what it is in the argument of `devices` or `pod_metrics`, such as `#{{ \"{resource}\": #{{ \
                 unit: \"card\" }} }}`; the unit `share` stands for no device"
            ),
            _ => format!(
                "devices that a pod claims are billed with the claim, by another input with `resource_type: \
                 resourceclaim`; `#{{ \"{resource}\": #{{ unit: \"share\" }} }}` as the argument of `devices` or \
                 `pod_metrics` says that they are"
            ),
        }
    }

    fn show(&self) {
        let values: Vec<_> = self
            .seconds
            .iter()
            .map(|((resource, namespace), seconds)| {
                let labels = [&self.label, resource, namespace].map(Arc::clone);
                (labels.to_vec(), *seconds)
            })
            .collect();
        self.metrics.replace(
            "ledger_unbilled_device_seconds",
            "Seconds for which pods held extended resources that nothing says are devices, or resource claims, \
             and claims held devices of drivers that nothing names, times how many; they are not billed (the first \
             50 resources and namespaces, and other).",
            &["label", "resource", "namespace"],
            &self.label,
            &values,
        );
        let mut by_resource: BTreeMap<&Arc<str>, i64> = BTreeMap::new();
        for ((resource, _), seconds) in &self.seconds {
            let sum = by_resource.entry(resource).or_default();
            *sum = sum.saturating_add(*seconds);
        }
        let mut parts: Vec<_> = by_resource
            .iter()
            .take(MOST_SHOWN)
            .map(|(resource, seconds)| {
                let example = self.resources.get(*resource).map_or("", String::as_str);
                let remedy = self.remedy(resource);
                format!("{seconds} device-seconds of `{resource}`, such as of {example} ({remedy})")
            })
            .collect();
        let more = by_resource.len().saturating_sub(MOST_SHOWN);
        if more > 0 {
            parts.push(format!("and {more} more resources"));
        }
        if !parts.is_empty() {
            self.health.ready(format!(
                "not known as devices and not billed: {}",
                parts.join("; ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Cause, Document, Health};
    use meterline_ledger::{Accounting, Interval, Ledger, Observation, Times};
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes_resources::{testing, watch::Cluster};

    struct Scene {
        ledger: Ledger<BilledObject>,
        unknown: UnknownDevices,
        health: Health,
        metrics: Metrics,
    }

    impl Scene {
        fn new(named: &[&str]) -> Self {
            Self::of(ResourceType::Pod, named)
        }

        fn of(resource_type: ResourceType, named: &[&str]) -> Self {
            let cx = BuildContext::default().labelled("x");
            let mut options = testing::options(Cluster::default());
            options.resource_type = resource_type;
            assert!(UnknownDevices::of(&options, &cx).is_none());
            options.named_devices = Some(named.iter().map(|&it| it.to_owned()).collect());
            Self {
                ledger: Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0),
                unknown: UnknownDevices::of(&options, &cx).unwrap(),
                health: cx.health.clone(),
                metrics: cx.metrics.clone(),
            }
        }

        /// A pod that ran for the first ten seconds.
        fn ran(&mut self, namespace: &str, name: &str, spec: &Value) {
            self.existed(
                &json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec}),
            );
        }

        /// An object that is billed for the first ten seconds.
        fn existed(&mut self, content: &Value) {
            let name = content["metadata"]["name"].as_str().unwrap();
            self.ledger.apply(Observation {
                uid: name.into(),
                start: Some(0),
                end: Some(10),
                content: BilledObject::from(Document::from(content)),
                content_since: None,
                observed_at: 10,
                in_scope_since: None,
                times: Times::default(),
            });
        }

        /// The first window gets this result.
        fn settle(&mut self, outcome: Outcome, undelivered: Vec<(u32, Outcome)>) {
            let batch = self.ledger.next(10).unwrap();
            self.unknown.sent(&batch);
            let outcomes = Settled {
                outcome,
                undelivered,
            };
            self.unknown.settled(batch.tag, &outcomes);
            assert!(self.unknown.sent.is_empty());
        }

        fn counted(&self) -> BTreeMap<String, f64> {
            let of = |name: &str| {
                Some(
                    name.strip_prefix("ledger_unbilled_device_seconds")?
                        .to_owned(),
                )
            };
            let values = self.metrics.values();
            values
                .iter()
                .filter_map(|(name, value)| Some((of(name)?, *value)))
                .collect()
        }

        fn shown(&self) -> String {
            let report = self.health.report();
            assert!(report.ready);
            let mut parts = report.parts.iter();
            let (.., text) = parts.find(|(name, ..)| &**name == "devices x").unwrap();
            text.to_string()
        }
    }

    fn with(limits: &Value) -> Value {
        json!({"containers": [{"resources": {"limits": limits}}]})
    }

    #[test]
    fn time_of_what_nothing_names_is_counted_and_shown_with_a_remedy() {
        let mut scene = Scene::new(&["example.com/fuse"]);
        let npus = json!({"example.com/npu": "2", "example.com/fuse": "1", "nvidia.com/gpu": "1"});
        scene.ran("shop", "a", &with(&npus));
        scene.ran(
            "bank",
            "b",
            &json!({"containers": [], "resourceClaims": [{"name": "gpu"}]}),
        );
        scene.ran("bank", "c", &with(&json!({"nvidia.com/gpu": "1"})));
        assert_eq!(scene.shown(), "");
        scene.settle(Outcome::Delivered, Vec::new());
        let label = |resource: &str, namespace: &str| {
            format!("{{label=\"x\",namespace=\"{namespace}\",resource=\"{resource}\"}}")
        };
        let expected = [
            (label("example.com/npu", "shop"), 20.0),
            (label("spec.resourceClaims", "bank"), 10.0),
        ];
        assert_eq!(scene.counted(), expected.into());
        let shown = scene.shown();
        for part in [
            "not known as devices and not billed: 20 device-seconds of `example.com/npu`",
            "such as of pod shop/a",
            "`#{ \"example.com/npu\": #{ unit: \"card\" } }`",
            "10 device-seconds of `spec.resourceClaims`, such as of pod bank/b",
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }

    #[test]
    fn devices_of_a_driver_that_nothing_names_are_counted_and_shown_with_a_remedy() {
        let mut scene = Scene::of(ResourceType::ResourceClaim, &["npu.example.com"]);
        let drivers = ["dra.net", "npu.example.com", "gpu.nvidia.com", "dra.net"];
        let results = drivers.map(|it| json!({"driver": it, "pool": "n", "device": "d"}));
        scene.existed(&json!({
            "metadata": {"name": "a", "namespace": "shop"},
            "status": {"allocation": {"devices": {"results": results}}},
        }));
        scene.settle(Outcome::Delivered, Vec::new());
        let label = "{label=\"x\",namespace=\"shop\",resource=\"dra.net\"}".to_owned();
        assert_eq!(scene.counted(), [(label, 20.0)].into());
        let shown = scene.shown();
        for part in [
            "20 device-seconds of `dra.net`, such as of resourceclaim shop/a",
            "in the argument of `claim_devices`, such as `#{ \"dra.net\": #{ unit: \"card\" } }`",
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }

    #[test]
    fn what_is_made_again_is_counted_only_then() {
        let rejected = || Outcome::rejected(Cause::Processing, "mapping", "no such field");
        let dropped = || Outcome::Dropped("unarchive".into());
        for (outcome, undelivered, expected) in [
            (Outcome::Lost, Vec::new(), None),
            (rejected(), Vec::new(), None),
            (Outcome::Delivered, vec![(0, rejected())], Some(10.0)),
            (Outcome::Delivered, vec![(1, dropped())], Some(20.0)),
            (dropped(), Vec::new(), Some(20.0)),
        ] {
            let mut scene = Scene::new(&[]);
            for name in ["a", "b"] {
                scene.ran("shop", name, &with(&json!({"example.com/npu": "1"})));
            }
            scene.settle(outcome.clone(), undelivered);
            let counted = scene.counted();
            assert_eq!(counted.values().next().copied(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn names_are_bounded_and_no_second_is_lost() {
        let mut scene = Scene::new(&[]);
        for number in 0..60 {
            let limits = json!({format!("example.com/npu-{number:02}"): "1"});
            scene.ran(
                &format!("ns-{number:02}"),
                &format!("pod-{number:02}"),
                &with(&limits),
            );
        }
        scene.settle(Outcome::Delivered, Vec::new());
        let counted = scene.counted();
        assert_eq!(counted.len(), 51);
        assert_eq!(counted.values().sum::<f64>(), 600.0);
        let other = "{label=\"x\",namespace=\"other\",resource=\"other\"}";
        assert_eq!(counted[other], 100.0);
        assert!(
            scene.shown().ends_with("and 46 more resources"),
            "{}",
            scene.shown()
        );
    }
}
