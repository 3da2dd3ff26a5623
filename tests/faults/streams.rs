//! Standard error and standard output that are not read, or whose reader has closed them.

use std::{
    io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe},
    process::{Command, Stdio},
    time::Duration,
};

use meterline_testkit::{
    child::{Child, Pipes},
    process::{Meterline, MeterlineCommand},
    scene::Scene,
};

use crate::support::{BINARY, MINUTE, meterline, root};

/// A pipe that is full until its reader reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    // Ends when the reader reads all of it or goes.
    std::thread::spawn(move || filler.write_all(&vec![b'\n'; 1 << 20]));
    (reader, writer)
}

/// A pipe whose reader is closed.
fn closed_pipe() -> PipeWriter {
    pipe().unwrap().1
}

/// Bills three pods exactly and ends as documented, with its outputs changed.
async fn bills_on(change: impl FnOnce(MeterlineCommand) -> MeterlineCommand) {
    let scene = Scene::with(BINARY, 3).await;
    let meterline = change(scene.preset()).start_ready().await.unwrap();
    scene.finish(&meterline).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_unread_log_blocks_neither_billing_nor_a_stop() {
    let (_never_read, full) = full_pipe();
    bills_on(|command| command.args(["--log-level", "DEBUG"]).stderr(full)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_log_with_a_closed_reader_does_not_stop_billing() {
    bills_on(|command| command.args(["--log-level", "DEBUG"]).stderr(closed_pipe())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_closed_standard_error_does_not_stop_billing() {
    bills_on(|command| command.by_shell("", "2>&-")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_unread_debug_output_blocks_neither_billing_nor_a_stop() {
    let (_never_read, full) = full_pipe();
    bills_on(|command| command.env("DEBUG", "true").stdout(full)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_debug_output_with_a_closed_reader_does_not_stop_billing() {
    bills_on(|command| command.env("DEBUG", "true").stdout(closed_pipe())).await;
}

/// A pipeline that needs no cluster, with messages of this many bytes.
fn generate(bytes: usize, processors: &str, output: &str) -> MeterlineCommand {
    meterline().config(&format!(
        "input: {{generate: {{mapping: 'root = \"{}\"', interval: 5ms}}}}\n\
         pipeline: {{processors: [{processors}]}}\noutput: {output}\n",
        "x".repeat(bytes)
    ))
}

async fn dropped(meterline: &Meterline, metric: &str) {
    let some = |dropped| dropped > 0.0;
    meterline
        .wait_for_metric(metric, MINUTE, some)
        .await
        .unwrap();
}

/// Reads lines until one contains `text`.
fn read_until(from: PipeReader, text: &str) -> String {
    let mut lines = BufReader::new(from).lines();
    lines
        .find_map(|line| line.ok().filter(|line| line.contains(text)))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_beyond_the_buffer_are_counted_and_reported_later() {
    let (reader, full) = full_pipe();
    let log = "{log: {message: '${! content() }'}}";
    let meterline = generate(200_000, log, "{drop: {}}")
        .stderr(full)
        .start()
        .unwrap();
    dropped(&meterline, "log_lines_dropped").await;
    let line = tokio::task::spawn_blocking(|| read_until(reader, "log lines were dropped"));
    let line = tokio::time::timeout(MINUTE, line).await.unwrap().unwrap();
    assert!(line.contains("level=warn"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_standard_output_does_not_accept_are_counted_and_reported() {
    let (_never_read, full) = full_pipe();
    let meterline = generate(200_000, "", "{stdout: {when_blocked: drop}}")
        .stdout(full)
        .start()
        .unwrap();
    dropped(&meterline, "stdout_dropped").await;
    meterline
        .wait_for_log("messages were not printed", MINUTE)
        .await
        .unwrap();
    meterline.stop().await;
}

/// By default standard output is the destination of the messages, such as the end of a `fallback` or a
/// pipe of a shell.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_output_delivers_nothing_until_its_reader_reads_and_then_everything() {
    let (reader, full) = full_pipe();
    let config = "input: {generate: {mapping: 'root = \"abc\"', interval: 5ms, count: 20000}}\n\
                  output: {stdout: {}}\n";
    let meterline = meterline()
        .config(config)
        .stdout(full)
        .start_ready()
        .await
        .unwrap();
    meterline.assert_metric("output_sent", 0.0).await;
    let lines = tokio::task::spawn_blocking(|| read_until(reader, "abc"));
    tokio::time::timeout(MINUTE, lines).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_are_written_before_the_process_ends() {
    let config = "input: {generate: {mapping: 'root = \"abc\"', interval: 0s, count: 3000}}\n\
                  pipeline: {processors: [{log: {message: abc}}]}\n\
                  output: {drop: {}}\n";
    let meterline = meterline().config(config).start().unwrap();
    let status = meterline.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let log = meterline.log();
    let messages = log.iter().filter(|line| line.contains("msg=abc"));
    assert_eq!(messages.count(), 3000);
    assert!(log.last().unwrap().contains("meterline ends"), "{log:?}");
}

/// A process that ends before the log is set up reports why on standard error. It ends with the documented
/// exit code even when standard error cannot be written.
#[tokio::test]
async fn a_configuration_error_is_printed_on_standard_error_if_it_is_open() {
    let invalid = || meterline().config("output: {stdout: {when_blocked: perhaps}}\n");
    let meterline = invalid().start().unwrap();
    let status = meterline.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(meterline.log().iter().any(|line| line.contains("perhaps")));
    let silent = invalid().stderr(closed_pipe()).start().unwrap();
    let status = silent.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(1));
}

/// As in `meterline lint a.yaml | head -1`: the reader closes the pipe, and the exit code stays the same.
#[tokio::test]
async fn commands_with_a_closed_reader_end_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = folder.path().join("faulty.yaml");
    std::fs::write(&faulty, "input: {nothing: {}}\noutput: {nowhere: {}}\n").unwrap();
    let faulty = faulty.to_str().unwrap();
    let preset = root().join("presets/kubernetes-pod-exec-time.yaml");
    let preset = preset.to_str().unwrap();
    let document = Stdio::from(
        std::fs::File::open(root().join("charts/meterline/files/dashboard.json")).unwrap(),
    );
    let cases: [(&[&str], Stdio, i32); 7] = [
        (&["lint", faulty], Stdio::null(), 1),
        (&["lint", preset], Stdio::null(), 0),
        (&["echo", "--config", preset], Stdio::null(), 0),
        (&["version"], Stdio::null(), 0),
        (&["--help"], Stdio::null(), 0),
        (&["map", "root = this"], document, 0),
        (&["map", "root = "], Stdio::null(), 1),
    ];
    for (args, stdin, code) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_meterline"))
            .args(args)
            .env_remove("METERLINE_CONFIG")
            .stdin(stdin)
            .stdout(closed_pipe())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(!stderr.contains("Broken pipe"), "{args:?}: {stderr}");
    }
    let mut lint = Command::new(env!("CARGO_BIN_EXE_meterline"));
    lint.args(["lint", faulty]);
    let pipes = Pipes {
        stderr: Some(closed_pipe()),
        ..Pipes::default()
    };
    let lint = Child::spawn_to("lint", lint, pipes).unwrap();
    let status = lint.wait_exit(Duration::from_secs(20)).await.unwrap();
    assert_eq!(status.code(), Some(1));
}
