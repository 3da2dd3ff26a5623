//! The command line from outside.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use insta::assert_snapshot;

use crate::support::root;

/// Runs the program in the repository with nothing in its environment.
fn run(args: &[&str], input: &str) -> Output {
    run_in(&root(), args, input)
}

fn run_in(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meterline"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// All that a person sees, and the exit code.
fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!(
        "{}{}exit {}",
        text(&output.stdout),
        text(&output.stderr),
        output.status.code().unwrap()
    )
}

/// A folder with a configuration in it.
fn with_config(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.yaml"), text).unwrap();
    folder
}

#[test]
fn help_says_what_there_is() {
    assert_snapshot!(shown(&run(&["--help"], "")));
}

#[test]
fn a_command_line_that_is_wrong_ends_with_2() {
    let output = run(&["--confg", "x"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(shown(&output).contains("--config"), "{}", shown(&output));
    assert_eq!(run(&[], "").status.code(), Some(2));
}

#[test]
fn the_version_is_told() {
    assert!(shown(&run(&["version"], "")).starts_with("meterline 0."));
    assert!(shown(&run(&["--version"], "")).starts_with("meterline 0."));
}

#[test]
fn presets_and_examples_lint() {
    for folder in ["presets", "examples"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "yaml") {
                let output = run(&["lint", path.to_str().unwrap()], "");
                assert_eq!(shown(&output), "exit 0", "{}", path.display());
            }
        }
    }
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let folder = with_config(
        r"input:
  schedule:
    interval: 1500ms
    input:
      kubernetes_resource:
        namespaces: []
pipeline:
  processors:
    - mapping: |
        root = #{ id: event_idd(), n: ths.name };
    - json_schema:
        schema_path: 'file://./nothing.json'
    - log:
        levl: INFO
output:
  openmeter:
    token: ${NO_SUCH_TOKEN}
    max_in_flight: many
shutdown_timout: 5s
",
    );
    let output = run_in(folder.path(), &["lint", "config.yaml"], "");
    assert_snapshot!(shown(&output));
}

#[test]
fn a_unit_that_is_none_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join("env");
    std::fs::write(&env_file, "NORMALIZE=week\n").unwrap();
    let preset = "presets/kubernetes-pod-exec-time.yaml";
    let output = run(
        &["lint", preset, "--env-file", env_file.to_str().unwrap()],
        "",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        shown(&output).contains("`week` is not a unit; there are second, minute and hour"),
        "{}",
        shown(&output)
    );
}

#[test]
fn a_configuration_that_is_not_there_is_told() {
    assert_snapshot!(shown(&run(&["--config", "/nothing/config.yaml"], "")), @r"
    meterline: cannot read the configuration /nothing/config.yaml: No such file or directory (os error 2)
    exit 1
    ");
    assert_snapshot!(shown(&run(&["--preset", "nothing"], "")), @r"
    meterline: there is no preset `nothing`; the presets are: kubernetes-pod-exec-time
    exit 1
    ");
}

#[test]
fn a_mapping_is_tried_on_documents() {
    let output = run(
        &[
            "map",
            "root = #{ n: this.n * 2, at: meta(\"k\") }",
            "--meta",
            "k=v",
        ],
        "{\"n\": 1}\n{\"n\": 4294967296}\n",
    );
    assert_snapshot!(shown(&output), @r#"
    {"at":"v","n":2}
    {"at":"v","n":8589934592}
    exit 0
    "#);
    let output = run(&["map", "root = this.a.b.c"], "{}");
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("write `?.b`"), "{}", shown(&output));
}

#[test]
fn lines_go_through_a_pipeline_and_it_ends_when_they_do() {
    let folder = with_config(
        "input:\n  stdin: {}\npipeline:\n  processors:\n    - mapping: 'root.twice = this.n * 2'\noutput:\n  stdout: {}\nhttp:\n  enabled: false\n",
    );
    let output = run_in(
        folder.path(),
        &["--config", "config.yaml"],
        "{\"n\": 1}\nnot json\n{\"n\": 2}\n",
    );
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(text(&output.stdout), "{\"twice\":2}\n{\"twice\":4}\n");
    let log = text(&output.stderr);
    assert!(log.contains("not valid JSON"), "{log}");
    assert_eq!(output.status.code(), Some(0), "{log}");
}

#[test]
fn a_setting_changes_a_field() {
    let folder = with_config("input:\n  stdin: {}\noutput:\n  drop: {}\n");
    let output = run_in(
        folder.path(),
        &[
            "run",
            "--config",
            "config.yaml",
            "--set",
            "output={stdout: {}}",
            "--set",
            "http.enabled=false",
        ],
        "{}\n",
    );
    assert_eq!(output.stdout, b"{}\n", "{}", shown(&output));
    let output = run_in(
        folder.path(),
        &["run", "--config", "config.yaml", "--set", "outptu.drop={}"],
        "",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("output"), "{}", shown(&output));
}

#[test]
fn the_demo_bills_exactly() {
    let output = run(&["demo", "--for", "8s", "--seed", "7", "--json"], "");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["difference"].to_string(), "0", "{}", shown(&output));
    assert!(result["events"].as_u64() > Some(5), "{result}");
    assert_eq!(result["faults"]["answers_lost"], 1, "{result}");
    assert_eq!(output.status.code(), Some(0));
}
