//! An election over a Lease that is read and written over HTTP.

use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::kubernetes_resources::testing::{
    Api as Server, Parts, Request, StoredObject, error, observation, options, until,
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
        let mut options = options(self.server.cluster());
        options.is_elected = true;
        let parts = Parts::new(options, 0);
        let election = LeaderElection {
            namespace: "n".to_owned(),
            name: "lease".to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(1),
            renew_deadline: Duration::from_millis(800),
            retry_period: Duration::from_millis(100),
        };
        let elector = LeaderElector::new(
            Arc::new(election),
            Arc::clone(&parts.ledger),
            &parts.options,
            &parts.health,
            &parts.metrics,
        );
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
