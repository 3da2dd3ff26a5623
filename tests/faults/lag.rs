//! A watch whose events arrive late while lists are answered at once.

use std::time::Duration;

use meterline_testkit::{
    lagging::LaggingProxy,
    pods,
    scene::{Scene, pod_of},
};

use crate::support::{BINARY, MINUTE};

const LAG: Duration = Duration::from_secs(8);
const OVERBILLED: &str = "ledger_overbilled_seconds";

/// No status contains the end of the pods, so each ends in the second in which the program learns of its
/// deletion.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watch_that_lags_behind_prompt_lists_is_reported_and_its_windows_wait() {
    let scene = Scene::with(BINARY, 4).await;
    let proxy = LaggingProxy::start(&scene.control_plane, "reader")
        .await
        .unwrap();
    let ingest = &scene.ingest;
    let meterline = scene
        .preset()
        .kubeconfig(&proxy.kubeconfig_in(scene.folder()).unwrap())
        .start_ready()
        .await
        .unwrap();
    meterline
        .wait_for_metric("ledger_billed_seconds", MINUTE, |billed| billed > 8.0)
        .await
        .unwrap();
    meterline.assert_metric(OVERBILLED, 0.0).await;

    proxy.hold_back(LAG);
    scene.pods.delete("pod-0").await.unwrap();
    meterline
        .wait_for_metric(OVERBILLED, MINUTE, |seconds| seconds > 0.0)
        .await
        .unwrap();
    let line = meterline
        .wait_for_log("an event came this late", MINUTE)
        .await
        .unwrap();
    assert!(line.contains("pods in namespace default"), "{line}");
    meterline
        .wait_ready_with("late while lists were answered at once")
        .await
        .unwrap();
    let lag = meterline
        .metric("kubernetes_watch_lag_seconds")
        .await
        .unwrap()
        .unwrap();
    let least = LAG.as_secs_f64();
    assert!(lag >= least && lag < least + 6.0, "{lag}");
    // What was billed beyond the end is counted, up to the second in which a list no longer showed the pod.
    let report = scene.report(|_, name| name == "pod-0");
    let surplus = report.surplus_seconds();
    let counted = meterline.metric(OVERBILLED).await.unwrap().unwrap();
    assert!(surplus >= 3, "{report}");
    assert!(
        (counted - surplus as f64).abs() <= 1.0,
        "{counted} {report}{}",
        meterline.tail()
    );

    // From then on no window closes too early.
    for pod in ["pod-1", "pod-2"] {
        scene.pods.delete(pod).await.unwrap();
        let gone = pods::now().timestamp();
        meterline
            .wait_for_metric("ledger_watermark_timestamp_seconds", MINUTE, |at| {
                at > gone as f64 + least
            })
            .await
            .unwrap();
    }
    meterline.assert_metric(OVERBILLED, counted).await;
    let rest = scene.report(|_, name| ["pod-1", "pod-2"].contains(&name));
    assert!(rest.surplus_seconds() <= 4, "{rest}{}", meterline.tail());
    assert!(ingest.events().iter().any(|event| pod_of(event) == "pod-3"));
    meterline.stop().await;
    ingest.assert_clean();
}
