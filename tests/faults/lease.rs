//! A Lease whose watermark is not what the replica that leads left there.

use std::{fs, path::Path, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use meterline_testkit::{ingest::RecordingIngest, process::MeterlineCommand};
use serde_json::json;

use super::Scene;
use crate::support::{MINUTE, seconds, stop};

const LEADS: &str = "this replica leads now and bills";
const REFUSED: &str = "leader_election_watermarks_refused";
const ANNOTATION: &str = "meterline.io/watermark";

/// Three pods, and a Lease that the collector may write.
async fn scene() -> Option<Scene> {
    let scene = Scene::with(3).await?;
    scene
        .control_plane
        .grant_leases("reader", "default")
        .await
        .unwrap();
    Some(scene)
}

fn replica(scene: &Scene, ingest: &RecordingIngest, identity: &str) -> MeterlineCommand {
    scene
        .preset(ingest)
        .arg("--leader-election")
        .env("LEASE_LOCK_NAMESPACE", "default")
        .env("K8S_APP_INSTANCE", "meterline")
        .env("K8S_POD_NAME", identity)
        .env("LEASE_DURATION", "4s")
        .env("LEASE_RENEW_DEADLINE", "3s")
        .env("LEASE_RETRY_PERIOD", "1s")
}

/// Sets the watermark in the Lease so many seconds ahead of what it is.
async fn set_ahead(scene: &Scene, by: i64) -> String {
    let client = scene.control_plane.admin_client().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client, "default");
    let lease = leases.get("meterline").await.unwrap();
    let watermark = &lease.metadata.annotations.unwrap()[ANNOTATION];
    let watermark: DateTime<Utc> = watermark.parse().unwrap();
    let ahead = (watermark + seconds(by)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: ahead}}}));
    leases
        .patch("meterline", &PatchParams::default(), &patch)
        .await
        .unwrap();
    ahead
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_that_somebody_sets_ahead_costs_no_second_and_is_told() {
    let Some(scene) = scene().await else { return };
    let ingest = RecordingIngest::start().await.unwrap();
    let leader = replica(&scene, &ingest, "a").start().unwrap();
    leader.wait_ready(MINUTE).await.unwrap();
    ingest
        .wait_until(MINUTE, |state| state.events.len() > 6)
        .await
        .unwrap();
    // While it leads, which it goes on to do.
    let ahead = set_ahead(&scene, 50).await;
    leader
        .wait_for_metric(REFUSED, MINUTE, |refused| refused == 1.0)
        .await
        .unwrap();
    let line = leader
        .wait_for_log("is not followed", MINUTE)
        .await
        .unwrap();
    assert!(line.contains(&ahead), "{line}");
    leader
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && page.contains("leading; at ") && page.contains(&ahead)
        })
        .await
        .unwrap();
    // And when there is nobody to correct it.
    leader.kill().unwrap();
    let ahead = set_ahead(&scene, 50).await;
    let next = replica(&scene, &ingest, "b").start().unwrap();
    next.wait_for_log(LEADS, MINUTE).await.unwrap();
    let line = next.wait_for_log("is not followed", MINUTE).await.unwrap();
    assert!(line.contains(&ahead), "{line}");
    scene.assert_exact(&ingest, &next).await;
    assert_eq!(next.metric("lost_time").await.unwrap(), Some(0.0));
    stop(&next).await;
}

/// Everything beside the state file that belongs to it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A replica that finds its own word in the Lease, and does not remember it: somebody restored its state.
#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_beyond_what_this_replica_handed_out_is_adopted_with_a_count() {
    let Some(scene) = scene().await else { return };
    let ingest = RecordingIngest::start().await.unwrap();
    let (folder, backup) = (scene.file("state"), scene.file("backup"));
    let command = || replica(&scene, &ingest, "a").env("STATE_PATH", folder.join("state.sqlite"));
    for is_first in [true, false] {
        let run = command().start().unwrap();
        run.wait_for_log(LEADS, MINUTE).await.unwrap();
        let seen = ingest.state().events.len();
        ingest
            .wait_until(MINUTE, |state| state.events.len() > seen + 9)
            .await
            .unwrap();
        stop(&run).await;
        if is_first {
            copy(&folder, &backup);
        }
    }
    fs::remove_dir_all(&folder).unwrap();
    copy(&backup, &folder);
    let restored = command().start().unwrap();
    let line = restored
        .wait_for_log("its state is older than the Lease", Duration::from_secs(20))
        .await
        .unwrap();
    assert!(line.contains("object_seconds="), "{line}");
    restored.wait_ready(MINUTE).await.unwrap();
    let lost = restored.metric("lost_time").await.unwrap().unwrap();
    // Three pods, and three windows of a second or more.
    assert!(lost >= 9.0, "{lost}");
    let (_, page) = restored.get("/ready").await.unwrap();
    assert!(page.contains("object-seconds before"), "{page}");
    // They had been delivered, so nothing is missing, and nothing is there twice.
    scene.assert_exact(&ingest, &restored).await;
    assert_eq!(restored.metric("lost_time").await.unwrap(), Some(lost));
    stop(&restored).await;
}
