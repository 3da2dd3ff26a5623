//! Mistakes that would cost money are reported before anything runs. Where only a message shows the
//! mistake, the message is rejected.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use insta::assert_snapshot;
use meterline_testkit::ingest::RecordingIngest;

mod broker;

fn meterline(folder: &Path, args: &[&str], env: &[(&str, &str)], input: &str) -> (String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meterline"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        format!("{}exit {code}", text(output.stdout)),
        text(output.stderr),
    )
}

/// Returns what `meterline lint` prints about a configuration.
fn lint(config: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), config).unwrap();
    let (printed, log) = meterline(folder.path(), &["lint", "c.yaml"], &[], "");
    assert_eq!(log, "");
    if printed.ends_with("exit 1") {
        // An error for lint is an error at the start as well.
        let (_, log) = meterline(folder.path(), &["--config", "c.yaml"], &[], "");
        assert_eq!(format!("{log}exit 1"), printed);
    }
    printed
}

/// Pods, these mappings, and an output that takes events.
fn pods(mappings: &[&str]) -> String {
    let mut config =
        "input:\n  schedule:\n    input:\n      kubernetes_resources: {}\npipeline:\n  processors:\n"
            .to_owned();
    for mapping in mappings {
        config += &format!(
            "    - mapping: |\n        {}\n",
            mapping.replace('\n', "\n        ")
        );
    }
    config + "output:\n  openmeter: {url: https://openmeter.cloud, token: om_a}\n"
}

const EVENT: &str =
    "root = #{ id: event_id(\"t\"), type: \"t\", source: \"s\", specversion: \"1.0\" };";

#[test]
fn an_id_that_all_usage_of_a_pod_shares_is_an_error() {
    let shared = "let uid = this.metadata.uid;\nroot = #{\n  id: `pod-${{uid}}`,\n  time: meta(\"schedule_time\"),\n};";
    assert_snapshot!(lint(&pods(&[shared])), @r#"
    c.yaml:10:15: pipeline.processors.0.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    1 error
    exit 1
    "#);
    // The last mapping that sets the id decides.
    assert_snapshot!(lint(&pods(&[EVENT, "root = this;\nroot.id = this.type"])), @r#"
    c.yaml:11:19: pipeline.processors.1.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    1 error
    exit 1
    "#);
    assert_eq!(lint(&pods(&[EVENT, "root = this;\nroot.x = 1"])), "exit 0");
    assert_eq!(
        lint(&pods(&["root = #{ id: this.metadata.uid }", EVENT])),
        "exit 0"
    );
    assert_eq!(
        lint(&pods(&[
            "root = #{ id: this.metadata.uid + meta(\"schedule_time\") }"
        ])),
        "exit 0"
    );
    assert_eq!(
        lint(&pods(&[
            "let id = if this.a { event_id() } else { this.metadata.uid }; root.id = id"
        ])),
        "exit 0"
    );
    // Messages that do not represent usage may keep their id.
    let lines = pods(&["root.id = this.uid"]).replace("kubernetes_resources", "stdin");
    assert_eq!(lint(&lines), "exit 0");
    // What is printed is not billed, unless it is an event.
    let printed = |mapping| {
        pods(&[mapping]).replace(
            "openmeter: {url: https://openmeter.cloud, token: om_a}",
            "stdout: {}",
        )
    };
    assert_snapshot!(lint(&printed("root = #{ id: this.metadata.uid }")), @r#"
    c.yaml:8:23: warning: pipeline.processors.0.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    exit 0
    "#);
    assert_snapshot!(lint(&printed("root = #{ id: this.metadata.uid, specversion: \"1.0\" }")), @r#"
    c.yaml:8:23: pipeline.processors.0.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    1 error
    exit 1
    "#);
}

#[test]
fn an_id_is_followed_through_cases_resources_and_processors_of_an_output() {
    assert_snapshot!(lint(r#"
input:
  kubernetes_resources: {}
  processors: [{mapping: 'root = this.metadata'}]
pipeline:
  processors:
    - switch:
        - check: this.a == 1
          processors: [{mapping: 'root = #{ id: this.uid }'}]
        - processors: [{try: [{mapping: 'root = #{ id: this.name }'}]}]
    - catch: [{log: {message: 'no'}}, {mapping: 'root = #{ id: now() }'}]
output:
  fallback:
    - retry: {output: {resource: out}}
    - drop: {}
output_resources:
  - label: out
    openmeter: {url: https://openmeter.cloud, token: om_a}
    processors: [{mapping: 'root = this; root.source = "x"'}]
"#), @r#"
    c.yaml:9:49: pipeline.processors.0.switch.0.processors.0.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    1 error
    exit 1
    "#);
    // One of the cases makes a new id for each interval.
    assert_eq!(
        lint(
            r#"
input: {kubernetes_resources: {}}
pipeline:
  processors:
    - switch:
        - check: this.a == 1
          processors: [{mapping: 'root = #{ id: this.uid }'}]
          fallthrough: true
        - processors: [{mapping: 'root = #{ id: event_id() }'}]
output:
  openmeter: {url: https://openmeter.cloud, token: om_a}
"#
        ),
        "exit 0"
    );
}

/// Two outputs behind the `check`s of a switch that get the same messages, with these processors.
fn twice(first: &str, second: &str, checks: [&str; 2]) -> String {
    let output = |check: &str, mapping: &str| {
        format!(
            "      - check: '{check}'\n        continue: true\n        output:\n          processors: [{{mapping: '{mapping}'}}]\n          openmeter: {{url: https://openmeter.cloud, token: om_a}}\n"
        )
    };
    let [one, two] = checks;
    format!(
        "input: {{kubernetes_resources: {{}}}}\noutput:\n  switch:\n    cases:\n{}{}",
        output(one, first),
        output(two, second),
    )
}

#[test]
fn two_outputs_that_shadow_each_other_are_an_error() {
    let event = r#"root = #{ id: event_id("t"), specversion: "1.0" }"#;
    let other = r#"let t = "t"; root.id = event_id(t); root.data = pod_metrics(1)"#;
    assert_snapshot!(lint(&twice(event, other, ["", ""])), @r#"
    c.yaml:14:28: output.switch.cases.1.output.openmeter.url: this output and `output.switch.cases.0.output.openmeter` receive the same message and post it to the same URL with the same id, `event_id("t")`: the server drops the second event as a duplicate; use a different event type for one of them, as in `event_id("another-type")`
    1 error
    exit 1
    "#);
    assert_snapshot!(lint(&twice(event, other, ["this.a == 1", "this.b == 1"])), @r#"
    c.yaml:14:28: warning: output.switch.cases.1.output.openmeter.url: this output and `output.switch.cases.0.output.openmeter` may receive the same message and post it to the same URL with the same id, `event_id("t")`: the server drops the second event as a duplicate; use a different event type for one of them, as in `event_id("another-type")`
    exit 0
    "#);
    let fan_out = "input: {kubernetes_resources: {}}\npipeline: {processors: [{mapping: 'root = #{ id: event_id() }'}]}\noutput:\n  broker:\n    outputs:\n      - fallback: [{openmeter: {url: https://openmeter.cloud, token: om_a}}, {drop: {}}]\n      - stdout: {}\n      - openmeter: {url: https://openmeter.cloud/, token: om_b}\n";
    assert_snapshot!(lint(fan_out), @r#"
    c.yaml:8:26: warning: output.broker.outputs.2.openmeter.url: this output and `output.broker.outputs.0.fallback.0.openmeter` receive the same message and post it to the same URL with the same id, `event_id()`: if both tokens belong to one account, the server drops the second event as a duplicate; use a different event type for one of them, as in `event_id("another-type")`
    exit 0
    "#);
    assert_snapshot!(lint(&fan_out.replace("om_b", "om_a")), @r#"
    c.yaml:8:26: output.broker.outputs.2.openmeter.url: this output and `output.broker.outputs.0.fallback.0.openmeter` receive the same message and post it to the same URL with the same id, `event_id()`: the server drops the second event as a duplicate; use a different event type for one of them, as in `event_id("another-type")`
    1 error
    exit 1
    "#);
    // Another type, another source, another server, one case at a time, one after the other.
    let another = event.replace("(\"t\")", "(\"u\")");
    let sources = ["a", "b"].map(|it| event.replace("spec", &format!("source: \"{it}\", spec")));
    for honest in [
        twice(event, &another, ["", ""]),
        twice(&sources[0], &sources[1], ["", ""]),
        twice(event, event, ["", ""]).replacen("openmeter.cloud", "other.example", 1),
        twice(event, event, ["this.a == 1", ""]).replace("continue: true", "continue: false"),
        twice(event, event, ["", "\"false\" == \"true\""]),
        fan_out
            .replace("broker:\n    outputs:", "fallback:")
            .replace("      -", "    -"),
    ] {
        assert_eq!(lint(&honest), "exit 0", "{honest}");
    }
}

#[test]
fn a_message_that_is_no_event_is_an_error_where_an_output_needs_one() {
    let errors: Vec<_> = ["root = [this, this]", "root = \"text\"", "root =\n  5"]
        .iter()
        .map(|mapping| lint(&pods(&[mapping])))
        .collect();
    assert_snapshot!(errors.join("\n"), @r"
    c.yaml:8:9: warning: pipeline.processors.0.mapping: this reads whole objects, so whole objects are kept in memory and in the state: about ten kilobytes per pod, including secrets in environment variables, and every change of an object starts another event; read only the fields that you need, as in `root = #{ name: this.metadata.name }`
    c.yaml:8:16: pipeline.processors.0.mapping: this returns an array, but an event is an object; each message is one event: `root = #{ … }`, or `unarchive: { format: json_array }` behind this mapping for one event for each item
    1 error
    exit 1
    c.yaml:8:16: pipeline.processors.0.mapping: this returns text, but an event is an object; write `root = #{ … }`
    1 error
    exit 1
    c.yaml:9:11: pipeline.processors.0.mapping: this returns a number, but an event is an object; write `root = #{ … }`
    1 error
    exit 1
    ");
    let printed = pods(&["root = [1]"]).replace(
        "openmeter: {url: https://openmeter.cloud, token: om_a}",
        "stdout: {}",
    );
    assert_eq!(lint(&printed), "exit 0");
    assert_eq!(lint(&pods(&["root = [1]", EVENT])), "exit 0");
}

/// Pods, a mapping, `unarchive` of this format, and a mapping of the parts.
fn divided(first: &str, format: &str, second: &str) -> String {
    let config = pods(&[first, second]);
    let (before, after) = config.rsplit_once("    - mapping: |").unwrap();
    format!("{before}    - unarchive: {{format: {format}}}\n    - mapping: |{after}")
}

#[test]
fn what_unarchive_makes_of_messages_is_followed() {
    let keyed = "root = #{ id: event_id(\"t\", this.kind), type: \"t\", source: \"s\", specversion: \"1.0\" };";
    let parts = "root = [#{ kind: \"a\", name: this.metadata.name }, #{ kind: \"b\" }]";
    assert_eq!(lint(&divided(parts, "json_array", keyed)), "exit 0");
    let ids = "root = [#{ id: event_id(\"a\"), x: 1 }, #{ id: event_id(\"b\"), x: 2 }]";
    assert_eq!(lint(&divided(ids, "json_array", "root = this")), "exit 0");
    let told = [
        lint(&divided(parts, "json_map", keyed)),
        lint(&divided(
            "root = #{ a: this.metadata.name }",
            "json_array",
            keyed,
        )),
        // The parts share an id.
        lint(&divided(parts, "json_array", EVENT)),
        lint(&divided(
            parts,
            "json_array",
            "root = this; root.id = event_id(\"t\", \"k\")",
        )),
        // The id is the same in each window.
        lint(&divided(parts, "json_array", "root = #{ id: this.name }")),
    ];
    assert_snapshot!(told.join("\n"), @r#"
    c.yaml:9:27: pipeline.processors.1.unarchive.format: `json_map` is not a format of `unarchive`; use `json_array` or `lines`
    1 error
    exit 1
    c.yaml:9:27: pipeline.processors.1.unarchive.format: each message is an object here, but `json_array` needs an array; add a `mapping` before it that makes one: `root = [ … ]`
    1 error
    exit 1
    c.yaml:11:23: warning: pipeline.processors.2.mapping: the messages that `unarchive` makes of one message get the same `id` here, so all but the first are dropped as duplicates and not billed; give `event_id` a key that differs between them, such as a field: `event_id("the-type", this.kind)`
    exit 0
    c.yaml:11:32: warning: pipeline.processors.2.mapping: the messages that `unarchive` makes of one message get the same `id` here, so all but the first are dropped as duplicates and not billed; give `event_id` a key that differs between them, such as a field: `event_id("the-type", this.kind)`
    exit 0
    c.yaml:11:23: pipeline.processors.2.mapping: this `id` is the same for all usage of an object, so every event after the first is dropped as a duplicate and not billed; use `event_id("the-type")`, which differs for each usage interval and stays the same when an event is sent again
    1 error
    exit 1
    "#);
    let lines = pods(&[keyed])
        .replace("kubernetes_resources", "stdin")
        .replace(
            "  processors:\n",
            "  processors:\n    - unarchive: {format: lines}\n    - split: {size: 10}\n",
        );
    assert_eq!(lint(&lines), "exit 0");
}

#[test]
fn a_split_that_splits_nothing_is_reported() {
    let split = |fields: &str| {
        let split = format!("    - split: {fields}\n");
        lint(&pods(&[EVENT]).replace("output:", &format!("{split}output:")))
    };
    for honest in ["{}", "{size: 5}", "{size: 0, byte_size: 9}"] {
        assert_eq!(split(honest), "exit 0");
    }
    assert_snapshot!(split("{size: 0}"), @r"
    c.yaml:9:21: warning: pipeline.processors.1.split.size: this splits nothing: set `size` to the most messages, or `byte_size` to the most bytes, of a batch
    exit 0
    ");
}

#[tokio::test]
async fn a_message_that_is_no_object_is_rejected_and_not_posted() {
    let ingest = RecordingIngest::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = "input: {stdin: {}}\noutput:\n  openmeter:\n    url: ${URL}\n    batching: {count: 10}\nhttp: {enabled: false}\n";
    std::fs::write(folder.path().join("c.yaml"), config).unwrap();
    let event = r#"{"id":"1","specversion":"1.0","type":"t","source":"s","subject":"a"}"#;
    let input = format!("[{event}]\n\"text\"\n{event}\n5\n");
    let url = ingest.url();
    let run = move || {
        let args = ["--config", "c.yaml"];
        meterline(folder.path(), &args, &[("URL", &url)], &input)
    };
    let (exit, log) = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(exit, "exit 0", "{log}");
    assert!(log.contains("the message is not a JSON object"), "{log}");
    let ids: Vec<_> = ingest.events().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, ["1"], "{log}");
    ingest.assert_clean();
}

#[test]
fn a_missing_schema_is_an_error() {
    let schema = |url: &str| {
        let step = format!("    - json_schema: {{schema_path: '{url}'}}\n");
        lint(&pods(&[EVENT]).replace("output:", &format!("{step}output:")))
    };
    assert_snapshot!(schema("file://./nope/cloudevents.spec.json"), @r"
    c.yaml:9:34: pipeline.processors.1.json_schema.schema_path: there is no schema file at ./nope/cloudevents.spec.json; name an existing file, or write `file://./cloudevents.spec.json` for the built-in CloudEvents schema
    1 error
    exit 1
    ");
    assert_snapshot!(schema("file://./nope/x.json"), @r"
    c.yaml:9:34: pipeline.processors.1.json_schema.schema_path: there is no schema file at ./nope/x.json; name an existing file, or write `file://./cloudevents.spec.json` for the built-in CloudEvents schema
    1 error
    exit 1
    ");
    assert_eq!(schema("file://./cloudevents.spec.json"), "exit 0");
}

#[test]
fn unused_sections_and_resources_are_reported() {
    let config = pods(&[EVENT])
        + "tests: [{name: t}]\ncache_resources: [{label: c}]\nrate_limit_resources: [{label: r}]\nprocessor_resources: [{label: p, noop: {}}]\n";
    assert_snapshot!(lint(&config), @r"
    c.yaml:11:8: tests: no command runs `tests` yet; remove the section
    c.yaml:12:18: cache_resources: no component uses `cache_resources` yet; remove the section
    c.yaml:13:23: rate_limit_resources: no component uses `rate_limit_resources` yet; remove the section
    c.yaml:14:23: warning: processor_resources.0: nothing uses this processor; refer to it with `resource: p` or remove it
    3 errors
    exit 1
    ");
}

#[test]
fn a_function_in_an_interpolation_is_checked_like_any_other() {
    let step = |message: &str| {
        let step = format!("    - log: {{message: '{message}'}}\n");
        lint(&pods(&[EVENT]).replace("output:", &format!("{step}output:")))
    };
    assert_eq!(step("${! json(\"subject\") }"), "exit 0");
    assert_snapshot!(step("for ${! batch_size() } and ${! json(5) }"), @r"
    c.yaml:9:31: pipeline.processors.1.log.message: there is no function `batch_size`
    c.yaml:9:59: pipeline.processors.1.log.message: `json` does not take an integer here; it is `json()` or `json(path)`
    2 errors
    exit 1
    ");
}

#[test]
fn all_syntax_errors_of_all_scripts_are_reported_at_once() {
    let config = pods(&[
        "root.a = (1 + ;\nroot.b = #{ \"c\" 5 };\nroot.d = ths",
        "root = 1 1",
    ]);
    assert_snapshot!(lint(&config), @r"
    c.yaml:8:23: pipeline.processors.0.mapping: unexpected ';'
    c.yaml:9:25: pipeline.processors.0.mapping: expecting ':' to follow the property 'c' in this object map literal
    c.yaml:10:18: pipeline.processors.0.mapping: there is no variable `ths`; the message is `this`, the result is `root`; declare others with `let`
    c.yaml:12:18: pipeline.processors.1.mapping: expecting ';' to terminate this statement
    4 errors
    exit 1
    ");
}

/// The ledger keeps usage until it is delivered; a buffer would acknowledge it too early.
#[test]
fn a_buffer_behind_the_cluster_is_an_error_wherever_the_input_is() {
    let errors = |input: &str, buffer: &str| {
        lint(&format!(
            "{input}\nbuffer:\n  {buffer}\npipeline: {{processors: [{{mapping: '{EVENT}'}}]}}\noutput: {{drop: {{}}}}\n"
        ))
    };
    let nested = "input: {schedule: {input: {resource: pods}}, processors: [noop: {}]}\ninput_resources: [{label: pods, kubernetes_resources: {}, processors: [noop: {}]}]";
    assert_snapshot!(errors(nested, "sqlite: {path: b.sqlite}"), @r"
    c.yaml:4:11: buffer.sqlite: remove `buffer`: `kubernetes_resources` (input_resources.0.kubernetes_resources) keeps usage itself until it is delivered, in its ledger, which `state` (the variable STATE_PATH of the presets) makes durable; a buffer acknowledges usage as soon as it is in its file, so usage that an output rejects or drops later would count as delivered
    1 error
    exit 1
    ");
    assert_snapshot!(errors("input: {kubernetes_resources: {}}", "memory: {}"), @r"
    c.yaml:3:11: buffer.memory: remove `buffer`: `kubernetes_resources` (input.kubernetes_resources) keeps usage itself until it is delivered, in its ledger, which `state` (the variable STATE_PATH of the presets) makes durable; a buffer acknowledges usage as soon as it is in memory, so usage that an output rejects or drops later would count as delivered
    1 error
    exit 1
    ");
    // The other errors are reported with it.
    assert_snapshot!(errors("input: {kubernetes_resources: {x: 1}}", "memory: {y: 2}"), @r"
    c.yaml:1:32: input.kubernetes_resources: unknown field `x`; available: namespaces, resource_type, enabled, label_selector, from, phase, include_pending_pods, node_labels, accounting, settle, state, lookback, max_backlog, cluster
    c.yaml:3:11: buffer.memory: remove `buffer`: `kubernetes_resources` (input.kubernetes_resources) keeps usage itself until it is delivered, in its ledger, which `state` (the variable STATE_PATH of the presets) makes durable; a buffer acknowledges usage as soon as it is in memory, so usage that an output rejects or drops later would count as delivered
    c.yaml:3:12: buffer.memory: unknown field `y`; available: limit
    3 errors
    exit 1
    ");
    for honest in [
        errors("input: {kubernetes_resources: {}}", "none: {}"),
        errors("input: {schedule: {input: {stdin: {}}}}", "memory: {}"),
    ] {
        assert_eq!(honest, "exit 0");
    }
}

/// Lint reports what the program warns of at its start.
#[test]
fn a_missing_token_and_an_unencrypted_one_are_reported() {
    let output = |openmeter: &str| {
        let other = pods(&[EVENT]).replace("url: https://openmeter.cloud, token: om_a", openmeter);
        lint(&other)
    };
    assert_snapshot!(output("url: 'https://openmeter.cloud'"), @r"
    c.yaml:10:20: warning: output.openmeter.url: there is no token for openmeter.cloud; if it requires one, set `token` (the variable OPENMETER_TOKEN of the presets)
    exit 0
    ");
    assert_snapshot!(output("url: 'https://openmeter.cloud', token: '${OPENMETER_TOKEN:}'"), @r"
    c.yaml:10:54: warning: output.openmeter.token: there is no token for openmeter.cloud; if it requires one, set `token` (the variable OPENMETER_TOKEN of the presets)
    exit 0
    ");
    assert_snapshot!(output("url: 'http://meter.example', token: 'file:///run/token'"), @r"
    c.yaml:10:51: warning: output.openmeter.token: the token is sent to meter.example over http, without encryption; use https
    exit 0
    ");
    for quiet in [
        "url: 'https://meter.example', token: om_a",
        "url: 'https://user:password@meter.example'",
        "url: 'http://localhost:8888'",
        "url: 'http://127.0.0.1:8888', token: om_a",
    ] {
        assert_eq!(output(quiet), "exit 0", "{quiet}");
    }
}
