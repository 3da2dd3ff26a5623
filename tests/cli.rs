//! The command line, run as a process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::root;

/// Runs the program in the repository with nothing in its environment.
fn run(args: &[&str], input: &str) -> Output {
    run_in(&root(), args, input)
}

fn run_in(folder: &Path, args: &[&str], input: &str) -> Output {
    run_with(folder, args, &[], input)
}

fn run_with(folder: &Path, args: &[&str], env: &[(&str, &str)], input: &str) -> Output {
    let mut child = start(folder, args, env);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn start(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_meterline"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Everything that a person sees, and the exit code.
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
fn help_lists_commands_and_options() {
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
fn version_prints_the_version() {
    assert!(shown(&run(&["version"], "")).starts_with("meterline 0."));
    assert!(shown(&run(&["--version"], "")).starts_with("meterline 0."));
}

#[test]
fn presets_and_examples_lint() {
    for folder in ["presets", "examples"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "yaml") {
                let args = ["lint", path.to_str().unwrap()];
                let token = [("OPENMETER_TOKEN", "om_a")];
                let output = run_with(&root(), &args, &token, "");
                assert_eq!(shown(&output), "exit 0", "{}", path.display());
                // A token that is not set is no error.
                assert_eq!(run(&args, "").status.code(), Some(0), "{}", path.display());
            }
        }
    }
}

#[test]
fn every_error_is_reported_at_once_with_its_place() {
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
fn an_unknown_unit_is_an_error() {
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
        shown(&output).contains("`week` is not a unit; use second, minute or hour"),
        "{}",
        shown(&output)
    );
}

#[test]
fn a_missing_configuration_is_reported() {
    assert_snapshot!(shown(&run(&["--config", "/nothing/config.yaml"], "")), @r"
    meterline: cannot read the configuration /nothing/config.yaml: No such file or directory (os error 2)
    exit 1
    ");
    assert_snapshot!(shown(&run(&["--preset", "nothing"], "")), @r"
    meterline: there is no preset `nothing`; the presets are: kubernetes-pod-exec-time, kubernetes-pod-device-time, kubernetes-node-time, kubernetes-loadbalancer-time, kubernetes-volume-time, kubernetes-snapshot-time, kubernetes-all
    exit 1
    ");
}

/// 70 means that a pipeline ran and failed.
#[test]
fn a_missing_or_invalid_configuration_ends_with_1() {
    let folder = with_config("input: {stdin: {}}\noutput: {drop: {}}\n");
    std::fs::write(folder.path().join("bad.env"), "A=1\nMI+s3cr3t\n").unwrap();
    let both = |command: &[&str], args: &[&str]| {
        let args: Vec<_> = command.iter().chain(args).copied().collect();
        shown(&run_in(folder.path(), &args, ""))
    };
    let config: &[_] = &["--config", "config.yaml"];
    let arguments = [
        [config, &["--env-file", "none.env"]].concat(),
        [config, &["--env-file", "bad.env"]].concat(),
        vec!["--config", "none.yaml"],
        vec![],
    ];
    let errors_of = |command| arguments.clone().map(|it| both(&[command], &it)).join("\n");
    assert_snapshot!(errors_of("run"), @r"
    meterline: cannot read the variables in none.env: No such file or directory (os error 2)
    exit 1
    meterline: bad.env:2: expected NAME=VALUE, a comment (#) or an empty line; a value cannot span lines
    exit 1
    meterline: cannot read the configuration none.yaml: No such file or directory (os error 2)
    exit 1
    meterline: no configuration given; use `--config FILE` or `--preset NAME` (presets: kubernetes-pod-exec-time, kubernetes-pod-device-time, kubernetes-node-time, kubernetes-loadbalancer-time, kubernetes-volume-time, kubernetes-snapshot-time, kubernetes-all), or try `meterline demo`
    exit 1
    ");
    assert_eq!(errors_of("echo"), errors_of("run"));
    assert_snapshot!(both(&["lint", "config.yaml"], &["--env-file", "bad.env"]), @r"
    meterline: bad.env:2: expected NAME=VALUE, a comment (#) or an empty line; a value cannot span lines
    exit 1
    ");
    let output = run(&["map", "root = this"], "{\"a\": 1}\nnot json\n");
    assert_snapshot!(shown(&output), @r#"
    {"a":1}
    meterline: document 2 of standard input is not JSON: expected ident at line 2 column 2
    exit 1
    "#);
}

#[test]
fn an_empty_configuration_is_refused_and_one_without_a_mapping_warned_of() {
    let folder = with_config("# nothing\n");
    let lint = ["lint", "config.yaml"];
    assert_snapshot!(shown(&run_in(folder.path(), &lint, "")), @r"
    config.yaml: the configuration is empty; to use the defaults run with `--preset kubernetes-pod-exec-time`
    1 error
    exit 1
    ");
    let folder = with_config("input:\noutput:\n");
    assert_snapshot!(shown(&run_in(folder.path(), &lint, "")), @r"
    <default output>:7:13: warning: output.switch.cases.0.output.openmeter: this output receives whole objects, including the values of environment variables, instead of events; add a `mapping` that turns objects into events
    <default output>:7:13: warning: output.switch.cases.0.output.openmeter: this reads whole objects, so whole objects are kept in memory and in the state: about ten kilobytes per pod, including secrets in environment variables, and every change of an object starts another event; read only the fields that you need, as in `root = #{ name: this.metadata.name }`
    <default output>:8:20: warning: output.switch.cases.0.output.openmeter.token: there is no token for openmeter.cloud; if it requires one, set `token` (the variable OPENMETER_TOKEN of the presets)
    <default output>:15:13: warning: output.switch.cases.1.output.stdout: this reads whole objects, so whole objects are kept in memory and in the state: about ten kilobytes per pod, including secrets in environment variables, and every change of an object starts another event; read only the fields that you need, as in `root = #{ name: this.metadata.name }`
    exit 0
    ");
}

/// Rhai's ` #{` looks like a comment of YAML.
#[test]
fn a_variable_in_a_script_is_required_and_stays_in_its_string() {
    let folder = with_config(
        "input: {stdin: {}}\npipeline:\n  processors:\n    - mapping: |\n        root = #{ subject: \"${SUBJ}\" };\noutput: {stdout: {}}\nhttp: {enabled: false}\n",
    );
    let args = ["--config", "config.yaml"];
    let output = shown(&run_in(folder.path(), &args, "{}\n"));
    assert!(
        output.contains("the variable `SUBJ` is not set"),
        "{output}"
    );
    assert!(output.ends_with("exit 1"), "{output}");
    let env = [("SUBJ", "x\", pwn: \"y")];
    let output = run_with(folder.path(), &args, &env, "{}\n");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"subject\":\"x\\\", pwn: \\\"y\"}\n"
    );
}

#[test]
fn the_environment_may_name_the_configuration() {
    let folder = with_config("input: {stdin: {}}\noutput: {drop: {}}\n");
    let echo = |args: &[&str], file: &str| {
        let args: Vec<_> = ["echo"].iter().chain(args).copied().collect();
        let env = [("METERLINE_CONFIG", file)];
        shown(&run_with(folder.path(), &args, &env, ""))
    };
    assert!(echo(&[], "config.yaml").contains("drop"));
    let preset = ["--preset", "kubernetes-pod-exec-time"];
    assert!(echo(&preset, "config.yaml").contains("openmeter"));
    assert!(echo(&preset, "").contains("openmeter"));
    assert!(echo(&[], "").ends_with("exit 1"));
    assert!(echo(&["--config", "config.yaml"], "none.yaml").contains("drop"));
    // The command line may name only one.
    let two = [&preset[..], &["--config", "config.yaml"]].concat();
    assert!(echo(&two, "").ends_with("exit 2"));
    // The environment alone is enough to run; without any configuration the program does not run.
    let run = |file| run_with(folder.path(), &[], &[("METERLINE_CONFIG", file)], "");
    assert!(shown(&run("none.yaml")).contains("none.yaml"));
    assert_eq!(run("").status.code(), Some(2));
}

#[test]
fn an_unknown_log_level_is_a_usage_error() {
    let args = ["--preset", "nothing", "--log-level", "bogus"];
    assert_snapshot!(shown(&run(&args, "")), @r"
    error: invalid value 'bogus' for '--log-level <LEVEL>': `bogus` is not a level; available: TRACE, DEBUG, INFO, WARN, ERROR, OFF

    For more information, try '--help'.
    exit 2
    ");
    let args = ["--preset", "nothing", "--log-level", "none"];
    assert_eq!(run(&args, "").status.code(), Some(1));
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
    // An error that needs no document has its place and its remedy, too.
    assert_snapshot!(shown(&run(&["map", "root.a = 1;\nroot.b = null"], "{}")), @r"
    SCRIPT:2:10: 'null' is a reserved keyword; null and a missing value are both written `()`
    exit 1
    ");
}

#[test]
fn a_pipeline_processes_lines_and_ends_with_its_input() {
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

/// An input that refers to a resource may have its own processors, around those of the resource.
#[test]
fn processors_beside_a_resource_run_around_its_own() {
    let step = |name: &str| format!("processors: [{{mapping: 'root = this + \"{name}\"'}}]");
    let folder = with_config(&format!(
        "input:\n  resource: in\n  {}\ninput_resources:\n  - label: in\n    stdin: {{}}\n    {}\noutput:\n  resource: out\n  {}\noutput_resources:\n  - label: out\n    stdout: {{}}\n    {}\nhttp: {{enabled: false}}\n",
        step("b"),
        step("a"),
        step("c"),
        step("d"),
    ));
    let output = run_in(folder.path(), &["--config", "config.yaml"], "\"\"\n");
    assert_eq!(output.stdout, b"\"abcd\"\n", "{}", shown(&output));
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

/// Starts a pipeline and waits until its log contains this.
fn started(config: &str, text: &str) -> (Child, tempfile::TempDir) {
    let folder = with_config(config);
    let mut child = start(folder.path(), &["--config", "config.yaml"], &[]);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
    }
    // A reader that stops would break the pipe.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    (child, folder)
}

fn terminate(child: &Child) {
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
}

/// Its exit status, which has to come soon.
fn ended(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_open_standard_input_does_not_keep_the_process() {
    let config = "input: {stdin: {}}\noutput: {drop: {}}\nhttp: {enabled: false}\n";
    let (mut child, _folder) = started(config, "meterline starts");
    std::thread::sleep(Duration::from_millis(300));
    terminate(&child);
    assert_eq!(ended(&mut child).code(), Some(0));
}

/// Messages for a standard output that is not read, until it is full.
fn into_a_full_pipe(shutdown_timeout: &str) -> (Child, tempfile::TempDir) {
    let config = format!(
        "input: {{generate: {{mapping: 'root = \"{}\"', interval: 0s}}}}\noutput: {{stdout: {{}}}}\nhttp: {{enabled: false}}\nshutdown_timeout: {shutdown_timeout}\n",
        "x".repeat(1000)
    );
    let (child, folder) = started(&config, "meterline starts");
    std::thread::sleep(Duration::from_secs(2));
    (child, folder)
}

#[test]
fn a_full_pipe_does_not_keep_the_process() {
    let (mut child, _folder) = into_a_full_pipe("1s");
    terminate(&child);
    assert_eq!(ended(&mut child).code(), Some(75));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (mut child, _folder) = into_a_full_pipe("1m");
    terminate(&child);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait().unwrap(), None);
    terminate(&child);
    assert_eq!(ended(&mut child).code(), Some(130));
}

#[test]
fn a_request_without_an_end_does_not_keep_the_process() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config =
        format!("input: {{stdin: {{}}}}\noutput: {{drop: {{}}}}\nhttp: {{address: '{address}'}}\n");
    let (mut child, _folder) = started(&config, "serving");
    let mut request = TcpStream::connect(address).unwrap();
    request
        .write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_ne!(request.read(&mut [0; 100]).unwrap(), 0);
    request
        .write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminate(&child);
    assert_eq!(ended(&mut child).code(), Some(0));
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
