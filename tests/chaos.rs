//! Everything at once: two replicas with state files and a Lease, pods that come and go, and at moments
//! of chance a replica is killed, the API server restarted, the sink away, slow or forgetful.
//!
//! Runs for a minute; `CHAOS=600` makes it ten. The seed is printed, and `SEED` repeats a run.

use std::{path::Path, sync::Arc, time::Duration};

use meterline_testkit::{
    audit::Life,
    control_plane::ControlPlane,
    ingest::{Behaviour, RecordingIngest},
    pods::{self, Phase, Pods, pod},
    process::Meterline,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{Chance, MINUTE, preset, seconds, settled, stop, until_done};

/// New pods a second.
const CHURN: u64 = 20;

/// A pod from its creation to its end, whatever the API server does meanwhile.
async fn live(pods: Pods, name: String, life: u64) -> Life {
    let spec = pod(&name);
    let made = until_done(|| async {
        match pods.api().get_opt(&name).await? {
            Some(pod) => Ok(pod),
            None => pods.create(&spec).await,
        }
    })
    .await;
    let started = until_done(|| async {
        let started = pods::now();
        pods.set_running(&name, started).await.map(|_| started)
    })
    .await;
    sleep(Duration::from_millis(life)).await;
    let ended = until_done(|| async {
        let ended = pods::now().max(started + seconds(1));
        let set = pods
            .set_ended(&name, Phase::Succeeded, started, ended)
            .await;
        set.map(|_| ended)
    })
    .await;
    until_done(|| async {
        match pods.api().get_opt(&name).await? {
            Some(_) => pods.delete(&name).await,
            None => Ok(()),
        }
    })
    .await;
    Life {
        uid: made.metadata.uid.unwrap(),
        namespace: "default".to_owned(),
        name,
        start: started,
        end: Some(ended),
    }
}

fn replica(
    control_plane: &ControlPlane,
    ingest: &RecordingIngest,
    dir: &Path,
    index: usize,
) -> Meterline {
    preset(control_plane, "reader", ingest)
        .arg("--leader-election")
        .env("SCRAPE_INTERVAL", "2s")
        .env("STATE_PATH", dir.join(format!("state-{index}.sqlite")))
        .env("K8S_NAMESPACE", "default")
        .env("K8S_APP_INSTANCE", "meterline")
        .env("K8S_POD_NAME", format!("replica-{index}"))
        .env("LEASE_DURATION", "4s")
        .env("LEASE_RENEW_DEADLINE", "3s")
        .env("LEASE_RETRY_PERIOD", "1s")
        .start()
        .unwrap()
}

/// One mishap; some take as long as they last.
async fn mishap(
    chance: &mut Chance,
    control_plane: &ControlPlane,
    ingest: &RecordingIngest,
    dir: &Path,
    replicas: &mut [Option<Meterline>; 2],
) -> &'static str {
    match chance.below(9) {
        0..=3 => {
            let index = usize::try_from(chance.below(2)).unwrap();
            // Dropped: killed by SIGKILL.
            replicas[index] = None;
            sleep(Duration::from_millis(chance.below(3_000))).await;
            replicas[index] = Some(replica(control_plane, ingest, dir, index));
            "a replica was killed"
        }
        4 => {
            control_plane.restart_apiserver().await.unwrap();
            "the API server was restarted"
        }
        5 => {
            ingest.respond_always(Behaviour::status(503));
            sleep(Duration::from_millis(chance.below(5_000))).await;
            ingest.respond_normally();
            "the sink answered 503"
        }
        6 => {
            ingest.respond(3, &Behaviour::accept_then_drop());
            "answers were lost"
        }
        7 => {
            ingest.respond(2, &Behaviour::status(429).header("retry-after", "1"));
            ingest.respond(2, &Behaviour::normal().delay(Duration::from_secs(2)));
            "the sink was slow"
        }
        _ => {
            ingest.go_away().await;
            sleep(Duration::from_millis(chance.below(3_000))).await;
            ingest.come_back().await.unwrap();
            "the sink was away"
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn whatever_happens_every_second_is_billed_once() {
    let control_plane = ControlPlane::start().await.unwrap();
    let control_plane = Arc::new(control_plane);
    control_plane.grant_pods("reader", "default").await.unwrap();
    control_plane
        .grant_leases("reader", "default")
        .await
        .unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut chance = Chance::new();
    let length = std::env::var("CHAOS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(60);
    let length = Duration::from_secs(length);
    let start = pods::now();
    let mut replicas =
        [0, 1].map(|index| Some(replica(&control_plane, &ingest, dir.path(), index)));
    for replica in replicas.iter().flatten() {
        replica.wait_ready(MINUTE).await.unwrap();
    }

    let began = Instant::now();
    let mut lives = JoinSet::new();
    let churn = {
        let (client, seed) = (client.clone(), chance.below(1_000));
        async move {
            for index in 0..length.as_secs() * CHURN {
                let pods = Pods::new(client.clone(), "default");
                let life = 200 + (index * 977 + seed * 13) % 12_000;
                lives.spawn(live(pods, format!("pod-{index}"), life));
                sleep(Duration::from_millis(1_000 / CHURN)).await;
            }
            lives.join_all().await
        }
    };
    let mishaps = async {
        while began.elapsed() < length {
            let what = mishap(
                &mut chance,
                &control_plane,
                &ingest,
                dir.path(),
                &mut replicas,
            )
            .await;
            eprintln!("{:>4} s: {what}", began.elapsed().as_secs());
            sleep(Duration::from_millis(500 + chance.below(4_000))).await;
        }
    };
    let (lives, ()) = tokio::join!(churn, mishaps);
    let range = start..pods::now() + seconds(120);
    let report = settled(&ingest, &lives, &range, 2 * MINUTE).await;
    if !report.is_exact() {
        for replica in replicas.iter().flatten() {
            eprintln!("{}", replica.log().join("\n"));
        }
    }
    report.assert_exact();
    ingest.assert_clean();
    eprintln!(
        "{} pods, {} seconds, {} repeats",
        report.pods.len(),
        report.billed_seconds(),
        ingest.state().duplicates
    );
    for replica in replicas.iter().flatten() {
        stop(replica).await;
    }
}
