//! Random pods: containers of every kind, overhead, resources of the whole pod, resizes in every state,
//! and amounts in every notation.

use serde_json::{Map, Value, json};

/// Resources of every class: what can be resized, what can be set for a whole pod, and devices.
pub const NAMES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "hugepages-2Mi",
    "nvidia.com/gpu",
    "nvidia.com/mig-1g.5gb",
    "nvidia.com/gpu.shared",
    "amd.com/gpu",
    "aws.amazon.com/neuron",
    "aws.amazon.com/neuroncore",
    "example.com/fpga",
];

const SUFFIXES: &[&str] = &[
    "", "", "", "m", "m", "u", "n", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Gi", "Ti",
    "Pi", "Ei", "e3", "E3", "e-2", "e+2", "e0",
];

const MALFORMED: &[&str] = &["", "x", "-1", "1.2.3", "1 Gi", "1gb", "NaN"];

/// Random numbers, the same for the same seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// The next number below `limit`, by `SplitMix64`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let limit = u64::try_from(limit).unwrap_or(1).max(1);
        usize::try_from(mixed % limit).unwrap_or(0)
    }

    /// Whether something of this probability happens.
    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, list: &[T], otherwise: T) -> T {
        list.get(self.below(list.len()))
            .copied()
            .unwrap_or(otherwise)
    }

    /// An amount, seldom one that is null, a number or malformed.
    fn amount(&mut self) -> Value {
        match self.below(200) {
            0 => Value::Null,
            1 => self.one_of(MALFORMED, "").into(),
            2..6 => self.below(9).into(),
            6 => json!(0.25),
            7 => "9223372036854775807".into(),
            _ => {
                let whole = match self.below(4) {
                    0 => self.below(3),
                    1 => self.below(20),
                    _ => self.below(3000),
                };
                let fraction = match self.below(6) {
                    0 => format!(".{}", self.below(10)),
                    1 => format!(".{:03}", self.below(1000)),
                    _ => String::new(),
                };
                format!("{whole}{fraction}{}", self.one_of(SUFFIXES, "")).into()
            }
        }
    }

    /// A resource list.
    fn list(&mut self) -> Map<String, Value> {
        let mut list = Map::new();
        for name in NAMES {
            let percent = if matches!(*name, "cpu" | "memory") {
                70
            } else {
                15
            };
            if self.percent(percent) {
                list.insert((*name).to_owned(), self.amount());
            }
        }
        list
    }

    fn resources(&mut self) -> Map<String, Value> {
        let mut resources = Map::new();
        let requests = self.percent(85).then(|| self.list());
        let limits = match self.below(4) {
            0 => requests.clone(),
            1 => None,
            _ => Some(self.list()),
        };
        if let Some(requests) = requests {
            resources.insert("requests".into(), requests.into());
        }
        if let Some(limits) = limits {
            resources.insert("limits".into(), limits.into());
        }
        resources
    }

    /// What a status says of `desired`, in one of the states of a resize.
    fn status(&mut self, desired: &Map<String, Value>) -> Map<String, Value> {
        let mut status = Map::new();
        let mut say = |allocated: Option<Value>, actual: Option<Value>| {
            let fields = [("allocatedResources", allocated), ("resources", actual)];
            for (key, value) in fields {
                value.map(|value| status.insert(key.into(), value));
            }
        };
        let other = self.resources();
        let requests = |of: &Map<String, Value>| of.get("requests").cloned();
        match self.below(12) {
            // A status from before resizes.
            0..3 => {}
            // Settled.
            3 | 4 => say(requests(desired), Some(desired.clone().into())),
            // Infeasible or deferred.
            5 | 6 => say(requests(&other), Some(other.clone().into())),
            // In progress: granted, and not applied.
            7 => say(requests(desired), Some(other.into())),
            // In progress after another wish.
            8 => {
                let third = self.resources();
                say(requests(&other), Some(third.into()));
            }
            // A kubelet that does not report what is allocated.
            9 => say(None, Some(other.into())),
            10 => say(requests(&other), None),
            // A container without resources, and values of other types.
            _ => {
                let odd = [json!({}), Value::Null, json!("x"), json!({"limits": null})];
                let at = self.below(odd.len());
                say(Some(Value::Null), odd.get(at).cloned());
            }
        }
        status
    }

    /// Containers of one list and their statuses.
    fn containers(&mut self, prefix: &str, count: usize) -> (Vec<Value>, Vec<Value>) {
        let (mut containers, mut statuses) = (Vec::new(), Vec::new());
        for index in 0..count {
            let name = format!("{prefix}{index}");
            let desired = self.resources();
            let mut container = Map::new();
            container.insert("name".into(), name.as_str().into());
            container.insert("image".into(), "example.com/app:1".into());
            if self.percent(95) {
                container.insert("resources".into(), desired.clone().into());
            }
            if self.percent(if prefix == "i" { 50 } else { 15 }) {
                let policies = ["Always", "Always", "Always", "OnFailure", "Never"];
                let policy = self.one_of(&policies, "Always");
                container.insert("restartPolicy".into(), policy.into());
            }
            if self.percent(85) {
                let mut status = self.status(&desired);
                status.insert("name".into(), name.into());
                status.insert("restartCount".into(), self.below(3).into());
                let at = self.below(statuses.len() + 1);
                statuses.insert(at, status.into());
            }
            containers.push(container.into());
        }
        (containers, statuses)
    }
}

/// Returns the pod of a seed.
#[must_use]
pub fn pod(seed: u64) -> Value {
    let mut dice = Dice(seed);
    let count = 1 + dice.below(4);
    let (containers, mut statuses) = dice.containers("c", count);
    let count = dice.below(5);
    let (init, mut init_statuses) = dice.containers("i", count);
    let count = dice.below(2);
    let (ephemeral, ephemeral_statuses) = dice.containers("e", count);
    if dice.percent(5) {
        // Statuses of containers that are in the other list, which say nothing.
        std::mem::swap(&mut statuses, &mut init_statuses);
    }
    let mut spec = Map::new();
    spec.insert("nodeName".into(), "node-1".into());
    spec.insert("containers".into(), containers.into());
    spec.insert("ephemeralContainers".into(), ephemeral.into());
    let condition = json!({"type": "PodResizePending", "reason": "Infeasible"});
    let mut status = Map::new();
    status.insert("phase".into(), "Running".into());
    status.insert("conditions".into(), vec![condition].into());
    status.insert("containerStatuses".into(), statuses.into());
    status.insert(
        "ephemeralContainerStatuses".into(),
        ephemeral_statuses.into(),
    );
    if !init.is_empty() {
        spec.insert("initContainers".into(), init.into());
        status.insert("initContainerStatuses".into(), init_statuses.into());
    } else if dice.percent(30) {
        spec.insert("initContainers".into(), Value::Null);
        status.insert("initContainerStatuses".into(), Value::Null);
    }
    let desired = dice.resources();
    if dice.percent(35) {
        spec.insert("resources".into(), desired.clone().into());
    }
    if dice.percent(35) {
        status.extend(dice.status(&desired));
    }
    if dice.percent(35) {
        spec.insert("overhead".into(), dice.list().into());
    }
    let status = if dice.percent(2) {
        Value::Null
    } else {
        status.into()
    };
    let metadata = json!({"name": format!("pod-{seed}"), "annotations": {"example.com/x": "1"}});
    json!({"metadata": metadata, "spec": spec, "status": status})
}
