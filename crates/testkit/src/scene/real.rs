//! A scene on a real control plane.

#![expect(
    clippy::unwrap_used,
    reason = "a test whose surroundings do not start cannot continue"
)]

use std::fmt;
use std::time::Duration;

use chrono::TimeDelta;
use kube::Client;
use tempfile::TempDir;

use super::{Cluster, Scene};
use crate::audit::Life;
use crate::control_plane::ControlPlane;
use crate::pods::{self, Phase, Pods, pod};
use crate::truth::Truth;

/// How long a pod may take to start on a busy machine.
const STEP: Duration = Duration::from_secs(60);

/// A real control plane.
pub struct Real {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// A client that may do everything.
    pub client: Client,
    /// The pods of the namespace `default`.
    pub pods: Pods,
    /// When each pod ran, as the API server reports it.
    pub truth: Truth,
}

impl fmt::Debug for Real {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = out.debug_struct("Real");
        out.field("control_plane", &self.control_plane);
        out.finish_non_exhaustive()
    }
}

impl Scene<Real> {
    /// A control plane without pods, on which only `admin` may do anything. The program runs as
    /// `reader`.
    pub async fn bare(binary: &str) -> Self {
        let control_plane = ControlPlane::start().await.unwrap();
        let client = control_plane.admin_client().await.unwrap();
        let real = Real {
            pods: Pods::new(client.clone(), "default"),
            truth: Truth::watch(client.clone()).await.unwrap(),
            client,
            control_plane,
        };
        // Written once: a program that is starting may be reading it.
        let kubeconfig = real.control_plane.kubeconfig_for("reader").unwrap();
        Self::on(real, binary, kubeconfig, TempDir::new().unwrap()).await
    }

    /// A control plane whose pods in `default` the program may read. There `count` pods, `pod-0` and so
    /// on, run from the start.
    pub async fn with(binary: &str, count: usize) -> Self {
        let scene = Self::bare(binary).await;
        let granted = scene.control_plane.grant_pods("reader", "default").await;
        granted.unwrap();
        for index in 0..count {
            let spec = pod(&format!("pod-{index}"));
            let running = scene.pods.create_running(&spec, scene.start).await;
            running.unwrap();
        }
        scene
    }
}

impl Real {
    /// Lets the program take part in leader election.
    pub async fn grant_leases(&self) {
        let granted = self.control_plane.grant_leases("reader", "default").await;
        granted.unwrap();
    }

    /// Creates a namespace whose pods the program may read.
    pub async fn namespace(&self, name: &str) -> Pods {
        self.control_plane.create_namespace(name).await.unwrap();
        let granted = self.control_plane.grant_pods("reader", name).await;
        granted.unwrap();
        self.pods_in(name)
    }

    /// The pods of a namespace.
    #[must_use]
    pub fn pods_in(&self, namespace: &str) -> Pods {
        Pods::new(self.client.clone(), namespace)
    }

    /// Ends a pod now, once the API server reports that it has started.
    ///
    /// # Panics
    /// When it has not started within a minute.
    pub async fn end(&self, namespace: &str, name: &str) {
        let is =
            |life: &Life| life.namespace == namespace && life.name == name && life.end.is_none();
        let has_started = |lives: &[Life]| lives.iter().any(is);
        self.truth.wait_until(STEP, has_started).await.unwrap();
        let lives = self.truth.lives();
        let start = lives.iter().find(|life| is(life)).unwrap().start;
        let end = pods::now().max(start + TimeDelta::seconds(1));
        let pods = self.pods_in(namespace);
        let ended = pods.set_ended(name, Phase::Succeeded, start, end).await;
        ended.unwrap();
    }
}

impl Cluster for Real {
    fn lives(&self) -> Vec<Life> {
        self.truth.lives()
    }

    async fn end_all(&self) {
        for life in self.truth.lives() {
            if life.end.is_none() {
                self.end(&life.namespace, &life.name).await;
            }
        }
        self.truth.wait_for_ends(0).await.unwrap();
    }
}
