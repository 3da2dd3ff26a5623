//! No secret is shown at any log level, by any endpoint, or in any error.

use std::process::Command;

use meterline_testkit::{
    child::Stream,
    ingest::{Behaviour, RecordingIngest},
    process::Meterline,
    scene::Scene,
};

use crate::support::{BINARY, MINUTE};

/// Output that contains this has leaked a secret.
const PLANTED: &str = "pl4nted-s3cret";

/// Everything that a running program prints or answers.
async fn shown(meterline: &Meterline) -> String {
    let mut all = meterline.log().join("\n");
    all += &meterline.lines(Stream::Stdout).join("\n");
    for page in ["/", "/ready", "/metrics", "/stats", "/version", "/nothing"] {
        let (_, text) = meterline.get(page).await.unwrap();
        all += &text;
    }
    all
}

fn assert_hidden(shown: &str) {
    let line = shown.lines().find(|line| line.contains(PLANTED));
    assert_eq!(line, None);
    assert!(shown.len() > 200, "something was shown at all: {shown}");
}

/// A token is in a variable, in the user-info of a URL, in a query and in a header, while the sink
/// refuses, accepts events and is unavailable, at the log level TRACE.
#[tokio::test]
async fn a_running_program_shows_no_secret() {
    let scene = Scene::populated(BINARY, 3).await;
    let ingest = &scene.ingest;
    let other = RecordingIngest::start().await.unwrap();
    ingest.respond(2, &Behaviour::status(401).body("no such token"));
    ingest.respond(2, &Behaviour::status(500));
    ingest.respond(1, &Behaviour::drop_connection());
    let with_user = other
        .url()
        .replace("http://", &format!("http://user:{PLANTED}@"));
    let yaml = r#"
input:
  schedule:
    interval: 1s
    input:
      kubernetes_resources: {}
pipeline:
  processors:
    - mapping: |
        root = #{ id: event_id("t"), specversion: "1.0", type: "t", source: "s", subject: "x",
          time: meta("schedule_time"), data: #{ n: 1 } };
    - log: {level: TRACE, message: 'an event ${! this.id }'}
output:
  broker:
    outputs:
      - openmeter: {url: "${OPENMETER_URL}", token: "${OPENMETER_TOKEN}", batching: {count: 1}}
      - retry:
          # It gives up at once: an event that waits here indefinitely would block the other output.
          backoff: {max_elapsed_time: 1ns}
          output:
            http_client:
              url: "${OTHER_URL}/api/v1/events?key=${OPENMETER_TOKEN}"
              headers: {authorization: "Bearer ${OPENMETER_TOKEN}", content-type: application/json}
"#;
    for format in ["logfmt", "json"] {
        let meterline = scene
            .command()
            .config(yaml)
            .env("OTHER_URL", &with_user)
            .env("OPENMETER_TOKEN", PLANTED)
            .args([
                "--log-level",
                "TRACE",
                "--set",
                &format!("logger.format={format}"),
            ])
            .start()
            .unwrap();
        let before = ingest.events().len();
        ingest.wait_for_events(before + 3).await.unwrap();
        // The other sink repeats the request in its answers.
        meterline.wait_for_log("?***", MINUTE).await.unwrap();
        assert_hidden(&shown(&meterline).await);
        // The same while the sink is unavailable.
        ingest.go_away().await;
        meterline
            .wait_for_page("/stats", MINUTE, |_, page| page.contains("cannot reach"))
            .await
            .unwrap();
        assert_hidden(&shown(&meterline).await);
        ingest.come_back().await.unwrap();
    }
}

/// The configuration has errors on the lines that hold secrets.
#[test]
fn a_lint_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let yaml = "output:\n  openmeter:\n    url: ftp://user:${TOKEN}@example.com\n    token: {a: \"${TOKEN}\"}\n    timeout: \"${TOKEN}\"\n    ${TOKEN}: 1\npipeline:\n  processors:\n    - mapping: 'root = ${TOKEN} +'\n    - json_schema: {schema_path: '${TOKEN}'}\n    - switch: [{check: '\"${TOKEN}', processors: []}]\n";
    std::fs::write(&file, yaml).unwrap();
    for arguments in [
        vec!["lint", file.to_str().unwrap()],
        vec![
            "run",
            "--config",
            file.to_str().unwrap(),
            "--log-level",
            "TRACE",
        ],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_meterline"))
            .args(&arguments)
            .env("TOKEN", PLANTED)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.lines().count() > 3, "{text}");
        let line = text.lines().find(|line| line.contains(PLANTED));
        assert_eq!(line, None);
    }
}

/// The configuration is valid and is printed.
#[test]
fn an_echo_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let yaml = format!(
        "input: {{stdin: {{}}}}\npipeline:\n  processors:\n    - mapping: 'root.token = \"${{TOKEN}}\"'\noutput:\n  broker:\n    outputs:\n      - openmeter: {{url: \"https://example.com\", token: {PLANTED}}}\n      - http_client:\n          url: \"${{OTHER_URL}}?key=${{TOKEN}}\"\n          headers: {{authorization: \"Bearer ${{TOKEN}}\"}}\n"
    );
    std::fs::write(&file, yaml).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_meterline"))
        .args(["echo", "--config", file.to_str().unwrap()])
        .env("TOKEN", PLANTED)
        .env("OTHER_URL", format!("https://user:{PLANTED}@example.com"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_hidden(&text);
}
