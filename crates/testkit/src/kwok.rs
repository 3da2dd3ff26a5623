//! kwok, a third-party simulation of a kubelet: it runs, ends and deletes pods.
//!
//! The Stage files in `tests/envtest/stages` define how; annotations of the pod choose among them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use serde_json::json;

use crate::child::Child;
use crate::control_plane::{ControlPlane, binary};

/// The node whose pods kwok runs.
pub const NODE: &str = "kwok-0";
/// Annotation: how long the pod runs before it succeeds, in Go duration format. Without it the pod
/// runs until it is deleted.
pub const RUN_FOR: &str = "meterline.test/run-for";
/// Annotation: how long the pod is pending, in Go duration format. Without it, it runs at once.
pub const START_AFTER: &str = "meterline.test/start-after";

const START_LIMIT: Duration = Duration::from_secs(60);

/// A running kwok. It ends when this is dropped.
#[derive(Debug)]
pub struct Kwok {
    child: Child,
}

impl Kwok {
    /// Starts kwok on `control_plane`, creates the node [`NODE`] and waits until kwok reports that the
    /// node is ready.
    ///
    /// # Errors
    /// When the binary is missing, or the node is not ready within a minute; the error shows the
    /// end of kwok's log.
    pub async fn start(control_plane: &ControlPlane) -> anyhow::Result<Self> {
        let stages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/envtest/stages");
        let mut command = Command::new(binary("kwok").map_err(anyhow::Error::msg)?);
        command
            .arg("--kubeconfig")
            .arg(control_plane.admin_kubeconfig()?)
            .arg("--manage-all-nodes");
        let files = std::fs::read_dir(&stages)
            .with_context(|| format!("cannot read {}", stages.display()))?;
        for file in files {
            command.arg("--config").arg(file?.path());
        }
        let kwok = Self {
            child: Child::spawn("kwok", command)?,
        };
        let nodes: Api<Node> = Api::all(control_plane.admin_client().await?);
        let node = serde_json::from_value(json!({"metadata": {"name": NODE}}))?;
        nodes.create(&PostParams::default(), &node).await?;
        let ready = await_condition(nodes, NODE, |node: Option<&Node>| {
            let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
            conditions.is_some_and(|conditions| {
                let mut conditions = conditions.iter();
                conditions.any(|it| it.type_ == "Ready" && it.status == "True")
            })
        });
        let ready = tokio::time::timeout(START_LIMIT, ready).await;
        ready
            .with_context(|| format!("{NODE} is not ready; kwok wrote:{}", kwok.child.tail()))?
            .with_context(|| format!("cannot watch {NODE}; kwok wrote:{}", kwok.child.tail()))?;
        Ok(kwok)
    }

    /// The process, to read its log or to signal it.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }
}
