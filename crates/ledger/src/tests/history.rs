//! Any history: pods that start, change, stop and vanish, and are observed late, outside their windows and
//! with gaps; deliveries that fail, arrive and are reported as failed; crashes before any write. The
//! intervals of the distinct events of each pod must be disjoint and cover its true life.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::{
    TestLedger, balance,
    disk::Disk,
    entries_are_empty, histories,
    model::{Delivery, History, Sighting, billed_of, history},
    refusal,
};
use crate::{
    Accounting, Budget, DeliveryResult, DeliveryTag, Fate, Interval, Ledger, Seconds,
    UsageInterval, WindowBatch,
};

const LAST_SECOND: i64 = 90;

/// What arrived, by id: object and start.
type Arrived = BTreeMap<(String, i64), (i64, String)>;

struct Run {
    interval: Interval,
    accountings: Vec<Accounting>,
    ledger: TestLedger,
    budget: Budget,
    disk: Disk<String>,
    crashes: Vec<u32>,
    /// The newest observation of each pod, which a list returns after a crash.
    seen: BTreeMap<String, Vec<Sighting>>,
    arrived: Arrived,
    /// What was dropped on purpose, by object and second.
    dropped: BTreeSet<(String, i64)>,
    slow: Vec<(i64, DeliveryTag)>,
    deliveries: Box<dyn Iterator<Item = Delivery>>,
}

impl Run {
    fn see(&mut self, sighting: Sighting) {
        let uid = match &sighting {
            Sighting::State(observation) => observation.uid.to_string(),
            Sighting::Gone(uid, _) => uid.clone(),
        };
        let newest = self.seen.entry(uid).or_default();
        if matches!(sighting, Sighting::State(_)) {
            newest.clear();
        }
        newest.push(sighting.clone());
        self.learn(sighting);
        let _ = self.write();
    }

    fn learn(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::State(observation) => {
                let billed = |content: &String| {
                    let (uid, version) = billed_of(content);
                    Some(format!("{uid}-{}", 2 * version))
                };
                self.ledger.apply_within(observation, self.budget, billed);
            }
            Sighting::Gone(uid, at) => self.ledger.deleted(&uid, at),
        }
    }

    fn save(&mut self) {
        self.disk.write(&self.ledger.take_changes());
    }

    /// Checks that all changes together equal a complete write.
    fn compare(&self) {
        let (mut disk, mut ledger) = (self.disk.clone(), self.ledger.clone());
        disk.write(&ledger.take_changes());
        assert_eq!(disk, Disk::of(&mut ledger));
    }

    /// Writes what changed, unless a crash comes first. Then all that was not written is lost.
    fn write(&mut self) -> Result<(), Crash> {
        match self.crashes.last_mut() {
            Some(0) => {}
            Some(writes) => {
                *writes -= 1;
                self.save();
                return Ok(());
            }
            None => {
                self.save();
                return Ok(());
            }
        }
        self.crashes.pop();
        if self.accountings.len() > 1 {
            self.accountings.remove(0);
        }
        let restored = self.disk.read(self.interval, self.accountings[0]);
        self.ledger =
            restored.unwrap_or_else(|| Ledger::new(self.interval, self.accountings[0], 0));
        self.slow.clear();
        // The API server lists what exists, and reports what became of the rest.
        let known: BTreeSet<_> = self
            .ledger
            .existing()
            .map(|it| it.uid.to_string())
            .collect();
        for (uid, sightings) in self.seen.clone() {
            let is_gone = matches!(sightings.last(), Some(Sighting::Gone(..)));
            if !is_gone || known.contains(&uid) {
                sightings.into_iter().for_each(|it| self.learn(it));
            }
        }
        // The content before a change that was not written before a second crash is not known.
        self.save();
        Err(Crash)
    }

    fn tick(&mut self, now: i64, settle: i64) -> Result<(), Crash> {
        let due: Vec<_> = self.slow.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, tag) in due {
            self.ledger.settle(tag, DeliveryResult::Delivered);
            // A second acknowledgement changes nothing.
            self.ledger.settle(tag, DeliveryResult::Failed);
            self.write()?;
        }
        if now % 10 == 0 {
            // The cause of the rejections has been fixed.
            self.ledger.retry_rejected();
        }
        for _ in 0..20 {
            balance(&self.ledger, now);
            if now % 7 == 0 {
                self.compare();
            }
            let Some(batch) = self.ledger.next(now - settle) else {
                break;
            };
            // A window is written before it is sent.
            self.write()?;
            let delivery = self.deliveries.next().unwrap_or(Delivery::Arrives);
            let mut undelivered = undelivered(delivery, &batch);
            // The configuration is the same after a crash, so what arrived before it is not dropped after it.
            undelivered.retain(|(it, fate)| {
                matches!(fate, Fate::Rejected(_))
                    || !self.arrived.contains_key(&(it.uid.to_string(), it.start))
            });
            if !matches!(delivery, Delivery::Fails) {
                for piece in batch.pieces {
                    if undelivered.iter().any(|(it, _)| *it == piece) {
                        continue;
                    }
                    let event = (piece.end, piece.content);
                    let id = (piece.uid.to_string(), piece.start);
                    let first = self.arrived.entry(id).or_insert_with(|| event.clone());
                    assert_eq!(first, &event, "one id, two events");
                }
            }
            match delivery {
                Delivery::Arrives => self.ledger.settle(batch.tag, DeliveryResult::Delivered),
                Delivery::Fails | Delivery::ArrivesUnacknowledged => {
                    self.ledger.settle(batch.tag, DeliveryResult::Failed);
                }
                Delivery::ArrivesSlowly => self.slow.push((now + 3, batch.tag)),
                Delivery::IsRejected(_) | Delivery::IsDropped(_) => {
                    assert!(
                        undelivered
                            .iter()
                            .all(|(it, _)| self.ledger.handed_out(batch.tag).contains(it)),
                        "`handed_out` returns a batch until it is settled"
                    );
                    let drops = undelivered
                        .iter()
                        .filter(|(_, fate)| matches!(fate, Fate::Dropped { .. }))
                        .flat_map(|(it, _)| {
                            (it.start..it.end).map(|second| (it.uid.to_string(), second))
                        })
                        .collect::<Vec<_>>();
                    let settled = DeliveryResult::Done {
                        at: now,
                        undelivered,
                    };
                    self.ledger.settle(batch.tag, settled);
                    // A delivery that is repeated after a crash may end otherwise.
                    self.write()?;
                    self.dropped.extend(drops);
                    continue;
                }
            }
            self.write()?;
        }
        Ok(())
    }
}

/// The pieces with these numbers, and what became of them.
fn undelivered(
    delivery: Delivery,
    batch: &WindowBatch<String>,
) -> Vec<(UsageInterval<String>, Fate)> {
    let (numbers, fate) = match delivery {
        Delivery::IsRejected(numbers) => (
            numbers,
            Fate::Rejected(refusal("refused", numbers % 3 == 0)),
        ),
        Delivery::IsDropped(numbers) => (
            numbers,
            Fate::Dropped {
                place: "mapping".into(),
            },
        ),
        _ => return Vec::new(),
    };
    batch
        .pieces
        .iter()
        .enumerate()
        .filter(|(number, _)| numbers >> (number % 8) & 1 == 1)
        .map(|(_, piece)| (piece.clone(), fate.clone()))
        .collect()
}

/// The process crashes here and is restored.
#[derive(Debug)]
struct Crash;

fn play(history: &History, see_all: bool) -> (Arrived, TestLedger, BTreeSet<(String, i64)>) {
    let mut sightings: BTreeMap<i64, Vec<Sighting>> = BTreeMap::new();
    for (uid, pod) in history.pods.iter().enumerate() {
        for (at, sighting) in pod.sightings(uid, see_all) {
            sightings.entry(at).or_default().push(sighting);
        }
    }
    let interval = Interval::new(history.interval).unwrap();
    let mut run = Run {
        interval,
        accountings: history.accountings.clone(),
        ledger: Ledger::new(interval, history.accountings[0], 0),
        budget: history.budget,
        disk: Disk::default(),
        crashes: history.crashes.clone(),
        seen: BTreeMap::new(),
        arrived: Arrived::new(),
        dropped: BTreeSet::new(),
        slow: Vec::new(),
        deliveries: Box::new(history.deliveries.clone().into_iter()),
    };
    let end = sightings
        .keys()
        .last()
        .copied()
        .unwrap_or_default()
        .max(LAST_SECOND);
    // Long enough for everything to be delivered and removed.
    for now in 0..=end + history.settle + 3 * history.interval + 70 {
        for sighting in sightings.remove(&now).unwrap_or_default() {
            run.see(sighting);
        }
        let _ = run.tick(now, history.settle);
    }
    (run.arrived, run.ledger, run.dropped)
}

/// The seconds for which each pod was billed, with the content. Panics if two intervals overlap.
fn billed(arrived: &Arrived) -> HashMap<&str, BTreeMap<i64, &str>> {
    let mut billed: HashMap<&str, BTreeMap<i64, &str>> = HashMap::new();
    for ((uid, start), (end, content)) in arrived {
        assert!(start < end, "{uid}: an empty interval {start}..{end}");
        let seconds = billed.entry(uid).or_default();
        for second in *start..*end {
            let before = seconds.insert(second, content);
            assert_eq!(before, None, "{uid}: second {second} is billed twice");
        }
    }
    billed
}

fn audit(
    history: &History,
    (arrived, ledger, dropped): &(Arrived, TestLedger, BTreeSet<(String, i64)>),
    contents: bool,
) {
    let billed = billed(arrived);
    let mut surplus = 0;
    for (uid, pod) in history.pods.iter().enumerate() {
        let name = format!("pod-{uid}");
        let seconds = billed.get(name.as_str()).cloned().unwrap_or_default();
        for second in pod.start..pod.end() {
            let content = seconds.get(&second);
            if dropped.contains(&(name.clone(), second)) {
                assert_eq!(
                    content, None,
                    "{name}: second {second} was dropped and arrived"
                );
                continue;
            }
            assert!(content.is_some(), "{name}: second {second} is missing");
            if contents {
                assert_eq!(
                    content.map(|it| shown(history, it)),
                    Some(shown(history, &pod.content(uid, second))),
                    "{name} at {second}"
                );
            }
        }
        assert!(
            seconds.keys().all(|it| *it >= pod.start),
            "{name}: billed before its start"
        );
        surplus += seconds.keys().filter(|it| **it >= pod.end()).count();
        let is_surplus = |(uid, second): &&(String, i64)| *uid == name && *second >= pod.end();
        surplus += dropped.iter().filter(is_surplus).count();
    }
    assert_eq!(
        i64::try_from(surplus).unwrap(),
        ledger.stats().overbilled_seconds
    );
    audit_fates(&billed, ledger, dropped);
}

/// The part of a content that has to be exact: with a budget, labels are joined.
fn shown(history: &History, content: &str) -> String {
    if history.budget == Budget::default() {
        return content.to_owned();
    }
    format!("{:?}", billed_of(content))
}

/// Checks that nothing waits any more, and what ran arrived or was dropped.
fn audit_fates(
    billed: &HashMap<&str, BTreeMap<i64, &str>>,
    ledger: &TestLedger,
    dropped: &BTreeSet<(String, i64)>,
) {
    let sum: usize = billed.values().map(BTreeMap::len).sum();
    let expected = Seconds {
        ran: i64::try_from(sum + dropped.len()).unwrap(),
        delivered: i64::try_from(sum).unwrap(),
        rejected: 0,
        dropped: i64::try_from(dropped.len()).unwrap(),
        waiting: 0,
        unproved: 0,
    };
    assert_eq!(ledger.seconds(i64::MAX), expected);
    assert_eq!(ledger.rejected_pieces(), 0);
    assert!(
        entries_are_empty(ledger),
        "deleted and delivered objects are removed"
    );
}

/// Checks that each window at whose start a pod ran is billed whole, with the content at that time.
fn audit_nominal(
    history: &History,
    (arrived, ledger, dropped): &(Arrived, TestLedger, BTreeSet<(String, i64)>),
) {
    let billed = billed(arrived);
    for (uid, pod) in history.pods.iter().enumerate() {
        let name = format!("pod-{uid}");
        let windows = (0..pod.end()).step_by(usize::try_from(history.interval).unwrap());
        let expected: BTreeMap<_, _> = windows
            .filter(|start| *start >= pod.start)
            .flat_map(|start| (start..start + history.interval).map(move |second| (second, start)))
            .filter(|(second, _)| !dropped.contains(&(name.clone(), *second)))
            .map(|(second, start)| (second, shown(history, &pod.content(uid, start))))
            .collect();
        let seconds = billed.get(name.as_str()).cloned().unwrap_or_default();
        let seconds: BTreeMap<_, _> = seconds
            .into_iter()
            .map(|(second, content)| (second, shown(history, content)))
            .collect();
        assert_eq!(seconds, expected, "{name}");
    }
    audit_fates(&billed, ledger, dropped);
}

fn budget() -> impl Strategy<Value = Budget> {
    let most = |most| prop_oneof![0..4_usize, Just(most)];
    (most(10_000), most(64 << 20)).prop_map(|(segments, bytes)| Budget { segments, bytes })
}

proptest! {
    #![proptest_config(histories(20_000))]

    /// Events that arrive within `settle`: nothing is billed after an end, and contents are exact.
    #[test]
    fn observations_in_time_are_billed_exactly(mut history in history(2, 3)) {
        for pod in &mut history.pods {
            // A list that omits a running pod is an event that arrives late.
            pod.vanishes_at = None;
        }
        let played = play(&history, true);
        audit(&history, &played, true);
        prop_assert_eq!(played.1.stats().overbilled_seconds, 0);
    }

    /// Events that arrive at any time: lives are covered, and what is billed after an end is counted.
    #[test]
    fn late_observations_are_billed_once_and_counted(history in history(40, 3)) {
        let played = play(&history, false);
        audit(&history, &played, false);
    }

    /// Joining segments moves no second to another bill.
    #[test]
    fn observations_in_time_are_billed_exactly_within_any_budget(
        mut history in history(2, 3),
        budget in budget(),
    ) {
        history.budget = budget;
        for pod in &mut history.pods {
            pod.vanishes_at = None;
        }
        let played = play(&history, true);
        audit(&history, &played, true);
        prop_assert_eq!(played.1.stats().overbilled_seconds, 0);
    }

    /// The same for events that arrive at any time.
    #[test]
    fn late_observations_are_billed_once_within_any_budget(
        mut history in history(40, 3),
        budget in budget(),
    ) {
        history.budget = budget;
        let played = play(&history, false);
        audit(&history, &played, false);
    }

    /// The same for whole windows.
    #[test]
    fn whole_windows_are_billed_exactly_within_any_budget(
        mut history in history(2, 3),
        budget in budget(),
    ) {
        history.budget = budget;
        history.accountings = vec![Accounting::Nominal];
        for pod in &mut history.pods {
            pod.vanishes_at = None;
        }
        let played = play(&history, true);
        audit_nominal(&history, &played);
    }

    /// Two ledgers that learn the same in time make the same events.
    #[test]
    fn two_replicas_make_the_same_events(mut history in history(2, 3)) {
        for pod in &mut history.pods {
            pod.vanishes_at = None;
        }
        // What is dropped depends on the order of delivery.
        history.deliveries.retain(|it| !matches!(it, Delivery::IsDropped(_)));
        let (first, ..) = play(&history, true);
        for pod in &mut history.pods {
            pod.delays.reverse();
        }
        history.deliveries.reverse();
        history.crashes.clear();
        let (second, ..) = play(&history, true);
        prop_assert_eq!(first, second);
    }

    /// Whole windows: a pod is billed for those at whose start it ran, and every second has one fate.
    #[test]
    fn whole_windows_are_billed_exactly(mut history in history(2, 3)) {
        history.accountings = vec![Accounting::Nominal];
        for pod in &mut history.pods {
            pod.vanishes_at = None;
        }
        let played = play(&history, true);
        audit_nominal(&history, &played);
    }

    /// For any observations, and any accounting after each crash: no second is billed twice, and each has
    /// one fate.
    #[test]
    fn the_fates_add_up_for_any_accounting(
        mut history in history(40, 3),
        accountings in prop::collection::vec(
            prop_oneof![Just(Accounting::Exact), Just(Accounting::Nominal)],
            1..6,
        ),
    ) {
        history.accountings = accountings;
        let (arrived, ledger, dropped) = play(&history, false);
        audit_fates(&billed(&arrived), &ledger, &dropped);
    }
}
