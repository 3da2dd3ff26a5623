//! The alerts and the dashboard, with a real Prometheus that scrapes the running program.

use std::{collections::BTreeSet, process::Command};

use meterline_testkit::{
    child::Child,
    ingest::RecordingIngest,
    pods::{self, Pods, pod},
    ports::free_port,
    process::Meterline,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::{
    Tools,
    dashboard::{self, metrics},
    release::Cluster,
};
use crate::support::{MINUTE, root};

/// The alerts as a file of rules.
fn rules(tools: &Tools) -> String {
    let values = [
        "template",
        "meterline",
        "charts/meterline",
        "--namespace=metering",
        "--set=preset=kubernetes-pod-exec-time,prometheusRule.enabled=true",
        "--show-only=templates/monitors.yaml",
    ];
    let rendered = tools.run("helm", None, &values);
    let (_, spec) = rendered.split_once("\nspec:\n").unwrap();
    spec.lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

/// The expressions of the alerts.
fn alerts(rules: &str) -> Vec<String> {
    let rules: Value = serde_saphyr::from_str(rules).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    rules
        .iter()
        .map(|it| it["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// Checks which alerts fire on synthetic series of several hours.
#[test]
#[ignore = "needs the tools of the chart: METERLINE_TOOLS, as CONTRIBUTING.md has it"]
fn each_alert_fires_on_its_condition() {
    let tools = Tools::find();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rules.yml"), rules(&tools)).unwrap();
    let file = dir.path().join("alerts.yaml");
    std::fs::copy(root().join("tests/chart/alerts.yaml"), &file).unwrap();
    let arguments = ["test", "rules", file.to_str().unwrap()];
    tools.run("promtool", None, &arguments);
}

/// A Prometheus that scrapes this program every second and evaluates these rules.
struct Prometheus {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(tools: &Tools, meterline: &Meterline, rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rules.yml"), rules).unwrap();
        let target = meterline.url("").replace("http://", "");
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "meterline", "static_configs": [
                {"targets": [target], "labels": {"namespace": "metering", "pod": "meterline-0"}}]}],
        });
        std::fs::write(dir.path().join("config.yml"), config.to_string()).unwrap();
        let port = free_port().unwrap();
        let mut command = Command::new(tools.path("prometheus"));
        command
            .current_dir(dir.path())
            .arg("--config.file=config.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self {
            child: Child::spawn("prometheus", command).unwrap(),
            port,
            _dir: dir,
        }
    }

    /// The data that a path of its API returns; `None` while it does not answer.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.port);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = reqwest::Url::parse_with_params(&url, query).unwrap();
        let answer = client.get(url).send().await.ok()?.bytes().await.ok()?;
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        assert_ne!(answer["status"], "error", "{query:?}: {answer}");
        Some(answer["data"].clone())
    }

    /// Repeats a request until `good` accepts the answer.
    async fn wait(&self, path: &str, query: &[(&str, &str)], good: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + MINUTE;
        loop {
            let data = self.get(path, query).await;
            if data.as_ref().is_some_and(&good) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{path} {query:?}: {data:?}{}",
                self.child.tail()
            );
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn prometheus_finds_every_metric_of_the_dashboard_and_the_alerts() {
    let cluster = Cluster::new(&["team-a"]).await;
    let tools = &cluster.tools;
    let ingest = RecordingIngest::start().await.unwrap();
    cluster.install(&[
        "preset=kubernetes-pod-exec-time",
        "fullnameOverride=meterline",
        &format!("openmeter.url={}", ingest.url()),
        "leaderElection.enabled=true",
        "scrape.namespaces={team-a}",
        "env.SCRAPE_INTERVAL=1s",
        "env.BATCH_PERIOD=1s",
    ]);
    let pods = Pods::new(cluster.client.clone(), "team-a");
    pods.create_running(&pod("worker"), pods::now())
        .await
        .unwrap();
    let meterline = cluster.run_pod(0).await;
    ingest.wait_for_events(3).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    let rules = rules(tools);
    std::fs::write(&file, &rules).unwrap();
    tools.run(
        "promtool",
        None,
        &["check", "rules", file.to_str().unwrap()],
    );
    let (_, page) = meterline.get("/metrics").await.unwrap();
    check_metrics(tools, &page);

    let prometheus = Prometheus::start(tools, &meterline, &rules);
    let alerts = alerts(&rules);
    let expressions = [dashboard::expressions(), alerts].concat();
    let mut names: BTreeSet<_> = expressions.iter().flat_map(|it| metrics(it)).collect();
    assert!(names.len() >= 10, "{names:?}");
    // These metrics have no series while everything is billed.
    for none in ["ledger_unbilled_seconds", "ledger_unbilled_device_seconds"] {
        assert!(names.remove(none), "{none}");
    }
    let found = |data: &Value| data["result"].as_array().is_some_and(|it| !it.is_empty());
    for name in &names {
        prometheus.wait("query", &[("query", name)], found).await;
    }
    for expression in &expressions {
        let answer = prometheus.get("query", &[("query", expression)]).await;
        assert!(answer.is_some(), "{expression}");
    }
    // Each alert was evaluated with labels that exist, and none fires.
    let judged = |data: &Value| {
        let rules = data["groups"][0]["rules"].as_array();
        rules.is_some_and(|rules| {
            rules
                .iter()
                .all(|rule| rule["health"] == "ok" && rule["state"] == "inactive")
        })
    };
    prometheus.wait("rules", &[], judged).await;
    // The ingest API refuses an event, and the alert reports it.
    ingest.refuse_when(|_| true);
    let firing = |data: &Value| {
        let mut alerts = data["alerts"].as_array().into_iter().flatten();
        alerts.any(|it| it["labels"]["alertname"] == "MeterlineEventsRejected")
    };
    prometheus.wait("alerts", &[], firing).await;
    let waits = |data: &Value| {
        let mut alerts = data["alerts"].as_array().into_iter().flatten();
        alerts.any(|it| {
            it["labels"]["alertname"] == "MeterlineUsageRejected"
                && it["labels"]["exported_namespace"] == "team-a"
        })
    };
    prometheus.wait("alerts", &[], waits).await;
    ingest.refuse_nothing();
    meterline.stop().await;
}

/// Runs `promtool check metrics` on the page. The names of counters do not end in `_total`, which is the
/// convention of Benthos.
fn check_metrics(tools: &Tools, page: &str) {
    use std::io::Write;
    let mut child = tools
        .command("promtool", None)
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = super::text(&output);
    let faults: Vec<_> = text
        .lines()
        .filter(|line| !line.ends_with("counter metrics should have \"_total\" suffix"))
        // What was rejected may be delivered later, so these are gauges although their names end like
        // those of counters.
        .filter(|line| {
            let name = line.split_whitespace().next().unwrap_or_default();
            !["ledger_seconds_total", "ledger_ran_seconds_total"].contains(&name)
        })
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}
