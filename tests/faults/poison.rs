//! Events that the sink chokes on, and answers that are not its own.

use meterline_testkit::{
    ingest::{Behaviour, RecordingIngest},
    process::Meterline,
};

use super::{Scene, name};
use crate::support::{MINUTE, stop};

/// Waits until the watermark has passed the end of the last pod.
async fn nothing_waits(scene: &Scene, meterline: &Meterline) {
    let last = scene.truth.lives().iter().filter_map(|it| it.end).max();
    let last = last.unwrap().timestamp() as f64;
    meterline
        .wait_for_metric("ledger_watermark_timestamp_seconds", 2 * MINUTE, |at| {
            at > last
        })
        .await
        .unwrap();
}

/// A pod whose every event makes the sink answer 500, in every window and every request, until it is
/// deleted; and a restart after that.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_event_that_the_sink_chokes_on_stops_nobody_elses_billing() {
    let scene = Scene::with(4).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.poison_when(|event| name(event) == "pod-1");
    let meterline = scene.preset(&ingest).start().unwrap();
    let line = meterline
        .wait_for_log("rejected, and not billed", 5 * MINUTE)
        .await
        .unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    meterline
        .wait_for_log("the batch that was halved is finished", MINUTE)
        .await
        .unwrap();
    scene.end_all().await;
    let report = scene.settled_without(&ingest, "pod-1").await;
    report.assert_exact();
    assert!(ingest.events().iter().all(|event| name(event) != "pod-1"));
    ingest.assert_clean();
    stop(&meterline).await;
}

/// A process that is killed in the middle of it: what was parked is still, and others are exact.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_is_parked_survives_the_process_and_costs_the_others_nothing() {
    let scene = Scene::with(4).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.poison_when(|event| name(event) == "pod-1");
    let start = || {
        scene
            .preset(&ingest)
            .env("STATE_PATH", scene.file("state.sqlite"))
            .start()
            .unwrap()
    };
    let meterline = start();
    let parked = "rejected, and not billed";
    meterline.wait_for_log(parked, 5 * MINUTE).await.unwrap();
    meterline
        .wait_for_page("/stats", MINUTE, |_, page| rejected_seconds(page) > 0)
        .await
        .unwrap();
    meterline.kill().unwrap();
    meterline.wait_exit(MINUTE).await.unwrap();
    drop(meterline);

    let taken = ingest.state().events.len();
    let meterline = start();
    ingest
        .wait_until(5 * MINUTE, |state| state.events.len() > taken)
        .await
        .unwrap();
    // What comes from now on is parked as well.
    let line = meterline.wait_for_log(parked, 5 * MINUTE).await.unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    scene.end_all().await;
    let report = scene.settled_without(&ingest, "pod-1").await;
    report.assert_exact();
    assert!(ingest.events().iter().all(|event| name(event) != "pod-1"));
    // All that pod-1 ran is parked: none of it is lost, and none is called delivered.
    let life = scene
        .truth
        .lives()
        .into_iter()
        .find(|it| it.name == "pod-1");
    let life = life.unwrap();
    let ran = (life.end.unwrap() - life.start).num_seconds();
    meterline
        .wait_for_page("/stats", 2 * MINUTE, |_, page| {
            rejected_seconds(page) == ran
        })
        .await
        .unwrap();
    ingest.assert_clean();
    stop(&meterline).await;
}

/// Of `/stats`.
fn rejected_seconds(page: &str) -> i64 {
    let page: serde_json::Value = serde_json::from_str(page).unwrap_or_default();
    page["seconds"]["rejected"].as_i64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_pod_whose_events_the_sink_chokes_on_may_be_deleted_meanwhile() {
    let scene = Scene::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.poison_when(|event| name(event) == "pod-1");
    let meterline = scene.preset(&ingest).start().unwrap();
    // It is in every batch so far, and nothing was taken; now it is gone, and its seconds wait.
    ingest
        .wait_until(MINUTE, |state| state.answered(500) >= 2)
        .await
        .unwrap();
    scene.pods.delete("pod-1").await.unwrap();
    let line = meterline
        .wait_for_log("rejected, and not billed", 5 * MINUTE)
        .await
        .unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    scene.end_all().await;
    let report = scene.settled_without(&ingest, "pod-1").await;
    report.assert_exact();
    assert!(ingest.events().iter().all(|event| name(event) != "pod-1"));
    // Nothing waits for it any longer.
    nothing_waits(&scene, &meterline).await;
    ingest.assert_clean();
    stop(&meterline).await;
}

/// De-duplication that claims an id before the write: the event that fails is answered with a success
/// when it comes again, and is stored zero times. That is the server's word, and so it is delivered;
/// what shows it is the failed request. Its neighbours are exact: the server stops at the first event
/// that fails, and has claimed none behind it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn where_the_server_claims_ids_before_it_fails_neighbours_are_exact_and_nothing_hangs() {
    let scene = Scene::with(4).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.poison_when(|event| name(event) == "pod-1");
    ingest.claim_ids_first();
    let meterline = scene.preset(&ingest).start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.swallowed.len() >= 5)
        .await
        .unwrap();
    scene.end_all().await;
    let report = scene.settled_without(&ingest, "pod-1").await;
    report.assert_exact();
    assert!(ingest.events().iter().all(|event| name(event) != "pod-1"));
    nothing_waits(&scene, &meterline).await;
    // All that ran was answered with a success, whatever the server keeps; each was a failure first.
    let page = meterline.get("/stats").await.unwrap().1;
    assert_eq!(rejected_seconds(&page), 0, "{page}");
    let swallowed = ingest.state().swallowed.len() as f64;
    let errors = meterline.metric("output_error").await.unwrap();
    assert!(
        errors.is_some_and(|errors| errors >= 5.0),
        "{errors:?} {swallowed}"
    );
    ingest.assert_clean();
    stop(&meterline).await;
}

/// Of an answer only the status and a part of the body came: that is no success, whatever the status.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_answer_that_is_cut_off_is_no_success_and_what_it_answered_is_sent_again() {
    let scene = Scene::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    for (status, body) in [(200, ""), (202, "{}"), (200, "{}"), (202, "")] {
        let cut = Behaviour::status(status).header("content-length", "10");
        ingest.respond(2, &cut.body(body));
    }
    let meterline = scene.preset(&ingest).start().unwrap();
    meterline
        .wait_for_log("the answer broke off", MINUTE)
        .await
        .unwrap();
    // Each pause is twice the one before, up to half a minute.
    ingest
        .wait_until(3 * MINUTE, |state| state.requests.len() > 8)
        .await
        .unwrap();
    scene.assert_exact(&ingest, &meterline).await;
    let errors = meterline.metric("output_error").await.unwrap();
    assert!(errors.is_some_and(|errors| errors >= 8.0), "{errors:?}");
    stop(&meterline).await;
}

/// Answers that are neither a success nor a verdict of the API's: nothing is lost while they last.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_is_not_the_apis_own_word_holds_and_is_told() {
    for (behaviour, said) in [
        (
            Behaviour::status(400).body("HTTP request to an HTTPS server"),
            "400",
        ),
        (Behaviour::status(200).body("{\"error\": \"no\"}"), "200"),
        (
            Behaviour::status(413)
                .header("content-type", "text/html")
                .body("<html>413 Request Entity Too Large</html>"),
            "413",
        ),
        (
            Behaviour::status(400)
                .header("content-type", "application/problem+json")
                .body("{\"title\": \"Bad Request\"}"),
            "no event was taken since the start",
        ),
    ] {
        let scene = Scene::with(2).await;
        let ingest = RecordingIngest::start().await.unwrap();
        ingest.respond_always(behaviour);
        let meterline = scene.preset(&ingest).start().unwrap();
        meterline
            .wait_for_page("/ready", MINUTE, |status, page| {
                status == 503 && page.contains(said)
            })
            .await
            .unwrap();
        let rejected = meterline.metric("output_rejected").await.unwrap();
        assert_eq!(rejected, Some(0.0), "{said}");
        ingest.respond_normally();
        scene.assert_exact(&ingest, &meterline).await;
        stop(&meterline).await;
    }
}
