//! Crashes and restarts of the program, with a state file, on a real API server.

use std::time::Duration;

use meterline_testkit::{
    pods::{self, Phase, pod},
    process::MeterlineCommand,
    scene::Scene,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    faults::has_file,
    support::{BINARY, Chance, MINUTE, seconds},
};

/// The preset with a state file, in windows of two seconds.
fn kept(scene: &Scene) -> MeterlineCommand {
    scene
        .preset()
        .env("SCRAPE_INTERVAL", "2s")
        .env("STATE_PATH", scene.file("state.sqlite"))
}

/// The program is killed a hundred times at random moments while pods come and go and events are sent.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn after_a_hundred_kills_nothing_is_missing_or_billed_twice() {
    let scene = Scene::with(BINARY, 0).await;
    let mut chance = Chance::new();
    let mut lives = JoinSet::new();
    for index in 0..120 {
        let pods = scene.pods.clone();
        let spec = pod(&format!("pod-{index}"));
        let delay = Duration::from_secs(1) + chance.pause(Duration::from_secs(70));
        let life = Duration::from_millis(500) + chance.pause(Duration::from_secs(20));
        lives.spawn(async move { pods.live_and_go(&spec, delay, life).await });
    }
    // The first run begins the ledger; everything that happens later has to be billed.
    drop(kept(&scene).start_ready().await.unwrap());
    for _ in 0..100 {
        let meterline = kept(&scene).start().unwrap();
        sleep(Duration::from_millis(30) + chance.pause(Duration::from_millis(1_200))).await;
        // Dropping it kills it.
        drop(meterline);
    }
    let meterline = kept(&scene).start().unwrap();
    while let Some(lived) = lives.join_next().await {
        lived.unwrap().unwrap();
    }
    scene.truth.wait_for_ends(120).await.unwrap();
    scene.finish(&meterline).await;
    eprintln!(
        "{} events, {} repeats",
        scene.ingest.events().len(),
        scene.ingest.state().duplicates
    );
}

/// Pods start, end and are deleted while the program is down. The program never saw them, and no list
/// shows them, but the API server repeats what happened since the version in the state file.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_ran_while_the_collector_was_down_are_billed() {
    let scene = Scene::with(BINARY, 1).await;
    let meterline = kept(&scene).start().unwrap();
    scene.ingest.wait_for_events(1).await.unwrap();
    drop(meterline);
    for index in 0..5 {
        let spec = pod(&format!("short-{index}"));
        let life = Duration::from_millis(1_200);
        let lived = scene.pods.live_and_go(&spec, Duration::ZERO, life).await;
        lived.unwrap();
    }
    let meterline = kept(&scene).start_ready().await.unwrap();
    scene.assert_exact(&meterline).await;
    assert_eq!(scene.truth.lives().len(), 6);
    meterline.assert_metric("lost_time", 0.0).await;
    meterline.stop().await;
}

/// The API server restarts as well, so that it repeats none of what happened while the program was down. What it stores
/// of the past shows the pods, and how they ended.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_ran_before_the_api_server_restarted_are_billed() {
    let scene = Scene::with(BINARY, 1).await;
    let meterline = kept(&scene).start().unwrap();
    scene.ingest.wait_for_events(1).await.unwrap();
    drop(meterline);
    let mut lives = JoinSet::new();
    for index in 0..10 {
        let pods = scene.pods.clone();
        let delay = Duration::from_millis(300 * index);
        let spec = pod(&format!("short-{index}"));
        let life = Duration::from_millis(1_500);
        lives.spawn(async move { pods.live_and_go(&spec, delay, life).await });
    }
    let lives = lives.join_all().await;
    scene.control_plane.restart_apiserver().await.unwrap();
    let meterline = kept(&scene).start_ready().await.unwrap();
    scene.end_all().await;
    let mut lives: Vec<_> = lives.into_iter().map(Result::unwrap).collect();
    lives.extend(scene.lives().into_iter().filter(|it| it.name == "pod-0"));
    assert_eq!(lives.len(), 11);
    scene.assert_billed(&lives, &meterline).await;
    meterline.assert_metric("lost_time", 0.0).await;
    meterline.stop().await;
}

/// Usage before the start is billed as far back as `lookback` sets.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_lookback_bills_what_ran_before_the_start() {
    let scene = Scene::with(BINARY, 0).await;
    let start = pods::now() - seconds(60);
    let (began, ended) = (start + seconds(7), start + seconds(31));
    for (name, start) in [("runs", start), ("ended", began)] {
        let running = scene.pods.create_running(&pod(name), start).await;
        running.unwrap();
    }
    let ended = scene
        .pods
        .set_ended("ended", Phase::Succeeded, began, ended);
    ended.await.unwrap();
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "5s");
    let meterline = meterline.start_ready().await.unwrap();
    scene.finish(&meterline).await;
    assert_eq!(scene.truth.lives().len(), 2);
}

/// A state file belongs to one process: a second process reports that and ends. A damaged file is moved
/// aside and reported, and billing continues with a new one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_second_process_is_refused_and_a_damaged_state_file_is_moved_aside() {
    let scene = Scene::with(BINARY, 1).await;
    let meterline = kept(&scene).start_ready().await.unwrap();
    scene.ingest.wait_for_events(1).await.unwrap();

    let second = kept(&scene).start().unwrap();
    let status = second.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(70), "{}", second.tail());
    let log = second.tail();
    assert!(log.contains("another process uses it"), "{log}");

    meterline.stop().await;
    let state = scene.file("state.sqlite");
    let mut bytes = std::fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0);
    std::fs::write(&state, bytes).unwrap();
    let meterline = kept(&scene).start().unwrap();
    let damaged = meterline.wait_for_log("the state file was damaged", MINUTE);
    damaged.await.unwrap();
    scene.ingest.wait_for_more_events(2).await.unwrap();
    let is_kept = has_file(scene.folder(), ".damaged-");
    assert!(is_kept, "the damaged file is kept");
    meterline.stop().await;
}

/// In one namespace nothing happened since the version in the state file, so the API server has nothing
/// to repeat. In another namespace something happened.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_namespace_without_events_is_billed_after_a_restart() {
    let scene = Scene::with(BINARY, 0).await;
    let quiet = scene.namespace("quiet").await;
    let command = || kept(&scene).env("SCRAPE_NAMESPACE", "default,quiet");
    let running = quiet.create_running(&pod("stays"), scene.start).await;
    running.unwrap();
    let meterline = command().start().unwrap();
    scene.ingest.wait_for_events(1).await.unwrap();
    meterline.stop().await;
    let new = scene.pods.create_running(&pod("new"), pods::now()).await;
    new.unwrap();
    let meterline = command().start_ready().await.unwrap();
    scene
        .truth
        .wait_until(MINUTE, |lives| lives.len() == 2)
        .await
        .unwrap();
    scene.finish(&meterline).await;
}
