//! Every second has the customer of that second, through changes of namespaces, nodes, controllers and tables in any order,
//! crashes and hand-overs.

use std::{collections::BTreeMap, time::Duration};

use meterline_core::{Document, Reads};
use meterline_ledger::{Accounting, Interval, Kind};
use meterline_script::TableFormat;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::kubernetes_resources::{
    related::Controller,
    state::StateFile,
    testing::{WATCH, observation, options},
    watch::Cluster,
};

/// What a mapping reads: the customer of the namespace, the owner of the node, the team of the controller, and a row of a
/// table by that customer.
const READS: &[&str] = &[
    "namespace().labels.customer",
    "node().labels.owner",
    "owner().labels.team",
    "lookup().t.namespace()~1labels~1customer",
];

/// The key of the Deployment that made every pod.
const DEPLOYMENT: &str = "n/Deployment/web";

/// The metadata of a pod that it made.
fn made_by_web(pod: u8) -> Document {
    Document::from(&json!({
        "name": pod.to_string(), "namespace": "n", "labels": {"pod-template-hash": "5d9"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9",
            "uid": "r", "controller": true}],
    }))
}

/// Something that happens, at a second.
#[derive(Debug, Clone, Copy)]
enum Event {
    Namespace(u8),
    Node(u8),
    Table(u8),
    /// The Deployment has this team. If it is gone, it is created again.
    Team(u8),
    /// The Deployment is deleted. What it made runs on.
    Gone,
    Start(u8),
    End(u8),
}

/// What belongs to a second: customer, owner, team and row.
type Values = (u8, u8, u8, Option<u8>);

/// The row of a table for a customer: each version of the table has other rows, and some have none.
fn row(version: u8, customer: u8) -> Option<u8> {
    let row = version.wrapping_mul(customer + 1) % 5;
    (row > 0).then_some(row)
}

fn table(version: u8) -> Arc<Table> {
    let rows = (0..8).filter_map(|it| Some((it.to_string(), json!(row(version, it)?))));
    let rows = Value::Object(rows.collect());
    Arc::new(Table::parse(TableFormat::Json, &rows.to_string()).unwrap())
}

/// Everything that happens, in order.
#[derive(Debug, Clone)]
struct World(Vec<(i64, Event)>);

impl World {
    fn at(&self, second: i64) -> Values {
        let (mut customer, mut owner, mut team, mut version) = (0, 0, 0, 0);
        for (_, event) in self.0.iter().filter(|(at, _)| *at <= second) {
            match event {
                Event::Namespace(it) => customer = *it,
                Event::Node(it) => owner = *it,
                Event::Team(it) => team = *it,
                Event::Table(it) => version = *it,
                Event::Gone | Event::Start(_) | Event::End(_) => {}
            }
        }
        (customer, owner, team, row(version, customer))
    }

    /// The UID of the Deployment at a second.
    fn deployment(&self, second: i64) -> Uid {
        let before = self.0.iter().filter(|(at, _)| *at < second);
        let gone = before.filter(|(_, event)| matches!(event, Event::Gone));
        gone.count().to_string().into()
    }

    fn life(&self, pod: u8) -> (i64, i64) {
        let of = |is: &dyn Fn(&Event) -> bool| self.0.iter().find(|(_, it)| is(it)).unwrap().0;
        let start = of(&|it| matches!(it, Event::Start(of) if *of == pod));
        let end = of(&|it| matches!(it, Event::End(of) if *of == pod));
        (start, end)
    }
}

/// A replica, and what it has still to learn: when, and what happened when.
struct Replica {
    world: World,
    ledger: Arc<SharedLedger>,
    options: Options,
    to_learn: Vec<(i64, (i64, Event))>,
    learned: Vec<(i64, Event)>,
    now: i64,
    /// The state file, with its folder.
    state: Option<(StateFile, TempDir)>,
    restored_at: i64,
}

impl Replica {
    fn new(world: &World, delays: &[i64], is_elected: bool, has_state: bool) -> Self {
        let options = Options {
            projection: Arc::new(Projection::of(
                &Reads::of(READS),
                options(Cluster::default()).resource_type,
            )),
            is_elected,
            ..options(Cluster::default())
        };
        // A watch shows the changes of one collection in their order.
        let mut latest = [0; 5];
        // The Deployment is learned after the first pods.
        let to_learn = std::iter::once(&(0, Event::Team(0))).chain(&world.0);
        let to_learn = to_learn.zip(delays.iter().cycle());
        let to_learn = to_learn.map(|((at, event), delay)| {
            let kind = match event {
                Event::Namespace(_) => 0,
                Event::Node(_) => 1,
                Event::Table(_) => 2,
                Event::Start(_) | Event::End(_) => 3,
                Event::Team(_) | Event::Gone => 4,
            };
            latest[kind] = latest[kind].max(at + delay);
            (latest[kind], (*at, *event))
        });
        let mut to_learn: Vec<_> = to_learn.collect();
        to_learn.sort_by_key(|(learned, _)| *learned);
        let ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
        let mut replica = Self {
            world: world.clone(),
            ledger: Self::shared(ledger, &options),
            options,
            to_learn,
            learned: Vec::new(),
            now: 0,
            state: None,
            restored_at: i64::MIN,
        };
        if has_state {
            let dir = TempDir::new().unwrap();
            replica.state = Some((open(&dir, &replica.options).0, dir));
        }
        for event in [Event::Namespace(0), Event::Node(0), Event::Table(0)] {
            replica.apply(i64::MIN, event);
            replica.learned.push((i64::MIN, event));
        }
        replica
    }

    fn shared(ledger: Ledger<BilledObject>, options: &Options) -> Arc<SharedLedger> {
        let mut completeness = Completeness::new(0);
        completeness.register(WATCH);
        let ledger = Arc::new(SharedLedger::new(ledger, completeness, options));
        ledger.synced(WATCH, true);
        ledger
    }

    fn apply(&self, at: i64, event: Event) {
        let label = |relation: Relation, name: &str, key: &str, value: u8| {
            let object = json!({"metadata": {"labels": {key: value.to_string()}}});
            let object = Document::from(&object);
            self.ledger
                .related((relation, name), object.root(), (at, self.now.max(at)));
        };
        match event {
            Event::Namespace(customer) => label(Relation::Namespace, "n", "customer", customer),
            Event::Node(owner) => label(Relation::Node, "m", "owner", owner),
            Event::Table(version) => {
                self.ledger
                    .table("t", table(version), at.max(self.restored_at));
            }
            Event::Team(team) => {
                let object = json!({"metadata": {"labels": {"team": team.to_string()}}});
                let (object, of) = (Document::from(&object), self.world.deployment(at));
                let times = (at, self.now.max(at));
                let controller = Controller {
                    uid: &of,
                    key: DEPLOYMENT,
                    created: of.parse().unwrap(),
                };
                self.ledger.controller(controller, object.root(), times);
            }
            Event::Gone => {
                let of = self.world.deployment(at);
                self.ledger.controller_gone(&of, at);
            }
            Event::Start(pod) => self.observe(pod, at, None),
            Event::End(pod) => {
                let (start, end) = self.world.life(pod);
                self.observe(pod, start, Some(end));
            }
        }
    }

    fn observe(&self, pod: u8, start: i64, end: Option<i64>) {
        let mut observation = observation(&pod.to_string(), start, end);
        let node = json!({"nodeName": "m", "containers": []});
        let document = observation.content.document.clone();
        let spec = Document::from(&node);
        let document = document.with_field("spec", Some(spec.root()));
        let document = document.with_field("metadata", Some(made_by_web(pod).root()));
        observation.content = BilledObject::of(&document, &self.options.projection);
        observation.observed_at = self.now.max(start);
        self.ledger.observe(observation);
    }

    /// Learns everything that is learned up to `now`. Returns up to when the view is complete.
    fn learn_until(&mut self, now: i64) -> i64 {
        self.now = now;
        while let Some((_, (at, event))) =
            self.to_learn.first().copied().filter(|(it, _)| *it <= now)
        {
            self.to_learn.remove(0);
            self.apply(at, event);
            self.learned.push((at, event));
        }
        let waiting = self.to_learn.iter().map(|(_, (at, _))| *at);
        let complete = waiting.min().unwrap_or(now).min(now);
        self.ledger.alive(WATCH, complete);
        self.write();
        complete
    }

    fn write(&mut self) {
        if let Some((file, _)) = &mut self.state {
            let (changes, _, seen) = self.ledger.take_changes(false);
            file.write(&changes, &seen).unwrap();
        }
    }

    /// Hands windows out, of which the last is not settled if `is_cut`. Adds the pieces to `billed`.
    fn deliver(&mut self, is_cut: bool, billed: &mut BTreeMap<(String, i64), (i64, Value)>) {
        while let (Some(due), _) = self.ledger.next(self.now) {
            self.write();
            for piece in &due.batch.pieces {
                let content = piece.content.document.root().to_value();
                let values = json!([
                    content["namespace()"]["labels"]["customer"],
                    content["node()"]["labels"]["owner"],
                    content["owner()"]["labels"]["team"],
                    content["lookup()"]["t"]["namespace().labels.customer"],
                ]);
                let key = (piece.uid.to_string(), piece.start);
                // The server keeps the event that arrives first with an id.
                let kept = billed.entry(key).or_insert((piece.end, values.clone()));
                // What a new leader had not learned when the former one billed it, it may bill again under the same
                // id and with what it knew. One process knows everything.
                let is_again = due.batch.kind == Kind::Late && self.state.is_none();
                assert!(is_again || *kept == (piece.end, values), "{kept:?}");
            }
            if is_cut {
                return;
            }
            self.ledger
                .settle(due.batch.tag, |_| DeliveryResult::Delivered);
        }
        self.write();
    }

    /// The process is killed and started again, and lists everything.
    fn crash(&mut self) {
        let Some((file, dir)) = self.state.take() else {
            return;
        };
        drop(file);
        let (file, saved) = open(&dir, &self.options);
        let saved = saved.unwrap();
        self.restored_at = saved.seen.at;
        let ledger = Ledger::restore(
            Interval::new(10).unwrap(),
            Accounting::Exact,
            saved.checkpoint,
            saved.records,
            saved.rejected,
        );
        self.ledger = Self::shared(ledger, &self.options);
        self.state = Some((file, dir));
        let mut latest: BTreeMap<String, (i64, Event)> = BTreeMap::new();
        for (at, event) in &self.learned {
            let of = match event {
                Event::Start(pod) | Event::End(pod) => pod.to_string(),
                Event::Namespace(_) => "namespace".to_owned(),
                Event::Node(_) => "node".to_owned(),
                Event::Table(_) => "table".to_owned(),
                Event::Team(_) | Event::Gone => "web".to_owned(),
            };
            latest.insert(of, (*at, *event));
        }
        // Pods are listed first. A list does not show what is gone.
        for (at, event) in latest.into_values() {
            if !matches!(event, Event::Gone) {
                self.apply(at, event);
            }
        }
    }
}

fn open(
    dir: &TempDir,
    options: &Options,
) -> (StateFile, Option<crate::kubernetes_resources::state::Saved>) {
    let path = dir.path().join("state.sqlite");
    let (file, saved, damage) = StateFile::open(&path, "pod", &options.projection.kept, 0).unwrap();
    assert_eq!(damage, None);
    (file, saved)
}

fn check(world: &World, pods: u8, billed: &BTreeMap<(String, i64), (i64, Value)>) {
    for pod in 0..pods {
        let (mut at, end) = world.life(pod);
        for ((_, start), (until, values)) in billed
            .iter()
            .filter(|((uid, _), _)| *uid == pod.to_string())
        {
            assert_eq!(
                *start, at,
                "pod {pod} has no gap and no overlap: {billed:?}"
            );
            at = *until;
            for second in *start..*until {
                let (customer, owner, team, row) = world.at(second);
                let [customer, owner, team] = [customer, owner, team].map(|it| it.to_string());
                let expected = json!([customer, owner, team, row]);
                assert_eq!(*values, expected, "pod {pod} at {second}: {billed:?}");
            }
        }
        assert_eq!(at, end, "pod {pod}: {billed:?}");
    }
}

/// Without deletions of a Deployment that is gone, and of one that makes a pod before it is created again.
fn plausible(mut events: Vec<(i64, Event)>) -> Vec<(i64, Event)> {
    let mut at = 0;
    while at < events.len() {
        let mut rest = events.iter().skip(at + 1).map(|(_, event)| event);
        let next = rest.find(|it| matches!(it, Event::Team(_) | Event::Gone | Event::Start(_)));
        let is_gone = matches!(events[at].1, Event::Gone);
        if is_gone && matches!(next, Some(Event::Gone | Event::Start(_))) {
            events.remove(at);
        } else {
            at += 1;
        }
    }
    events
}

fn worlds() -> impl Strategy<Value = (World, u8)> {
    let changes = prop::collection::vec((1..70_i64, 0..5_u8, 1..8_u8), 0..12);
    let lives = prop::collection::vec((1..40_i64, 1..40_i64), 1..4);
    (changes, lives).prop_map(|(changes, lives)| {
        let mut events: BTreeMap<(i64, u8, u8), Event> = BTreeMap::new();
        for (at, kind, value) in changes {
            // Two changes of one object are not in one second.
            let event = match kind {
                0 => Event::Namespace(value),
                1 => Event::Node(value),
                2 => Event::Table(value),
                3 => Event::Team(value),
                _ => Event::Gone,
            };
            // A Deployment is not deleted and created in one second.
            events.insert((at, kind.min(3), 0), event);
        }
        let pods = u8::try_from(lives.len()).unwrap();
        for (pod, (start, length)) in (0..).zip(lives) {
            events.insert((start, 4, pod), Event::Start(pod));
            events.insert((start + length, 5, pod), Event::End(pod));
        }
        let world = events.into_iter().map(|((at, ..), event)| (at, event));
        (World(plausible(world.collect())), pods)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_second_has_the_customer_of_that_second_also_through_crashes(
        (world, pods) in worlds(),
        delays in prop::collection::vec(0..5_i64, 1..12),
        crashes in prop::collection::vec((1..90_i64, any::<bool>()), 0..4),
    ) {
        let mut replica = Replica::new(&world, &delays, false, true);
        let mut billed = BTreeMap::new();
        let crashes: BTreeMap<_, _> = crashes.into_iter().collect();
        for now in 1..100 {
            let complete = replica.learn_until(now);
            // What a watch has not seen yet when the process is killed is listed after it.
            let cut = crashes.get(&now).filter(|_| complete == now);
            replica.deliver(cut == Some(&true), &mut billed);
            if cut.is_some() {
                replica.crash();
            }
        }
        check(&world, pods, &billed);
    }

    #[test]
    fn every_second_has_the_customer_of_that_second_also_through_a_hand_over(
        (world, pods) in worlds(),
        delays in prop::collection::vec(0..5_i64, 1..12),
        other_delays in prop::collection::vec(0..5_i64, 1..12),
        hand_over in 1..90_i64,
    ) {
        let mut leader = Replica::new(&world, &delays, true, false);
        let mut standby = Replica::new(&world, &other_delays, true, false);
        let hour = Duration::from_secs(3_600);
        for replica in [&leader, &standby] {
            replica.ledger.learn(Some(0), Signer::Another);
        }
        leader.ledger.lead_until(Instant::now() + hour);
        let mut billed = BTreeMap::new();
        for now in 1..100 {
            if now == hand_over {
                std::mem::swap(&mut leader, &mut standby);
                leader.ledger.learn(Some(standby.ledger.safe_watermark()), Signer::Another);
                leader.ledger.lead_until(Instant::now() + hour);
            }
            for replica in [&mut leader, &mut standby] {
                replica.learn_until(now);
            }
            leader.deliver(false, &mut billed);
        }
        check(&world, pods, &billed);
    }
}

#[test]
fn a_pod_that_is_learned_late_is_not_divided_by_a_change_that_does_not_concern_it() {
    // Neither version of the table has a row for this customer.
    let world = World(vec![
        (1, Event::Namespace(4)),
        (3, Event::Start(0)),
        (6, Event::Table(1)),
        (7, Event::End(0)),
    ]);
    let mut replica = Replica::new(&world, &[0, 4, 0], false, false);
    let mut billed = BTreeMap::new();
    for now in 1..20 {
        replica.learn_until(now);
        replica.deliver(false, &mut billed);
    }
    let piece = (("0".to_owned(), 3), (7, json!(["4", "0", "0", null])));
    assert_eq!(billed, BTreeMap::from([piece]));
}
