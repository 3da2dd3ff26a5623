//! What happens while nobody watches, on a real API server.

use meterline_testkit::{
    audit::audit,
    control_plane::ControlPlane,
    ingest::{Behaviour, Received, RecordingIngest},
    pods::{self, Phase, Pods, pod},
    proxy::Proxy,
    truth::Truth,
};

use crate::support::{MINUTE, preset, seconds, settled, stop, until};

/// Pods that end and are deleted while the view is lost: the list after it does not show them, but
/// the API server still knows how they were.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn pods_that_went_while_nobody_watched_are_billed_to_their_end() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest).start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    let pods = Pods::new(client, "default");
    let start = pods::now();
    for index in 0..10 {
        let name = format!("pod-{index}");
        pods.create_running(&pod(&name), start).await.unwrap();
    }
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 10)
        .await
        .unwrap();
    // The collector stands still while its connection and the server's memory of changes go.
    meterline.pause().unwrap();
    control_plane.restart_apiserver().await.unwrap();
    // The truth must be watching again before there is something that only a watch shows.
    pods.create_running(&pod("marker"), start).await.unwrap();
    truth
        .wait_until(MINUTE, |lives| lives.iter().any(|it| it.name == "marker"))
        .await
        .unwrap();
    for index in 0..9 {
        let name = format!("pod-{index}");
        pods.set_ended(&name, Phase::Succeeded, start, pods::now())
            .await
            .unwrap();
        pods.delete(&name).await.unwrap();
        // One comes back under its name.
        if index == 4 {
            pods.create_running(&pod(&name), pods::now() + seconds(1))
                .await
                .unwrap();
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
    let ended = pods::now();
    pods.set_ended("marker", Phase::Succeeded, start, ended)
        .await
        .unwrap();
    pods.set_ended("pod-9", Phase::Succeeded, start, ended)
        .await
        .unwrap();
    let again = truth.lives();
    let again = again
        .iter()
        .find(|it| it.name == "pod-4" && it.end.is_none())
        .unwrap();
    pods.set_ended("pod-4", Phase::Succeeded, again.start, ended)
        .await
        .unwrap();
    truth
        .wait_until(MINUTE, |lives| lives.iter().all(|it| it.end.is_some()))
        .await
        .unwrap();
    settled(
        &ingest,
        &truth.lives(),
        &(start..start + seconds(120)),
        MINUTE,
    )
    .await
    .assert_exact();
    stop(&meterline).await;
}

/// The other end of every connection is gone without a word, and others work. Over HTTP/2 a watch and
/// the questions whether it is alive share a connection, so no window is made on what is not known.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_half_open_connection_costs_no_second() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let proxy = Proxy::start(&control_plane).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .kubeconfig(&proxy.kubeconfig_for(&control_plane, "reader").unwrap())
        .start()
        .unwrap();
    let pods = Pods::new(client, "default");
    let start = pods::now();
    for name in ["ends", "stays"] {
        pods.create_running(&pod(name), start).await.unwrap();
    }
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 4)
        .await
        .unwrap();
    proxy.silence();
    let silent_at = pods::now();
    pods.set_ended("ends", Phase::Succeeded, start, silent_at)
        .await
        .unwrap();
    pods.delete("ends").await.unwrap();
    pods.create_running(&pod("new"), silent_at).await.unwrap();
    truth
        .wait_until(MINUTE, |lives| lives.len() == 3)
        .await
        .unwrap();
    // Noticed within a minute, and made up for.
    ingest
        .wait_until(MINUTE, |state| {
            let ends = |it: &Received| it.event["data"]["pod_name"] == "new";
            state.events.iter().any(ends)
        })
        .await
        .unwrap();
    let range = start..pods::now();
    let report = settled(&ingest, &truth.lives(), &range, MINUTE).await;
    if !report.is_exact() {
        eprintln!("{}", meterline.log().join("\n"));
    }
    report.assert_exact();
    assert_eq!(
        meterline.metric("ledger_overbilled_seconds").await.unwrap(),
        Some(0.0)
    );
    ingest.assert_clean();
    stop(&meterline).await;
}

/// What is given up is told, counted to the second, and all that is given up.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_sink_that_is_away_longer_than_the_backlog_costs_what_is_told() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest)
        .env("SCRAPE_INTERVAL", "2s")
        .args([
            "--set",
            "input.schedule.input.kubernetes_resources.max_backlog=12s",
            // Windows that are on their way are not given up: that are a handful, whatever machine this is.
            "--set",
            "output.switch.cases.0.output.openmeter.max_in_flight=1",
            "--set",
            "pipeline.threads=1",
        ])
        .start()
        .unwrap();
    let pods = Pods::new(client, "default");
    let start = pods::now();
    for name in ["a", "b", "c"] {
        pods.create_running(&pod(name), start).await.unwrap();
    }
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 6)
        .await
        .unwrap();
    ingest.respond_always(Behaviour::status(503));
    // The backlog, eight windows that are on their way, and as much again.
    until(pods::now() + seconds(45)).await;
    ingest.respond_normally();
    meterline.wait_for_log("given up", MINUTE).await.unwrap();
    let back_at = pods::now();
    pods.create_running(&pod("new"), back_at).await.unwrap();
    // Of a window that failed a part may have arrived before the rest: all is there once a later one is.
    let later = back_at + seconds(2);
    ingest
        .wait_until(MINUTE, |state| {
            ["a", "b", "c", "new"].iter().all(|name| {
                state.events.iter().any(|it| {
                    let time = it.event["time"].as_str().unwrap_or_default();
                    let time = chrono::DateTime::parse_from_rfc3339(time);
                    it.event["data"]["pod_name"] == *name && time.is_ok_and(|time| time >= later)
                })
            })
        })
        .await
        .unwrap();
    let report = audit(&truth.lives(), &ingest.events(), start..back_at);
    assert_eq!((report.double_seconds(), report.surplus_seconds()), (0, 0));
    assert!(report.missing_seconds() > 0, "{report:?}");
    let lost = meterline.metric("lost_time").await.unwrap();
    assert_eq!(lost, Some(report.missing_seconds() as f64));
    ingest.assert_clean();
    stop(&meterline).await;
}
