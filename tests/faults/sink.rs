//! What the sink may do to us.

use std::{collections::HashSet, time::Duration};

use chrono::{TimeDelta, Utc};
use meterline_testkit::{
    ingest::{Answer, Behaviour, RecordingIngest, Request},
    pods::pod,
    tls::{Authority, TlsFront},
};
use serde_json::Value;

use super::Scene;
use crate::support::{MINUTE, stop};

const SOON: Duration = Duration::from_secs(20);

/// The answer to a request and how long it took until the same bytes came again.
fn came_again(requests: &[Request], at: usize) -> Option<TimeDelta> {
    let first = &requests[at];
    let again = requests
        .iter()
        .skip(at + 1)
        .find(|it| it.body == first.body)?;
    Some(again.at - first.at)
}

/// Expired, for another host, of an unknown authority.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_certificate_that_is_not_right_is_never_trusted_and_nothing_is_lost() {
    let scene = Scene::with(3).await;
    let (ours, unknown) = (Authority::new().unwrap(), Authority::new().unwrap());
    let roots = scene.file("roots.pem");
    std::fs::write(&roots, ours.pem()).unwrap();
    let mut all = Vec::new();
    for (certificate, reason) in [
        (ours.expired("127.0.0.1"), "expired"),
        (ours.certificate("elsewhere.test"), "not valid for name"),
        (unknown.certificate("127.0.0.1"), "UnknownIssuer"),
    ] {
        let ingest = RecordingIngest::start().await.unwrap();
        let front = TlsFront::start(&ingest.url(), certificate.unwrap())
            .await
            .unwrap();
        let output = format!(
            "url: '{}', max_in_flight: 2, tls: {{root_cas_file: '{}'}}",
            front.url(),
            roots.display()
        );
        let meterline = scene.variant(|preset| preset, &output).start().unwrap();
        all.push((ingest, front, meterline, reason));
    }
    for (ingest, front, meterline, reason) in &all {
        meterline
            .wait_for_page("/ready", MINUTE, |status, page| {
                status == 503 && page.contains(reason)
            })
            .await
            .unwrap();
        meterline.wait_for_log(reason, SOON).await.unwrap();
        front.wait_for_connections(2, SOON).await.unwrap();
        assert_eq!(ingest.state().requests.len(), 0);
        front.present(ours.certificate("127.0.0.1").unwrap());
    }
    scene.end_all().await;
    for (ingest, front, meterline, reason) in &all {
        scene.assert_exact(ingest, meterline).await;
        // Both requests that may be under way were made at once; the third try had to wait.
        let connections = front.connections();
        let pause = connections[2] - connections[0];
        assert!(pause > Duration::from_secs(25), "{reason}: {pause:?}");
        stop(meterline).await;
    }
}

fn ids(events: &[Value]) -> HashSet<String> {
    events.iter().map(|event| event["id"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_sink_that_does_not_answer_is_left_after_the_time_limit_and_windows_wait() {
    let scene = Scene::with(3).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond_always(Behaviour::normal().hold());
    let output = format!("url: '{}', max_in_flight: 2, timeout: 2s", ingest.url());
    let meterline = scene.variant(|preset| preset, &output).start().unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("no answer in time")
        })
        .await
        .unwrap();
    ingest
        .wait_until(MINUTE, |state| state.requests.len() >= 5)
        .await
        .unwrap();
    {
        let state = ingest.state();
        // A probe sends a part of what failed; so what counts is what the requests are parts of.
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
    scene.assert_exact(&ingest, &meterline).await;
    assert!(ingest.state().max_in_flight <= 2);
    stop(&meterline).await;
}

/// In seconds, as a date, as a date that has passed, as garbage, and as thirty years.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn every_form_of_retry_after_is_kept_to_within_reason() {
    let scene = Scene::with(2).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let start = || {
        scene
            .preset(&ingest)
            .env("STATE_PATH", scene.file("state.sqlite"))
            .args(["--set", "shutdown_timeout=2s"])
            .start()
            .unwrap()
    };
    let meterline = start();
    meterline.wait_ready(MINUTE).await.unwrap();
    let date = |seconds| {
        let at = Utc::now() + TimeDelta::seconds(seconds);
        at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    // The pause before what was answered with this value comes again, in seconds.
    let pause = async |value: &str| {
        let before = ingest.state().requests.len();
        ingest.respond(1, &Behaviour::status(429).header("retry-after", value));
        let mut pause = None;
        ingest
            .wait_until(MINUTE, |state| {
                let answered = Answer::Status(429);
                let requests = state.requests.iter().enumerate().skip(before);
                let mut refused = requests.filter(|(_, it)| it.answer == answered);
                pause = refused
                    .next()
                    .and_then(|(at, _)| came_again(&state.requests, at));
                pause.is_some()
            })
            .await
            .unwrap();
        pause.unwrap().as_seconds_f64()
    };
    let four = pause("4").await;
    assert!((4.0..9.0).contains(&four), "{four}");
    // A window comes each second, and a date has whole ones.
    let dated = pause(&date(8)).await;
    assert!((3.0..12.0).contains(&dated), "{dated}");
    for nothing in [date(-60), "in a while".to_owned()] {
        let usual = pause(&nothing).await;
        assert!((0.2..3.0).contains(&usual), "{nothing}: {usual}");
    }
    // One request waits for long; the others go on, and neither a stop nor a restart waits for it.
    ingest.respond(
        1,
        &Behaviour::status(429).header("retry-after", "1000000000"),
    );
    let refused = ingest.state().answered(429);
    ingest
        .wait_until(MINUTE, |state| state.answered(429) > refused)
        .await
        .unwrap();
    let taken = ingest.state().answered(204);
    ingest
        .wait_until(MINUTE, |state| state.answered(204) >= taken + 3)
        .await
        .unwrap();
    meterline.terminate().unwrap();
    let status = meterline.wait_exit(SOON).await.unwrap();
    assert_eq!(status.code(), Some(75), "{}", meterline.tail());
    let meterline = start();
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_web_page_is_no_success() {
    let scene = Scene::with(2).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond_always(
        Behaviour::status(200)
            .header("content-type", "text/html; charset=utf-8")
            .body("<html><body>Please sign in</body></html>"),
    );
    let meterline = scene.preset(&ingest).start().unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("web page") && page.contains("Please sign in")
        })
        .await
        .unwrap();
    assert_eq!(
        meterline.metric("output_sent").await.unwrap_or_default(),
        Some(0.0)
    );
    ingest.respond_normally();
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}

/// What nginx says to HTTP at its TLS port: neither it nor anybody else judged the events.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_web_page_is_no_verdict_either() {
    let scene = Scene::with(2).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond_always(
        Behaviour::status(400)
            .header("content-type", "text/html")
            .body("<html>The plain HTTP request was sent to HTTPS port</html>"),
    );
    let meterline = scene.preset(&ingest).start().unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("400") && page.contains("HTTPS port")
        })
        .await
        .unwrap();
    assert_eq!(
        meterline.metric("output_rejected").await.unwrap(),
        Some(0.0)
    );
    ingest.respond_normally();
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}

/// An error after some of the batch was taken, and a connection that goes once the body was sent.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn what_may_have_been_taken_is_sent_again_with_the_same_bytes() {
    let scene = Scene::with(5).await;
    let ingest = RecordingIngest::start().await.unwrap();
    for behaviour in [
        Behaviour::accept_first_then(2, 500),
        Behaviour::accept_then_reset(),
        Behaviour::accept_then_drop(),
        Behaviour::drop_connection(),
    ] {
        ingest.respond(1, &behaviour);
    }
    let meterline = scene.preset(&ingest).start().unwrap();
    ingest
        .wait_until(MINUTE, |state| {
            state.requests.len() > 4 && (0..4).all(|at| came_again(&state.requests, at).is_some())
        })
        .await
        .unwrap();
    {
        let state = ingest.state();
        let answers: HashSet<_> = state.requests[..4]
            .iter()
            .map(|it| (format!("{:?}", it.answer), it.taken, it.events.len()))
            .collect();
        for (answer, taken) in [
            ("Status(500)", 2),
            ("Reset", 5),
            ("Dropped", 5),
            ("Dropped", 0),
        ] {
            assert!(
                answers.contains(&(answer.to_owned(), taken, 5)),
                "{answers:?}"
            );
        }
    }
    scene.assert_exact(&ingest, &meterline).await;
    assert!(ingest.state().duplicates >= 12);
    stop(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_event_that_is_too_large_alone_is_rejected_and_costs_the_others_nothing() {
    let scene = Scene::with(11).await;
    // The preset takes 32 KiB of annotations at most.
    let large = "x".repeat(4_000);
    let huge = (0..8).fold(pod("huge"), |pod, index| {
        pod.annotation(&format!("data.openmeter.io/blob-{index}"), &large)
    });
    scene.pods.create_running(&huge, scene.start).await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.limit_bytes(Some(20_000));
    let meterline = scene.preset(&ingest).start().unwrap();
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
    // What was too large alone says nothing of how many may go together.
    ingest
        .wait_until(MINUTE, |state| {
            state.requests.iter().any(|it| it.taken == 11)
        })
        .await
        .unwrap();
    scene.end_all().await;
    scene.settled_without(&ingest, "huge").await.assert_exact();
    assert!(ingest.events().iter().all(|it| super::name(it) != "huge"));
    ingest.assert_clean();
    stop(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_script_that_fails_for_one_pod_rejects_it_and_for_most_is_not_ready() {
    let scene = Scene::with(10).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let script = |preset: String| {
        let first = "let annotations = this.metadata?.annotations ?? #{};\n";
        assert!(preset.contains(first));
        let fails = r#"        if "broken" in annotations { throw "no price for this one" }"#;
        preset.replace(first, &format!("{first}{fails}\n"))
    };
    let output = format!("url: '{}'", ingest.url());
    let meterline = scene.variant(script, &output).start().unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
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
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("no price for this one")
        })
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
        .report(&ingest, |name| ["pod-8", "pod-9"].contains(&name))
        .assert_exact();
    // A window is a second: what is missing is what was rejected, and nothing else is wrong.
    let report = scene.report(&ingest, |_| true);
    let rejected = meterline.metric("output_rejected").await.unwrap();
    assert_eq!(Some(report.missing_seconds() as f64), rejected, "{report}");
    assert_eq!(report.double_seconds() + report.surplus_seconds(), 0);
    ingest.assert_clean();
    stop(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn without_a_state_file_the_log_and_ready_say_so() {
    let scene = Scene::with(1).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = scene.preset(&ingest).start().unwrap();
    let said = "does not survive a restart";
    meterline.wait_for_log(said, MINUTE).await.unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && page.contains(said)
        })
        .await
        .unwrap();
    stop(&meterline).await;
    let state = scene.file("state.sqlite");
    let meterline = scene
        .preset(&ingest)
        .env("STATE_PATH", &state)
        .start()
        .unwrap();
    meterline.wait_ready(MINUTE).await.unwrap();
    let (_, page) = meterline.get("/ready").await.unwrap();
    assert!(!page.contains(said), "{page}");
    scene.assert_exact(&ingest, &meterline).await;
    stop(&meterline).await;
}
