//! The process is suspended, or kept from running: when it wakes, what happened meanwhile is not yet read.

use meterline_testkit::{
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, Pods, pod},
    truth::Truth,
};

use crate::support::{MINUTE, preset, seconds, settled, stop, until};

const PODS: usize = 60;

/// Windows that fell due meanwhile are made at once when it wakes, but not before everything is read that
/// the API server held back: here ends of pods, more of them than fit into one packet.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_ends_while_the_process_is_suspended_is_billed_to_its_end() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_INTERVAL", "2s")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    let pods = Pods::new(client, "default");
    let start = pods::now();
    for index in 0..PODS {
        // Long descriptions, so that what is held back fills buffers.
        let pod = pod(&format!("pod-{index}")).annotation("text", &"x".repeat(20_000));
        pods.create_running(&pod, start).await.unwrap();
    }
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 2 * PODS)
        .await
        .unwrap();
    let mut names = (0..PODS).map(|index| format!("pod-{index}"));
    for _ in 0..3 {
        meterline.pause().unwrap();
        let slept_at = pods::now();
        for name in names.by_ref().take(PODS / 3) {
            let ended = pods::now();
            pods.set_ended(&name, Phase::Succeeded, start, ended)
                .await
                .unwrap();
            pods.delete(&name).await.unwrap();
        }
        until(slept_at + seconds(8)).await;
        meterline.resume().unwrap();
        // It makes up for what it missed before it sleeps again.
        let due = pods::now();
        ingest
            .wait_until(MINUTE, |state| {
                let times = state.events.iter().map(|it| it.event["time"].as_str());
                let latest = times.flatten().max().unwrap_or_default();
                names.len() == 0 || latest > due.to_rfc3339().as_str()
            })
            .await
            .unwrap();
    }
    truth
        .wait_until(MINUTE, |lives| lives.iter().all(|it| it.end.is_some()))
        .await
        .unwrap();
    let range = start..pods::now();
    settled(&ingest, &truth.lives(), &range, MINUTE)
        .await
        .assert_exact();
    assert_eq!(
        meterline.metric("ledger_overbilled_seconds").await.unwrap(),
        Some(0.0)
    );
    stop(&meterline).await;
    ingest.assert_clean();
}
