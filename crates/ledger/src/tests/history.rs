//! Any history: pods that start, change, stop and vanish, seen late, out of their windows and with
//! gaps; deliveries that fail, arrive and are reported as failed; crashes before any write. The
//! intervals of the distinct events of each pod must be disjoint and cover its true life.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::{
    Books, balance,
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
    books: Books,
    budget: Budget,
    disk: Disk<String>,
    crashes: Vec<u32>,
    /// The newest of each pod, which a list shows after a crash.
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
                self.books.apply_within(observation, self.budget, billed);
            }
            Sighting::Gone(uid, at) => self.books.deleted(&uid, at),
        }
    }

    fn save(&mut self) {
        self.disk.write(&self.books.take_changes());
    }

    /// All changes together are all that there is.
    fn compare(&self) {
        let (mut disk, mut books) = (self.disk.clone(), self.books.clone());
        disk.write(&books.take_changes());
        assert_eq!(disk, Disk::of(&mut books));
    }

    /// Writes what changed, unless a crash comes first; then all that was not written is gone.
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
        self.books = restored.unwrap_or_else(|| Ledger::new(self.interval, self.accountings[0], 0));
        self.slow.clear();
        // The API server shows what there is, and tells what became of what is not.
        let known: BTreeSet<_> = self
            .books
            .existing()
            .map(|(uid, _)| uid.to_string())
            .collect();
        for (uid, sightings) in self.seen.clone() {
            let is_gone = matches!(sightings.last(), Some(Sighting::Gone(..)));
            if !is_gone || known.contains(&uid) {
                sightings.into_iter().for_each(|it| self.learn(it));
            }
        }
        // What was before a change that nobody wrote down before a second crash, nobody knows.
        self.save();
        Err(Crash)
    }

    fn tick(&mut self, now: i64, settle: i64) -> Result<(), Crash> {
        let due: Vec<_> = self.slow.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, tag) in due {
            self.books.settle(tag, DeliveryResult::Delivered);
            // Whoever acknowledges twice changes nothing.
            self.books.settle(tag, DeliveryResult::Failed);
            self.write()?;
        }
        if now % 10 == 0 {
            // Somebody mended what the rejected ones waited for.
            self.books.retry_rejected();
        }
        for _ in 0..20 {
            balance(&self.books, now);
            if now % 7 == 0 {
                self.compare();
            }
            let Some(batch) = self.books.next(now - settle) else {
                break;
            };
            // What a window is made of is written before the window goes out.
            self.write()?;
            let delivery = self.deliveries.next().unwrap_or(Delivery::Arrives);
            let mut undelivered = undelivered(delivery, &batch);
            // What arrived before a crash is not dropped after it: the configuration is the same.
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
                Delivery::Arrives => self.books.settle(batch.tag, DeliveryResult::Delivered),
                Delivery::Fails | Delivery::ArrivesUnacknowledged => {
                    self.books.settle(batch.tag, DeliveryResult::Failed);
                }
                Delivery::ArrivesSlowly => self.slow.push((now + 3, batch.tag)),
                Delivery::IsRejected(_) | Delivery::IsDropped(_) => {
                    assert!(
                        undelivered
                            .iter()
                            .all(|(it, _)| self.books.handed_out(batch.tag).contains(it)),
                        "what was handed out can be asked for until it is settled"
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
                    self.books.settle(batch.tag, settled);
                    // What a crash makes happen again may end otherwise.
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

/// The process ended here and came back.
#[derive(Debug)]
struct Crash;

fn play(history: &History, see_all: bool) -> (Arrived, Books, BTreeSet<(String, i64)>) {
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
        books: Ledger::new(interval, history.accountings[0], 0),
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
    // Long enough for everything to be delivered and forgotten.
    for now in 0..=end + history.settle + 3 * history.interval + 70 {
        for sighting in sightings.remove(&now).unwrap_or_default() {
            run.see(sighting);
        }
        let _ = run.tick(now, history.settle);
    }
    (run.arrived, run.books, run.dropped)
}

/// The seconds that each pod was billed for, with the content; panics when two intervals overlap.
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
    (arrived, books, dropped): &(Arrived, Books, BTreeSet<(String, i64)>),
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
        books.stats().overbilled_seconds
    );
    audit_fates(&billed, books, dropped);
}

/// What of a content has to be right: labels are joined where there is a budget.
fn shown(history: &History, content: &str) -> String {
    if history.budget == Budget::default() {
        return content.to_owned();
    }
    format!("{:?}", billed_of(content))
}

/// Nothing waits any more, and what ran arrived or was dropped.
fn audit_fates(
    billed: &HashMap<&str, BTreeMap<i64, &str>>,
    books: &Books,
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
    assert_eq!(books.seconds(i64::MAX), expected);
    assert_eq!(books.rejected_pieces(), 0);
    assert!(
        entries_are_empty(books),
        "nothing is remembered of what is gone and delivered"
    );
}

/// Each window in which a pod ran at the start is billed whole, with what the pod was then.
fn audit_nominal(
    history: &History,
    (arrived, books, dropped): &(Arrived, Books, BTreeSet<(String, i64)>),
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
    audit_fates(&billed, books, dropped);
}

fn budget() -> impl Strategy<Value = Budget> {
    let most = |most| prop_oneof![0..4_usize, Just(most)];
    (most(10_000), most(64 << 20)).prop_map(|(segments, bytes)| Budget { segments, bytes })
}

proptest! {
    #![proptest_config(histories(20_000))]

    /// News that comes within `settle`: nothing is billed beyond an end, and contents are exact.
    #[test]
    fn what_is_seen_in_time_is_billed_exactly(mut history in history(2, 3)) {
        for pod in &mut history.pods {
            // A list that does not show what runs is news that comes late.
            pod.vanishes_at = None;
        }
        let played = play(&history, true);
        audit(&history, &played, true);
        prop_assert_eq!(played.1.stats().overbilled_seconds, 0);
    }

    /// News that comes whenever it likes: lives are covered, and what is billed beyond is counted.
    #[test]
    fn what_is_seen_late_is_billed_once_and_counted(history in history(40, 3)) {
        let played = play(&history, false);
        audit(&history, &played, false);
    }

    /// Segments that are joined move no second, and none to another bill.
    #[test]
    fn what_is_seen_in_time_is_billed_exactly_within_any_budget(
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

    /// The same for news that comes whenever it likes.
    #[test]
    fn what_is_seen_late_is_billed_once_within_any_budget(
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
        // What is dropped differs with the order in which it is delivered.
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

    /// Whatever is seen, and however is billed after each crash: no second is billed twice, and each has
    /// one fate.
    #[test]
    fn whichever_way_is_billed_the_fates_add_up(
        mut history in history(40, 3),
        accountings in prop::collection::vec(
            prop_oneof![Just(Accounting::Exact), Just(Accounting::Nominal)],
            1..6,
        ),
    ) {
        history.accountings = accountings;
        let (arrived, books, dropped) = play(&history, false);
        audit_fates(&billed(&arrived), &books, &dropped);
    }
}
