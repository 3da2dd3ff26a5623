//! A scene on the simulated API server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test whose surroundings do not start cannot continue"
)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use chrono::DateTime;
use meterline_kubesim::{Kind, Kubesim, Options, Size, World, rfc3339};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Cluster, Scene};
use crate::audit::Life;
use crate::pods;
use crate::process::MeterlineCommand;

/// The simulated API server.
#[derive(Debug)]
pub struct Simulated {
    /// The server, for behaviour that a real one does not have.
    pub sim: Kubesim,
    lives: Mutex<BTreeMap<String, Life>>,
}

impl Scene<Simulated> {
    /// A simulated API server without pods.
    pub async fn simulated(binary: &str, options: Options) -> Self {
        let simulated = Simulated {
            sim: Kubesim::start(options).await.unwrap(),
            lives: Mutex::default(),
        };
        let folder = TempDir::new().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        simulated.sim.write_kubeconfig(&kubeconfig).unwrap();
        Self::on(simulated, binary, kubeconfig, folder).await
    }

    /// [`Scene::preset`] with a server at another URL in place of the simulated one.
    #[must_use]
    pub fn preset_before(&self, url: &str) -> MeterlineCommand {
        let kubeconfig = self.file("kubeconfig-of-another");
        let text = self.sim.kubeconfig().replace(self.sim.url(), url);
        std::fs::write(&kubeconfig, text).unwrap();
        self.preset().kubeconfig(&kubeconfig)
    }

    /// A simulated API server with `count` pods, `pod-0` and so on, that run since the start.
    pub async fn simulated_with(binary: &str, count: usize) -> Self {
        let scene = Self::simulated(binary, Options::default()).await;
        for index in 0..count {
            scene.put(&format!("pod-{index}"), scene.start.timestamp(), None);
        }
        scene
    }

    /// A simulated API server with `count` small pods of many kinds, `worker-1` and so on, that have
    /// run for a minute.
    pub async fn populated(binary: &str, count: usize) -> Self {
        let scene = Self::simulated(binary, Options::default()).await;
        let since = scene.start.timestamp() - 60;
        let mut world = World::new(1, 0, Size::Small);
        scene
            .sim
            .change(|store| world.populate(count, since, store));
        scene
    }
}

impl Simulated {
    /// Creates or changes a pod in its own namespace, `ns-NAME`, that runs since `start` or ran until
    /// `end`, both in Unix seconds.
    pub fn put(&self, name: &str, start: i64, end: Option<i64>) {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let life = Life {
            uid: format!("uid-{name}"),
            namespace: format!("ns-{name}"),
            name: name.to_owned(),
            start: at(start),
            end: end.map(at),
        };
        let pod = object(&life);
        self.lives.lock().unwrap().insert(name.to_owned(), life);
        self.sim.change(|store| store.put(Kind::Pod, pod));
    }

    /// Deletes a pod that [`Simulated::put`] created and that has ended.
    pub fn delete(&self, name: &str) {
        let pod = object(&self.lives.lock().unwrap()[name]);
        self.sim.change(|store| store.delete(Kind::Pod, pod));
    }
}

impl Cluster for Simulated {
    fn lives(&self) -> Vec<Life> {
        self.lives.lock().unwrap().values().cloned().collect()
    }

    async fn end_all(&self) {
        let now = pods::now().timestamp();
        for life in self.lives() {
            let start = life.start.timestamp();
            if life.end.is_none() {
                self.put(&life.name, start, Some(now.max(start + 1)));
            }
        }
    }
}

fn object(life: &Life) -> Value {
    let [start, end] = [Some(life.start), life.end].map(|it| it.map(|it| rfc3339(it.timestamp())));
    let state = match &end {
        None => json!({"running": {"startedAt": start}}),
        Some(end) => {
            json!({"terminated": {"startedAt": start, "finishedAt": end, "exitCode": 0}})
        }
    };
    json!({
        "metadata": {
            "name": life.name,
            "namespace": life.namespace,
            "uid": life.uid,
            "creationTimestamp": start,
        },
        "spec": {"containers": [{"name": "main"}], "restartPolicy": "Never"},
        "status": {
            "phase": if end.is_some() { "Succeeded" } else { "Running" },
            "startTime": start,
            "containerStatuses": [{"name": "main", "state": state}],
        },
    })
}
