//! The clock is set while the program runs.

use chrono::{DateTime, TimeDelta, Utc};
use meterline_testkit::{
    ingest::RecordingIngest,
    pods::{self, pod},
    preload::Preload,
    process::Meterline,
};

use super::{Scene, name};
use crate::support::{MINUTE, stop};

const HOUR: i64 = 3_600;

/// How often the log says this.
fn said(meterline: &Meterline, text: &str) -> usize {
    let log = meterline.log();
    log.iter().filter(|line| line.contains(text)).count()
}

/// Waits until an event of this pod has come.
async fn billed(ingest: &RecordingIngest, pod: &str) {
    ingest
        .wait_until(MINUTE, |state| {
            state.events.iter().any(|it| name(&it.event) == pod)
        })
        .await
        .unwrap();
}

/// What the audit does not look at: an hour that has not come yet, or is long over.
fn assert_nothing_elsewhere(scene: &Scene, ingest: &RecordingIngest) {
    let now = Utc::now() + TimeDelta::seconds(2);
    for event in ingest.events() {
        let time = event["time"].as_str().unwrap();
        let time = DateTime::parse_from_rfc3339(time).unwrap();
        assert!(scene.start <= time && time <= now, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_clock_that_is_set_an_hour_wrong_bills_no_second_that_did_not_pass() {
    let scene = Scene::with(3).await;
    let preload = Preload::compile().unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preload
        .put_into(scene.preset(&ingest))
        .env("STATE_PATH", scene.file("state.sqlite"))
        .start()
        .unwrap();
    billed(&ingest, "pod-0").await;
    for (step, hours) in [1, 0, -1, 0].into_iter().enumerate() {
        let text = if hours == 0 {
            "was set back to what it should show"
        } else {
            "the clock of this machine was set;"
        };
        let before = said(&meterline, text);
        preload.set_clock_off_by(hours * HOUR).unwrap();
        // Asking for the metrics is none of its business: it notices by itself.
        meterline
            .wait_for_page("/ping", MINUTE, |_, _| said(&meterline, text) > before)
            .await
            .unwrap();
        let new = format!("pod-since-step-{step}");
        scene
            .pods
            .create_running(&pod(&new), pods::now())
            .await
            .unwrap();
        billed(&ingest, &new).await;
        assert_nothing_elsewhere(&scene, &ingest);
    }
    scene.assert_exact(&ingest, &meterline).await;
    assert_nothing_elsewhere(&scene, &ingest);
    for metric in ["lost_time", "ledger_overbilled_seconds"] {
        assert_eq!(
            meterline.metric(metric).await.unwrap(),
            Some(0.0),
            "{metric}"
        );
    }
    stop(&meterline).await;
}

/// A machine that starts with a wrong clock, which is put right later.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_clock_that_is_put_right_is_followed() {
    let scene = Scene::with(3).await;
    let preload = Preload::compile().unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    // The API server's certificate is younger than an hour, nearly.
    preload.set_clock_off_by(-HOUR / 2).unwrap();
    let meterline = preload.put_into(scene.preset(&ingest)).start().unwrap();
    let warned = meterline
        .wait_for_log("ahead of the API server's, or behind", MINUTE)
        .await
        .unwrap();
    assert!(warned.contains("seconds=-1"), "{warned}");
    meterline.wait_ready(MINUTE).await.unwrap();
    assert_eq!(ingest.state().events.len(), 0);
    preload.set_clock_off_by(0).unwrap();
    meterline
        .wait_for_log("agrees with the API server's since it was set", MINUTE)
        .await
        .unwrap();
    billed(&ingest, "pod-0").await;
    scene.assert_exact(&ingest, &meterline).await;
    assert_nothing_elsewhere(&scene, &ingest);
    stop(&meterline).await;
}
