//! Faults that are brought about on the real parts, each ending with the audit.

mod api_server;
mod clock;
mod disk;
mod dns;
mod lag;
mod lease;
mod namespaces;
mod pages;
mod poison;
mod sink;
mod sleep;
mod state;
mod stop;
mod streams;

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use meterline_testkit::{
    audit::{self, Life, Report},
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, Pods, pod},
    process::{Meterline, MeterlineCommand},
    truth::Truth,
};
use serde_json::Value;

use crate::support::{MINUTE, meterline, root, seconds, settled};

/// A real API server with pods that run, and the truth about them.
pub(crate) struct Scene {
    pub(crate) pods: Pods,
    pub(crate) truth: Truth,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) start: DateTime<Utc>,
    kubeconfig: PathBuf,
    pub(crate) control_plane: ControlPlane,
}

impl Scene {
    /// With `count` running pods, `pod-0` and so on.
    pub(crate) async fn with(count: usize) -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        control_plane.grant_pods("reader", "default").await.unwrap();
        let client = control_plane.admin_client().await.unwrap();
        let truth = Truth::watch(client.clone()).await.unwrap();
        let pods = Pods::new(client, "default");
        let start = pods::now();
        for index in 0..count {
            pods.create_running(&pod(&format!("pod-{index}")), start)
                .await
                .unwrap();
        }
        Self {
            pods,
            truth,
            folder: tempfile::tempdir().unwrap(),
            start,
            // Written once: a program that is starting may be reading it.
            kubeconfig: control_plane.kubeconfig_for("reader").unwrap(),
            control_plane,
        }
    }

    /// The preset, a request for each window of a second, from before the first pod on.
    pub(crate) fn preset(&self, ingest: &RecordingIngest) -> MeterlineCommand {
        let preset = root().join("presets/kubernetes-pod-exec-time.yaml");
        self.billing(meterline().args(["--config".as_ref(), preset.as_os_str()]))
            .env("OPENMETER_URL", ingest.url())
            .env("BATCH_SIZE", "0")
    }

    /// The preset with another text in its place, and the output `openmeter` with these fields.
    pub(crate) fn variant(
        &self,
        change: impl FnOnce(String) -> String,
        openmeter: &str,
    ) -> MeterlineCommand {
        let preset = root().join("presets/kubernetes-pod-exec-time.yaml");
        let preset = change(std::fs::read_to_string(preset).unwrap());
        let (before, _) = preset.split_once("\noutput:").unwrap();
        let config = format!("{before}\noutput:\n  openmeter: {{{openmeter}}}\n");
        self.billing(meterline().config(&config))
    }

    fn billing(&self, command: MeterlineCommand) -> MeterlineCommand {
        command
            .kubeconfig(&self.kubeconfig)
            .env("SCRAPE_INTERVAL", "1s")
            .env("LOOKBACK", "2m")
    }

    /// A file in the scene's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Ends every pod that runs.
    pub(crate) async fn end_all(&self) {
        for life in self.truth.lives().iter().filter(|it| it.end.is_none()) {
            let end = pods::now().max(life.start + seconds(1));
            self.pods
                .set_ended(&life.name, Phase::Succeeded, life.start, end)
                .await
                .unwrap();
        }
        self.truth
            .wait_until(MINUTE, |lives| lives.iter().all(|it| it.end.is_some()))
            .await
            .unwrap();
    }

    /// Waits until what arrived covers the lives exactly; the report of what is wrong otherwise.
    pub(crate) async fn settled(&self, ingest: &RecordingIngest) -> Report {
        self.settled_without(ingest, "").await
    }

    /// The same, of all pods but one.
    pub(crate) async fn settled_without(&self, ingest: &RecordingIngest, but: &str) -> Report {
        let range = self.start..pods::now() + seconds(60);
        let mut lives = self.truth.lives();
        lives.retain(|life| life.name != but);
        settled(ingest, &lives, &range, 2 * MINUTE).await
    }

    /// Ends every pod, and asserts that each is billed for exactly what it ran.
    pub(crate) async fn assert_exact(&self, ingest: &RecordingIngest, meterline: &Meterline) {
        self.end_all().await;
        let report = self.settled(ingest).await;
        assert!(report.is_exact(), "{report}{}", meterline.tail());
        ingest.assert_clean();
    }

    /// What is wrong with the bill of the pods that `wanted` names, as it is now.
    pub(crate) fn report(&self, ingest: &RecordingIngest, wanted: impl Fn(&str) -> bool) -> Report {
        let mut lives = self.truth.lives();
        lives.retain(|life: &Life| wanted(&life.name));
        let mut events = ingest.events();
        events.retain(|event| wanted(name(event)));
        audit::audit(&lives, &events, self.start..pods::now() + seconds(60))
    }
}

/// The pod that an event bills.
pub(crate) fn name(event: &Value) -> &str {
    event["data"]["pod_name"].as_str().unwrap_or_default()
}

/// Whether a folder has a file whose name contains this.
pub(crate) fn has_file(folder: &Path, part: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().contains(part)
    })
}
