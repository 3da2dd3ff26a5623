//! Two clusters that report to one account.

use std::collections::BTreeMap;

use meterline_kubesim::{Kubesim, Options, Size, World};
use meterline_testkit::ingest::RecordingIngest;

use crate::support::{MINUTE, preset_at, stop};

const PODS: usize = 5;

/// How often each second of each pod is billed by events of different ids, when two clusters have the
/// same pods under these names.
async fn copies(names: [&str; 2]) -> Vec<usize> {
    let sim = Kubesim::start(Options::default()).await.unwrap();
    let since = chrono::Utc::now().timestamp() - 60;
    sim.change(|store| World::new(1, 0, Size::Small).populate(PODS, since, store));
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    sim.write_kubeconfig(&kubeconfig).unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let start = |name: &str| {
        preset_at(&kubeconfig, &ingest)
            .env("SCRAPE_INTERVAL", "1s")
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
    // What was read is delivered before they end, so both have billed the same windows but at the ends.
    for meterline in &both {
        stop(meterline).await;
    }
    ingest.assert_clean();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in ingest.events() {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let key = (text(&event["time"]), text(&event["data"]["pod_name"]));
        *counts.entry(key).or_default() += 1;
    }
    counts.into_values().collect()
}

#[tokio::test]
async fn clones_of_one_backup_are_told_apart_by_the_name_of_their_cluster() {
    let counts = copies(["blue", "green"]).await;
    assert!(
        counts.iter().filter(|count| **count == 2).count() >= PODS,
        "{counts:?}"
    );
    // The same cluster seen twice is billed once.
    let counts = copies(["blue", "blue"]).await;
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
}
