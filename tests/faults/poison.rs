//! Events that make the sink fail whenever they are sent.

use meterline_testkit::{
    pods::pod,
    process::Meterline,
    scene::{Scene, pod_of},
};

use crate::support::{BINARY, MINUTE};

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

/// Starts the preset with a state file, which a second start finds again.
fn start_with_state(scene: &Scene) -> Meterline {
    let command = scene.preset();
    let command = command.env("STATE_PATH", scene.file("state.sqlite"));
    command.start().unwrap()
}

/// Every event of one pod makes the sink answer 500, in every window and every request.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_event_that_makes_the_sink_fail_does_not_stop_the_billing_of_others() {
    let scene = Scene::with(BINARY, 4).await;
    let ingest = &scene.ingest;
    ingest.poison_when(|event| pod_of(event) == "pod-1");
    let meterline = scene.preset().start().unwrap();
    let line = meterline
        .wait_for_log("rejected, and not billed", 5 * MINUTE)
        .await
        .unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    meterline
        .wait_for_log("the batch that was halved is finished", MINUTE)
        .await
        .unwrap();
    scene.assert_exact_but("pod-1", &meterline).await;
    meterline.stop().await;
}

/// The program is killed meanwhile. What was rejected stays rejected, and the other pods are billed exactly.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn rejected_usage_survives_a_restart_and_does_not_affect_other_pods() {
    let scene = Scene::with(BINARY, 4).await;
    let ingest = &scene.ingest;
    ingest.poison_when(|event| pod_of(event) == "pod-1");
    let meterline = start_with_state(&scene);
    let rejected = "rejected, and not billed";
    meterline.wait_for_log(rejected, 5 * MINUTE).await.unwrap();
    meterline
        .wait_for_seconds(MINUTE, |seconds| seconds["rejected"].as_i64() > Some(0))
        .await
        .unwrap();
    meterline.kill().unwrap();
    meterline.wait_exit(MINUTE).await.unwrap();
    drop(meterline);

    let meterline = start_with_state(&scene);
    // Events of later windows are rejected as well.
    let line = meterline.wait_for_log(rejected, 5 * MINUTE).await.unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    scene.assert_exact_but("pod-1", &meterline).await;
    // Every second of pod-1 is rejected: none is lost, and none counts as delivered.
    let life = scene
        .truth
        .lives()
        .into_iter()
        .find(|it| it.name == "pod-1");
    let life = life.unwrap();
    let ran = (life.end.unwrap() - life.start).num_seconds();
    meterline
        .wait_for_seconds(2 * MINUTE, |seconds| seconds["rejected"] == ran)
        .await
        .unwrap();
    meterline.stop().await;
}

/// 150 KiB of a character that JSON escapes, and that the server escapes a second time: more than its Kafka
/// producer accepts. The preset cuts the text; an event whose mapping reads all of it is rejected.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_text_that_is_too_large_when_escaped_twice_does_not_stop_the_billing_of_others() {
    const TEXT: &str = "data.openmeter.io/text";
    for is_whole in [false, true] {
        let scene = Scene::with(BINARY, 3).await;
        let escaped = pod("escaped").annotation(TEXT, &"<".repeat(150 << 10));
        let created = scene.pods.create_running(&escaped, scene.start);
        created.await.unwrap();
        let whole = |preset: String| {
            let field =
                format!("text: this.metadata?.annotations?[\"{TEXT}\"] ?? deleted(), pod_name: ");
            preset.replace("pod_name: ", &field)
        };
        if is_whole {
            let url = scene.ingest.url();
            let output = format!("url: '{url}', batching: {{count: 20, period: 1s}}");
            let meterline = scene.variant(whole, &output).start().unwrap();
            let line = meterline.wait_for_log("rejected, and not billed", 5 * MINUTE);
            let line = line.await.unwrap();
            assert!(line.contains("default/escaped"), "{line}");
            scene.assert_exact_but("escaped", &meterline).await;
            meterline.stop().await;
        } else {
            let meterline = scene.preset().start().unwrap();
            scene.wait_for_event_of("escaped").await;
            scene.finish(&meterline).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_pod_whose_events_make_the_sink_fail_may_be_deleted_meanwhile() {
    let scene = Scene::with(BINARY, 3).await;
    let ingest = &scene.ingest;
    ingest.poison_when(|event| pod_of(event) == "pod-1");
    let meterline = start_with_state(&scene);
    // Each batch contains one of its events, so nothing was accepted yet. The pod is deleted while its
    // seconds wait.
    ingest
        .wait_until(MINUTE, |state| state.answered(500) >= 2)
        .await
        .unwrap();
    scene.pods.delete("pod-1").await.unwrap();
    // Its usage is in the state file, and is sent again before anything else.
    meterline.kill().unwrap();
    meterline.wait_exit(MINUTE).await.unwrap();
    drop(meterline);
    let meterline = start_with_state(&scene);
    let line = meterline
        .wait_for_log("rejected, and not billed", 5 * MINUTE)
        .await
        .unwrap();
    assert!(line.contains("default/pod-1"), "{line}");
    scene.assert_exact_but("pod-1", &meterline).await;
    // No other usage waits because of it.
    nothing_waits(&scene, &meterline).await;
    meterline.stop().await;
}

/// The server's de-duplication claims an id before the write, so an event that failed gets a success when
/// it is sent again, and is not stored. The program has to take the answer for a delivery; only the failed
/// request shows what happened. The other pods are exact, because the server stops at the first event that
/// fails and claims no id behind it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn if_the_server_claims_ids_before_it_fails_other_events_are_exact_and_nothing_hangs() {
    let scene = Scene::with(BINARY, 4).await;
    let ingest = &scene.ingest;
    ingest.poison_when(|event| pod_of(event) == "pod-1");
    ingest.claim_ids_first();
    let meterline = scene.preset().start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.swallowed.len() >= 5)
        .await
        .unwrap();
    scene.assert_exact_but("pod-1", &meterline).await;
    nothing_waits(&scene, &meterline).await;
    // Every event got a success in the end, whatever the server stores, and each failed first.
    let stats = meterline.stats().await.unwrap();
    assert_eq!(stats["seconds"]["rejected"], 0, "{stats}");
    let errors = meterline.metric("output_error").await.unwrap();
    assert!(errors.is_some_and(|errors| errors >= 5.0), "{errors:?}");
    meterline.stop().await;
}
