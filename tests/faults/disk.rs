//! Disks that are full, fail to sync, or return other bytes than were written.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use meterline_testkit::{
    disk::SmallDisk,
    ingest::{Behaviour, RecordingIngest},
    preload::Preload,
    process::{Meterline, MeterlineCommand},
    scene::Scene,
};

use super::has_file;
use crate::support::{BINARY, MINUTE, meterline};

const SOON: Duration = Duration::from_secs(20);
/// Enough for a state file or a buffer with its companion files, and little more.
const SMALL: u64 = 6_000_000;

/// Waits until `/ready` reports that a file cannot be written, and asserts that nothing is sent then.
async fn assert_nothing_is_sent(meterline: &Meterline, ingest: &RecordingIngest, reason: &str) {
    meterline.wait_unready(reason).await.unwrap();
    // What was written before may still be on its way.
    let since = Utc::now() + TimeDelta::seconds(2);
    meterline
        .wait_for_metric("ledger_watermark_age_seconds", MINUTE, |age| age > 12.0)
        .await
        .unwrap();
    let state = ingest.state();
    let later = state.requests.iter().filter(|it| it.at > since).count();
    assert_eq!(later, 0, "{}", meterline.tail());
}

/// Writing the file fails twice. The first time the program continues when the disk works again; the
/// second time it is killed before that.
async fn a_state_that_cannot_be_written<F>(
    scene: &Scene,
    command: impl Fn() -> MeterlineCommand,
    begin: impl Fn() -> F,
    end: impl Fn(F),
    reason: &str,
) {
    let ingest = &scene.ingest;
    let mut meterline = command().start().unwrap();
    for is_killed in [false, true] {
        meterline.wait_ready(MINUTE).await.unwrap();
        ingest.wait_for_more_events(3).await.unwrap();
        let fault = begin();
        assert_nothing_is_sent(&meterline, ingest, reason).await;
        meterline.wait_for_log(reason, SOON).await.unwrap();
        if is_killed {
            // Dropped: killed by SIGKILL.
            drop(meterline);
            end(fault);
            meterline = command().start().unwrap();
        } else {
            end(fault);
        }
        meterline.wait_ready(MINUTE).await.unwrap();
    }
    scene.assert_exact(&meterline).await;
    meterline.assert_metric("lost_time", 0.0).await;
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane, as CONTRIBUTING.md has it, and the right to mount"]
async fn on_a_full_disk_no_window_is_sent_and_none_is_lost() {
    let disk = SmallDisk::mount(SMALL).unwrap();
    let scene = Scene::with(BINARY, 3).await;
    let state = disk.path().join("state.sqlite");
    let command = || scene.preset().env("STATE_PATH", &state);
    let begin = || disk.fill().unwrap();
    a_state_that_cannot_be_written(&scene, command, begin, drop, "the disk is full").await;
    assert!(!has_file(disk.path(), ".damaged-"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_state_that_cannot_be_synced_is_not_trusted_and_is_rewritten() {
    let scene = Scene::with(BINARY, 3).await;
    let preload = Preload::compile().unwrap();
    let state = scene.file("state.sqlite");
    let command = || preload.put_into(scene.preset()).env("STATE_PATH", &state);
    let begin = || preload.fail_syncs(true).unwrap();
    let end = |()| preload.fail_syncs(false).unwrap();
    a_state_that_cannot_be_written(&scene, command, begin, end, "disk I/O error").await;
    assert!(!has_file(scene.folder(), ".damaged-"));
}

/// The number of messages, enough to outlast the failure. The input cannot make a message twice.
const MADE: usize = 400;

/// Messages arrive all the time. The input repeats those that the buffer refuses, and all are delivered.
async fn a_buffer_that_cannot_be_written<F>(
    buffer: &std::path::Path,
    preload: Option<&Preload>,
    begin: impl Fn() -> F,
    end: impl Fn(F),
    reason: &str,
) {
    let ingest = RecordingIngest::start().await.unwrap();
    let config = format!(
        r#"
input: {{generate: {{mapping: 'root = #{{ n: uuid_v4() }}', interval: 50ms, count: {MADE}}}}}
buffer: {{sqlite: {{path: '{}'}}}}
pipeline:
  processors:
    - mapping: |
        root = #{{ id: this.n, specversion: "1.0", source: "test", type: "t",
          subject: "s", time: "2025-01-01T00:00:00Z", data: #{{ n: this.n }} }};
output: {{openmeter: {{url: '{}', batching: {{count: 10, period: 100ms}}}}}}
"#,
        buffer.display(),
        ingest.url(),
    );
    let command = meterline().config(&config);
    let command = match preload {
        Some(preload) => preload.put_into(command),
        None => command,
    };
    let meterline = command.start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() > 3)
        .await
        .unwrap();
    ingest.respond_always(Behaviour::status(503));
    let fault = begin();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503
                && page.contains("the buffer cannot store messages")
                && page.contains(reason)
        })
        .await
        .unwrap();
    ingest.respond_normally();
    // The buffer refuses more than once.
    meterline.wait_for_log("refused=2", MINUTE).await.unwrap();
    assert!(ingest.events().len() < MADE);
    end(fault);
    let status = meterline.wait_exit(2 * MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", meterline.tail());
    assert_eq!(ingest.events().len(), MADE, "{}", meterline.tail());
    ingest.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane, as CONTRIBUTING.md has it, and the right to mount"]
async fn messages_that_a_buffer_on_a_full_disk_refuses_are_read_again() {
    let disk = SmallDisk::mount(SMALL).unwrap();
    let buffer = disk.path().join("buffer.sqlite");
    let begin = || disk.fill().unwrap();
    a_buffer_that_cannot_be_written(&buffer, None, begin, drop, "the disk is full").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_a_buffer_could_not_sync_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let preload = Preload::compile().unwrap();
    let buffer = folder.path().join("buffer.sqlite");
    let begin = || preload.fail_syncs(true).unwrap();
    let end = |()| preload.fail_syncs(false).unwrap();
    a_buffer_that_cannot_be_written(&buffer, Some(&preload), begin, end, "disk I/O error").await;
}

/// The file of the buffer is not a database any more, so nothing in it can be delivered. The program
/// reports that, keeps the file and continues.
#[tokio::test]
async fn a_damaged_buffer_is_moved_aside_and_reported() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond_always(Behaviour::status(503));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("buffer.sqlite");
    let start = || {
        let config = format!(
            r#"
input: {{generate: {{mapping: 'root = #{{ n: uuid_v4() }}', interval: 1ms, count: 40}}}}
buffer:
  sqlite: {{path: {}}}
pipeline:
  processors:
    - mapping: |
        root = #{{ id: event_id(), specversion: "1.0", source: "test", type: "t",
          subject: "s", time: "2025-01-01T00:00:00Z", data: #{{ n: this.n }} }};
output:
  openmeter: {{url: "{}", batching: {{count: 10}}}}
"#,
            path.display(),
            ingest.url()
        );
        meterline().config(&config).start().unwrap()
    };
    let first = start();
    first
        .wait_for_metric("buffer_received", MINUTE, |received| received >= 40.0)
        .await
        .unwrap();
    drop(first);
    assert_eq!(ingest.state().events.len(), 0);
    // The write-ahead log holds the same messages.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let damaged = bytes.len().min(100);
        bytes[..damaged].fill(b'x');
        std::fs::write(&path, &bytes).unwrap();
    }
    ingest.respond_normally();
    let second = start();
    let line = second
        .wait_for_log("the buffer was damaged", MINUTE)
        .await
        .unwrap();
    assert!(line.contains(".damaged-"), "{line}");
    ingest
        .wait_until(MINUTE, |state| state.events.len() == 40)
        .await
        .unwrap();
    assert!(has_file(folder.path(), "buffer.sqlite.damaged-"));
    assert!(second.wait_exit(SOON).await.unwrap().success());
    ingest.assert_clean();
}
