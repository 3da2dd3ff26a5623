//! Pods and nodes, billed by one process with one state file and one Lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::PostParams};
use meterline_testkit::{
    audit::{self, Life},
    pods::{self, pod},
    process::{Meterline, MeterlineCommand},
    scene::{Scene, preset},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{BINARY, Chance, MINUTE, seconds};

const LEADS: &str = "this replica leads now";
/// The inputs by their labels in `/ready` and in metrics.
const INPUTS: [&str; 2] = [
    "input.broker.inputs.0.schedule.input.kubernetes_resources",
    "input.broker.inputs.1.schedule.input.kubernetes_resources",
];

/// The preset for pods beside an input for nodes. Each has its own mapping; the check of the schema and the output are
/// common.
fn config() -> String {
    let preset = std::fs::read_to_string(preset()).unwrap();
    let (_, mapping) = preset.split_once("    - mapping: |\n").unwrap();
    let (mapping, _) = mapping.split_once("    - json_schema:").unwrap();
    let mapping = mapping.trim_start().replace("\n  ", "\n          ");
    format!(
        r#"
input:
  broker:
    inputs:
      - schedule:
          interval: ${{SCRAPE_INTERVAL}}
          input:
            kubernetes_resources:
              namespaces: [default]
              state: {{path: "${{STATE_PATH:}}"}}
              lookback: ${{LOOKBACK}}
        processors:
          - mapping: |
                {mapping}
      - schedule:
          interval: ${{SCRAPE_INTERVAL}}
          input:
            kubernetes_resources:
              resource_type: node
              state: {{path: "${{STATE_PATH:}}"}}
              lookback: ${{LOOKBACK}}
        processors:
          - mapping: |
              root = #{{
                id: event_id("node"), specversion: "1.0", type: "node", source: "kubernetes-api",
                time: meta("schedule_time"), subject: this.metadata.name,
                data: #{{
                  node_name: this.metadata.name,
                  duration_seconds: meta("schedule_interval").parse_duration() / 1000000000,
                }},
              }};
pipeline:
  processors:
    - json_schema: {{schema_path: 'file://./cloudevents.spec.json'}}
output:
  openmeter: {{url: "${{OPENMETER_URL}}"}}
"#
    )
}

/// The windows of both are two seconds long.
fn both(scene: &Scene) -> MeterlineCommand {
    scene
        .command()
        .config(&config())
        .env("SCRAPE_INTERVAL", "2s")
}

/// A control plane whose pods and nodes the program may read.
async fn scene() -> Scene {
    let scene = Scene::with(BINARY, 0).await;
    let granted = scene.control_plane.grant_cluster("reader", "", "nodes");
    granted.await.unwrap();
    scene
}

/// Pods that come and go within `span` from now on.
fn pods_in(scene: &Scene, count: u64, span: Duration, chance: &mut Chance) -> Lives {
    let mut lives = JoinSet::new();
    for index in 0..count {
        let pods = scene.pods.clone();
        let spec = pod(&format!("pod-{index}"));
        let delay = chance.pause(span);
        let life = Duration::from_millis(1_001) + chance.pause(Duration::from_secs(12));
        lives.spawn(async move { pods.live_and_go(&spec, delay, life).await });
    }
    lives
}

type Lives = JoinSet<anyhow::Result<Life>>;

/// Creates a node, and returns its life.
async fn node(scene: &Scene, name: &str) -> Life {
    let nodes: Api<Node> = Api::all(scene.client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let node = nodes.create(&PostParams::default(), &node).await.unwrap();
    let created = node.metadata.creation_timestamp.unwrap().0;
    Life {
        uid: node.metadata.uid.unwrap(),
        namespace: "nodes".to_owned(),
        name: name.to_owned(),
        start: DateTime::from_timestamp(created.as_second(), 0).unwrap(),
        end: None,
    }
}

/// The events of nodes, as the audit reads those of pods.
fn of_nodes<'a>(events: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut events: Vec<_> = events.filter(|it| it["type"] == "node").cloned().collect();
    for event in &mut events {
        event["data"]["pod_name"] = event["data"]["node_name"].clone();
        event["data"]["pod_namespace"] = "nodes".into();
    }
    events
}

/// Every pod is billed for its life, and every node from its creation to now, each second once.
async fn assert_exact(scene: &Scene, mut lives: Lives, nodes: &[Life], meterline: &Meterline) {
    let count = lives.len();
    while let Some(lived) = lives.join_next().await {
        lived.unwrap().unwrap();
    }
    scene.truth.wait_for_ends(count).await.unwrap();
    let report = scene.settled(|namespace, _| namespace == "default").await;
    assert!(report.is_exact(), "{report}{}", meterline.log().join("\n"));
    assert_eq!(report.pods.len(), count);
    let (from, now): (_, DateTime<Utc>) = (scene.start - seconds(60), pods::now());
    let audit = |events: &[Value]| audit::audit(nodes, events, from..now);
    // The report contains everything that an error would.
    let waited = scene.ingest.wait_until(MINUTE, |state| {
        audit(&of_nodes(state.events.iter().map(|it| &it.event))).is_exact()
    });
    let _ = waited.await;
    let report = audit(&of_nodes(scene.ingest.events().iter()));
    assert!(report.is_exact(), "{report}{}", meterline.log().join("\n"));
    assert_eq!(report.pods.len(), nodes.len());
    scene.ingest.assert_clean();
    meterline.audit_fates();
    meterline.stop().await;
}

/// First the preset runs, whose state file is then used on by a process that bills nodes as well, and that is killed at
/// random moments.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn two_ledgers_in_one_state_file_survive_kills() {
    let scene = scene().await;
    let mut chance = Chance::new();
    let mut nodes = vec![node(&scene, "node-0").await];
    let lives = pods_in(&scene, 40, Duration::from_secs(40), &mut chance);
    let state = scene.file("state.sqlite");
    let kept = |command: MeterlineCommand| command.env("STATE_PATH", &state);
    let only_pods = kept(scene.preset()).start_ready().await.unwrap();
    scene.ingest.wait_for_events(1).await.unwrap();
    only_pods.stop().await;
    let meterline = kept(both(&scene)).start_ready().await.unwrap();
    let stats = meterline.stats().await.unwrap();
    for input in INPUTS {
        let parts: Vec<_> = stats["parts"].as_array().unwrap().iter().collect();
        for part in ["billing", "input", "state", "watches"] {
            let name = format!("{part} {input}");
            let found = parts.iter().filter(|it| it["part"] == name.as_str());
            assert_eq!(found.count(), 1, "{name}: {stats}");
        }
    }
    let has_node = |name: &str| {
        let name = name.to_owned();
        scene.ingest.wait_until(MINUTE, move |state| {
            let mut events = state.events.iter();
            events.any(|it| it.event["data"]["node_name"] == name.as_str())
        })
    };
    has_node("node-0").await.unwrap();
    meterline.kill().unwrap();
    nodes.push(node(&scene, "node-1").await);
    for _ in 0..12 {
        let meterline = kept(both(&scene)).start().unwrap();
        sleep(Duration::from_millis(100) + chance.pause(Duration::from_secs(3))).await;
        meterline.kill().unwrap();
    }
    let meterline = kept(both(&scene)).start_ready().await.unwrap();
    for input in INPUTS {
        let lost = format!("lost_time{{label=\"{input}\"}}");
        assert_eq!(meterline.stats().await.unwrap()["metrics"][&lost], 0.0);
    }
    assert_exact(&scene, lives, &nodes, &meterline).await;
    let files = std::fs::read_dir(scene.folder()).unwrap();
    let files = files.map(|it| it.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = files.filter(|it| it.ends_with(".sqlite")).collect();
    assert_eq!(files, ["state.sqlite"]);
    // Without an input for nodes their ledger stays.
    let only_pods = kept(scene.preset()).start_ready().await.unwrap();
    let named = "the configuration does not name: `node`";
    only_pods.wait_for_log(named, MINUTE).await.unwrap();
    only_pods.stop().await;
    scene.ingest.assert_clean();
}

fn replica(command: MeterlineCommand, identity: &str) -> Meterline {
    let command = command
        .arg("--leader-election")
        .env("LEASE_LOCK_NAMESPACE", "default")
        .env("K8S_APP_INSTANCE", "meterline")
        .env("K8S_POD_NAME", identity)
        .env("LEASE_DURATION", "6s")
        .env("LEASE_RENEW_DEADLINE", "4s")
        .env("LEASE_RETRY_PERIOD", "1s");
    command.start().unwrap()
}

/// Waits until a replica stands by, with both of its ledgers.
async fn stands_by(replica: &Meterline) {
    replica.wait_ready(MINUTE).await.unwrap();
    let (_, page) = replica.get("/ready").await.unwrap();
    assert!(page.contains("standby; `a` leads"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_killed_leader_is_replaced_for_both_ledgers() {
    let scene = scene().await;
    scene.grant_leases().await;
    let nodes = [node(&scene, "node-0").await, node(&scene, "node-1").await];
    let lives = pods_in(&scene, 40, Duration::from_secs(30), &mut Chance::new());
    let leader = replica(both(&scene), "a");
    leader.wait_for_log(LEADS, MINUTE).await.unwrap();
    leader.wait_ready(MINUTE).await.unwrap();
    let standby = replica(both(&scene), "b");
    stands_by(&standby).await;
    sleep(Duration::from_secs(8)).await;
    leader.kill().unwrap();
    standby.wait_for_log(LEADS, MINUTE).await.unwrap();
    assert_exact(&scene, lives, &nodes, &standby).await;
}

/// A rolling update from a process that bills pods only, which writes one watermark into the Lease.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_update_to_a_process_with_more_ledgers_leaves_no_gap_and_no_overlap() {
    let scene = scene().await;
    scene.grant_leases().await;
    let lives = pods_in(&scene, 40, Duration::from_secs(30), &mut Chance::new());
    let only_pods = scene.preset().env("SCRAPE_INTERVAL", "2s");
    let leader = replica(only_pods, "a");
    leader.wait_for_log(LEADS, MINUTE).await.unwrap();
    leader.wait_ready(MINUTE).await.unwrap();
    let standby = replica(both(&scene), "b");
    stands_by(&standby).await;
    sleep(Duration::from_secs(6)).await;
    leader.terminate().unwrap();
    standby.wait_for_log(LEADS, MINUTE).await.unwrap();
    let status = leader.wait_exit(MINUTE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", leader.tail());
    // Nobody billed nodes before.
    let nodes = [node(&scene, "node-0").await];
    assert_exact(&scene, lives, &nodes, &standby).await;
}
