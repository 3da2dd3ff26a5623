//! The main promise: pods on a real API server are billed to the second, despite failures around them.

use std::time::Duration;

use meterline_testkit::{ingest::Behaviour, pods::pod, scene::Scene};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::support::BINARY;

const NAMESPACES: [&str; 3] = ["team-a", "team-b", "team-c"];

/// Fifty pods in three namespaces start and stop inside windows of five seconds; one of them lives two
/// seconds. Meanwhile the API server restarts, the sink answers 500 for ten seconds, and two answers
/// are lost after the sink took the events.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn fifty_pods_are_billed_to_the_second_through_outages() {
    let scene = Scene::bare(BINARY).await;
    let mut namespaces = Vec::new();
    for namespace in NAMESPACES {
        namespaces.push(scene.namespace(namespace).await);
    }
    let meterline = scene
        .preset()
        .env("SCRAPE_INTERVAL", "5s")
        .env("BATCH_SIZE", "20")
        .env("BATCH_PERIOD", "1s")
        .env("SCRAPE_NAMESPACE", NAMESPACES.join(","))
        .start_ready()
        .await
        .unwrap();

    let from = Instant::now();
    let mut lives = JoinSet::new();
    for index in 0..50_u64 {
        // The starts are spread unevenly over half a minute.
        let (delay, life) = match index {
            0 => (6_300, 2_000),
            _ => (index * 613 % 30_000, 2_001 + index * 977 % 24_000),
        };
        let [delay, life] = [delay, life].map(Duration::from_millis);
        let mut spec = pod(&format!("pod-{index}"));
        if index % 5 != 0 {
            spec = spec
                .annotation("openmeter.io/subject", "customer-1")
                .annotation("data.openmeter.io/team", "blue");
        }
        let pods = namespaces[index as usize % 3].clone();
        lives.spawn(async move {
            if index % 2 == 0 {
                pods.live(&spec, delay, life).await
            } else {
                pods.live_and_go(&spec, delay, life).await
            }
        });
    }
    sleep_until(from + Duration::from_secs(8)).await;
    scene.ingest.respond_always(Behaviour::status(500));
    sleep_until(from + Duration::from_secs(14)).await;
    scene.control_plane.restart_apiserver().await.unwrap();
    sleep_until(from + Duration::from_secs(18)).await;
    scene.ingest.respond_normally();
    scene.ingest.respond(2, &Behaviour::accept_then_drop());
    while let Some(lived) = lives.join_next().await {
        lived.unwrap().unwrap();
    }
    scene.truth.wait_for_ends(50).await.unwrap();
    assert!(scene.truth.unreported().is_empty());
    scene.assert_exact(&meterline).await;
    assert_eq!(scene.truth.lives().len(), 50);
    let duplicates = scene.ingest.state().duplicates;
    assert!(duplicates > 0, "the lost answers made it repeat events");
    meterline
        .assert_metric("ledger_overbilled_seconds", 0.0)
        .await;
    meterline.stop().await;
}
