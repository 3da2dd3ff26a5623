//! A Lease whose watermark is not the one that the leader wrote.

use std::{fs, path::Path};

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use meterline_testkit::{
    audit, pods,
    process::{Meterline, MeterlineCommand},
    scene::Scene,
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds, until};

const LEADS: &str = "this replica leads now and bills";
const REFUSED: &str = "leader_election_watermarks_refused";
const ANNOTATION: &str = "meterline.io/watermark";
const SIGNATURE: &str = "meterline.io/watermark-signed";

/// Three pods, and the right to take part in leader election.
async fn scene() -> Scene {
    let scene = Scene::with(BINARY, 3).await;
    scene.grant_leases().await;
    scene
}

/// A replica, with a state file or without.
fn replica(scene: &Scene, identity: &str, has_state: bool) -> MeterlineCommand {
    let folder = scene.file("state");
    fs::create_dir_all(&folder).unwrap();
    let state = has_state.then(|| folder.join("state.sqlite"));
    scene
        .replica(identity, 4)
        .env("STATE_PATH", state.unwrap_or_default())
}

/// Starts a replica and waits until it leads.
async fn leader(scene: &Scene, identity: &str, has_state: bool) -> Meterline {
    let replica = replica(scene, identity, has_state).start().unwrap();
    replica.wait_for_log(LEADS, MINUTE).await.unwrap();
    replica
}

/// Waits until it reports a watermark that it does not follow.
async fn refuses(replica: &Meterline, ahead: &str) {
    let line = replica.wait_for_log("is not followed", MINUTE).await;
    let line = line.unwrap();
    assert!(line.contains(ahead), "{line}");
}

async fn leases(scene: &Scene) -> Api<Lease> {
    let client = scene.control_plane.admin_client().await.unwrap();
    Api::namespaced(client, "default")
}

/// The watermark in the Lease.
async fn watermark(scene: &Scene) -> DateTime<Utc> {
    let lease = leases(scene).await.get("meterline").await.unwrap();
    lease.metadata.annotations.unwrap()[ANNOTATION]
        .parse()
        .unwrap()
}

async fn annotate(scene: &Scene, annotations: Value) {
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    leases(scene)
        .await
        .patch("meterline", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Moves the watermark in the Lease this many seconds ahead.
async fn set_ahead(scene: &Scene, by: i64) -> String {
    let ahead = watermark(scene).await + seconds(by);
    let ahead = ahead.to_rfc3339_opts(SecondsFormat::Secs, true);
    annotate(scene, json!({ANNOTATION: ahead})).await;
    ahead
}

/// Waits until the clock is this many seconds past the watermark in the Lease. Moved ahead by as many
/// seconds, the watermark is still in the past.
async fn wait_past(scene: &Scene, by: i64) {
    until(watermark(scene).await + seconds(by + 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_is_set_ahead_costs_no_second_and_is_reported() {
    let scene = scene().await;
    let leader = replica(&scene, "a", false).start_ready().await.unwrap();
    scene.ingest.wait_for_events(7).await.unwrap();
    // While a replica leads, which it continues to do.
    let ahead = set_ahead(&scene, 50).await;
    leader
        .wait_for_metric(REFUSED, MINUTE, |refused| refused == 1.0)
        .await
        .unwrap();
    refuses(&leader, &ahead).await;
    leader
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 200 && page.contains("leading; at ") && page.contains(&ahead)
        })
        .await
        .unwrap();
    scene.assert_exact(&leader).await;
    leader.assert_metric("lost_time", 0.0).await;
    leader.stop().await;
}

/// No replica leads, so none corrects it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_is_set_ahead_once_the_leader_is_killed_costs_no_second_and_is_reported() {
    let scene = scene().await;
    let first = leader(&scene, "a", false).await;
    scene.ingest.wait_for_events(7).await.unwrap();
    first.kill().unwrap();
    first.wait_exit(MINUTE).await.unwrap();
    let ahead = set_ahead(&scene, 50).await;
    let next = leader(&scene, "b", false).await;
    scene.assert_exact(&next).await;
    next.assert_metric("lost_time", 0.0).await;
    refuses(&next, &ahead).await;
    next.stop().await;
}

/// Copies the state file with its companion files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A replica finds a watermark in the Lease that it wrote and that its state does not contain, because an
/// older state was restored.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_beyond_what_this_replica_handed_out_is_adopted_with_a_count() {
    let scene = scene().await;
    let (folder, backup) = (scene.file("state"), scene.file("backup"));
    for is_first in [true, false] {
        let run = leader(&scene, "a", true).await;
        scene.ingest.wait_for_more_events(10).await.unwrap();
        run.stop().await;
        if is_first {
            copy(&folder, &backup);
        }
    }
    fs::remove_dir_all(&folder).unwrap();
    copy(&backup, &folder);
    let restored = replica(&scene, "a", true).start().unwrap();
    let line = restored.wait_for_log("its state is older than the Lease", MINUTE);
    let line = line.await.unwrap();
    assert!(line.contains("object_seconds="), "{line}");
    restored.wait_ready(MINUTE).await.unwrap();
    let lost = restored.metric("lost_time").await.unwrap().unwrap();
    // Three pods, and three windows of a second or more.
    assert!(lost >= 9.0, "{lost}");
    let (_, page) = restored.get("/ready").await.unwrap();
    assert!(page.contains("object-seconds before"), "{page}");
    // What it skipped had been delivered, so nothing is missing or billed twice.
    scene.assert_exact(&restored).await;
    restored.assert_metric("lost_time", lost).await;
    restored.stop().await;
}

/// A single replica is restarted, with its state and without. The watermark that was set lies in the
/// past, so only its signature shows that no replica wrote it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_is_set_ahead_between_two_runs_costs_no_second() {
    for has_state in [true, false] {
        let scene = scene().await;
        let mut run = replica(&scene, "a", has_state).start().unwrap();
        for is_killed in [false, true] {
            run.wait_for_log(LEADS, MINUTE).await.unwrap();
            scene.ingest.wait_for_more_events(9).await.unwrap();
            if is_killed {
                run.kill().unwrap();
            } else {
                run.stop().await;
            }
            wait_past(&scene, 5).await;
            let ahead = set_ahead(&scene, 5).await;
            run = replica(&scene, "a", has_state).start().unwrap();
            refuses(&run, &ahead).await;
        }
        run.wait_for_log(LEADS, MINUTE).await.unwrap();
        scene.assert_exact(&run).await;
        run.assert_metric("lost_time", 0.0).await;
        run.stop().await;
    }
}

/// The standby takes over with a watermark that was moved ahead, once while the other replica led and once
/// while none did.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_standby_takes_over_without_a_gap_if_the_watermark_was_set_ahead() {
    let scene = scene().await;
    let leader = self::leader(&scene, "a", false).await;
    let standby = replica(&scene, "b", false).start().unwrap();
    standby
        .wait_for_page("/ready", MINUTE, |_, page| page.contains("standby"))
        .await
        .unwrap();
    scene.ingest.wait_for_more_events(9).await.unwrap();
    // The leader retries what was rejected; the standby names the leader.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let retry = async |replica: &Meterline| {
        let url = replica.admin_url("/rejected/retry");
        let answer = client.post(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(retry(&leader).await.0, 200);
    let (status, text) = retry(&standby).await;
    assert!(
        status == 409
            && text.contains("this replica is not the leader")
            && text.contains("the leader, `a`"),
        "{status} {text}"
    );
    set_ahead(&scene, 50).await;
    leader.kill().unwrap();
    wait_past(&scene, 3).await;
    set_ahead(&scene, 3).await;
    standby.wait_for_log(LEADS, MINUTE).await.unwrap();
    refuses(&standby, "").await;
    scene.assert_exact(&standby).await;
    standby.assert_metric("lost_time", 0.0).await;
    standby.stop().await;
}

/// The signature is removed as well, so the author of the watermark is unknown. A replica with a state
/// follows it and counts what it skips; one without begins where it would begin without a Lease.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn an_unsigned_watermark_is_followed_only_with_a_count() {
    for has_state in [true, false] {
        let scene = scene().await;
        let first = leader(&scene, "a", has_state).await;
        scene.ingest.wait_for_more_events(9).await.unwrap();
        first.stop().await;
        wait_past(&scene, 5).await;
        annotate(&scene, json!({SIGNATURE: null})).await;
        set_ahead(&scene, 5).await;
        let second = leader(&scene, "a", has_state).await;
        second.wait_ready(MINUTE).await.unwrap();
        let lost = second.metric("lost_time").await.unwrap().unwrap();
        if !has_state {
            assert_eq!(lost, 0.0);
            scene.finish(&second).await;
            continue;
        }
        // Five seconds of three pods.
        assert_eq!(lost, 15.0);
        let (_, page) = second.get("/ready").await.unwrap();
        assert!(page.contains("15 object-seconds before"), "{page}");
        scene.ingest.wait_for_more_events(9).await.unwrap();
        scene.end_all().await;
        let (lives, range) = (scene.truth.lives(), scene.start..pods::now() + seconds(60));
        scene
            .ingest
            .wait_until(MINUTE, |state| {
                let events = state.events.iter().map(|received| &received.event);
                let report = audit::audit(&lives, events, range.clone());
                let others = report.double_seconds() + report.surplus_seconds();
                report.missing_seconds() == 15 && others == 0
            })
            .await
            .unwrap();
        second.assert_metric("lost_time", 15.0).await;
        second.stop().await;
        scene.ingest.assert_clean();
    }
}
