//! What happens while the program does not watch or the sink is unavailable, on a real API server.

use chrono::DateTime;
use meterline_testkit::{
    audit,
    ingest::Behaviour,
    pods::{self, Phase, pod},
    proxy::Proxy,
    scene::{Scene, pod_of},
};

use crate::support::{BINARY, MINUTE, seconds, until};

/// Pods end and are deleted while the watch is down. The list after it does not show them, but the API
/// server still knows their last state.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_deleted_while_the_watch_was_down_are_billed_to_their_end() {
    let scene = Scene::with(BINARY, 10).await;
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "5s");
    let meterline = meterline.start_ready().await.unwrap();
    scene.ingest.wait_for_events(10).await.unwrap();
    // The process is stopped while its connection and the server's watch cache go.
    meterline.pause().unwrap();
    scene.control_plane.restart_apiserver().await.unwrap();
    // The truth has to watch again before something happens that only a watch shows.
    let (pods, truth, start) = (&scene.pods, &scene.truth, scene.start);
    pods.create_running(&pod("marker"), start).await.unwrap();
    truth
        .wait_until(MINUTE, |lives| lives.iter().any(|it| it.name == "marker"))
        .await
        .unwrap();
    for index in 0..9 {
        let name = format!("pod-{index}");
        scene.end("default", &name).await;
        pods.delete(&name).await.unwrap();
        // A new pod takes the name of one of them.
        if index == 4 {
            let (again, start) = (pod(&name), pods::now() + seconds(1));
            pods.create_running(&again, start).await.unwrap();
        }
    }
    truth
        .wait_until(MINUTE, |lives| {
            lives.iter().filter(|it| it.end.is_some()).count() == 9
        })
        .await
        .unwrap();
    assert!(truth.unreported().is_empty());
    meterline.resume().unwrap();
    until(pods::now() + seconds(3)).await;
    scene.finish(&meterline).await;
}

/// The other end of every connection disappears without closing it; new connections work. Over HTTP/2 a
/// watch and the requests that check whether it is alive share a connection, so no window is made while
/// the state of the pods is unknown.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_half_open_connection_costs_no_second() {
    let scene = Scene::with(BINARY, 2).await;
    let proxy = Proxy::start(&scene.control_plane).await.unwrap();
    let kubeconfig = proxy.kubeconfig_for(&scene.control_plane, "reader");
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "5s");
    let meterline = meterline.kubeconfig(&kubeconfig.unwrap()).start().unwrap();
    scene.ingest.wait_for_events(4).await.unwrap();
    proxy.silence();
    let silent_at = pods::now();
    let ended = scene
        .pods
        .set_ended("pod-0", Phase::Succeeded, scene.start, silent_at);
    ended.await.unwrap();
    scene.pods.delete("pod-0").await.unwrap();
    let new = scene.pods.create_running(&pod("new"), silent_at).await;
    new.unwrap();
    // The program notices within a minute, and bills what it missed.
    scene.wait_for_event_of("new").await;
    scene.assert_exact(&meterline).await;
    meterline
        .assert_metric("ledger_overbilled_seconds", 0.0)
        .await;
    meterline.stop().await;
}

/// Usage that is given up is logged, and counted to the second.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn usage_older_than_the_backlog_is_given_up_and_counted() {
    const PODS: [&str; 4] = ["pod-0", "pod-1", "pod-2", "new"];
    let scene = Scene::with(BINARY, 0).await;
    let meterline = scene
        .preset()
        .env("SCRAPE_INTERVAL", "2s")
        // What lies further back than the backlog would be given up at the start.
        .env("LOOKBACK", "0s")
        .args([
            "--set",
            "input.schedule.input.kubernetes_resources.max_backlog=12s",
            // Windows that are being sent are not given up: a handful, on any machine.
            "--set",
            "output.switch.cases.0.output.openmeter.max_in_flight=1",
            "--set",
            "pipeline.threads=1",
        ])
        .start_ready()
        .await
        .unwrap();
    let start = pods::now();
    for name in &PODS[..3] {
        let running = scene.pods.create_running(&pod(name), start).await;
        running.unwrap();
    }
    scene.ingest.wait_for_events(6).await.unwrap();
    scene.ingest.respond_always(Behaviour::status(503));
    // The backlog, the windows that are being sent, and as much again.
    until(pods::now() + seconds(45)).await;
    scene.ingest.respond_normally();
    meterline.wait_for_log("given up", MINUTE).await.unwrap();
    let back_at = pods::now();
    let new = scene.pods.create_running(&pod("new"), back_at).await;
    new.unwrap();
    // Part of a window that failed may arrive before the rest: everything is there once a later window is.
    let later = back_at + seconds(2);
    scene
        .ingest
        .wait_until(MINUTE, |state| {
            PODS.iter().all(|name| {
                state.events.iter().any(|it| {
                    let time = it.event["time"].as_str().unwrap_or_default();
                    let time = DateTime::parse_from_rfc3339(time);
                    pod_of(&it.event) == *name && time.is_ok_and(|time| time >= later)
                })
            })
        })
        .await
        .unwrap();
    let lives = scene.truth.lives();
    let events = scene.ingest.events();
    let report = audit::audit(&lives, &events, start..back_at);
    assert_eq!((report.double_seconds(), report.surplus_seconds()), (0, 0));
    let missing = report.missing_seconds();
    assert!(missing > 0, "{report:?}");
    meterline.assert_metric("lost_time", missing as f64).await;
    scene.ingest.assert_clean();
    meterline.stop().await;
}
