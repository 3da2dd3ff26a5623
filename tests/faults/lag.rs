//! A watch that lags behind lists that are answered at once.

use std::time::Duration;

use meterline_testkit::{ingest::RecordingIngest, lagging::LaggingProxy, pods};

use super::{Scene, name};
use crate::support::{MINUTE, meterline, root, stop};

const LAG: Duration = Duration::from_secs(8);
const OVERBILLED: &str = "ledger_overbilled_seconds";

/// Pods are deleted without a word of when they ended, so their end is when the deletion is heard of.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watch_that_lags_behind_prompt_lists_is_told_and_its_windows_wait() {
    let scene = Scene::with(4).await;
    let proxy = LaggingProxy::start(&scene.control_plane, "reader")
        .await
        .unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let preset = root().join("presets/kubernetes-pod-exec-time.yaml");
    let meterline = meterline()
        .args(["--config".as_ref(), preset.as_os_str()])
        .kubeconfig(&proxy.kubeconfig_in(scene.folder.path()).unwrap())
        .env("OPENMETER_URL", ingest.url())
        .env("BATCH_SIZE", "0")
        .env("SCRAPE_INTERVAL", "1s")
        .env("LOOKBACK", "2m")
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    meterline
        .wait_for_metric("ledger_billed_seconds", MINUTE, |billed| billed > 8.0)
        .await
        .unwrap();
    assert_eq!(meterline.metric(OVERBILLED).await.unwrap(), Some(0.0));

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
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && page.contains("late while lists were answered at once")
        })
        .await
        .unwrap();
    let lag = meterline
        .metric("kubernetes_watch_lag_seconds")
        .await
        .unwrap()
        .unwrap();
    let least = LAG.as_secs_f64();
    assert!(lag >= least && lag < least + 6.0, "{lag}");
    // What was billed beyond its end is counted, to the second in which an answer showed that it was gone.
    let report = scene.report(&ingest, |name| name == "pod-0");
    let surplus = report.surplus_seconds();
    let counted = meterline.metric(OVERBILLED).await.unwrap().unwrap();
    assert!(surplus >= 3, "{report}");
    assert!(
        (counted - surplus as f64).abs() <= 1.0,
        "{counted} {report}{}",
        meterline.tail()
    );

    // And from then on no window is made too early.
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
    assert_eq!(meterline.metric(OVERBILLED).await.unwrap(), Some(counted));
    let rest = scene.report(&ingest, |name| ["pod-1", "pod-2"].contains(&name));
    assert!(rest.surplus_seconds() <= 4, "{rest}{}", meterline.tail());
    assert!(ingest.events().iter().any(|event| name(event) == "pod-3"));
    stop(&meterline).await;
    ingest.assert_clean();
}
