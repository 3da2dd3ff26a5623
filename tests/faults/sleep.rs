//! The process is suspended or gets no CPU. When it continues, it has not yet read what happened meanwhile.

use meterline_testkit::{
    pods::{self, pod},
    scene::Scene,
};

use crate::support::{BINARY, MINUTE, seconds, until};

const PODS: usize = 60;

/// Windows that became due while it was suspended close at once when it resumes, but only after it has
/// read everything that the API server held back: the ends of pods, more than fit into one packet.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_end_while_the_process_is_suspended_are_billed_to_their_end() {
    let scene = Scene::with(BINARY, 0).await;
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "2s").start_ready();
    let meterline = meterline.await.unwrap();
    let start = pods::now();
    for index in 0..PODS {
        // Long annotations, so that what the server has queued fills buffers.
        let pod = pod(&format!("pod-{index}")).annotation("text", &"x".repeat(20_000));
        scene.pods.create_running(&pod, start).await.unwrap();
    }
    scene.ingest.wait_for_events(2 * PODS).await.unwrap();
    let mut names = (0..PODS).map(|index| format!("pod-{index}"));
    for _ in 0..3 {
        meterline.pause().unwrap();
        let slept_at = pods::now();
        for name in names.by_ref().take(PODS / 3) {
            scene.end("default", &name).await;
            scene.pods.delete(&name).await.unwrap();
        }
        until(slept_at + seconds(8)).await;
        meterline.resume().unwrap();
        // It catches up before it is suspended again.
        let due = pods::now().to_rfc3339();
        scene
            .ingest
            .wait_until(MINUTE, |state| {
                let times = state.events.iter().map(|it| it.event["time"].as_str());
                let latest = times.flatten().max().unwrap_or_default();
                names.len() == 0 || latest > due.as_str()
            })
            .await
            .unwrap();
    }
    scene.truth.wait_for_ends(PODS).await.unwrap();
    scene.assert_exact(&meterline).await;
    meterline
        .assert_metric("ledger_overbilled_seconds", 0.0)
        .await;
    meterline.stop().await;
}
