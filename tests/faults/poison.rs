//! Events that the sink chokes on, and answers that are not its own.

use meterline_testkit::ingest::{Behaviour, RecordingIngest};

use super::{Scene, name};
use crate::support::{MINUTE, stop};

/// A pod whose every event makes the sink answer 500, in every window and every request, until it is
/// deleted; and a restart after that.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_sink_chokes_on_stops_nobody_elses_billing() {
    let Some(scene) = Scene::with(4).await else {
        return;
    };
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.poison_when(|event| name(event) == "pod-1");
    let meterline = scene.preset(&ingest).start().unwrap();
    let line = meterline
        .wait_for_log("rejected, and not billed", 5 * MINUTE)
        .await
        .unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    meterline
        .wait_for_log("the batch that was halved is through", MINUTE)
        .await
        .unwrap();
    scene.end_all().await;
    let report = scene.settled_without(&ingest, "pod-1").await;
    report.assert_exact();
    assert!(ingest.events().iter().all(|event| name(event) != "pod-1"));
    ingest.assert_clean();
    stop(&meterline).await;
}

/// Answers that are neither a success nor a verdict of the API's: nothing is lost while they last.
#[tokio::test(flavor = "multi_thread")]
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
        let Some(scene) = Scene::with(2).await else {
            return;
        };
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
