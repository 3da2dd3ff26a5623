//! Random lives: whatever a kubelet reports, and however late it is seen, no id has two lengths.

use proptest::prelude::*;

use super::*;

/// One run of the container, in seconds after what came before.
#[derive(Debug, Clone)]
struct Run {
    pause: i64,
    length: i64,
    code: i64,
}

#[derive(Debug, Clone)]
struct Life {
    policy: &'static str,
    /// How long the init container runs, if there is one.
    init: Option<i64>,
    runs: Vec<Run>,
    /// How far the clock of the node is ahead.
    ahead: i64,
    /// Whether the node says when it accepted the pod.
    is_accepted: bool,
    /// Whether it reports the times of containers.
    has_times: bool,
    /// How long before the last container stops the phase says `Failed`.
    failed_early: i64,
    /// How late each status is seen.
    delays: Vec<i64>,
    restarts: Vec<i64>,
    interval: i64,
    from: BilledFrom,
}

fn any_life() -> impl Strategy<Value = Life> {
    let run = (1..12_i64, 1..25_i64, prop_oneof![Just(0_i64), Just(1)]);
    let run = run.prop_map(|(pause, length, code)| Run {
        pause,
        length,
        code,
    });
    let policy = prop_oneof![Just("Never"), Just("OnFailure"), Just("Always")];
    let from = prop_oneof![
        3 => Just(BilledFrom::Started),
        1 => Just(BilledFrom::Scheduled),
        1 => Just(BilledFrom::Running),
        1 => Just(BilledFrom::Created),
    ];
    let node = (
        prop_oneof![3 => Just(0_i64), 1 => -40..0_i64, 1 => 2..40_i64],
        any::<bool>(),
        prop::bool::weighted(0.8),
        prop_oneof![3 => Just(0_i64), 1 => 1..20_i64],
    );
    (
        policy,
        prop::option::of(1..15_i64),
        prop::collection::vec(run, 1..4),
        node,
        prop::collection::vec(0..=2_i64, 12),
        prop::collection::vec(0..120_i64, 0..4),
        prop_oneof![Just(1_i64), Just(5), Just(15), Just(60)],
        from,
    )
        .prop_map(
            |(policy, init, mut runs, node, delays, restarts, interval, from)| {
                // The kubelet restarts what the policy says, and nothing else.
                let restarted =
                    |run: &Run| policy == "Always" || policy == "OnFailure" && run.code != 0;
                let count = runs.iter().take_while(|it| restarted(it)).count();
                runs.truncate(count + 1);
                let (ahead, is_accepted, has_times, failed_early) = node;
                Life {
                    policy,
                    init,
                    runs,
                    ahead,
                    is_accepted,
                    has_times,
                    failed_early,
                    delays,
                    restarts,
                    interval,
                    from,
                }
            },
        )
}

impl Life {
    /// A time of the node.
    fn at(&self, second: i64) -> Option<i64> {
        self.has_times.then_some(second + self.ahead)
    }

    fn status(&self, phase: &str, reported: i64, init: &Value, main: Value) -> (i64, Value) {
        let init = if init.is_null() {
            json!([])
        } else {
            json!([init])
        };
        let mut pod = pod(self.policy, phase, 1 + self.ahead, init, json!([main]));
        if !self.is_accepted {
            pod["status"]["startTime"] = Value::Null;
        }
        pod["metadata"]["managedFields"] = json!([{"manager": "kubelet", "subresource": "status",
            "time": time(reported), "fieldsV1": {"f:status": {"f:containerStatuses": {}}}}]);
        (reported, pod)
    }

    /// The statuses with the second at which each was written, and when the pod stopped.
    fn statuses(&self) -> (Vec<(i64, Value)>, i64) {
        let mut statuses = Vec::new();
        let mut now = 1;
        let mut init = Value::Null;
        if let Some(length) = self.init {
            init = status("fetch", running(self.at(now)), None);
            let main = || status("main", waiting(), None);
            statuses.push(self.status("Pending", now, &init, main()));
            init = status(
                "fetch",
                terminated(self.at(now), self.at(now + length), 0),
                None,
            );
            now += length;
            statuses.push(self.status("Pending", now, &init, main()));
        }
        let mut before = None;
        for (index, run) in self.runs.iter().enumerate() {
            let started = now + run.pause;
            let finished = started + run.length;
            let state = status("main", running(self.at(started)), before.clone());
            statuses.push(self.status("Running", started, &init, state.clone()));
            let is_last = index + 1 == self.runs.len();
            let over = terminated(self.at(started), self.at(finished), run.code);
            if is_last {
                let early = finished - self.failed_early.min(run.length - 1);
                if early < finished {
                    statuses.push(self.status("Failed", early, &init, state));
                }
                let phase = if run.code == 0 && early == finished {
                    "Succeeded"
                } else {
                    "Failed"
                };
                let state = status("main", over.clone(), before.clone());
                statuses.push(self.status(phase, finished, &init, state));
            } else {
                let state = status("main", waiting(), Some(over.clone()));
                statuses.push(self.status("Running", finished, &init, state));
            }
            before = Some(over);
            now = finished;
        }
        (statuses, now)
    }

    /// Whether the object that is left shows everything that was seen.
    fn is_shown(&self) -> bool {
        // A status knows one run before the present one, and from the times of a node that is ahead a later one
        // does not follow from an earlier report.
        let runs_that_are_shown = self.init.is_some() && self.from == BilledFrom::Started
            || self.runs.len() <= 2
            || matches!(self.from, BilledFrom::Created | BilledFrom::Scheduled);
        // A clock that is behind is known by the time at which the node accepted the pod.
        let is_known = self.ahead == 0 || self.ahead < -2 && self.is_accepted;
        runs_that_are_shown && is_known && self.has_times
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_id_has_two_lengths(life in any_life()) {
        let (statuses, end) = life.statuses();
        let mut seen = 0;
        let steps: Vec<_> = statuses
            .iter()
            .zip(life.delays.iter().cycle())
            .map(|((at, pod), delay)| {
                seen = seen.max(at + delay);
                (seen, Step::Put(pod.clone()))
            })
            .collect();
        let until = end + 130;
        let collector = live(life.interval, life.from, &steps, &life.restarts, until);
        // It is never free, never billed before it was created nor after it was seen to be over.
        let billed = stretches(&collector.billed);
        prop_assert!(!billed.is_empty());
        prop_assert!(billed.iter().all(|(start, stop)| *start >= 0 && *stop <= seen.max(end + 1)));
        let again = replay(life.interval, life.from, collector.last.as_ref(), until);
        if life.is_shown() {
            // Seen in time, so both say the same, id by id.
            prop_assert_eq!(&again, &collector.billed, "{:?}", steps);
            prop_assert_eq!(collector.stats().overbilled_seconds, 0);
        }
        if life.ahead == 0 && life.has_times && life.from == BilledFrom::Started {
            let first = life.init.map_or_else(|| 1 + life.runs[0].pause, |_| 1);
            prop_assert_eq!(&billed, &[(first, end)]);
        }
    }

    /// Where statuses come later than their windows, what is billed in addition is counted.
    #[test]
    fn what_is_seen_late_is_billed_once_and_counted(
        life in any_life(),
        late in prop::collection::vec(0..40_i64, 12),
    ) {
        let (statuses, end) = life.statuses();
        let mut seen = 0;
        let steps: Vec<_> = statuses
            .iter()
            .zip(&late)
            .map(|((at, pod), delay)| {
                seen = seen.max(at + delay);
                (seen, Step::Put(pod.clone()))
            })
            .collect();
        let collector = live(life.interval, life.from, &steps, &life.restarts, end + 170);
        if life.ahead == 0 && life.has_times && life.from == BilledFrom::Started {
            let first = life.init.map_or_else(|| 1 + life.runs[0].pause, |_| 1);
            let surplus = total(&collector.billed) - (end - first);
            prop_assert_eq!(surplus, collector.stats().overbilled_seconds, "{:?}", collector.billed);
        }
    }
}
