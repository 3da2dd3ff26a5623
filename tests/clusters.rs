//! Two clusters that report to one account.

use std::collections::BTreeMap;

use meterline_testkit::scene::{Scene, pod_of};

use crate::support::{BINARY, MINUTE};

const PODS: usize = 5;

/// How many events of different ids bill each second of each pod, when two clusters of these names have
/// the same pods.
async fn copies(names: [&str; 2]) -> Vec<usize> {
    let scene = Scene::populated(BINARY, PODS).await;
    let ingest = &scene.ingest;
    let start = |name: &str| {
        scene
            .preset()
            .env("LOOKBACK", "0s")
            .args([
                "--set",
                &format!("input.schedule.input.kubernetes_resources.cluster={name}"),
            ])
            .start()
            .unwrap()
    };
    let both = names.map(start);
    ingest
        .wait_until(MINUTE, |state| {
            state.events.len() + state.duplicates >= 12 * PODS
        })
        .await
        .unwrap();
    // Both deliver what they read before they end, so they bill the same windows except the first and last.
    for meterline in &both {
        meterline.stop().await;
    }
    ingest.assert_clean();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in ingest.events() {
        let time = event["time"].as_str().unwrap().to_owned();
        let key = (time, pod_of(&event).to_owned());
        *counts.entry(key).or_default() += 1;
    }
    counts.into_values().collect()
}

#[tokio::test]
async fn clones_of_one_backup_are_distinguished_by_the_name_of_their_cluster() {
    let counts = copies(["blue", "green"]).await;
    assert!(
        counts.iter().filter(|count| **count == 2).count() >= PODS,
        "{counts:?}"
    );
    // The same cluster seen twice is billed once.
    let counts = copies(["blue", "blue"]).await;
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
}
