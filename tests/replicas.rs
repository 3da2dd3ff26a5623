//! Two replicas with a Lease on a real API server: when the leader fails, the other one continues
//! without a gap.

use std::time::Duration;

use meterline_testkit::{audit::Life, pods::pod, process::Meterline, scene::Scene};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{BINARY, MINUTE};

const LEADS: &str = "this replica leads now";
const LEADER: &str = "leader_election_leader";

struct Pair {
    scene: Scene,
    lives: JoinSet<anyhow::Result<Life>>,
}

impl Pair {
    /// A control plane with pods that come and go for half a minute.
    async fn new() -> Self {
        let scene = Scene::with(BINARY, 0).await;
        scene.grant_leases().await;
        let mut lives = JoinSet::new();
        for index in 0..40_u64 {
            let pods = scene.pods.clone();
            let spec = pod(&format!("pod-{index}"));
            let delay = Duration::from_millis(8_000 + index * 701 % 24_000);
            let life = Duration::from_millis(1_001 + index * 977 % 16_000);
            lives.spawn(async move { pods.live_and_go(&spec, delay, life).await });
        }
        Self { scene, lives }
    }

    fn replica(&self, identity: &str) -> Meterline {
        let replica = self.scene.replica(identity, 6);
        replica.env("SCRAPE_INTERVAL", "2s").start().unwrap()
    }

    /// The leader, and a standby that is ready.
    async fn both(&self) -> (Meterline, Meterline) {
        let leader = self.replica("a");
        leader.wait_for_log(LEADS, MINUTE).await.unwrap();
        leader.wait_ready(MINUTE).await.unwrap();
        let standby = self.replica("b");
        standby.wait_ready(MINUTE).await.unwrap();
        let (_, page) = standby.get("/ready").await.unwrap();
        assert!(page.contains("standby; `a` leads"), "{page}");
        standby.assert_metric(LEADER, 0.0).await;
        leader.assert_metric(LEADER, 1.0).await;
        for (replica, role) in [(&leader, "leader"), (&standby, "standby")] {
            assert_eq!(replica.stats().await.unwrap()["role"], role);
        }
        (leader, standby)
    }

    /// Every pod has ended and is billed for what it ran; the replica stops.
    async fn finish(mut self, replica: &Meterline) {
        while let Some(lived) = self.lives.join_next().await {
            lived.unwrap().unwrap();
        }
        self.scene.truth.wait_for_ends(40).await.unwrap();
        self.scene.finish(replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_killed_leader_is_replaced_within_the_lease() {
    let pair = Pair::new().await;
    let (leader, standby) = pair.both().await;
    sleep(Duration::from_secs(8)).await;
    leader.kill().unwrap();
    // The duration of the Lease, a second until the standby looks, and one for a busy machine.
    standby
        .wait_for_log(LEADS, Duration::from_secs(8))
        .await
        .unwrap();
    pair.finish(&standby).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_stopped_leader_hands_over_at_once() {
    let pair = Pair::new().await;
    let (leader, standby) = pair.both().await;
    sleep(Duration::from_secs(8)).await;
    leader.terminate().unwrap();
    standby
        .wait_for_log(LEADS, Duration::from_secs(2))
        .await
        .unwrap();
    let status = leader.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", leader.tail());
    pair.finish(&standby).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_suspended_leader_is_a_standby_when_it_resumes() {
    let pair = Pair::new().await;
    let (leader, standby) = pair.both().await;
    sleep(Duration::from_secs(6)).await;
    leader.pause().unwrap();
    standby
        .wait_for_log(LEADS, Duration::from_secs(8))
        .await
        .unwrap();
    // `SUSPEND=300` suspends it for five minutes.
    let asleep = std::env::var("SUSPEND").ok().and_then(|it| it.parse().ok());
    sleep(Duration::from_secs(asleep.unwrap_or(4))).await;
    leader.resume().unwrap();
    leader
        .wait_for_page("/ready", MINUTE, |_, page| {
            page.contains("standby; `b` leads")
        })
        .await
        .unwrap();
    standby.assert_metric(LEADER, 1.0).await;
    pair.finish(&standby).await;
    leader.wait_for_log(LEADS, MINUTE).await.unwrap();
    leader.stop().await;
}
