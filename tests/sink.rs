//! Delivery under fire: the preset against a simulated API server and an ingest API that misbehaves.

use std::time::Duration;

use meterline_kubesim::{Kind, Kubesim, Options, Size, World, rfc3339};
use meterline_testkit::{
    child::Stream,
    ingest::{Behaviour, RecordingIngest, State},
    process::{Meterline, MeterlineCommand},
};
use serde_json::{Value, json};

use crate::support::{MINUTE, meterline, root, stop};

const SOON: Duration = Duration::from_secs(20);

/// A cluster with pods that ran before and go on running, and where its kubeconfig is.
struct Cluster {
    sim: Kubesim,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn with(pods: usize) -> Self {
        let sim = Kubesim::start(Options::default()).await.unwrap();
        let since = chrono::Utc::now().timestamp() - 60;
        let mut world = World::new(1, 0, Size::Small);
        sim.change(|store| world.populate(pods, since, store));
        let folder = tempfile::tempdir().unwrap();
        sim.write_kubeconfig(&folder.path().join("kubeconfig"))
            .unwrap();
        Self { sim, folder }
    }

    /// The preset in windows of a second.
    fn preset(&self, ingest_url: &str) -> MeterlineCommand {
        meterline()
            .args([
                "--config".as_ref(),
                root()
                    .join("presets/kubernetes-pod-exec-time.yaml")
                    .as_os_str(),
            ])
            .kubeconfig(&self.folder.path().join("kubeconfig"))
            .env("OPENMETER_URL", ingest_url)
            .env("SCRAPE_INTERVAL", "1s")
    }
}

/// Whether the bytes of the first request came once more.
fn first_came_again(state: &State) -> bool {
    let mut requests = state.requests.iter();
    let first = requests.next();
    first.is_some_and(|first| requests.any(|it| it.body == first.body))
}

fn logged(meterline: &Meterline, text: &str) -> usize {
    meterline
        .log()
        .iter()
        .filter(|line| line.contains(text))
        .count()
}

#[tokio::test]
async fn without_a_period_a_request_waits_for_batch_size_events_and_says_so_once() {
    let cluster = Cluster::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = cluster.preset(&ingest.url()).start().unwrap();
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
    // What waits goes out when the program is told to stop.
    let before = ingest.state().events.len();
    stop(&meterline).await;
    assert!(ingest.state().events.len() >= before);
    ingest.assert_clean();
}

#[tokio::test]
async fn a_batch_size_of_0_is_one_request_a_window() {
    let cluster = Cluster::with(30).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_SIZE", "0")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.requests.len() >= 3)
        .await
        .unwrap();
    for request in &ingest.state().requests {
        assert_eq!(request.events.len(), 30);
        let times: std::collections::HashSet<_> = request
            .events
            .iter()
            .map(|event| event["time"].as_str().unwrap())
            .collect();
        assert_eq!(times.len(), 1);
    }
    stop(&meterline).await;
    ingest.assert_clean();
}

#[tokio::test]
async fn what_waits_is_delivered_on_sigterm() {
    let cluster = Cluster::with(2).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_SIZE", "1000")
        .start()
        .unwrap();
    meterline
        .wait_for_log("BATCH_PERIOD", MINUTE)
        .await
        .unwrap();
    assert_eq!(ingest.state().requests.len(), 0);
    stop(&meterline).await;
    assert!(ingest.state().events.len() >= 2);
    ingest.assert_clean();
}

#[tokio::test]
async fn batches_are_halved_until_they_are_taken() {
    let cluster = Cluster::with(30).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.limit_events(Some(7));
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_SIZE", "0")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 90)
        .await
        .unwrap();
    assert!(ingest.state().answered(413) > 0);
    assert!(
        ingest.state().answered(413) < 10,
        "the size that is taken is remembered: {}",
        ingest.state().answered(413)
    );
    stop(&meterline).await;
    ingest.assert_clean();
}

/// The dead letter: what the API refuses goes to the next output, with the reason.
#[tokio::test]
async fn what_is_refused_goes_to_the_fallback_with_its_reason() {
    let cluster = Cluster::with(30).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.refuse_when(|event| event["data"]["pod_name"] == "worker-17");
    let config = std::fs::read_to_string(root().join("presets/kubernetes-pod-exec-time.yaml"))
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
    let meterline = meterline()
        .config(&config)
        .kubeconfig(&cluster.folder.path().join("kubeconfig"))
        .env("OPENMETER_URL", ingest.url())
        .env("SCRAPE_INTERVAL", "1s")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 87)
        .await
        .unwrap();
    let letter = meterline
        .wait_for_line(Stream::Stdout, SOON, |line| line.contains("worker-17"))
        .await
        .unwrap();
    let letter: serde_json::Value = serde_json::from_str(&letter).unwrap();
    assert_eq!(letter["event"]["data"]["pod_name"], "worker-17");
    assert!(
        letter["reason"].as_str().unwrap().contains("400"),
        "{letter}"
    );
    stop(&meterline).await;
    // Every event is in exactly one of the two.
    let letters: Vec<serde_json::Value> = meterline
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
    let cluster = Cluster::with(30).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.refuse_when(|event| event["data"]["pod_name"] == "worker-17");
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_PERIOD", "1s")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 87)
        .await
        .unwrap();
    assert!(
        ingest
            .events()
            .iter()
            .all(|event| event["data"]["pod_name"] != "worker-17")
    );
    meterline
        .wait_for_log("default/worker-17", SOON)
        .await
        .unwrap();
    assert!(meterline.metric("output_rejected").await.unwrap() > Some(0.0));
    stop(&meterline).await;
    ingest.assert_clean();
}

#[tokio::test]
async fn a_quantity_that_cannot_be_read_is_refused_alone() {
    let cluster = Cluster::with(3).await;
    let since = chrono::Utc::now().timestamp() - 60;
    cluster.sim.change(|store| {
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
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_PERIOD", "1s")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 9)
        .await
        .unwrap();
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
    let told = meterline.log().into_iter();
    assert_eq!(told.filter(|it| it.contains("12 apples")).count(), 1);
    assert_eq!(
        meterline.metric("output_rejected").await.unwrap(),
        Some(0.0)
    );
    let left_out = meterline.metric("mapping_left_out").await.unwrap();
    assert!(left_out > Some(0.0), "{left_out:?}");
    stop(&meterline).await;
}

#[tokio::test]
async fn a_refused_token_keeps_the_data_until_another_one_is_there() {
    const OLD: &str = "planted-old-secret-token";
    const NEW: &str = "planted-new-secret-token";
    let cluster = Cluster::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.require_token(Some(NEW));
    let token = cluster.folder.path().join("token");
    std::fs::write(&token, OLD).unwrap();
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_PERIOD", "1s")
        .env("OPENMETER_TOKEN", format!("file://{}", token.display()))
        .args(["--log-level", "TRACE"])
        .start()
        .unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("401")
        })
        .await
        .unwrap();
    let refused_at = chrono::Utc::now().timestamp();
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
    stop(&meterline).await;
    let log = meterline.log().join("\n");
    assert!(
        !log.contains(OLD) && !log.contains(NEW),
        "a token was logged"
    );
    ingest.assert_clean();
}

#[tokio::test]
async fn the_pause_that_the_server_asks_for_is_kept() {
    let cluster = Cluster::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond(1, &Behaviour::status(429).header("retry-after", "3"));
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_SIZE", "0")
        .start()
        .unwrap();
    ingest.wait_until(MINUTE, first_came_again).await.unwrap();
    {
        let state = ingest.state();
        let first = &state.requests[0];
        let again = state
            .requests
            .iter()
            .skip(1)
            .find(|it| it.body == first.body)
            .unwrap();
        let pause = again.at - first.at;
        assert!(pause >= chrono::TimeDelta::milliseconds(2_900), "{pause}");
    }
    stop(&meterline).await;
    ingest.assert_clean();
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_nothing_is_lost() {
    let cluster = Cluster::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let elsewhere = RecordingIngest::start().await.unwrap();
    ingest.respond(
        2,
        &Behaviour::redirect(&format!("{}/api/v1/events", elsewhere.url())),
    );
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_SIZE", "0")
        .start()
        .unwrap();
    ingest.wait_until(MINUTE, first_came_again).await.unwrap();
    assert_eq!(elsewhere.state().requests.len(), 0);
    stop(&meterline).await;
    ingest.assert_clean();
}

#[tokio::test]
async fn a_sink_that_is_away_at_the_start_gets_every_window_later() {
    let cluster = Cluster::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.go_away().await;
    let meterline = cluster
        .preset(&ingest.url())
        .env("BATCH_PERIOD", "1s")
        .start()
        .unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("openmeter")
        })
        .await
        .unwrap();
    let away_until = chrono::Utc::now().timestamp();
    ingest.come_back().await.unwrap();
    ingest
        .wait_until(MINUTE, |state| {
            state.events.iter().any(|it| {
                it.event["time"].as_str().unwrap_or_default() > rfc3339(away_until).as_str()
            })
        })
        .await
        .unwrap();
    stop(&meterline).await;
    // Without a hole: each pod's seconds follow one another.
    let mut seconds: Vec<_> = ingest
        .events()
        .iter()
        .filter(|event| event["data"]["pod_name"] == "worker-1")
        .map(|event| {
            let time = event["time"].as_str().unwrap();
            chrono::DateTime::parse_from_rfc3339(time)
                .unwrap()
                .timestamp()
        })
        .collect();
    seconds.sort_unstable();
    assert!(seconds[0] <= away_until);
    assert!(
        seconds.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seconds:?}"
    );
    ingest.assert_clean();
}

#[tokio::test]
async fn a_stop_that_cannot_deliver_ends_with_75_and_a_second_signal_with_130() {
    let cluster = Cluster::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.go_away().await;
    for (timeout, second_signal, code) in [("1s", false, 75), ("1m", true, 130)] {
        let meterline = cluster
            .preset(&ingest.url())
            .env("BATCH_PERIOD", "1s")
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
    let cluster = Cluster::with(1).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = cluster
        .preset(&ingest.konnect_url())
        .env("BATCH_PERIOD", "1s")
        .env("DEBUG", "true")
        .start()
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= 2)
        .await
        .unwrap();
    assert!(
        ingest
            .state()
            .requests
            .iter()
            .all(|it| it.path == "/v3/openmeter/events")
    );
    let id = ingest.events()[0]["id"].as_str().unwrap().to_owned();
    stop(&meterline).await;
    let printed = meterline.lines(meterline_testkit::child::Stream::Stdout);
    let event = printed.iter().find(|line| line.contains(&id)).unwrap();
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["type"], "kube-pod-exec-time");
    ingest.assert_clean();
}
