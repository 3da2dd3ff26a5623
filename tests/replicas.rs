//! Two replicas with a Lease between them, on a real API server: whatever happens to the one that
//! leads, the other goes on without a hole.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use meterline_testkit::{
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, Pods, pod},
    process::Meterline,
    truth::Truth,
};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{MINUTE, preset, seconds, settled, stop};

const LEADS: &str = "this replica leads now";

struct Pair {
    control_plane: Arc<ControlPlane>,
    ingest: RecordingIngest,
    truth: Truth,
    start: DateTime<Utc>,
    lives: JoinSet<()>,
}

impl Pair {
    /// A control plane with pods that come and go for half a minute.
    async fn new() -> Self {
        let control_plane = Arc::new(ControlPlane::start().await.unwrap());
        control_plane.grant_pods("reader", "default").await.unwrap();
        control_plane
            .grant_leases("reader", "default")
            .await
            .unwrap();
        let client = control_plane.admin_client().await.unwrap();
        let truth = Truth::watch(client.clone()).await.unwrap();
        let start = pods::now();
        let mut lives = JoinSet::new();
        for index in 0..40_u64 {
            let pods = Pods::new(client.clone(), "default");
            lives.spawn(async move {
                let name = format!("pod-{index}");
                sleep(Duration::from_millis(8_000 + index * 701 % 24_000)).await;
                let started = pods::now();
                pods.create_running(&pod(&name), started).await.unwrap();
                sleep(Duration::from_millis(1_001 + index * 977 % 16_000)).await;
                let ended = pods::now().max(started + seconds(1));
                pods.set_ended(&name, Phase::Succeeded, started, ended)
                    .await
                    .unwrap();
                pods.delete(&name).await.unwrap();
            });
        }
        Self {
            control_plane,
            ingest: RecordingIngest::start().await.unwrap(),
            truth,
            start,
            lives,
        }
    }

    fn replica(&self, identity: &str) -> Meterline {
        preset(&self.control_plane, "reader", &self.ingest)
            .arg("--leader-election")
            .env("SCRAPE_INTERVAL", "2s")
            .env("LEASE_LOCK_NAMESPACE", "default")
            .env("K8S_APP_INSTANCE", "meterline")
            .env("K8S_POD_NAME", identity)
            .env("LEASE_DURATION", "6s")
            .env("LEASE_RENEW_DEADLINE", "4s")
            .env("LEASE_RETRY_PERIOD", "1s")
            .start()
            .unwrap()
    }

    /// One that leads, and one that stands by and is ready.
    async fn both(&self) -> (Meterline, Meterline) {
        let leader = self.replica("a");
        leader.wait_for_log(LEADS, MINUTE).await.unwrap();
        leader.wait_ready(MINUTE).await.unwrap();
        let standby = self.replica("b");
        standby.wait_ready(MINUTE).await.unwrap();
        let (_, page) = standby.get("/ready").await.unwrap();
        assert!(page.contains("standby; `a` leads"), "{page}");
        assert_eq!(
            standby.metric("leader_election_leader").await.unwrap(),
            Some(0.0)
        );
        assert_eq!(
            leader.metric("leader_election_leader").await.unwrap(),
            Some(1.0)
        );
        for (replica, role) in [(&leader, "leader"), (&standby, "standby")] {
            let (_, page) = replica.get("/stats").await.unwrap();
            let page: serde_json::Value = serde_json::from_str(&page).unwrap();
            assert_eq!(page["role"], role);
        }
        (leader, standby)
    }

    /// Everything that ran is billed once.
    async fn audit(&mut self, replica: &Meterline) {
        while let Some(lived) = self.lives.join_next().await {
            lived.unwrap();
        }
        let all = |lives: &[meterline_testkit::audit::Life]| {
            lives.len() == 40 && lives.iter().all(|it| it.end.is_some())
        };
        self.truth.wait_until(MINUTE, all).await.unwrap();
        let range = self.start..pods::now() + seconds(60);
        let report = settled(&self.ingest, &self.truth.lives(), &range, MINUTE).await;
        if !report.is_exact() {
            eprintln!("{}", replica.log().join("\n"));
        }
        report.assert_exact();
        self.ingest.assert_clean();
        stop(replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_killed_leader_is_replaced_within_the_lease() {
    let mut pair = Pair::new().await;
    let (leader, standby) = pair.both().await;
    sleep(Duration::from_secs(8)).await;
    leader.kill().unwrap();
    // The Lease's duration, the second in which the standby looks, and one for the machine.
    standby
        .wait_for_log(LEADS, Duration::from_secs(8))
        .await
        .unwrap();
    pair.audit(&standby).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_stopped_leader_hands_over_at_once() {
    let mut pair = Pair::new().await;
    let (leader, standby) = pair.both().await;
    sleep(Duration::from_secs(8)).await;
    leader.terminate().unwrap();
    standby
        .wait_for_log(LEADS, Duration::from_secs(2))
        .await
        .unwrap();
    let status = leader.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", leader.tail());
    pair.audit(&standby).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_leader_that_slept_stands_by_when_it_wakes() {
    let mut pair = Pair::new().await;
    let (leader, standby) = pair.both().await;
    sleep(Duration::from_secs(6)).await;
    leader.pause().unwrap();
    standby
        .wait_for_log(LEADS, Duration::from_secs(8))
        .await
        .unwrap();
    // `SUSPEND=300` lets it sleep for five minutes.
    let asleep = std::env::var("SUSPEND").ok().and_then(|it| it.parse().ok());
    sleep(Duration::from_secs(asleep.unwrap_or(4))).await;
    leader.resume().unwrap();
    leader
        .wait_for_page("/ready", MINUTE, |_, page| {
            page.contains("standby; `b` leads")
        })
        .await
        .unwrap();
    assert_eq!(
        standby.metric("leader_election_leader").await.unwrap(),
        Some(1.0)
    );
    pair.audit(&standby).await;
    leader.wait_for_log(LEADS, MINUTE).await.unwrap();
    stop(&leader).await;
}
