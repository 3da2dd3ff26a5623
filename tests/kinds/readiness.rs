//! Whether nodes are ready, in the preset `kubernetes-node-time`.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use meterline_testkit::pods;
use serde_json::{Value, json};

use super::*;

/// The conditions of a node that is ready or not since a time, as its kubelet reports them now.
fn conditions(status: &str, since: DateTime<Utc>) -> Value {
    let now = pods::now().to_rfc3339();
    json!({"conditions": [
        {"type": "DiskPressure", "status": "False", "lastHeartbeatTime": now,
            "lastTransitionTime": now},
        {"type": "Ready", "status": status, "lastHeartbeatTime": now,
            "lastTransitionTime": since.to_rfc3339()}]})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_node_is_divided_where_it_becomes_ready_or_not_also_across_a_crash() {
    let scene = scene(&["nodes"]).await;
    let nodes = Written(Api::<Node>::all(scene.client.clone()));
    // What a window has before it is over can be learned a few seconds late.
    let start = || preset(&scene, "kubernetes-node-time").env("SCRAPE_INTERVAL", "10s");
    let meterline = start().start_ready().await.unwrap();
    until(DateTime::from_timestamp((pods::now().timestamp() / 10 + 1) * 10, 0).unwrap()).await;
    let labels = json!({"kubernetes.io/arch": "amd64"});
    let created = nodes
        .create(json!({"metadata": {"name": "node-0", "labels": labels}}))
        .await;
    // A clock that is behind: the node is not ready since before it was created.
    let long_ago = created - seconds(500);
    nodes.set("node-0", conditions("False", long_ago)).await;
    until(created + seconds(4)).await;
    // The kubelet reports it a moment later.
    let ready = created + seconds(3);
    for beat in 4..8 {
        until(created + seconds(beat)).await;
        nodes.set("node-0", conditions("True", ready)).await;
    }
    meterline.kill().unwrap();
    let lost = created + seconds(10);
    until(lost + seconds(1)).await;
    nodes.set("node-0", conditions("Unknown", lost)).await;
    let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "eu-1a"}}});
    let moved = nodes.change("node-0", label).await;
    let meterline = start().start_ready().await.unwrap();
    // A clock that is ahead: the change is not after it was seen.
    until(created + seconds(23)).await;
    let ahead = pods::now() + seconds(1_000);
    let back = nodes.set("node-0", conditions("True", ahead)).await;
    until(back + seconds(3)).await;
    nodes.delete("node-0").await;
    let gone = pods::now();
    billed_until(&meterline, gone).await;
    meterline.stop().await;

    let state = |event: &Value| format!("{} {}", event["data"]["ready"], event["data"]["zone"]);
    let mut found = stretches(&scene, ("node_name", "node-0"), state);
    // It is seen within a second.
    let seen = found.iter_mut().find(|it| it.0 == back + seconds(1));
    if let Some(seen) = seen {
        (seen.0, seen.1) = (back, seen.1 + 1);
        let before = found.iter_mut().find(|it| it.2 == "false \"eu-1a\"");
        before.unwrap().1 -= 1;
    }
    assert_stretches(
        &found,
        &[
            (created, 3, "false \"\"".to_owned()),
            (ready, 7, "true \"\"".to_owned()),
            (lost, length(lost, moved), "false \"\"".to_owned()),
            (moved, length(moved, back), "false \"eu-1a\"".to_owned()),
            (back, length(back, gone), "true \"eu-1a\"".to_owned()),
        ],
    );
    scene.ingest.assert_clean();
}
