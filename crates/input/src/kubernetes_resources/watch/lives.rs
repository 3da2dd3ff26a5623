//! Lives of pods as one collector sees them while they happen (live), and as another one reads them afterwards from
//! the objects that are left (replay).
//!
//! The intervals of each are compared id by id: an id is the object and the second at which an interval begins.

mod any;
mod kinds;
mod others;

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt;
use meterline_core::Reads;
use meterline_ledger::{Accounting, DeliveryResult, Interval, Ledger, Observation, Stats};
use serde_json::{Value, json};

use super::objects::{Objects, Restored, Rules};
use crate::kubernetes_resources::{
    lifetime::BilledFrom,
    object::{BilledObject, Known, KnownLife, Object, Projection, keeping},
    resource_type::ResourceType,
};

/// The second at which each play begins: the edge of a window for any interval that is used.
const BEGIN: i64 = 1_000_000_200;
/// How long after its end a window is handed out.
const SETTLE: i64 = 3;
const UID: &str = "uid";
/// What the pipeline reads.
const READS: &[&str] = &[
    "metadata.labels",
    "spec.nodeName",
    "spec.volumeName",
    "status.allocation",
    "status.capacity.storage",
    "status.currentVolumeAttributesClassName",
    "status.loadBalancer.ingress.*~",
    "status.phase",
    "status.restoreSize",
];

/// What happens to a pod, with the second at which a watch shows it.
#[derive(Debug, Clone)]
enum Step {
    Put(Value),
    Delete,
}

/// Intervals by their start, in seconds since the begin.
type Billed = BTreeMap<i64, i64>;

/// A collector: what it knows of a collection, and its ledger.
struct Collector {
    rules: Rules,
    objects: Objects,
    ledger: Ledger<BilledObject>,
    billed: Billed,
    last: Option<Object>,
    version: u64,
}

fn time(second: i64) -> String {
    meterline_kubesim::rfc3339(BEGIN + second)
}

impl From<BilledFrom> for Rules {
    fn from(from: BilledFrom) -> Self {
        Self {
            resource_type: ResourceType::Pod,
            from,
            has_selector: false,
        }
    }
}

impl Collector {
    fn new(interval: i64, rules: Rules, horizon: i64) -> Self {
        let interval = Interval::new(interval).unwrap();
        let horizon = interval.floor(BEGIN + horizon);
        Self {
            rules,
            objects: Objects::new(rules, None),
            ledger: Ledger::new(interval, Accounting::Exact, horizon),
            billed: Billed::new(),
            last: None,
            version: 1,
        }
    }

    fn see(&mut self, step: &Step, now: i64) {
        let now = BEGIN + now;
        match step {
            Step::Put(pod) => {
                self.version += 1;
                let mut pod = pod.clone();
                pod["metadata"]["resourceVersion"] = self.version.to_string().into();
                let object = parsed(self.rules.resource_type, pod);
                self.last = Some(object.clone());
                let (before, observation) = self.objects.observed(object, now, now);
                before.into_iter().for_each(|it| self.apply(it));
                self.apply(observation);
            }
            Step::Delete => {
                if let Some(object) = self.last.take() {
                    let (last, at) = self.objects.deleted(&object, None, now);
                    last.into_iter().for_each(|it| self.apply(it));
                    self.ledger.deleted(UID, at);
                }
            }
        }
    }

    fn apply(&mut self, observation: Observation<BilledObject>) {
        self.ledger.apply(observation);
    }

    /// Delivers what is due. No id may be sent twice, and no second.
    fn deliver(&mut self, now: i64) {
        while let Some(batch) = self.ledger.next(BEGIN + now - SETTLE) {
            for piece in &batch.pieces {
                let (start, end) = (piece.start - BEGIN, piece.end - BEGIN);
                assert!(start < end);
                let before = self.billed.insert(start, end);
                assert_eq!(before, None, "the id of {start} is sent twice");
            }
            self.ledger.settle(batch.tag, DeliveryResult::Delivered);
        }
        let ends = self.billed.values();
        let overlaps = ends
            .zip(self.billed.keys().skip(1))
            .any(|(end, start)| end > start);
        assert!(!overlaps, "{:?}", self.billed);
    }

    /// Restarts from what its state holds.
    fn restart(&mut self, now: i64) {
        let interval = self.ledger.interval();
        let changes = self.ledger.take_everything();
        let json = serde_json::to_value(&changes.checkpoint).unwrap();
        let records = changes.records.into_iter().filter_map(|(uid, change)| {
            let change = change?;
            let segments = change.segments.into_iter();
            let segments = segments.filter_map(|it| Some((it.start, it.end, it.content?)));
            let life = serde_json::to_value(&change.life).unwrap();
            let life: meterline_ledger::Record<BilledObject> =
                serde_json::from_value(life).unwrap();
            Some((uid, life.with_segments(segments)))
        });
        let checkpoint = serde_json::from_value(json).unwrap();
        let mut ledger = Ledger::restore(interval, Accounting::Exact, checkpoint, records, []);
        // Late spans and batches are stored in tables of their own, and there are none between two deliveries.
        assert!(changes.late.values().all(Option::is_none));
        std::mem::swap(&mut self.ledger, &mut ledger);
        let known = self.ledger.existing();
        let known = known.filter_map(|it| Some(Known::of(it.uid, it.content?, KnownLife::of(&it))));
        let lives = self.ledger.existing();
        let lives = lives.map(|it| (it.uid.clone(), KnownLife::of(&it)));
        let restored = Restored {
            known: known.collect(),
            seen_at: BEGIN + now,
            version: Some(self.version),
            lives: Arc::new(lives.collect()),
        };
        self.objects = Objects::new(self.rules, Some(restored));
        if let Some(object) = self.last.clone() {
            let (before, observation) = self.objects.observed(object, BEGIN + now, BEGIN + now);
            before.into_iter().for_each(|it| self.apply(it));
            self.apply(observation);
        }
    }

    fn stats(&self) -> Stats {
        self.ledger.stats()
    }
}

/// An object as the watch of its kind parses it.
fn parsed(resource_type: ResourceType, object: Value) -> Object {
    let projection = Projection::of(&Reads::of(READS), resource_type);
    let object = keeping(Arc::new(projection), async move {
        serde_json::from_value(object).unwrap()
    });
    object.now_or_never().unwrap()
}

/// Plays steps, each with the second at which it is seen, and restarts at some seconds.
fn live(
    interval: i64,
    rules: impl Into<Rules>,
    steps: &[(i64, Step)],
    restarts: &[i64],
    until: i64,
) -> Collector {
    let mut collector = Collector::new(interval, rules.into(), -180);
    for now in 0..=until {
        if restarts.contains(&now) {
            collector.restart(now);
        }
        for (_, step) in steps.iter().filter(|(at, _)| *at == now) {
            collector.see(step, now);
        }
        collector.deliver(now);
    }
    collector
}

/// What a collector without a state says at `now` of the object that is left.
fn replay(interval: i64, rules: impl Into<Rules>, left: Option<&Object>, now: i64) -> Billed {
    let mut collector = Collector::new(interval, rules.into(), -180);
    if let Some(object) = left {
        let (before, observation) =
            collector
                .objects
                .observed(object.clone(), BEGIN + now, BEGIN + now);
        before.into_iter().for_each(|it| collector.apply(it));
        collector.apply(observation);
    }
    collector.deliver(now);
    collector.billed
}

fn total(billed: &Billed) -> i64 {
    billed.iter().map(|(start, end)| end - start).sum()
}

/// The stretches that intervals make together.
fn stretches(billed: &Billed) -> Vec<(i64, i64)> {
    let mut stretches: Vec<(i64, i64)> = Vec::new();
    for (&start, &end) in billed {
        match stretches.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => stretches.push((start, end)),
        }
    }
    stretches
}

/// A pod that was created and scheduled at 0 and accepted by its node at `accepted`.
fn pod(policy: &str, phase: &str, accepted: i64, init: Value, containers: Value) -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "n", "uid": UID, "creationTimestamp": time(0)},
        "spec": {"nodeName": "node", "restartPolicy": policy,
            "initContainers": [{"name": "fetch"}, {"name": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "main"}]},
        "status": {"phase": phase, "startTime": time(accepted),
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": time(0)}],
            "initContainerStatuses": init, "containerStatuses": containers},
    })
}

fn status(name: &str, state: Value, before: Option<Value>) -> Value {
    json!({"name": name, "state": state, "lastState": before})
}

fn waiting() -> Value {
    json!({"waiting": {"reason": "PodInitializing"}})
}

fn running(started: Option<i64>) -> Value {
    json!({"running": {"startedAt": started.map(time)}})
}

fn terminated(started: Option<i64>, finished: Option<i64>, code: i64) -> Value {
    json!({"terminated": {"startedAt": started.map(time), "finishedAt": finished.map(time),
        "exitCode": code}})
}
