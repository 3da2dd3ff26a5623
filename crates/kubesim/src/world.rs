//! A population of pods that changes over time, and the truth about it.
//!
//! [`World::step`] is pure: it takes the second and returns what changes in it. Everything happens in
//! whole seconds, so the truth is exact.

#![expect(
    clippy::indexing_slicing,
    reason = "objects are put together from literals here: an absent key is made, none can panic"
)]

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    pod::{PodShape, Size, State, rfc3339},
    store::{Kind, Store},
};

/// What a customer used, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bill {
    /// Seconds that pods ran.
    pub pod_seconds: i128,
    /// Thousandths of a core, times seconds.
    pub millicore_seconds: i128,
    /// Bytes of memory, times seconds.
    pub byte_seconds: i128,
    /// GPUs, times seconds.
    pub gpu_seconds: i128,
}

/// A part of a life in which nothing changed.
#[derive(Debug, Clone)]
struct Segment {
    start: i64,
    shape: PodShape,
}

#[derive(Debug, Clone)]
struct Life {
    segments: Vec<Segment>,
    end: Option<i64>,
}

#[derive(Debug)]
enum Stage {
    Pending { runs_at: i64 },
    Running { ends_at: i64, ends: Ending },
    Finished { deleted_at: i64, state: State },
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Finishes,
    Fails,
    Deleted,
}

#[derive(Debug)]
struct LivePod {
    shape: PodShape,
    stage: Stage,
    state: State,
    life: usize,
}

/// The population. The same seed gives the same history.
#[derive(Debug)]
pub struct World {
    random: StdRng,
    size: Size,
    most: usize,
    made: u64,
    live_pods: Vec<LivePod>,
    lives: Vec<Life>,
}

const CUSTOMERS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];

impl World {
    /// A population of up to `most` pods at a time.
    #[must_use]
    pub fn new(seed: u64, most: usize, size: Size) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            size,
            most,
            made: 0,
            live_pods: Vec::new(),
            lives: Vec::new(),
        }
    }

    /// Advances by one second. Call it once for each second, in order, within that second.
    pub fn step(&mut self, now: i64, store: &mut Store) {
        for mut pod in std::mem::take(&mut self.live_pods) {
            if self.step_pod(&mut pod, now, store) {
                self.live_pods.push(pod);
            }
        }
        for _ in 0..3 {
            if self.live_pods.len() < self.most && self.random.random_bool(0.7) {
                self.create_pod(now, store);
            }
        }
    }

    /// Adds `count` pods that run since `since` and never change, for measurements.
    pub fn populate(&mut self, count: usize, since: i64, store: &mut Store) {
        for _ in 0..count {
            let shape = self.shape(since);
            let state = State::Running { since };
            store.put(Kind::Pod, shape.object(state));
            self.lives.push(Life {
                segments: vec![Segment {
                    start: since,
                    shape,
                }],
                end: None,
            });
        }
    }

    /// What each customer used up to `until`. A pod without annotations is its own customer.
    #[must_use]
    pub fn truth(&self, until: i64) -> BTreeMap<String, Bill> {
        let mut bills: BTreeMap<String, Bill> = BTreeMap::new();
        for life in &self.lives {
            let end = life.end.map_or(until, |end| end.min(until));
            let ends = life
                .segments
                .iter()
                .skip(1)
                .map(|it| it.start.min(end))
                .chain([end]);
            for (segment, segment_end) in life.segments.iter().zip(ends) {
                let seconds = i128::from((segment_end - segment.start).max(0));
                if seconds == 0 {
                    continue;
                }
                let shape = &segment.shape;
                let customer = shape.subject.as_ref().unwrap_or(&shape.name);
                let bill = bills.entry(customer.clone()).or_default();
                bill.pod_seconds += seconds;
                bill.millicore_seconds += seconds * i128::from(shape.total_millicores());
                bill.byte_seconds += seconds * i128::from(shape.total_bytes());
                bill.gpu_seconds += seconds * i128::from(shape.gpus);
            }
        }
        bills
    }

    fn shape(&mut self, now: i64) -> PodShape {
        self.made += 1;
        let random = &mut self.random;
        let customer = CUSTOMERS
            .get(random.random_range(0..CUSTOMERS.len()))
            .copied()
            .unwrap_or_default();
        // Every sixth pod has no annotations; it is billed like any other.
        let annotated = !self.made.is_multiple_of(6);
        PodShape {
            name: format!("worker-{}", self.made),
            namespace: "default".to_owned(),
            uid: Uuid::from_u128(random.random()).to_string(),
            subject: annotated.then(|| customer.to_owned()),
            plan: "basic".to_owned(),
            millicores: 50 * random.random_range(1..=40),
            mebibytes: 64 * random.random_range(1..=64),
            gpus: i64::from(random.random_bool(0.1)),
            sidecar: random.random_bool(0.2),
            size: self.size,
            created: now,
            written: now,
            resized: false,
        }
    }

    fn create_pod(&mut self, now: i64, store: &mut Store) {
        let shape = self.shape(now);
        self.lives.push(Life {
            segments: Vec::new(),
            end: None,
        });
        let runs_at = now + self.random.random_range(0..=2);
        let mut pod = LivePod {
            shape,
            stage: Stage::Pending { runs_at },
            state: State::Waiting,
            life: self.lives.len() - 1,
        };
        if runs_at == now {
            self.run(&mut pod, now);
        }
        store.put(Kind::Pod, pod.shape.object(pod.state));
        self.live_pods.push(pod);
    }

    fn run(&mut self, pod: &mut LivePod, now: i64) {
        // Some live for a second or two, some for longer than any test runs.
        let life = match self.random.random_range(0..10) {
            0 | 1 => self.random.random_range(1..=2),
            2..=6 => self.random.random_range(3..=12),
            _ => self.random.random_range(10..=90),
        };
        let ends = match self.random.random_range(0..10) {
            0..=5 => Ending::Finishes,
            6 | 7 => Ending::Fails,
            _ => Ending::Deleted,
        };
        pod.state = State::Running { since: now };
        pod.stage = Stage::Running {
            ends_at: now + life,
            ends,
        };
        self.begin_segment(pod, now);
    }

    fn begin_segment(&mut self, pod: &LivePod, now: i64) {
        if let Some(life) = self.lives.get_mut(pod.life) {
            if life.segments.last().is_some_and(|it| it.start == now) {
                life.segments.pop();
            }
            life.segments.push(Segment {
                start: now,
                shape: pod.shape.clone(),
            });
        }
    }

    fn end_life(&mut self, pod: &LivePod, now: i64) {
        if let Some(life) = self.lives.get_mut(pod.life) {
            life.end = Some(now);
        }
    }

    /// Simulates one second of a pod's life. Returns false when the pod is deleted.
    fn step_pod(&mut self, pod: &mut LivePod, now: i64, store: &mut Store) -> bool {
        match pod.stage {
            Stage::Pending { runs_at } => {
                if now >= runs_at {
                    self.run(pod, now);
                    store.put(Kind::Pod, pod.shape.object(pod.state));
                }
            }
            Stage::Running { ends_at, ends } if now >= ends_at => {
                return self.end(pod, ends, now, store);
            }
            Stage::Running { .. } => self.change(pod, now, store),
            Stage::Finished { deleted_at, state } => {
                if now >= deleted_at {
                    store.delete(Kind::Pod, deleted(pod.shape.object(state), now));
                    return false;
                }
            }
        }
        true
    }

    fn end(&mut self, pod: &mut LivePod, ends: Ending, now: i64, store: &mut Store) -> bool {
        self.end_life(pod, now);
        let since = match pod.state {
            State::Running { since } => since,
            State::Restarted { again, .. } => again,
            State::Waiting | State::Finished { .. } => now,
        };
        let well = match ends {
            Ending::Deleted => {
                store.delete(Kind::Pod, deleted(pod.shape.object(pod.state), now));
                return false;
            }
            Ending::Finishes => true,
            Ending::Fails => false,
        };
        let state = State::Finished {
            since,
            at: now,
            well,
        };
        pod.stage = Stage::Finished {
            deleted_at: now + self.random.random_range(1..=8),
            state,
        };
        store.put(Kind::Pod, pod.shape.object(state));
        true
    }

    /// Changes a running pod with a small probability.
    fn change(&mut self, pod: &mut LivePod, now: i64, store: &mut Store) {
        match self.random.random_range(0..40) {
            0 => {
                pod.shape.millicores = 50 * self.random.random_range(1..=40);
                (pod.shape.written, pod.shape.resized) = (now, true);
            }
            1 if pod.shape.subject.is_some() => {
                pod.shape.plan = format!("plan-{now}");
                (pod.shape.written, pod.shape.resized) = (now, false);
            }
            2 => {
                if let State::Running { since } = pod.state
                    && since < now
                {
                    pod.state = State::Restarted {
                        first: since,
                        stopped: now,
                        again: now,
                    };
                    store.put(Kind::Pod, pod.shape.object(pod.state));
                }
                return;
            }
            _ => return,
        }
        self.begin_segment(pod, now);
        store.put(Kind::Pod, pod.shape.object(pod.state));
    }
}

/// The object as a deletion at `now` reports it.
fn deleted(mut object: Value, now: i64) -> Value {
    object["metadata"]["deletionTimestamp"] = rfc3339(now).into();
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    object
}
