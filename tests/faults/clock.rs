//! The clock is set while the program runs.

use chrono::{DateTime, TimeDelta, Utc};
use meterline_testkit::{
    pods::{self, pod},
    preload::Preload,
    process::Meterline,
    scene::Scene,
};

use crate::support::{BINARY, MINUTE};

const HOUR: i64 = 3_600;

/// How many lines of the log contain `text`.
fn count_lines(meterline: &Meterline, text: &str) -> usize {
    let log = meterline.log();
    log.iter().filter(|line| line.contains(text)).count()
}

/// Asserts that no event is for an hour that is long over or has not come yet, which the audit leaves
/// out.
fn assert_nothing_elsewhere(scene: &Scene) {
    let now = Utc::now() + TimeDelta::seconds(2);
    for event in scene.ingest.events() {
        let time = event["time"].as_str().unwrap();
        let time = DateTime::parse_from_rfc3339(time).unwrap();
        assert!(scene.start <= time && time <= now, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_clock_that_is_an_hour_wrong_bills_no_second_that_did_not_pass() {
    let scene = Scene::with(BINARY, 3).await;
    let preload = Preload::compile().unwrap();
    let meterline = preload
        .put_into(scene.preset())
        .env("STATE_PATH", scene.file("state.sqlite"))
        .start()
        .unwrap();
    scene.wait_for_event_of("pod-0").await;
    for (step, hours) in [1, 0, -1, 0].into_iter().enumerate() {
        let text = if hours == 0 {
            "was set back to the correct time"
        } else {
            "the clock of this machine was set;"
        };
        let before = count_lines(&meterline, text);
        preload.set_clock_off_by(hours * HOUR).unwrap();
        // The program has to notice by itself: the request below does not make it check the clock.
        meterline
            .wait_for_page("/ping", MINUTE, |_, _| {
                count_lines(&meterline, text) > before
            })
            .await
            .unwrap();
        let new = format!("pod-since-step-{step}");
        scene
            .pods
            .create_running(&pod(&new), pods::now())
            .await
            .unwrap();
        scene.wait_for_event_of(&new).await;
        assert_nothing_elsewhere(&scene);
    }
    scene.assert_exact(&meterline).await;
    assert_nothing_elsewhere(&scene);
    for metric in ["lost_time", "ledger_overbilled_seconds"] {
        meterline.assert_metric(metric, 0.0).await;
    }
    meterline.stop().await;
}

/// The clock of the machine is wrong at the start and is corrected later.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_clock_that_is_corrected_is_followed() {
    let scene = Scene::with(BINARY, 3).await;
    let preload = Preload::compile().unwrap();
    // No more than half an hour, because the certificate of the API server has been valid for only an hour.
    preload.set_clock_off_by(-HOUR / 2).unwrap();
    let meterline = preload.put_into(scene.preset()).start().unwrap();
    let warned = meterline
        .wait_for_log("ahead of the API server's, or behind", MINUTE)
        .await
        .unwrap();
    assert!(warned.contains("seconds=-1"), "{warned}");
    meterline.wait_ready(MINUTE).await.unwrap();
    assert_eq!(scene.ingest.state().events.len(), 0);
    preload.set_clock_off_by(0).unwrap();
    meterline
        .wait_for_log("agrees with the API server's since it was set", MINUTE)
        .await
        .unwrap();
    scene.wait_for_event_of("pod-0").await;
    scene.assert_exact(&meterline).await;
    assert_nothing_elsewhere(&scene);
    meterline.stop().await;
}
