//! `meterline meters`, against an API for meters in both forms.

mod errors;

use std::{
    fmt::Write as _,
    process::{Command, Output},
};

use insta::assert_snapshot;
use meterline_testkit::meters::{MetersApi, Reply};
use serde_json::{Value, json};

use crate::{
    readme::blocks,
    support::{BINARY, root},
};

/// Runs `meterline meters` with these arguments, which are separated by spaces, and variables.
fn run(args: &str, env: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .arg("meters")
        .args(args.split_whitespace())
        .current_dir(root())
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

/// Everything that a person sees, and the exit code.
fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let code = output.status.code().unwrap();
    format!("{stdout}{stderr}exit {code}")
}

/// A server, and the program with its URL.
struct Server {
    api: MetersApi,
    url: String,
}

impl Server {
    /// Of the form v1.
    async fn v1() -> Self {
        let api = MetersApi::start().await.unwrap();
        let url = api.url();
        Self { api, url }
    }

    /// Of the form v3.
    async fn v3() -> Self {
        let api = MetersApi::start().await.unwrap();
        let url = api.konnect_url();
        Self { api, url }
    }

    /// What a person sees of a command.
    fn run(&self, args: &str) -> String {
        let output = run(args, &[("OPENMETER_URL", &self.url)]);
        shown(&output).replace(&self.api.url(), "http://server")
    }

    /// The last line of what a person sees.
    fn exit(&self, args: &str) -> String {
        let shown = self.run(args);
        let last = shown.lines().last().unwrap_or_default();
        last.to_owned()
    }

    /// The requests so far that create something, and the other ones.
    fn writes_and_reads(&self) -> (usize, usize) {
        let exchanges = self.api.exchanges();
        let (reads, writes): (Vec<_>, Vec<_>) = exchanges
            .iter()
            .partition(|it| it.request.starts_with("GET "));
        assert!(writes.iter().all(|it| it.request.starts_with("POST ")));
        (writes.len(), reads.len())
    }
}

/// What `print` prints, as values.
fn printed(args: &str) -> Vec<Value> {
    let output = run(&format!("print {args}"), &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines();
    lines.map(|it| serde_json::from_str(it).unwrap()).collect()
}

/// The definition of a meter in the form v1, with other values in some fields.
fn changed(slug: &str, changes: Value) -> Value {
    let mut meters = printed("").into_iter();
    let mut meter = meters.find(|it| it["slug"] == slug).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        meter[field] = value.clone();
    }
    meter
}

#[test]
fn definitions_are_printed_in_three_forms() {
    for form in ["v1", "v3", "config"] {
        let output = run(&format!("print --api {form}"), &[]);
        assert_snapshot!(format!("print_{form}"), shown(&output));
    }
    let [all, v1, of_preset] = [
        "print",
        "print --api v1",
        "print --preset kubernetes-pod-exec-time",
    ]
    .map(|args| shown(&run(args, &[])));
    assert_eq!(all, v1);
    assert!(all.starts_with(of_preset.trim_end_matches("exit 0")));
}

#[test]
fn the_printed_section_of_a_configuration_is_yaml_with_the_same_meters() {
    let output = run("print --api config", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(config["meters"], json!(printed("--api v1")));
}

#[test]
fn help_shows_examples_and_exit_codes() {
    for command in ["", "print", "diff", "apply"] {
        let output = run(&format!("{command} --help"), &[]);
        assert_snapshot!(format!("help_{command}"), shown(&output));
    }
}

#[test]
fn a_command_line_that_is_wrong_ends_with_2() {
    let mut all = String::new();
    for args in [
        "print --preset kubernetes",
        "print --rename pod=pods",
        "print --rename meterline_events=Events",
        "print --rename meterline_events=pod_execution_time",
        "diff --url openmeter.cloud",
        "diff --url https://eu.api.konghq.com/v3/openmeter --api v1",
        "diff --url https://me:planted@host --token om_planted",
        "apply --env-file /nowhere",
        "apply --root-cas-file /nowhere",
    ] {
        let shown = shown(&run(args, &[]));
        assert!(shown.ends_with("exit 2"), "{shown}");
        writeln!(all, "{args}\n{shown}\n").unwrap();
    }
    assert_snapshot!(all);
    for args in [
        "",
        "list",
        "diff --api config",
        "diff --timeout 0s",
        "apply --json",
    ] {
        assert_eq!(run(args, &[]).status.code(), Some(2), "{args}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_what_diff_misses_and_nothing_the_second_time() {
    for server in [Server::v1().await, Server::v3().await] {
        let form = if server.url.ends_with("v3/openmeter") {
            "v3"
        } else {
            "v1"
        };
        let before = server.run("diff");
        assert_snapshot!(format!("diff_before_{form}"), before);
        assert!(before.ends_with("exit 1"));
        assert_eq!(server.writes_and_reads().0, 0);
        assert_snapshot!(format!("apply_{form}"), server.run("apply"));
        let stored = server.api.meters();
        let without_times = stored.into_iter().map(|mut meter| {
            for field in ["id", "createdAt", "updatedAt"] {
                meter.as_object_mut().unwrap().remove(field);
            }
            meter
        });
        assert_eq!(without_times.collect::<Vec<_>>(), printed("--api v1"));
        assert_snapshot!(format!("diff_after_{form}"), server.run("diff"));
        let written = server.writes_and_reads().0;
        assert_eq!(written, printed("").len());
        assert_eq!(server.exit("apply"), "exit 0");
        assert_eq!(server.writes_and_reads().0, written);
        server.api.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_a_list_is_read() {
    for server in [Server::v1().await, Server::v3().await] {
        for number in 0..250 {
            let other = json!({"slug": format!("other_{number}"), "eventType": "other",
                               "aggregation": "COUNT"});
            server.api.put(&other).unwrap();
        }
        for meter in printed("") {
            server.api.put(&meter).unwrap();
        }
        let shown = server.run("diff");
        assert!(shown.ends_with("250 other meters\nexit 0"), "{shown}");
        let (_, reads) = server.writes_and_reads();
        // The form v1 does not say how many there are, so its last page is empty.
        let expected = if server.url.ends_with("v3/openmeter") {
            3
        } else {
            4
        };
        assert_eq!(reads, expected, "{:?}", server.api.exchanges());
        server.api.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_pages_is_not_read_forever() {
    let server = Server::v1().await;
    server.api.ignore_pages();
    assert_eq!(server.exit("apply"), "exit 0");
    // The first list is empty, and the page after the second one repeats it.
    assert_eq!(server.writes_and_reads(), (printed("").len(), 1 + 2));
    assert_eq!(server.exit("diff"), "exit 0");
    server.api.assert_clean();
    // A server whose pages never end.
    let page = |number: usize| {
        let meter =
            json!({"slug": format!("m_{number}"), "eventType": "t", "aggregation": "COUNT"});
        Some(Reply::text(
            200,
            "application/json",
            json!([meter]).to_string(),
        ))
    };
    let endless = Server::v1().await;
    endless.api.reply((0..1000).map(page));
    assert_snapshot!(endless.run("apply"));
    assert_eq!(endless.writes_and_reads(), (0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_field_that_differs_is_told_with_a_new_name_that_works() {
    for server in [Server::v1().await, Server::v3().await] {
        let form = if server.url.ends_with("v3/openmeter") {
            "v3"
        } else {
            "v1"
        };
        let theirs = [
            changed("meterline_pod_seconds", json!({"aggregation": "MAX"})),
            changed(
                "k8s_cpu_limit_core_seconds",
                json!({"eventType": "old", "name": "Old"}),
            ),
            changed("pod_execution_time", json!({"valueProperty": "$.seconds"})),
            changed(
                "pod_execution_time",
                json!({"slug": "pod_execution_time_v2",
                                                 "valueProperty": "$.minutes"}),
            ),
        ];
        for meter in &theirs {
            server.api.put(meter).unwrap();
        }
        assert_snapshot!(format!("conflicts_{form}"), server.run("apply"));
        let names = "--rename meterline_pod_seconds=meterline_pod_seconds_v2 \
                     --rename k8s_cpu_limit_core_seconds=k8s_cpu_limit_core_seconds_v2 \
                     --rename pod_execution_time=pod_execution_time_v3";
        assert_eq!(server.exit(&format!("diff {names}")), "exit 1");
        assert_eq!(server.exit(&format!("apply {names}")), "exit 0");
        assert_eq!(server.exit(&format!("diff {names}")), "exit 0");
        let again = server.run("diff");
        let hint = "under another name, use --rename pod_execution_time=pod_execution_time_v3";
        assert!(again.contains(hint) && again.ends_with("exit 1"), "{again}");
        for (meter, found) in theirs.iter().zip(server.api.meters()) {
            assert_eq!(meter["valueProperty"], found["valueProperty"]);
            assert_eq!(meter["aggregation"], found["aggregation"]);
        }
        server.api.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_that_can_be_changed_is_told_and_stays() {
    let server = Server::v1().await;
    let theirs = [
        changed(
            "meterline_events",
            json!({"name": "Events", "groupBy": {"plan": "$.plan"}}),
        ),
        changed(
            "pod_execution_time",
            json!({"groupBy": {"pod_name": "$.name"}}),
        ),
    ];
    for meter in &theirs {
        server.api.put(meter).unwrap();
    }
    let applied = server.run("apply");
    assert!(applied.ends_with("exit 0"), "{applied}");
    assert_snapshot!(server.run("diff"));
    let found = server.api.meters();
    assert_eq!(found[0]["name"], "Events");
    assert_eq!(found[1]["groupBy"], json!({"pod_name": "$.name"}));
    let output = run("diff --json", &[("OPENMETER_URL", &server.url)]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let meters = report["meters"].as_array().unwrap();
    let differs: Vec<_> = meters
        .iter()
        .filter(|it| it["state"] == "differs")
        .collect();
    let group_by = |name: &str, server: Value| {
        json!({"field": format!("groupBy.{name}"), "server": server,
               "catalogue": format!("$.{name}"), "final": false})
    };
    let expected = json!([
        {"slug": "pod_execution_time", "state": "differs", "differences": [
            group_by("cluster", Value::Null), group_by("pod_name", json!("$.name")),
            group_by("pod_namespace", Value::Null)]},
        {"slug": "meterline_events", "state": "differs", "differences": [
            {"field": "name", "server": "Events", "catalogue": "Meterline: events (audit)",
             "final": false},
            group_by("cluster", Value::Null)]},
    ]);
    assert_eq!(json!(differs), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_that_somebody_else_creates_meanwhile_is_compared() {
    let equal = Server::v3().await;
    equal
        .api
        .put_before_next(&changed("pod_execution_time", json!({})))
        .unwrap();
    let shown = equal.run("apply");
    assert!(
        shown.starts_with("pod_execution_time exists: it was created in the meantime"),
        "{shown}"
    );
    assert!(shown.ends_with("exit 0"), "{shown}");
    let other = Server::v1().await;
    let theirs = changed("pod_execution_time", json!({"aggregation": "AVG"}));
    other.api.put_before_next(&theirs).unwrap();
    assert_snapshot!(other.run("apply"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_that_is_refused_stops_no_other_and_a_failure_can_be_repeated() {
    let server = Server::v1().await;
    let refusal =
        json!({"type": "about:blank", "title": "Bad Request", "detail": "quota\u{7} exceeded"});
    let refused = Reply::text(400, "application/problem+json", refusal.to_string());
    server.api.reply([None, None, Some(refused)]);
    assert_snapshot!("refused", server.run("apply"));
    assert_eq!(server.exit("apply"), "exit 0");
    let server = Server::v1().await;
    server
        .api
        .reply([None, None, Some(Reply::text(503, "text/plain", "busy"))]);
    assert_snapshot!("failed", server.run("apply"));
    assert_eq!(server.exit("apply"), "exit 0");
    server.api.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_run_as_written() {
    let server = Server::v1().await;
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(BINARY, folder.path().join("meterline")).unwrap();
    let blocks = blocks("docs/meters.md");
    assert_eq!(blocks.len(), 3);
    // The first block names the server for all.
    let lines = blocks
        .concat()
        .replace("https://openmeter.cloud", &server.url);
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-ec", &lines])
        .env_clear()
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let slugs: Vec<_> = server.api.meters();
    let has = |slug: &str| slugs.iter().any(|it| it["slug"] == slug);
    assert!(has("pod_execution_time") && has("pod_execution_time_v2"));
    server.api.assert_clean();
}

/// The page's table has every meter, with the field and the group-bys that it really has.
#[test]
fn the_page_lists_the_catalogue() {
    let page = std::fs::read_to_string(root().join("docs/meters.md")).unwrap();
    let rows: Vec<_> = page.lines().filter(|it| it.starts_with("| `")).collect();
    for meter in printed("") {
        let slug = meter["slug"].as_str().unwrap();
        let row = rows.iter().find(|it| it.contains(&format!("| `{slug}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/meters.md has no row for {slug}"));
        let value = meter["valueProperty"].as_str().unwrap_or_default();
        let field = value.trim_start_matches("$.");
        assert!(row.contains(field), "{slug}: {field}");
        let names = meter["groupBy"].as_object().into_iter().flatten();
        let names: Vec<_> = names.map(|(name, _)| format!("`{name}`")).collect();
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap();
        assert_eq!(last.trim(), names.join(", "), "{slug}");
    }
}
