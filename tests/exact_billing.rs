//! The main job: pods on a real API server, billed to the second whatever happens around them.

use std::{sync::Arc, time::Duration};

use meterline_testkit::{
    control_plane::ControlPlane,
    ingest::{Behaviour, RecordingIngest},
    pods::{self, Phase, Pods, pod},
    truth::Truth,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::support::{MINUTE, preset, settled, stop, until_done};

const NAMESPACES: [&str; 3] = ["team-a", "team-b", "team-c"];

/// One pod from its creation to its end, `delay` and `life` in milliseconds.
async fn live(pods: Pods, name: String, from: Instant, delay: u64, life: u64, annotated: bool) {
    let start = from + Duration::from_millis(delay);
    let mut spec = pod(&name);
    if annotated {
        spec = spec
            .annotation("openmeter.io/subject", "customer-1")
            .annotation("data.openmeter.io/team", "blue");
    }
    sleep_until(start).await;
    // A pod that was created before the server went away is found again after it.
    until_done(|| async {
        match pods.api().get_opt(&name).await? {
            Some(pod) => Ok(pod),
            None => pods.create(&spec).await,
        }
    })
    .await;
    let started = until_done(|| async {
        let started = pods::now();
        pods.set_running(&name, started).await.map(|_| started)
    })
    .await;
    sleep_until(start + Duration::from_millis(life)).await;
    until_done(|| async {
        let ended = pods::now().max(started + chrono::TimeDelta::seconds(1));
        pods.set_ended(&name, Phase::Succeeded, started, ended)
            .await
    })
    .await;
    if life.is_multiple_of(2) {
        until_done(|| async {
            match pods.api().get_opt(&name).await? {
                Some(_) => pods.delete(&name).await,
                None => Ok(()),
            }
        })
        .await;
    }
}

async fn namespaces(control_plane: &ControlPlane, user: &str) {
    for namespace in NAMESPACES {
        control_plane.create_namespace(namespace).await.unwrap();
        control_plane.grant_pods(user, namespace).await.unwrap();
    }
}

/// Fifty pods in three namespaces that start and stop inside windows, one of which lives two
/// seconds of a window of five; the API server is restarted, the sink answers 500 for ten seconds,
/// and answers are lost after the body was taken.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn fifty_pods_are_billed_to_the_second_through_outages() {
    let control_plane = ControlPlane::start().await.unwrap();
    let control_plane = Arc::new(control_plane);
    namespaces(&control_plane, "reader").await;
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_NAMESPACE", NAMESPACES.join(","))
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();

    let from = Instant::now();
    let range_start = pods::now();
    let mut lives = JoinSet::new();
    for index in 0..50_u64 {
        let pods = Pods::new(client.clone(), NAMESPACES[index as usize % 3]);
        // Spread over half a minute and a little irregular; the first lives two seconds.
        let (delay, life) = match index {
            0 => (6_300, 2_000),
            _ => (index * 613 % 30_000, 2_001 + index * 977 % 24_000),
        };
        lives.spawn(live(
            pods,
            format!("pod-{index}"),
            from,
            delay,
            life,
            index % 5 != 0,
        ));
    }
    sleep_until(from + Duration::from_secs(8)).await;
    ingest.respond_always(Behaviour::status(500));
    sleep_until(from + Duration::from_secs(14)).await;
    control_plane.restart_apiserver().await.unwrap();
    sleep_until(from + Duration::from_secs(18)).await;
    ingest.respond_normally();
    ingest.respond(2, &Behaviour::accept_then_drop());
    while let Some(lived) = lives.join_next().await {
        lived.unwrap();
    }
    truth
        .wait_until(MINUTE, |lives| {
            lives.len() == 50 && lives.iter().all(|it| it.end.is_some())
        })
        .await
        .unwrap();
    assert!(truth.unreported().is_empty());
    let range = range_start..pods::now() + chrono::TimeDelta::seconds(60);
    let report = settled(&ingest, &truth.lives(), &range, MINUTE).await;
    if !report.is_exact() {
        eprintln!("{}", meterline.log().join("\n"));
    }
    report.assert_exact();
    assert_eq!(report.pods.len(), 50);
    ingest.assert_clean();
    assert!(ingest.state().duplicates > 0, "lost answers were repeated");
    assert_eq!(
        meterline.metric("ledger_overbilled_seconds").await.unwrap(),
        Some(0.0)
    );
    stop(&meterline).await;
}
