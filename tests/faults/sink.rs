//! A sink that does not answer, and events or scripts that fail for some pods only.

use std::collections::HashSet;

use meterline_testkit::{ingest::Behaviour, pods::pod, scene::Scene};
use serde_json::Value;

use crate::support::{BINARY, MINUTE};

fn ids(events: &[Value]) -> HashSet<String> {
    events.iter().map(|event| event["id"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_request_without_a_response_ends_at_the_time_limit_and_windows_wait() {
    let scene = Scene::with(BINARY, 3).await;
    let ingest = &scene.ingest;
    ingest.respond_always(Behaviour::normal().hold());
    let output = format!("url: '{}', max_in_flight: 2, timeout: 2s", ingest.url());
    let meterline = scene.variant(|preset| preset, &output).start().unwrap();
    meterline.wait_unready("no answer in time").await.unwrap();
    ingest
        .wait_until(MINUTE, |state| state.requests.len() >= 5)
        .await
        .unwrap();
    {
        let state = ingest.state();
        // A probe sends a part of a batch that failed, so parts of the same batch count once.
        let sent = state.requests.iter().map(|it| ids(&it.events));
        let mut whole: Vec<HashSet<String>> = Vec::new();
        for ids in sent {
            if !whole.iter().any(|known| ids.is_subset(known)) {
                whole.push(ids);
            }
        }
        assert!(
            whole.len() <= 2,
            "{} windows did not wait in the ledger",
            whole.len()
        );
        assert!(state.max_in_flight <= 2, "{}", state.max_in_flight);
    }
    ingest.respond_normally();
    ingest.release();
    scene.assert_exact(&meterline).await;
    assert!(ingest.state().max_in_flight <= 2);
    meterline.stop().await;
}

/// A sink requests a pause of thirty years. Only that request waits: others are sent, and neither a stop
/// nor a restart waits for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_retry_after_of_years_delays_only_its_request() {
    let scene = Scene::with(BINARY, 2).await;
    let command = || {
        scene
            .preset()
            .env("STATE_PATH", scene.file("state.sqlite"))
            .args(["--set", "shutdown_timeout=2s"])
    };
    let meterline = command().start_ready().await.unwrap();
    let ingest = &scene.ingest;
    let years = Behaviour::status(429).header("retry-after", "1000000000");
    ingest.respond(1, &years);
    for status in [429, 204, 204, 204] {
        let answered = ingest.state().answered(status);
        ingest
            .wait_until(MINUTE, |state| state.answered(status) > answered)
            .await
            .unwrap();
    }
    meterline.terminate().unwrap();
    let status = meterline.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(75), "{}", meterline.tail());
    let meterline = command().start().unwrap();
    scene.finish(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_event_that_is_too_large_alone_is_rejected_without_affecting_others() {
    let scene = Scene::with(BINARY, 11).await;
    // The preset takes 32 KiB of annotations at most.
    let large = "x".repeat(4_000);
    let huge = (0..8).fold(pod("huge"), |pod, index| {
        pod.annotation(&format!("data.openmeter.io/blob-{index}"), &large)
    });
    scene.pods.create_running(&huge, scene.start).await.unwrap();
    let ingest = &scene.ingest;
    ingest.limit_bytes(Some(20_000));
    let meterline = scene.preset().start().unwrap();
    let line = meterline
        .wait_for_log("rejected, and not billed", MINUTE)
        .await
        .unwrap();
    assert!(
        line.contains("default/huge") && line.contains("413"),
        "{line}"
    );
    assert!(meterline.metric("output_rejected").await.unwrap() > Some(0.0));
    scene.pods.delete("huge").await.unwrap();
    // That one event is too large does not reduce how many others are sent together.
    ingest
        .wait_until(MINUTE, |state| {
            state.requests.iter().any(|it| it.taken == 11)
        })
        .await
        .unwrap();
    scene.assert_exact_but("huge", &meterline).await;
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_script_that_fails_for_one_pod_rejects_it_and_for_most_is_not_ready() {
    let scene = Scene::with(BINARY, 10).await;
    let ingest = &scene.ingest;
    let script = |preset: String| {
        let first = "let seconds = meta(\"schedule_interval\").parse_duration() / 1000000000;\n";
        assert!(preset.contains(first));
        let fails = r#"        if "broken" in (this.metadata?.annotations ?? #{}) { throw "no price for this one" }"#;
        preset.replace(first, &format!("{first}{fails}\n"))
    };
    let output = format!("url: '{}'", ingest.url());
    let meterline = scene.variant(script, &output).start_ready().await.unwrap();
    let broken = async |names: std::ops::Range<usize>, value: Option<&str>| {
        for index in names {
            let name = format!("pod-{index}");
            scene.pods.annotate(&name, "broken", value).await.unwrap();
        }
    };
    broken(0..1, Some("yes")).await;
    let line = meterline
        .wait_for_log("no price for this one", MINUTE)
        .await
        .unwrap();
    assert!(line.contains("default/pod-0"), "{line}");
    meterline
        .wait_for_metric("output_rejected", MINUTE, |rejected| rejected >= 3.0)
        .await
        .unwrap();
    assert_eq!(meterline.get("/ready").await.unwrap().0, 200);
    broken(1..8, Some("yes")).await;
    meterline
        .wait_unready("no price for this one")
        .await
        .unwrap();
    broken(0..8, None).await;
    meterline.wait_ready(MINUTE).await.unwrap();
    scene.end_all().await;
    let last = scene.truth.lives().iter().filter_map(|it| it.end).max();
    let last = last.unwrap().timestamp() as f64;
    meterline
        .wait_for_metric("ledger_watermark_timestamp_seconds", MINUTE, |at| at > last)
        .await
        .unwrap();
    scene
        .report(|_, name| ["pod-8", "pod-9"].contains(&name))
        .assert_exact();
    // A window is a second: as many seconds are missing as events were rejected, and nothing else is wrong.
    let report = scene.report(|_, _| true);
    let rejected = meterline.metric("output_rejected").await.unwrap();
    assert_eq!(Some(report.missing_seconds() as f64), rejected, "{report}");
    assert_eq!(report.double_seconds() + report.surplus_seconds(), 0);
    ingest.assert_clean();
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_missing_state_file_is_reported_in_the_log_and_on_ready() {
    let scene = Scene::with(BINARY, 1).await;
    let meterline = scene.preset().start().unwrap();
    let warning = "does not survive a restart";
    meterline.wait_for_log(warning, MINUTE).await.unwrap();
    meterline.wait_ready_with(warning).await.unwrap();
    meterline.stop().await;
    let state = scene.file("state.sqlite");
    let meterline = scene
        .preset()
        .env("STATE_PATH", &state)
        .start_ready()
        .await
        .unwrap();
    let (_, page) = meterline.get("/ready").await.unwrap();
    assert!(!page.contains(warning), "{page}");
    scene.finish(&meterline).await;
}
