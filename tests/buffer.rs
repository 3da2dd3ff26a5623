//! Messages in a buffer survive the program.

use meterline_testkit::ingest::{Behaviour, RecordingIngest};

use crate::support::{MINUTE, meterline};

/// Messages that were read while the sink is unavailable are in the file. After a kill and a restart without the
/// input the program delivers them, each with the same id.
#[tokio::test]
async fn messages_in_a_file_buffer_survive_a_kill() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond_always(Behaviour::status(503));
    let dir = tempfile::tempdir().unwrap();
    let buffer = dir.path().join("buffer.sqlite");
    let config = |input: &str| {
        format!(
            r#"
input: {input}
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
            buffer.display(),
            ingest.url()
        )
    };
    let generate = r#"{generate: {mapping: 'root = #{ n: uuid_v4() }', interval: 1ms, count: 40}}"#;
    let first = meterline().config(&config(generate)).start().unwrap();
    first
        .wait_for_page("/metrics", MINUTE, |_, page| {
            page.lines()
                .any(|line| line.starts_with("buffer_received") && line.ends_with(" 40"))
        })
        .await
        .unwrap();
    drop(first);
    assert!(ingest.events().is_empty());

    ingest.respond_normally();
    let quiet = r#"{generate: {mapping: 'root = deleted()', interval: 1h}}"#;
    let second = meterline().config(&config(quiet)).start().unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() == 40)
        .await
        .unwrap();
    let events = ingest.events();
    let names: std::collections::HashSet<_> = events
        .iter()
        .map(|event| event["data"]["n"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 40);
    second.stop().await;
    ingest.assert_clean();
}

/// Messages that are only in memory are delivered before the program ends, or counted as lost.
#[tokio::test]
async fn a_stop_delivers_the_memory_buffer_or_reports_it_as_lost() {
    for (comes_back, code, logged) in [
        (true, 0, "everything that was read is delivered"),
        (false, 75, "the remaining batches are lost"),
    ] {
        let ingest = RecordingIngest::start().await.unwrap();
        ingest.respond_always(Behaviour::status(503));
        let config = format!(
            r#"
input: {{generate: {{mapping: 'root = #{{ n: uuid_v4() }}', interval: 1ms, count: 400}}}}
buffer: {{memory: {{}}}}
shutdown_timeout: {}
pipeline:
  processors:
    - mapping: |
        root = #{{ id: event_id(), specversion: "1.0", source: "test", type: "t",
          subject: "s", time: "2025-01-01T00:00:00Z", data: #{{ n: this.n }} }};
output:
  openmeter: {{url: "{}", batching: {{count: 10, period: 1s}}, max_in_flight: 2}}
"#,
            if comes_back { "1m" } else { "1s" },
            ingest.url()
        );
        let meterline = meterline().config(&config).start().unwrap();
        meterline
            .wait_for_page("/metrics", MINUTE, |_, page| {
                page.lines()
                    .any(|line| line.starts_with("buffer_received") && line.ends_with(" 400"))
            })
            .await
            .unwrap();
        meterline.terminate().unwrap();
        meterline.wait_for_log("stopping", MINUTE).await.unwrap();
        if comes_back {
            ingest.respond_normally();
        }
        let status = meterline.wait_exit(MINUTE).await.unwrap();
        assert_eq!(status.code(), Some(code), "{}", meterline.tail());
        assert!(meterline.tail().contains(logged), "{}", meterline.tail());
        let arrived = if comes_back { 400 } else { 0 };
        assert_eq!(ingest.events().len(), arrived);
        ingest.assert_clean();
    }
}
