//! What is in a buffer survives the program.

use meterline_testkit::ingest::{Behaviour, RecordingIngest};

use crate::support::{MINUTE, meterline, stop};

/// Lines that were read while the API is away are in the file; killed and begun anew, without the
/// lines, it delivers them, each with the id that it would have had.
#[tokio::test]
async fn what_was_read_survives_a_kill() {
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
    stop(&second).await;
    ingest.assert_clean();
}
