//! All failures at once: two replicas with state files and a Lease, pods that come and go, and at random
//! moments a replica is killed, the API server restarts, or the sink is unavailable, slow or loses answers.
//!
//! It runs for a minute; `CHAOS=600` makes it ten. It prints its seed, and `SEED` repeats a run.

use std::time::Duration;

use meterline_testkit::{ingest::Behaviour, pods::pod, process::Meterline, scene::Scene};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{BINARY, Chance, MINUTE};

/// New pods a second.
const CHURN: u64 = 20;

fn replica(scene: &Scene, index: usize) -> Meterline {
    scene
        .replica(&format!("replica-{index}"), 4)
        .env("SCRAPE_INTERVAL", "2s")
        // After a restart of the API server the statuses of a hundred pods are written at once.
        .args([
            "--set",
            "input.schedule.input.kubernetes_resources.settle=8s",
        ])
        .env("STATE_PATH", scene.file(&format!("state-{index}.sqlite")))
        .start()
        .unwrap()
}

/// Prints the log of a replica if the test fails. The message of the failure has that of the other one.
struct LogIfFailed<'a>(&'a Meterline);

impl Drop for LogIfFailed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the other replica:\n{}", self.0.log().join("\n"));
        }
    }
}

/// Causes one failure, and waits until it is over.
async fn failure(
    chance: &mut Chance,
    scene: &Scene,
    replicas: &mut [Option<Meterline>; 2],
) -> &'static str {
    let ingest = &scene.ingest;
    match chance.below(9) {
        0..=3 => {
            let index = usize::try_from(chance.below(2)).unwrap();
            // Dropping it kills it.
            replicas[index] = None;
            sleep(chance.pause(Duration::from_millis(3_000))).await;
            replicas[index] = Some(replica(scene, index));
            "a replica was killed"
        }
        4 => {
            scene.control_plane.restart_apiserver().await.unwrap();
            "the API server was restarted"
        }
        5 => {
            ingest.respond_always(Behaviour::status(503));
            sleep(chance.pause(Duration::from_millis(5_000))).await;
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
            sleep(chance.pause(Duration::from_millis(3_000))).await;
            ingest.come_back().await.unwrap();
            "the sink was unavailable"
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn every_second_is_billed_once_through_random_failures() {
    let scene = Scene::with(BINARY, 0).await;
    scene.grant_leases().await;
    let mut chance = Chance::new();
    let length = std::env::var("CHAOS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(60);
    let length = Duration::from_secs(length);
    let mut replicas = [0, 1].map(|index| Some(replica(&scene, index)));
    for replica in replicas.iter().flatten() {
        replica.wait_ready(MINUTE).await.unwrap();
    }

    let began = Instant::now();
    let mut lives = JoinSet::new();
    let churn = {
        let (pods, seed) = (scene.pods.clone(), chance.below(1_000));
        async move {
            for index in 0..length.as_secs() * CHURN {
                let pods = pods.clone();
                let spec = pod(&format!("pod-{index}"));
                let life = Duration::from_millis(200 + (index * 977 + seed * 13) % 12_000);
                lives.spawn(async move { pods.live_and_go(&spec, Duration::ZERO, life).await });
                sleep(Duration::from_millis(1_000 / CHURN)).await;
            }
            lives.join_all().await
        }
    };
    let failures = async {
        while began.elapsed() < length {
            let what = failure(&mut chance, &scene, &mut replicas).await;
            eprintln!("{:>4} s: {what}", began.elapsed().as_secs());
            sleep(Duration::from_millis(500 + chance.below(4_000))).await;
        }
    };
    let (lives, ()) = tokio::join!(churn, failures);
    // The truth is what the test wrote, because a watch would miss what happens during a restart.
    let lives: Vec<_> = lives.into_iter().map(Result::unwrap).collect();
    let [first, second] = replicas.map(Option::unwrap);
    let other = LogIfFailed(&second);
    scene.assert_billed(&lives, &first).await;
    drop(other);
    first.stop().await;
    second.stop().await;
    eprintln!(
        "{} pods, {} events, {} repeats",
        lives.len(),
        scene.ingest.events().len(),
        scene.ingest.state().duplicates
    );
}
