//! Crashes and restarts of the collector itself, with a state file, on a real API server.

use std::{path::Path, sync::Arc, time::Duration};

use meterline_testkit::{
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, Pods, pod},
    process::MeterlineCommand,
    truth::Truth,
};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{Chance, MINUTE, preset, seconds, settled, stop, until};

fn kept(control_plane: &ControlPlane, ingest: &RecordingIngest, state: &Path) -> MeterlineCommand {
    preset(control_plane, "reader", ingest)
        .env("SCRAPE_INTERVAL", "2s")
        .env("STATE_PATH", state)
}

/// A pod that runs, ends and is deleted.
pub(crate) async fn live(pods: Pods, name: String, delay: u64, life: u64) {
    sleep(Duration::from_millis(delay)).await;
    let started = pods::now();
    pods.create_running(&pod(&name), started).await.unwrap();
    sleep(Duration::from_millis(life)).await;
    let ended = pods::now().max(started + seconds(1));
    pods.set_ended(&name, Phase::Succeeded, started, ended)
        .await
        .unwrap();
    pods.delete(&name).await.unwrap();
}

/// Killed a hundred times at moments of chance while pods come and go and events are under way.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn killed_a_hundred_times_nothing_is_missing_and_nothing_double() {
    let control_plane = ControlPlane::start().await.unwrap();
    let control_plane = Arc::new(control_plane);
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.sqlite");
    let mut chance = Chance::new();

    let start = pods::now();
    let mut lives = JoinSet::new();
    for index in 0..120 {
        let pods = Pods::new(client.clone(), "default");
        let (delay, life) = (1_000 + chance.below(70_000), 500 + chance.below(20_000));
        lives.spawn(live(pods, format!("pod-{index}"), delay, life));
    }
    // The first run begins the ledger; from then on whatever happens has to be billed.
    let first = kept(&control_plane, &ingest, &state).start().unwrap();
    first.wait_ready(MINUTE).await.unwrap();
    drop(first);
    for _ in 0..100 {
        let meterline = kept(&control_plane, &ingest, &state).start().unwrap();
        sleep(Duration::from_millis(30 + chance.below(1_200))).await;
        // Dropped: killed by SIGKILL.
        drop(meterline);
    }
    let meterline = kept(&control_plane, &ingest, &state).start().unwrap();
    while let Some(lived) = lives.join_next().await {
        lived.unwrap();
    }
    truth
        .wait_until(MINUTE, |lives| {
            lives.len() == 120 && lives.iter().all(|it| it.end.is_some())
        })
        .await
        .unwrap();
    let range = start..pods::now() + seconds(60);
    let report = settled(&ingest, &truth.lives(), &range, MINUTE).await;
    if !report.is_exact() {
        eprintln!("{}", meterline.log().join("\n"));
    }
    report.assert_exact();
    ingest.assert_clean();
    eprintln!(
        "{} events, {} of them more than once",
        ingest.events().len(),
        ingest.state().duplicates
    );
    stop(&meterline).await;
}

/// Pods that start, end and are deleted while the collector is down were never seen by it, and no list
/// shows them; but the API server repeats what happened since the version that the state names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_came_and_went_while_the_collector_was_down_is_billed() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.sqlite");
    let pods = Pods::new(client.clone(), "default");
    let start = pods::now();
    pods.create_running(&pod("before"), start).await.unwrap();
    // The pod may have started before the first window of a program that takes its time to start.
    let meterline = kept(&control_plane, &ingest, &state)
        .env("LOOKBACK", "1m")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| !state.events.is_empty())
        .await
        .unwrap();
    drop(meterline);
    for index in 0..5 {
        live(pods.clone(), format!("pod-{index}"), 0, 1_200).await;
    }
    let meterline = kept(&control_plane, &ingest, &state).start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    pods.set_ended("before", Phase::Succeeded, start, pods::now())
        .await
        .unwrap();
    truth
        .wait_until(MINUTE, |lives| {
            lives.len() == 6 && lives.iter().all(|it| it.end.is_some())
        })
        .await
        .unwrap();
    settled(
        &ingest,
        &truth.lives(),
        &(start..pods::now() + seconds(60)),
        MINUTE,
    )
    .await
    .assert_exact();
    assert_eq!(meterline.metric("lost_time").await.unwrap(), Some(0.0));
    stop(&meterline).await;
}

/// What ran before the start is billed as far back as `lookback` says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_lookback_bills_what_ran_before_the_start() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let pods = Pods::new(client, "default");
    let start = pods::now() - seconds(60);
    pods.create_running(&pod("runs"), start).await.unwrap();
    pods.create_running(&pod("ended"), start + seconds(7))
        .await
        .unwrap();
    pods.set_ended(
        "ended",
        Phase::Succeeded,
        start + seconds(7),
        start + seconds(31),
    )
    .await
    .unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("LOOKBACK", "2m")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    let end = pods::now();
    pods.set_ended("runs", Phase::Succeeded, start, end)
        .await
        .unwrap();
    truth
        .wait_until(MINUTE, |lives| {
            lives.iter().filter(|it| it.end.is_some()).count() == 2
        })
        .await
        .unwrap();
    settled(&ingest, &truth.lives(), &(start..end + seconds(60)), MINUTE)
        .await
        .assert_exact();
    stop(&meterline).await;
}

/// One file, one process: the second says so and ends. A damaged file is moved aside, told, and
/// billing goes on with a new one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_state_file_is_guarded_and_its_damage_survived() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.sqlite");
    let pods = Pods::new(client, "default");
    pods.create_running(&pod("a"), pods::now()).await.unwrap();
    let meterline = kept(&control_plane, &ingest, &state).start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    ingest
        .wait_until(MINUTE, |state| !state.events.is_empty())
        .await
        .unwrap();

    let second = kept(&control_plane, &ingest, &state).start().unwrap();
    let status = second.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(70), "{}", second.tail());
    assert!(
        second.tail().contains("another process uses it"),
        "{}",
        second.tail()
    );

    stop(&meterline).await;
    let mut bytes = std::fs::read(&state).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0);
    std::fs::write(&state, bytes).unwrap();
    let seen = ingest.events().len();
    let meterline = kept(&control_plane, &ingest, &state).start().unwrap();
    meterline
        .wait_for_log("the state file was damaged", MINUTE)
        .await
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() > seen + 1)
        .await
        .unwrap();
    let aside = std::fs::read_dir(dir.path()).unwrap().any(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".damaged-")
    });
    assert!(aside, "the damaged file is kept");
    until(pods::now()).await;
    stop(&meterline).await;
}

/// Nothing happened in a namespace since the version that the state names, so that there is nothing to
/// repeat; elsewhere something did.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_quiet_namespace_is_billed_on_after_a_restart() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.create_namespace("quiet").await.unwrap();
    for namespace in ["default", "quiet"] {
        control_plane.grant_pods("reader", namespace).await.unwrap();
    }
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.sqlite");
    let run = || {
        kept(&control_plane, &ingest, &state)
            .env("SCRAPE_NAMESPACE", "default,quiet")
            // The first pod is there before the collector.
            .env("LOOKBACK", "1m")
            .start()
            .unwrap()
    };
    let start = pods::now();
    let pods = Pods::new(client.clone(), "quiet");
    pods.create_running(&pod("stays"), start).await.unwrap();
    let meterline = run();
    ingest
        .wait_until(MINUTE, |state| !state.events.is_empty())
        .await
        .unwrap();
    stop(&meterline).await;
    let pods = Pods::new(client, "default");
    pods.create_running(&pod("new"), pods::now()).await.unwrap();
    let meterline = run();
    meterline.wait_ready(MINUTE).await.unwrap();
    truth
        .wait_until(MINUTE, |lives| lives.len() == 2)
        .await
        .unwrap();
    let range = start..pods::now();
    settled(&ingest, &truth.lives(), &range, MINUTE)
        .await
        .assert_exact();
    ingest.assert_clean();
    stop(&meterline).await;
}
