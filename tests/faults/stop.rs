//! The program gets a stop signal at any moment.

use std::{
    io::{PipeWriter, Write},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use meterline_testkit::{
    ingest::{Behaviour, RecordingIngest},
    pods::pod,
    preload::Preload,
    process::Meterline,
    scene::Scene,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::has_file;
use crate::support::{BINARY, Chance, MINUTE, meterline};

const SOON: Duration = Duration::from_secs(20);
/// `shutdown_timeout` and the time for what follows it, on a busy machine.
const LONGEST_STOP: Duration = Duration::from_secs(5);

/// Whether it ended as the README documents for a stop signal. Once the log contains `begun`, it certainly
/// listens for signals.
fn is_documented(status: ExitStatus, meterline: &Meterline, begun: &str) -> bool {
    match status.code() {
        Some(0 | 75) => true,
        // Before it listens for signals it has nothing to lose.
        None => status.signal() == Some(15) && !meterline.tail().contains(begun),
        Some(_) => false,
    }
}

/// Sends it a stop signal and returns its exit code, which has to be one that the README names, in time.
async fn stop_within_limit(meterline: &Meterline, begun: &str) -> Option<i32> {
    meterline.terminate().unwrap();
    let signalled_at = Instant::now();
    let status = meterline.wait_exit(SOON).await.unwrap();
    assert!(
        signalled_at.elapsed() < LONGEST_STOP,
        "{:?}{}",
        signalled_at.elapsed(),
        meterline.tail()
    );
    assert!(
        is_documented(status, meterline, begun),
        "{status}{}",
        meterline.tail()
    );
    status.code()
}

/// Makes the sink accept events, refuse them or not answer.
fn set_behaviour(ingest: &RecordingIngest, chance: &mut Chance) {
    match chance.below(3) {
        0 => ingest.respond_always(Behaviour::status(503)),
        1 => ingest.respond_always(Behaviour::normal().hold()),
        _ => ingest.respond_normally(),
    }
}

/// The program is stopped 25 times at random moments, while pods come and go and the sink accepts events,
/// refuses them or does not answer.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn stopped_at_any_moment_with_a_state_file_every_second_is_billed_once() {
    let scene = Scene::with(BINARY, 3).await;
    let ingest = &scene.ingest;
    let command = || {
        scene
            .preset()
            .env("STATE_PATH", scene.file("state.sqlite"))
            .args(["--set", "shutdown_timeout=1s"])
    };
    let mut chance = Chance::new();
    // The first run begins the ledger; everything that happens later has to be billed.
    let first = command().start_ready().await.unwrap();
    first.stop().await;
    let mut lives = JoinSet::new();
    for index in 0..60 {
        let (pods, spec) = (scene.pods.clone(), pod(&format!("short-{index}")));
        let delay = chance.pause(Duration::from_secs(40));
        let life = Duration::from_millis(500) + chance.pause(Duration::from_secs(10));
        lives.spawn(async move { pods.live_and_go(&spec, delay, life).await });
    }
    let mut codes = Vec::new();
    for _ in 0..25 {
        set_behaviour(ingest, &mut chance);
        let meterline = command().start().unwrap();
        sleep(Duration::from_millis(20 + chance.below(1_800))).await;
        codes.push(stop_within_limit(&meterline, "billing begins").await);
    }
    eprintln!("ended with {codes:?}");
    ingest.respond_normally();
    ingest.release();
    let meterline = command().start().unwrap();
    while let Some(lived) = lives.join_next().await {
        lived.unwrap().unwrap();
    }
    scene.assert_exact(&meterline).await;
    meterline.assert_metric("lost_time", 0.0).await;
    assert!(
        !has_file(scene.folder(), ".damaged-"),
        "a stop damaged a file"
    );
    meterline.stop().await;
}

/// Writes numbered lines of this run until the reader closes the pipe.
fn feed(run: usize, mut lines: PipeWriter) {
    let mut line = |second: u32| writeln!(lines, "{{\"run\": {run}, \"second\": {second}}}");
    for second in 0.. {
        if line(second).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lines of standard input, which cannot be read twice, go through a buffer in a file. The lines that the
/// buffer accepted are delivered, however often the program is stopped; the others stay in the pipe.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_any_moment_with_a_buffer_every_second_is_billed_once() {
    let ingest = RecordingIngest::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"
input: {{stdin: {{}}}}
buffer: {{sqlite: {{path: '{}'}}}}
pipeline:
  processors:
    - mapping: |
        root = #{{ id: `${{{{this.run}}}}-${{{{this.second}}}}`, specversion: "1.0", source: "test", type: "t",
          subject: "s", time: "2025-01-01T00:00:00Z", data: this }};
output: {{openmeter: {{url: '{}', batching: {{count: 50, period: 300ms}}}}}}
shutdown_timeout: 1s
"#,
        folder.path().join("buffer.sqlite").display(),
        ingest.url(),
    );
    let mut chance = Chance::new();
    let mut taken = Vec::new();
    for run in 0..25 {
        set_behaviour(&ingest, &mut chance);
        let (reader, writer) = std::io::pipe().unwrap();
        let meterline = meterline().config(&config).stdin(reader).start().unwrap();
        std::thread::spawn(move || feed(run, writer));
        sleep(Duration::from_millis(20 + chance.below(1_800))).await;
        // A lower bound: a process that does not answer yet counts as having read none.
        let received = meterline.metric("buffer_received").await;
        taken.push(received.ok().flatten().unwrap_or_default() as usize);
        let code = stop_within_limit(&meterline, "serving /ping").await;
        eprintln!("run {run} ended with {code:?}, {} lines taken", taken[run]);
    }
    ingest.respond_normally();
    ingest.release();
    // Without input it ends by itself when the buffer is empty.
    let meterline = meterline().config(&config).start().unwrap();
    let status = meterline.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", meterline.tail());
    ingest.assert_clean();
    let mut billed: Vec<Vec<u64>> = vec![Vec::new(); taken.len()];
    for event in ingest.events() {
        let of = |key: &str| event["data"][key].as_u64().unwrap();
        billed[of("run") as usize].push(of("second"));
    }
    for (mut seconds, taken) in billed.into_iter().zip(&taken) {
        seconds.sort_unstable();
        assert!(seconds.len() >= *taken, "{} of {taken}", seconds.len());
        assert!(
            seconds.iter().copied().eq(0..seconds.len() as u64),
            "{seconds:?}"
        );
    }
    assert!(taken.iter().sum::<usize>() > 0, "{taken:?}");
}

/// When the program gets a stop signal, lines that the buffer refused wait in an input with processors of its
/// own. The buffer takes them if it can; what it cannot take is counted as lost.
#[tokio::test(flavor = "multi_thread")]
async fn messages_in_an_input_with_processors_are_stored_at_a_stop_or_counted_as_lost() {
    for (mended, code) in [(true, 0), (false, 75)] {
        let ingest = RecordingIngest::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let preload = Preload::compile().unwrap();
        let config = format!(
            r#"
input:
  stdin: {{}}
  processors: [{{mapping: 'root = this; root.seen = true'}}]
buffer: {{sqlite: {{path: '{}'}}}}
output:
  http_client: {{url: '{}', headers: {{content-type: application/cloudevents+json}}}}
  processors:
    - mapping: |
        root = #{{ id: this.id, specversion: "1.0", source: "test", type: "t",
          subject: "s", time: "2025-01-01T00:00:00Z", data: this }};
"#,
            folder.path().join("buffer.sqlite").display(),
            ingest.url() + "/api/v1/events",
        );
        let (reader, mut lines) = std::io::pipe().unwrap();
        let command = meterline().config(&config).stdin(reader);
        let collector = preload.put_into(command).start().unwrap();
        writeln!(lines, r#"{{"id": "first"}}"#).unwrap();
        ingest
            .wait_until(MINUTE, |state| state.events.len() == 1)
            .await
            .unwrap();
        preload.fail_syncs(true).unwrap();
        writeln!(lines, r#"{{"id": "second"}}"#).unwrap();
        collector
            .wait_for_page("/ready", MINUTE, |_, page| {
                page.contains("the buffer cannot store messages")
            })
            .await
            .unwrap();
        if mended {
            preload.fail_syncs(false).unwrap();
        }
        collector.terminate().unwrap();
        let status = collector.wait_exit(MINUTE).await.unwrap();
        let tail = collector.tail();
        assert_eq!(status.code(), Some(code), "{tail}");
        assert_eq!(
            tail.contains("the remaining batches are lost"),
            !mended,
            "{tail}"
        );

        if !mended {
            preload.fail_syncs(false).unwrap();
        }
        let again = meterline().config(&config).start().unwrap();
        let status = again.wait_exit(MINUTE).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", again.tail());
        let events = ingest.events();
        let ids: Vec<_> = events.iter().filter_map(|it| it["id"].as_str()).collect();
        assert_eq!(ids, ["first", "second"][..if mended { 2 } else { 1 }]);
        assert!(events.iter().all(|it| it["data"]["seen"] == true));
        ingest.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_second_signal_ends_it_at_once_while_a_request_is_held() {
    let scene = Scene::with(BINARY, 3).await;
    let ingest = &scene.ingest;
    ingest.respond_always(Behaviour::normal().hold());
    let command = || {
        scene
            .preset()
            .env("STATE_PATH", scene.file("state.sqlite"))
            .args(["--set", "shutdown_timeout=1m"])
    };
    let meterline = command().start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.in_flight > 0)
        .await
        .unwrap();
    meterline.terminate().unwrap();
    meterline.wait_for_log("stopping", SOON).await.unwrap();
    assert!(meterline.exited().is_none());
    meterline.terminate().unwrap();
    let signalled_at = Instant::now();
    let status = meterline.wait_exit(SOON).await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", meterline.tail());
    assert!(
        signalled_at.elapsed() < Duration::from_secs(2),
        "{:?}",
        signalled_at.elapsed()
    );
    ingest.respond_normally();
    ingest.release();
    let meterline = command().start().unwrap();
    scene.finish(&meterline).await;
}

/// Other objects of the cluster changed and no pod did, so that the API server has nothing to repeat; the
/// program has to notice that it is up to date.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn billing_continues_after_a_restart_without_pod_changes() {
    let scene = Scene::with(BINARY, 2).await;
    let ingest = &scene.ingest;
    let command = || scene.preset().env("STATE_PATH", scene.file("state.sqlite"));
    let meterline = command().start_ready().await.unwrap();
    ingest.wait_for_events(1).await.unwrap();
    drop(meterline);
    let namespaces = ["one", "two", "three"];
    for name in namespaces {
        scene.control_plane.create_namespace(name).await.unwrap();
    }
    let meterline = command().start_ready().await.unwrap();
    scene.finish(&meterline).await;
}
