//! A Lease whose watermark is not what the replica that leads left there.

use std::{fs, path::Path, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use meterline_testkit::{
    audit::{self, Report},
    ingest::RecordingIngest,
    pods,
    process::{Meterline, MeterlineCommand},
};
use serde_json::{Value, json};

use super::Scene;
use crate::support::{MINUTE, seconds, stop, until};

const LEADS: &str = "this replica leads now and bills";
const REFUSED: &str = "leader_election_watermarks_refused";
const ANNOTATION: &str = "meterline.io/watermark";
const SIGNATURE: &str = "meterline.io/watermark-signed";

/// Three pods, and a Lease that the collector may write.
async fn scene() -> Scene {
    let scene = Scene::with(3).await;
    scene
        .control_plane
        .grant_leases("reader", "default")
        .await
        .unwrap();
    scene
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

/// Sets the watermark in the Lease so many seconds ahead of what it is.
async fn set_ahead(scene: &Scene, by: i64) -> String {
    let ahead = watermark(scene).await + seconds(by);
    let ahead = ahead.to_rfc3339_opts(SecondsFormat::Secs, true);
    annotate(scene, json!({ANNOTATION: ahead})).await;
    ahead
}

/// Waits until the clock is past what the Lease says by so much: then it may be set there, and is a
/// time that was.
async fn wait_past(scene: &Scene, by: i64) {
    until(watermark(scene).await + seconds(by + 1)).await;
}

/// Waits until so many more events have arrived.
async fn wait_for_events(ingest: &RecordingIngest, more: usize) {
    let seen = ingest.state().events.len();
    ingest
        .wait_until(MINUTE, |state| state.events.len() >= seen + more)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_somebody_sets_ahead_costs_no_second_and_is_told() {
    let scene = scene().await;
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
    scene.assert_exact(&ingest, &leader).await;
    assert_eq!(leader.metric("lost_time").await.unwrap(), Some(0.0));
    stop(&leader).await;
}

/// There is nobody to correct it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_is_set_ahead_once_the_leader_is_killed_costs_no_second_and_is_told() {
    let scene = scene().await;
    let ingest = RecordingIngest::start().await.unwrap();
    let leader = replica(&scene, &ingest, "a").start().unwrap();
    leader.wait_for_log(LEADS, MINUTE).await.unwrap();
    wait_for_events(&ingest, 7).await;
    leader.kill().unwrap();
    leader.wait_exit(MINUTE).await.unwrap();
    let ahead = set_ahead(&scene, 50).await;
    let next = replica(&scene, &ingest, "b").start().unwrap();
    next.wait_for_log(LEADS, MINUTE).await.unwrap();
    scene.assert_exact(&ingest, &next).await;
    assert_eq!(next.metric("lost_time").await.unwrap(), Some(0.0));
    let line = next.wait_for_log("is not followed", MINUTE).await.unwrap();
    assert!(line.contains(&ahead), "{line}");
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
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_beyond_what_this_replica_handed_out_is_adopted_with_a_count() {
    let scene = scene().await;
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

/// A single replica that is started again, with its state and without. What was set lies in the past, so
/// that nothing but who wrote it speaks against it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_is_set_ahead_between_two_runs_costs_no_second() {
    for has_state in [true, false] {
        let scene = scene().await;
        let ingest = RecordingIngest::start().await.unwrap();
        let command = || match has_state {
            true => replica(&scene, &ingest, "a").env("STATE_PATH", scene.file("state.sqlite")),
            false => replica(&scene, &ingest, "a"),
        };
        let mut run = command().start().unwrap();
        for is_killed in [false, true] {
            run.wait_for_log(LEADS, MINUTE).await.unwrap();
            wait_for_events(&ingest, 9).await;
            if is_killed {
                run.kill().unwrap();
            } else {
                stop(&run).await;
            }
            wait_past(&scene, 5).await;
            let ahead = set_ahead(&scene, 5).await;
            run = command().start().unwrap();
            let line = run.wait_for_log("is not followed", MINUTE).await.unwrap();
            assert!(line.contains(&ahead), "{line}");
        }
        run.wait_for_log(LEADS, MINUTE).await.unwrap();
        scene.assert_exact(&ingest, &run).await;
        assert_eq!(run.metric("lost_time").await.unwrap(), Some(0.0));
        stop(&run).await;
    }
}

/// Two replicas: the one that stood by takes over with a watermark that somebody set ahead, while the
/// other led and while nobody did.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_standby_takes_over_without_a_hole_where_the_watermark_was_set_ahead() {
    let scene = scene().await;
    let ingest = RecordingIngest::start().await.unwrap();
    let leader = replica(&scene, &ingest, "a").start().unwrap();
    leader.wait_for_log(LEADS, MINUTE).await.unwrap();
    let standby = replica(&scene, &ingest, "b").start().unwrap();
    standby
        .wait_for_page("/ready", MINUTE, |_, page| page.contains("standby"))
        .await
        .unwrap();
    wait_for_events(&ingest, 9).await;
    // What was rejected is tried again by whoever leads; the other says who that is.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let retry = async |replica: &Meterline| {
        let url = replica.admin_url("/rejected/retry");
        let answer = client.post(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(retry(&leader).await.0, 200);
    let (status, said) = retry(&standby).await;
    assert!(
        status == 409 && said.contains("this replica does not lead") && said.contains("ask `a`"),
        "{status} {said}"
    );
    set_ahead(&scene, 50).await;
    leader.kill().unwrap();
    wait_past(&scene, 3).await;
    set_ahead(&scene, 3).await;
    standby.wait_for_log(LEADS, MINUTE).await.unwrap();
    standby
        .wait_for_log("is not followed", MINUTE)
        .await
        .unwrap();
    scene.assert_exact(&ingest, &standby).await;
    assert_eq!(standby.metric("lost_time").await.unwrap(), Some(0.0));
    stop(&standby).await;
}

/// Somebody takes the signature away as well, so that nobody can say whose word the watermark is. A
/// replica with a past follows it and counts what it skips; one without begins where it would without.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_watermark_that_nobody_signed_is_followed_only_with_a_count() {
    for has_state in [true, false] {
        let scene = scene().await;
        let ingest = RecordingIngest::start().await.unwrap();
        let command = || match has_state {
            true => replica(&scene, &ingest, "a").env("STATE_PATH", scene.file("state.sqlite")),
            false => replica(&scene, &ingest, "a"),
        };
        let first = command().start().unwrap();
        first.wait_for_log(LEADS, MINUTE).await.unwrap();
        wait_for_events(&ingest, 9).await;
        stop(&first).await;
        wait_past(&scene, 5).await;
        annotate(&scene, json!({SIGNATURE: null})).await;
        set_ahead(&scene, 5).await;
        let second = command().start().unwrap();
        second.wait_for_log(LEADS, MINUTE).await.unwrap();
        second.wait_ready(MINUTE).await.unwrap();
        let lost = second.metric("lost_time").await.unwrap().unwrap();
        if !has_state {
            assert_eq!(lost, 0.0);
            scene.assert_exact(&ingest, &second).await;
            stop(&second).await;
            continue;
        }
        // Three pods, for five seconds.
        assert_eq!(lost, 15.0);
        let (_, page) = second.get("/ready").await.unwrap();
        assert!(page.contains("15 object-seconds before"), "{page}");
        wait_for_events(&ingest, 9).await;
        scene.end_all().await;
        let is_settled = |report: &Report| {
            let others = report.double_seconds() + report.surplus_seconds();
            report.missing_seconds() == 15 && others == 0
        };
        let (lives, range) = (scene.truth.lives(), scene.start..pods::now() + seconds(60));
        ingest
            .wait_until(MINUTE, |state| {
                let events = state.events.iter().map(|received| &received.event);
                is_settled(&audit::audit(&lives, events, range.clone()))
            })
            .await
            .unwrap();
        assert_eq!(second.metric("lost_time").await.unwrap(), Some(15.0));
        stop(&second).await;
        ingest.assert_clean();
    }
}
