//! A state file that is deleted or replaced by another file while it is in use.

use std::{fs, time::Duration};

use meterline_testkit::{
    process::{Meterline, MeterlineCommand},
    scene::Scene,
};

use super::has_file;
use crate::support::{BINARY, MINUTE};

const NOTICED: Duration = Duration::from_secs(10);
const BILLED: &str = "ledger_billed_seconds";

/// A second process on the same file ends, and reports the reason.
async fn assert_refused(command: MeterlineCommand) {
    let second = command.start().unwrap();
    let status = second.wait_exit(MINUTE).await.unwrap();
    assert!(!status.success());
    assert!(
        second.tail().contains("another process uses it"),
        "{}",
        second.tail()
    );
}

/// Asserts that `/ready` reports what happened and that the metric counts it, while billing continues.
async fn assert_reported(meterline: &Meterline, times: f64, what: &str) {
    meterline.wait_for_log(what, NOTICED).await.unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && page.contains(what) && page.contains("it was rewritten")
        })
        .await
        .unwrap();
    let replaced = meterline.metric("state_file_replaced").await.unwrap();
    assert_eq!(replaced, Some(times));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_state_file_that_is_deleted_or_replaced_is_rewritten_and_stays_locked() {
    let scene = Scene::with(BINARY, 3).await;
    let state = scene.file("state.sqlite");
    let command = || scene.preset().env("STATE_PATH", &state);
    let meterline = command().start_ready().await.unwrap();
    meterline
        .wait_for_metric(BILLED, MINUTE, |billed| billed > 6.0)
        .await
        .unwrap();

    fs::remove_file(&state).unwrap();
    assert_refused(command()).await;
    assert_reported(&meterline, 1.0, "the state file was deleted").await;
    assert_refused(command()).await;

    let other = scene.file("other");
    fs::write(&other, "none of its files").unwrap();
    fs::rename(&other, &state).unwrap();
    assert_reported(&meterline, 2.0, "the state file was replaced").await;
    assert!(has_file(scene.folder(), "state.sqlite.replaced-"));

    // The file that is there now survives a crash.
    let billed = meterline.metric(BILLED).await.unwrap();
    drop(meterline);
    let meterline = command().start_ready().await.unwrap();
    assert!(meterline.metric(BILLED).await.unwrap() >= billed);
    scene.assert_exact(&meterline).await;
    meterline.assert_metric("lost_time", 0.0).await;
    meterline.stop().await;
}
