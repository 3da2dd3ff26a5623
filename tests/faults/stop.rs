//! Told to stop, at any moment.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use meterline_testkit::{
    ingest::{Behaviour, RecordingIngest},
    process::{Meterline, MeterlineCommand},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Scene, has_file};
use crate::{
    crashes::live,
    support::{Chance, MINUTE, stop},
};

const SOON: Duration = Duration::from_secs(20);
/// `shutdown_timeout` and what may come after it, on a machine that is busy.
const LONGEST_STOP: Duration = Duration::from_secs(5);

/// What the README says of how it ends when it is told to stop.
fn is_documented(status: ExitStatus, meterline: &Meterline) -> bool {
    match status.code() {
        Some(0 | 75) => true,
        // Before it listens for signals it has nothing to lose.
        None => status.signal() == Some(15) && !meterline.tail().contains("billing begins"),
        Some(_) => false,
    }
}

/// Stopped 25 times at moments of chance, while pods come and go and the sink takes events, refuses
/// them or does not answer; then audited.
async fn stopped_again_and_again(command: impl Fn(&Scene, &RecordingIngest) -> MeterlineCommand) {
    let Some(scene) = Scene::with(3).await else {
        return;
    };
    let ingest = RecordingIngest::start().await.unwrap();
    let command = || command(&scene, &ingest).args(["--set", "shutdown_timeout=1s"]);
    let mut chance = Chance::new();
    // The first run begins the ledger; from then on whatever happens has to be billed.
    let first = command().start().unwrap();
    first.wait_ready(MINUTE).await.unwrap();
    stop(&first).await;
    let mut lives = JoinSet::new();
    for index in 0..60 {
        let (delay, life) = (chance.below(40_000), 500 + chance.below(10_000));
        let name = format!("short-{index}");
        lives.spawn(live(scene.pods.clone(), name, delay, life));
    }
    let mut codes = Vec::new();
    for _ in 0..25 {
        match chance.below(3) {
            0 => ingest.respond_always(Behaviour::status(503)),
            1 => ingest.respond_always(Behaviour::normal().hold()),
            _ => ingest.respond_normally(),
        }
        let meterline = command().start().unwrap();
        sleep(Duration::from_millis(20 + chance.below(1_800))).await;
        meterline.terminate().unwrap();
        let told = Instant::now();
        let status = meterline.wait_exit(SOON).await.unwrap();
        assert!(
            told.elapsed() < LONGEST_STOP,
            "{:?}{}",
            told.elapsed(),
            meterline.tail()
        );
        assert!(
            is_documented(status, &meterline),
            "{status}{}",
            meterline.tail()
        );
        codes.push(status.code());
    }
    eprintln!("ended with {codes:?}");
    ingest.respond_normally();
    ingest.release();
    let meterline = command().start().unwrap();
    while let Some(lived) = lives.join_next().await {
        lived.unwrap();
    }
    scene.assert_exact(&ingest, &meterline).await;
    assert_eq!(meterline.metric("lost_time").await.unwrap(), Some(0.0));
    assert!(
        !has_file(scene.folder.path(), ".damaged-"),
        "a stop damaged a file"
    );
    stop(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_any_moment_with_a_state_file_every_second_is_billed_once() {
    stopped_again_and_again(|scene, ingest| {
        scene
            .preset(ingest)
            .env("STATE_PATH", scene.file("state.sqlite"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_any_moment_with_a_buffer_every_second_is_billed_once() {
    stopped_again_and_again(|scene, ingest| {
        let buffer = scene.file("buffer.sqlite");
        let buffer = format!(
            "\nbuffer:\n  sqlite: {{path: '{}'}}\n\noutput:",
            buffer.display()
        );
        let output = format!(
            "url: '{}', batching: {{count: 50, period: 300ms}}",
            ingest.url()
        );
        scene
            .variant(|preset| preset.replace("\noutput:", &buffer), &output)
            .env("STATE_PATH", scene.file("state.sqlite"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_while_a_request_is_held() {
    let Some(scene) = Scene::with(3).await else {
        return;
    };
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond_always(Behaviour::normal().hold());
    let command = || {
        scene
            .preset(&ingest)
            .env("STATE_PATH", scene.file("state.sqlite"))
            .args(["--set", "shutdown_timeout=1m"])
    };
    let meterline = command().start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.in_flight > 0)
        .await
        .unwrap();
    meterline.terminate().unwrap();
    meterline.wait_for_log("stopping", SOON).await.unwrap();
    assert!(meterline.exited().is_none());
    meterline.terminate().unwrap();
    let told = Instant::now();
    let status = meterline.wait_exit(SOON).await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", meterline.tail());
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    ingest.respond_normally();
    ingest.release();
    let meterline = command().start().unwrap();
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}

/// The cluster went on without any news of pods: what there is to repeat is nothing, and that too must
/// come to an end.
#[tokio::test(flavor = "multi_thread")]
async fn begun_anew_after_a_while_without_news_of_pods_it_bills_on() {
    let Some(scene) = Scene::with(2).await else {
        return;
    };
    let ingest = RecordingIngest::start().await.unwrap();
    let command = || {
        scene
            .preset(&ingest)
            .env("STATE_PATH", scene.file("state.sqlite"))
    };
    let meterline = command().start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    ingest
        .wait_until(MINUTE, |state| !state.events.is_empty())
        .await
        .unwrap();
    drop(meterline);
    let namespaces = ["one", "two", "three"];
    for name in namespaces {
        scene.control_plane.create_namespace(name).await.unwrap();
    }
    let meterline = command().start().unwrap();
    meterline.wait_ready(SOON).await.unwrap();
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}
