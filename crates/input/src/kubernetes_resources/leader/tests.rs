//! An election over a Lease that is read and written over HTTP.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::Notify, task::JoinSet};

use super::{elector::*, *};
use crate::kubernetes_resources::{
    ledger_name::LedgerName,
    testing::{Api as Server, Parts, Request, StoredObject, error, observation, options, until},
};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases";

/// A server with one Lease.
struct Scene {
    lease: StoredObject,
    server: Server,
}

/// One replica.
struct Replica {
    parts: Parts,
    end: Arc<Notify>,
    task: JoinSet<()>,
}

impl Scene {
    async fn new() -> Self {
        let lease = StoredObject::default();
        let stored = lease.clone();
        let server = Server::start(move |request: &Request| {
            assert!(request.path.starts_with(PATH), "{}", request.path);
            stored.answer(request)
        });
        let server = server.await;
        Self { lease, server }
    }

    /// A replica whose ledger bills from 0 on, and that takes no part in the election yet.
    fn elector(&self, identity: &str) -> (LeaderElector, Parts) {
        self.elector_of(identity, PODS)
    }

    fn election(identity: &str) -> LeaderElection {
        LeaderElection {
            namespace: "n".to_owned(),
            name: "lease".to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(1),
            renew_deadline: Duration::from_millis(800),
            retry_period: Duration::from_millis(100),
        }
    }

    fn elector_of(
        &self,
        identity: &str,
        (subject, label): (&str, Option<&str>),
    ) -> (LeaderElector, Parts) {
        let mut options = options(self.server.cluster());
        options.is_elected = true;
        let parts = Parts::new(options, 0);
        let mut elector = LeaderElector::new(
            Arc::new(Self::election(identity)),
            &parts.options,
            &parts.health,
            &parts.metrics,
        );
        let name = LedgerName::new(subject, label.map(Into::into));
        assert!(elector.add(Member::new(name, Arc::clone(&parts.ledger))));
        (elector, parts)
    }

    fn replica(&self, identity: &str) -> Replica {
        let (elector, parts) = self.elector(identity);
        let end = Arc::new(Notify::new());
        let mut task = JoinSet::new();
        task.spawn(elector.run(Arc::clone(&end)));
        Replica { parts, end, task }
    }

    fn holder(&self) -> String {
        let lease = self.lease.get().unwrap();
        let holder = lease["spec"]["holderIdentity"].as_str();
        holder.unwrap_or_default().to_owned()
    }

    fn watermark(&self) -> String {
        let lease = self.lease.get().unwrap();
        let annotations = &lease["metadata"]["annotations"];
        annotations["meterline.io/watermark"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Replica {
    async fn leads(&self) {
        until(|| self.parts.ledger.is_leader()).await;
    }

    async fn wait_for_detail(&self, text: &str) {
        until(|| self.parts.ready("lease n/lease").1.contains(text)).await;
    }

    /// Ends as a process does after a stop signal.
    async fn end(mut self) {
        self.end.notify_one();
        self.task.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_first_replica_creates_the_lease_and_leads() {
    let scene = Scene::new().await;
    let a = scene.replica("a");
    assert!(!a.parts.ready("lease n/lease").0);
    a.leads().await;
    a.wait_for_detail("leading").await;
    let lease = scene.lease.get().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "a");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 1);
    assert_eq!(scene.watermark(), "1970-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_second_replica_stands_by_and_leads_once_the_lease_is_released() {
    let scene = Scene::new().await;
    let a = scene.replica("a");
    a.leads().await;
    let b = scene.replica("b");
    b.wait_for_detail("standby; `a` leads").await;
    assert_eq!(b.parts.ledger.leader().as_deref(), Some("a"));
    assert!(!b.parts.ledger.is_leader());
    a.end().await;
    b.leads().await;
    assert_eq!(scene.holder(), "b");
    let transitions = scene.lease.get().unwrap()["spec"]["leaseTransitions"].clone();
    assert_eq!(transitions, 1);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_is_taken_after_its_duration() {
    let scene = Scene::new().await;
    let mut a = scene.replica("a");
    a.leads().await;
    let b = scene.replica("b");
    b.wait_for_detail("standby").await;
    // It is killed without releasing the Lease.
    a.task.shutdown().await;
    b.leads().await;
    assert_eq!(scene.holder(), "b");
    assert!(!a.parts.ledger.is_leader(), "it stopped by its own clock");
}

#[tokio::test]
async fn of_two_replicas_that_take_the_lease_at_once_one_leads() {
    let scene = Scene::new().await;
    let (a, a_parts) = scene.elector("a");
    let (b, b_parts) = scene.elector("b");
    let (mut a_state, mut b_state) = Default::default();
    let both = tokio::join!(a.attempt(&mut a_state), b.attempt(&mut b_state));
    assert!(both.0.is_ok() && both.1.is_ok(), "a conflict is no error");
    let leads = [a_parts.ledger.is_leader(), b_parts.ledger.is_leader()];
    assert!(leads.contains(&true) && leads.contains(&false), "{leads:?}");
}

#[tokio::test]
async fn a_new_leader_continues_at_the_watermark_of_the_old_one() {
    let scene = Scene::new().await;
    let a = scene.replica("a");
    a.leads().await;
    let ledger = &a.parts.ledger;
    ledger.observe(observation("pod", 1, Some(9)));
    ledger.synced("*", true);
    ledger.alive("*", 30);
    while let (Some(window), _) = ledger.next(30) {
        let delivered = meterline_ledger::DeliveryResult::Delivered;
        ledger.settle(window.batch.tag, |_| delivered);
    }
    until(|| scene.watermark() == "1970-01-01T00:00:30Z").await;
    let b = scene.replica("b");
    b.wait_for_detail("standby").await;
    until(|| b.parts.ledger.safe_watermark() == 30).await;
    a.end().await;
    b.leads().await;
    assert_eq!(scene.watermark(), "1970-01-01T00:00:30Z");
}

#[tokio::test]
async fn a_watermark_that_the_leader_did_not_write_is_overwritten_and_logged_once() {
    let scene = Scene::new().await;
    let a = scene.replica("a");
    a.leads().await;
    scene.lease.change(|lease| {
        lease["metadata"]["annotations"]["meterline.io/watermark"] = "2001-01-01T00:00:00Z".into();
    });
    a.wait_for_detail("was not followed").await;
    until(|| scene.watermark() == "1970-01-01T00:00:00Z").await;
    assert_eq!(a.parts.ledger.safe_watermark(), 0);
    let refused = "leader_election_watermarks_refused{name=\"lease\"}";
    assert_eq!(a.parts.metrics.values()[refused], 1.0);
    assert!(a.parts.ledger.is_leader());
}

#[tokio::test]
async fn an_unsigned_watermark_is_followed_and_counted_as_unproved() {
    let scene = Scene::new().await;
    let (elector, parts) = scene.elector("a");
    parts.ledger.observe(observation("pod", 1, Some(9)));
    let (other, _) = scene.elector("other");
    let mut state = ElectionState::default();
    other.attempt(&mut state).await.unwrap();
    scene.lease.change(|lease| {
        lease["spec"]["holderIdentity"] = "".into();
        lease["metadata"]["annotations"] =
            json!({"meterline.io/watermark": "1970-01-01T00:00:20Z"});
    });
    let mut state = ElectionState::default();
    elector.attempt(&mut state).await.unwrap();
    assert!(parts.ledger.is_leader());
    assert_eq!(parts.ledger.safe_watermark(), 20);
    assert_eq!(state.unproved, 8);
    let (_, detail) = parts.ready("lease n/lease");
    assert!(
        detail.contains("8 object-seconds before 1970-01-01T00:00:20Z"),
        "{detail}"
    );
}

#[tokio::test]
async fn an_error_names_the_rights_and_the_replica_is_not_ready() {
    let server = Server::start(|_| error(403, "leases is forbidden")).await;
    let lease = StoredObject::default();
    let scene = Scene { lease, server };
    let a = scene.replica("a");
    a.wait_for_detail("grant the verbs get, create and update on leases")
        .await;
    assert!(!a.parts.ready("lease n/lease").0);
    assert!(!a.parts.ledger.is_leader());
}

/// A replica with these ledgers, which takes no part in the election yet, and the parts of each.
fn process(
    scene: &Scene,
    identity: &str,
    names: &[(&str, Option<&str>)],
) -> (LeaderElector, Vec<Parts>) {
    let (mut elector, first) = scene.elector_of(identity, names[0]);
    let mut all = vec![first];
    for (subject, label) in &names[1..] {
        let mut options = options(scene.server.cluster());
        options.is_elected = true;
        let parts = Parts::new(options, 0);
        let name = LedgerName::new(subject, label.map(Into::into));
        assert!(elector.add(Member::new(name, Arc::clone(&parts.ledger))));
        all.push(parts);
    }
    (elector, all)
}

const PODS: (&str, Option<&str>) = ("pod", None);
const NODES: (&str, Option<&str>) = ("node", None);

/// Delivers everything up to `until`.
fn deliver(parts: &Parts, until: i64) {
    parts.ledger.synced("*", true);
    parts.ledger.alive("*", until);
    while let (Some(window), _) = parts.ledger.next(until) {
        let delivered = meterline_ledger::DeliveryResult::Delivered;
        parts.ledger.settle(window.batch.tag, |_| delivered);
    }
}

fn watermarks(all: &[Parts]) -> Vec<i64> {
    all.iter().map(|it| it.ledger.safe_watermark()).collect()
}

fn leads(all: &[Parts]) -> bool {
    let leads: Vec<_> = all.iter().map(|it| it.ledger.is_leader()).collect();
    assert!(
        leads.iter().all(|it| *it == leads[0]),
        "all or none: {leads:?}"
    );
    leads[0]
}

/// The old leader delivered for some seconds and released the Lease. Returns what the next one continues with.
async fn hand_over(
    scene: &Scene,
    before: &[(&str, Option<&str>)],
    delivered: &[i64],
    after: &[(&str, Option<&str>)],
) -> (Vec<i64>, Vec<Parts>) {
    let (old, of_old) = process(scene, "old", before);
    let mut old_state = ElectionState::default();
    old.attempt(&mut old_state).await.unwrap();
    assert!(leads(&of_old));
    for (parts, until) in of_old.iter().zip(delivered) {
        deliver(parts, *until);
    }
    let (new, of_new) = process(scene, "new", after);
    let mut new_state = ElectionState::default();
    old.attempt(&mut old_state).await.unwrap();
    new.attempt(&mut new_state).await.unwrap();
    assert!(!leads(&of_new));
    scene
        .lease
        .change(|lease| lease["spec"]["holderIdentity"] = "".into());
    new.attempt(&mut new_state).await.unwrap();
    assert!(leads(&of_new));
    assert_eq!(new_state.unproved, 0);
    (watermarks(&of_new), of_new)
}

#[tokio::test]
async fn each_ledger_of_a_process_continues_at_its_own_watermark() {
    let scene = Scene::new().await;
    let both = [PODS, NODES];
    let (continued, _) = hand_over(&scene, &both, &[30, 50], &both).await;
    assert_eq!(continued, [30, 50]);
    let lease = scene.lease.get().unwrap();
    let annotations = &lease["metadata"]["annotations"];
    assert_eq!(
        annotations["meterline.io/pod.watermark"],
        "1970-01-01T00:00:30Z"
    );
    assert_eq!(
        annotations["meterline.io/node.watermark"],
        "1970-01-01T00:00:50Z"
    );
    // A process that knows none of them repeats some and skips nothing.
    assert_eq!(scene.watermark(), "1970-01-01T00:00:30Z");
}

#[tokio::test]
async fn a_process_with_one_ledger_writes_what_it_always_wrote() {
    let scene = Scene::new().await;
    hand_over(&scene, &[PODS], &[30], &[PODS]).await;
    let lease = scene.lease.get().unwrap();
    let annotations = lease["metadata"]["annotations"].as_object().unwrap();
    let names: Vec<_> = annotations.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["meterline.io/watermark", "meterline.io/watermark-signed"]
    );
    assert_eq!(scene.watermark(), "1970-01-01T00:00:30Z");
}

/// Whatever type the only ledger of the old one has: its watermark does not say.
#[tokio::test]
async fn a_rolling_update_to_more_ledgers_and_back_leaves_no_gap_and_no_overlap() {
    for only in [PODS, NODES] {
        let scene = Scene::new().await;
        let (continued, _) = hand_over(&scene, &[only], &[30], &[PODS, NODES]).await;
        assert_eq!(continued, [30, 30], "{only:?}");
        scene
            .lease
            .change(|lease| lease["spec"]["holderIdentity"] = "".into());
        let of_only = if only == PODS { [70, 90] } else { [90, 70] };
        let (continued, _) = hand_over(&scene, &[PODS, NODES], &of_only, &[only]).await;
        assert_eq!(continued, [70]);
        let lease = scene.lease.get().unwrap();
        let annotations = lease["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(
            annotations.len(),
            2,
            "the others are not kept: {annotations:?}"
        );
    }
}

/// The watermark of a ledger that the leader does not know is not of its last renewal.
#[tokio::test]
async fn a_watermark_that_another_program_left_in_the_lease_does_not_count() {
    let scene = Scene::new().await;
    let both = [PODS, NODES];
    let (_, of_both) = hand_over(&scene, &both, &[30, 50], &both).await;
    drop(of_both);
    scene.lease.change(|lease| {
        // An earlier version leads, and leaves annotations alone that it does not know.
        lease["spec"]["holderIdentity"] = "earlier".into();
        lease["spec"]["renewTime"] = "1970-01-01T00:01:30.000000Z".into();
        let annotations = &mut lease["metadata"]["annotations"];
        let watermark = "1970-01-01T00:01:20Z";
        annotations["meterline.io/watermark"] = watermark.into();
        annotations["meterline.io/watermark-signed"] =
            format!("{watermark} {} earlier", 90_000_000).into();
    });
    let (new, of_new) = process(&scene, "new", &both);
    new.attempt(&mut ElectionState::default()).await.unwrap();
    assert_eq!(watermarks(&of_new), [80, 80]);
}

#[tokio::test]
async fn the_watermark_of_one_ledger_that_was_edited_is_refused_and_logged_once() {
    let scene = Scene::new().await;
    let (elector, all) = process(&scene, "a", &[PODS, NODES]);
    let mut state = ElectionState::default();
    elector.attempt(&mut state).await.unwrap();
    deliver(&all[1], 20);
    for _ in 0..2 {
        scene.lease.change(|lease| {
            lease["metadata"]["annotations"]["meterline.io/node.watermark"] =
                "2001-01-01T00:00:00Z".into();
        });
        elector.attempt(&mut state).await.unwrap();
    }
    assert_eq!(watermarks(&all), [0, 20]);
    let refused = "leader_election_watermarks_refused{name=\"lease\"}";
    assert_eq!(all[0].metrics.values()[refused], 1.0);
    let lease = scene.lease.get().unwrap();
    let annotations = &lease["metadata"]["annotations"];
    assert_eq!(
        annotations["meterline.io/node.watermark"],
        "1970-01-01T00:00:20Z"
    );
}

#[tokio::test]
async fn a_process_elects_once_and_releases_the_lease_when_its_last_input_has_left() {
    let scene = Scene::new().await;
    let election = Arc::new(Scene::election("a"));
    let process = Arc::new(ProcessElection::default());
    let mut members = Vec::new();
    let mut all = Vec::new();
    let mut options = options(scene.server.cluster());
    options.is_elected = true;
    for subject in ["pod", "node"] {
        let parts = Parts::new(options.clone(), 0);
        let name = LedgerName::new(subject, None);
        let member = (&name, &parts.ledger);
        let reports = (&parts.health, &parts.metrics);
        members.push(process.join(&election, member, &options, reports).unwrap());
        let again = process.join(&election, member, &options, reports);
        let error = again.err().unwrap();
        assert!(error.contains("give one of them a `label`"), "{error}");
        all.push(parts);
    }
    for member in &members {
        member.start();
    }
    until(|| leads(&all)).await;
    let [pods, nodes] = members.try_into().ok().unwrap();
    pods.leave().await;
    assert!(leads(&all));
    deliver(&all[1], 20);
    nodes.leave().await;
    assert!(!leads(&all));
    assert_eq!(scene.holder(), "");
    let lease = scene.lease.get().unwrap();
    let annotations = &lease["metadata"]["annotations"];
    assert_eq!(
        annotations["meterline.io/node.watermark"],
        "1970-01-01T00:00:20Z"
    );
    assert_eq!(
        annotations["meterline.io/pod.watermark"],
        "1970-01-01T00:00:00Z"
    );
}
