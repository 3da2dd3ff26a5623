//! Delivery of the preset to a sink that refuses, limits or is unavailable, from a simulated API server.

use std::{collections::HashSet, ops::Range, time::Duration};

use chrono::{TimeDelta, Utc};
use meterline_kubesim::{Kind, rfc3339};
use meterline_testkit::{
    child::Stream,
    ingest::{Behaviour, RecordingIngest, State},
    pods,
    process::{Meterline, MeterlineCommand},
    scene::{self, Scene, Simulated, pod_of},
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, until};

const SOON: Duration = Duration::from_secs(20);

/// The preset for all namespaces, from before the first pod on.
fn whole(scene: &Scene<Simulated>) -> MeterlineCommand {
    scene.preset().env("SCRAPE_NAMESPACE", "")
}

/// The preset, from its own start on.
fn preset(scene: &Scene<Simulated>) -> MeterlineCommand {
    scene.preset().env("LOOKBACK", "0s")
}

/// The same in requests of 20 events, sent after a second at the latest.
fn batched(scene: &Scene<Simulated>) -> MeterlineCommand {
    preset(scene)
        .env("BATCH_SIZE", "20")
        .env("BATCH_PERIOD", "1s")
}

fn logged(meterline: &Meterline, text: &str) -> usize {
    meterline
        .log()
        .iter()
        .filter(|line| line.contains(text))
        .count()
}

#[tokio::test]
async fn without_a_period_a_request_waits_for_batch_size_events_and_this_is_logged_once() {
    let scene = Scene::populated(BINARY, 3).await;
    let ingest = &scene.ingest;
    let meterline = preset(&scene).env("BATCH_SIZE", "20").start().unwrap();
    let waits = |_, page: &str| page.contains("events wait for BATCH_SIZE=20 (batching.count); ");
    let page = meterline.wait_for_page("/ready", MINUTE, waits);
    page.await.unwrap();
    ingest
        .wait_until(MINUTE, |state| state.requests.len() >= 2)
        .await
        .unwrap();
    for request in &ingest.state().requests {
        assert_eq!(request.events.len(), 20);
    }
    assert_eq!(
        logged(&meterline, "BATCH_PERIOD"),
        1,
        "{}",
        meterline.tail()
    );
    // A stop signal makes it send what waits.
    let before = ingest.state().events.len();
    meterline.stop().await;
    assert!(ingest.state().events.len() >= before);
    ingest.assert_clean();
}

#[tokio::test]
async fn a_batch_size_of_0_is_one_request_a_window() {
    let scene = Scene::populated(BINARY, 30).await;
    let ingest = &scene.ingest;
    let meterline = preset(&scene).start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.requests.len() >= 3)
        .await
        .unwrap();
    for request in &ingest.state().requests {
        assert_eq!(request.events.len(), 30);
        let times: HashSet<_> = request
            .events
            .iter()
            .map(|event| event["time"].as_str().unwrap())
            .collect();
        assert_eq!(times.len(), 1);
    }
    meterline.stop().await;
    ingest.assert_clean();
}

#[tokio::test]
async fn waiting_events_are_delivered_on_sigterm() {
    let scene = Scene::populated(BINARY, 2).await;
    let ingest = &scene.ingest;
    let meterline = preset(&scene).env("BATCH_SIZE", "1000").start().unwrap();
    meterline
        .wait_for_log("BATCH_PERIOD", MINUTE)
        .await
        .unwrap();
    assert_eq!(ingest.state().requests.len(), 0);
    meterline.stop().await;
    assert!(ingest.state().events.len() >= 2);
    ingest.assert_clean();
}

#[tokio::test]
async fn batches_are_halved_until_they_are_accepted() {
    let scene = Scene::populated(BINARY, 30).await;
    let ingest = &scene.ingest;
    ingest.limit_events(Some(7));
    let meterline = preset(&scene).start().unwrap();
    ingest.wait_for_events(90).await.unwrap();
    // It remembers the size that the sink accepts.
    let refused = ingest.state().answered(413);
    assert!((1..10).contains(&refused), "{refused}");
    meterline.stop().await;
    ingest.assert_clean();
}

/// The dead letter: an event that the sink refuses goes to the next output, with the reason.
#[tokio::test]
async fn refused_events_go_to_the_fallback_with_the_reason() {
    let scene = Scene::populated(BINARY, 30).await;
    let ingest = &scene.ingest;
    ingest.refuse_when(|event| pod_of(event) == "worker-17");
    let config = std::fs::read_to_string(scene::preset())
        .unwrap()
        .split("\noutput:")
        .next()
        .unwrap()
        .to_owned()
        + r#"
output:
  fallback:
    - openmeter:
        url: ${OPENMETER_URL}
        batching: {count: 100, period: 1s}
    - stdout: {}
      processors:
        - mapping: 'root = #{ event: this, reason: meta("fallback_error") }'
"#;
    let meterline = scene
        .command()
        .config(&config)
        .env("LOOKBACK", "0s")
        .start();
    let meterline = meterline.unwrap();
    ingest.wait_for_events(87).await.unwrap();
    let letter = meterline
        .wait_for_line(Stream::Stdout, SOON, |line| line.contains("worker-17"))
        .await
        .unwrap();
    let letter: Value = serde_json::from_str(&letter).unwrap();
    assert_eq!(letter["event"]["data"]["pod_name"], "worker-17");
    assert!(
        letter["reason"].as_str().unwrap().contains("400"),
        "{letter}"
    );
    meterline.stop().await;
    // Every event is in exactly one of the two.
    let letters: Vec<Value> = meterline
        .lines(Stream::Stdout)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let windows = ingest.events().len() / 29;
    assert_eq!(ingest.events().len() % 29, 0);
    assert_eq!(letters.len(), windows);
    ingest.assert_clean();
}

#[tokio::test]
async fn one_refused_event_is_found_and_the_others_are_delivered() {
    let scene = Scene::populated(BINARY, 30).await;
    let ingest = &scene.ingest;
    ingest.refuse_when(|event| pod_of(event) == "worker-17");
    let meterline = batched(&scene).start().unwrap();
    ingest.wait_for_events(87).await.unwrap();
    assert!(
        ingest
            .events()
            .iter()
            .all(|event| pod_of(event) != "worker-17")
    );
    meterline
        .wait_for_log("default/worker-17", SOON)
        .await
        .unwrap();
    assert!(meterline.metric("output_rejected").await.unwrap() > Some(0.0));
    meterline.stop().await;
    ingest.assert_clean();
}

#[tokio::test]
async fn a_quantity_that_cannot_be_read_is_refused_alone() {
    let scene = Scene::populated(BINARY, 3).await;
    let since = Utc::now().timestamp() - 60;
    scene.sim.change(|store| {
        store.put(
            Kind::Pod,
            json!({
                "metadata": {"name": "odd", "namespace": "default", "uid": "odd-uid",
                             "creationTimestamp": rfc3339(since)},
                "spec": {"containers": [
                    {"name": "main", "resources": {"requests": {"memory": "12 apples"}}},
                ]},
                "status": {"phase": "Running", "startTime": rfc3339(since), "containerStatuses": [
                    {"name": "main", "state": {"running": {"startedAt": rfc3339(since)}}},
                ]},
            }),
        );
    });
    let ingest = &scene.ingest;
    let meterline = batched(&scene).start().unwrap();
    ingest.wait_for_events(9).await.unwrap();
    let line = meterline.wait_for_log("default/odd", SOON).await.unwrap();
    for part in ["spec.containers[0].resources.requests.memory", "12 apples"] {
        assert!(line.contains(part), "{line}");
    }
    ingest
        .wait_until(MINUTE, |state| {
            let odd = |it: &Value| it["data"]["pod_name"] == "odd";
            state.events.iter().filter(|it| odd(&it.event)).count() >= 3
        })
        .await
        .unwrap();
    for event in ingest.events() {
        let data = event["data"].as_object().unwrap();
        let is_odd = data["pod_name"] == "odd";
        for metric in ["memory_request_bytes", "memory_request_bytes_per_second"] {
            assert_eq!(data.contains_key(metric), !is_odd, "{event}");
        }
        assert!(data["cpu_request_millicores"].is_number(), "{event}");
    }
    let lines = meterline.log().into_iter();
    assert_eq!(lines.filter(|it| it.contains("12 apples")).count(), 1);
    meterline.assert_metric("output_rejected", 0.0).await;
    let left_out = meterline.metric("mapping_left_out").await.unwrap();
    assert!(left_out > Some(0.0), "{left_out:?}");
    meterline.stop().await;
}

#[tokio::test]
async fn a_refused_token_keeps_the_data_until_another_one_is_there() {
    const OLD: &str = "planted-old-secret-token";
    const NEW: &str = "planted-new-secret-token";
    let scene = Scene::populated(BINARY, 3).await;
    let ingest = &scene.ingest;
    ingest.require_token(Some(NEW));
    let token = scene.folder().join("token");
    std::fs::write(&token, OLD).unwrap();
    let meterline = batched(&scene)
        .env("OPENMETER_TOKEN", format!("file://{}", token.display()))
        .args(["--log-level", "TRACE"])
        .start()
        .unwrap();
    meterline.wait_unready("401").await.unwrap();
    let refused_at = Utc::now().timestamp();
    std::fs::write(&token, NEW).unwrap();
    ingest
        .wait_until(MINUTE, |state| {
            // The window that was refused first is among what arrives.
            state
                .events
                .iter()
                .any(|it| it.event["time"].as_str().unwrap_or("z") <= rfc3339(refused_at).as_str())
        })
        .await
        .unwrap();
    meterline.wait_ready(SOON).await.unwrap();
    meterline.stop().await;
    let log = meterline.log().join("\n");
    assert!(
        !log.contains(OLD) && !log.contains(NEW),
        "a token was logged"
    );
    ingest.assert_clean();
}

/// A pause that the sink requests, and for how many seconds the same bytes have to wait.
macro_rules! pauses {
    ($(fn $name:ident() { $retry_after:expr => $pause:expr })+) => {$(
        #[tokio::test]
        async fn $name() {
            assert_pause(&$retry_after, $pause).await;
        }
    )+};
}

pauses! {
    fn a_retry_after_in_seconds_is_respected() { "3" => 2.9..9.0 }
    // The program may take long to start and to send the first request.
    fn a_retry_after_as_a_date_is_respected() { date(20) => 3.5..22.0 }
    fn a_retry_after_that_has_passed_means_the_usual_pause() { date(-60) => 0.2..3.0 }
    fn a_retry_after_that_cannot_be_read_means_the_usual_pause() { "in a while" => 0.2..3.0 }
}

fn date(from_now: i64) -> String {
    let at = Utc::now() + seconds(from_now);
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

async fn assert_pause(retry_after: &str, pause: Range<f64>) {
    let scene = Scene::simulated_with(BINARY, 3).await;
    let busy = Behaviour::status(429).header("retry-after", retry_after);
    scene.ingest.respond(1, &busy);
    let meterline = whole(&scene).start().unwrap();
    let mut found = None;
    scene
        .ingest
        .wait_until(MINUTE, |state| {
            found = first_was_repeated(state);
            found.is_some()
        })
        .await
        .unwrap();
    let found = found.unwrap().as_seconds_f64();
    assert!(pause.contains(&found), "{retry_after}: {found}");
    scene.finish(&meterline).await;
}

/// How long it took until the bytes of the first request were sent again.
fn first_was_repeated(state: &State) -> Option<TimeDelta> {
    let (first, rest) = state.requests.split_first()?;
    let again = rest.iter().find(|it| it.body == first.body)?;
    Some(again.at - first.at)
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_nothing_is_lost() {
    let scene = Scene::simulated_with(BINARY, 3).await;
    let elsewhere = RecordingIngest::start().await.unwrap();
    let redirect = Behaviour::redirect(&format!("{}/api/v1/events", elsewhere.url()));
    scene.ingest.respond(2, &redirect);
    let meterline = whole(&scene).start().unwrap();
    scene
        .ingest
        .wait_until(MINUTE, |state| first_was_repeated(state).is_some())
        .await
        .unwrap();
    assert_eq!(elsewhere.state().requests.len(), 0);
    scene.finish(&meterline).await;
}

#[tokio::test]
async fn a_sink_that_is_away_at_the_start_gets_every_window_later() {
    let scene = Scene::simulated_with(BINARY, 3).await;
    scene.ingest.go_away().await;
    let meterline = whole(&scene).start().unwrap();
    meterline.wait_unready("openmeter").await.unwrap();
    let away_until = pods::now();
    until(away_until + seconds(2)).await;
    scene.ingest.come_back().await.unwrap();
    scene.finish(&meterline).await;
}

#[tokio::test]
async fn a_stop_that_cannot_deliver_ends_with_75_and_a_second_signal_with_130() {
    let scene = Scene::populated(BINARY, 3).await;
    let ingest = &scene.ingest;
    ingest.go_away().await;
    for (timeout, second_signal, code) in [("1s", false, 75), ("1m", true, 130)] {
        let meterline = batched(&scene)
            .args(["--set", &format!("shutdown_timeout={timeout}")])
            .start()
            .unwrap();
        meterline
            .wait_for_log("trying again", MINUTE)
            .await
            .unwrap();
        meterline.terminate().unwrap();
        meterline.wait_for_log("stopping", SOON).await.unwrap();
        if second_signal {
            meterline.terminate().unwrap();
        }
        let status = meterline.wait_exit(SOON).await.unwrap();
        assert_eq!(status.code(), Some(code), "{}", meterline.tail());
    }
}

#[tokio::test]
async fn konnects_address_and_debug() {
    let scene = Scene::populated(BINARY, 1).await;
    let ingest = &scene.ingest;
    let meterline = batched(&scene)
        .env("OPENMETER_URL", ingest.konnect_url())
        .env("DEBUG", "true")
        .start()
        .unwrap();
    ingest.wait_for_events(2).await.unwrap();
    assert!(
        ingest
            .state()
            .requests
            .iter()
            .all(|it| it.path == "/v3/openmeter/events")
    );
    let id = ingest.events()[0]["id"].as_str().unwrap().to_owned();
    meterline.stop().await;
    let printed = meterline.lines(Stream::Stdout);
    let event = printed.iter().find(|line| line.contains(&id)).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["type"], "kube-pod-exec-time");
    ingest.assert_clean();
}
