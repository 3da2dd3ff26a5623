//! Pods whose status a test writes itself: started, ended, resized and deleted at chosen seconds.
//!
//! All times are whole seconds, as Kubernetes keeps them.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::audit::Life;

/// The pods of one namespace.
#[derive(Debug, Clone)]
pub struct Pods {
    api: Api<Pod>,
    namespace: String,
}

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Exit code 0.
    Succeeded,
    /// Exit code 1.
    Failed,
}

/// A pod to create; see [`pod`].
#[derive(Debug, Clone)]
pub struct PodSpec {
    name: String,
    annotations: Map<String, Value>,
    labels: Map<String, Value>,
    owners: Vec<Value>,
    spec: Value,
}

/// A pod with one container that requests 500m CPU and 64Mi memory and is limited to twice that,
/// bound to the node `node-0` (which need not exist) so that no scheduler is needed.
#[must_use]
pub fn pod(name: &str) -> PodSpec {
    PodSpec {
        name: name.to_owned(),
        annotations: Map::new(),
        labels: Map::new(),
        owners: Vec::new(),
        spec: json!({
            "nodeName": "node-0",
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": "registry.test/main:1",
                "resources": {
                    "requests": {"cpu": "500m", "memory": "64Mi"},
                    "limits": {"cpu": "1", "memory": "128Mi"},
                },
            }],
        }),
    }
}

impl PodSpec {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a reference to an owner.
    #[must_use]
    pub fn owner(mut self, reference: Value) -> Self {
        self.owners.push(reference);
        self
    }

    /// Binds the pod to another node.
    #[must_use]
    pub fn node(self, name: &str) -> Self {
        self.field("nodeName", name.into())
    }

    /// Replaces the containers.
    #[must_use]
    pub fn containers(self, containers: Value) -> Self {
        self.field("containers", containers)
    }

    /// Sets a field of `spec`.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        if let Some(spec) = self.spec.as_object_mut() {
            spec.insert(name.to_owned(), value);
        }
        self
    }

    fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "annotations": self.annotations,
                "labels": self.labels,
                "ownerReferences": self.owners,
            },
            "spec": self.spec,
        })
    }
}

/// The current second.
#[must_use]
pub fn now() -> DateTime<Utc> {
    whole(Utc::now())
}

/// The second that `time` is in.
#[must_use]
pub fn whole(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp(), 0).unwrap_or(time)
}

impl Pods {
    /// The pods of `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    /// Runs a pod from its creation to its end and returns its life: pending for `delay`, then running
    /// for `time`, at least a second. The finished pod is not deleted. Each step is repeated while the API
    /// server refuses it or is unavailable, as a kubelet does.
    ///
    /// # Errors
    /// When a step fails for a minute.
    pub async fn live(
        &self,
        pod: &PodSpec,
        delay: Duration,
        time: Duration,
    ) -> anyhow::Result<Life> {
        tokio::time::sleep(delay).await;
        let name = &pod.name;
        let made = until_done(|| async {
            // The server may have created the pod before it became unavailable.
            match self.api.get_opt(name).await? {
                Some(made) => Ok(made),
                None => self.create(pod).await,
            }
        });
        let uid = made.await?.metadata.uid.unwrap_or_default();
        // The server may have applied a status whose response was lost.
        let start = until_done(|| async {
            let pod = self.api.get(name).await?;
            let start = time_of(&pod, "running", "startedAt")?.unwrap_or_else(now);
            self.patch_status(name, running(&pod, start)).await?;
            Ok(start)
        });
        let start = start.await?;
        tokio::time::sleep(time).await;
        let end = until_done(|| async {
            let pod = self.api.get(name).await?;
            let known = time_of(&pod, "terminated", "finishedAt")?;
            // The time is taken just before it is written: a sink gets it within the time to settle.
            let end = known.unwrap_or_else(|| now().max(start + TimeDelta::seconds(1)));
            let status = ended(&pod, Phase::Succeeded, start, end);
            self.patch_status(name, status).await?;
            Ok(end)
        });
        Ok(Life {
            uid,
            namespace: self.namespace.clone(),
            name: name.clone(),
            start,
            end: Some(end.await?),
        })
    }

    /// [`Pods::live`], and then deletes the pod.
    ///
    /// # Errors
    /// As [`Pods::live`].
    pub async fn live_and_go(
        &self,
        pod: &PodSpec,
        delay: Duration,
        time: Duration,
    ) -> anyhow::Result<Life> {
        let life = self.live(pod, delay, time).await?;
        until_done(|| async {
            match self.api.get_opt(&pod.name).await? {
                Some(_) => self.delete(&pod.name).await,
                None => Ok(()),
            }
        })
        .await?;
        Ok(life)
    }

    /// The API itself, for calls that have no method here.
    #[must_use]
    pub fn api(&self) -> &Api<Pod> {
        &self.api
    }

    /// Creates a pod, pending.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create(&self, pod: &PodSpec) -> anyhow::Result<Pod> {
        let pod = serde_json::from_value(pod.object())?;
        Ok(self.api.create(&PostParams::default(), &pod).await?)
    }

    /// Creates a pod and sets it running since `start`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_running(&self, pod: &PodSpec, start: DateTime<Utc>) -> anyhow::Result<Pod> {
        self.create(pod).await?;
        self.set_running(&pod.name, start).await
    }

    /// Sets the status: every container has been running since `start`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_running(&self, name: &str, start: DateTime<Utc>) -> anyhow::Result<Pod> {
        let pod = self.api.get(name).await?;
        self.patch_status(name, running(&pod, start)).await
    }

    /// Sets the status: every container ran from `start` to `end`, and the pod has ended.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_ended(
        &self,
        name: &str,
        phase: Phase,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> anyhow::Result<Pod> {
        let pod = self.api.get(name).await?;
        let status = ended(&pod, phase, start, end);
        self.patch_status(name, status).await
    }

    /// Sets the status: every container ended at `end` and has been running again since `again`, as the
    /// kubelet reports after a crash. The pod continues.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn set_restarted(
        &self,
        name: &str,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
        again: DateTime<Utc>,
    ) -> anyhow::Result<Pod> {
        let pod = self.api.get(name).await?;
        let start = not_before_creation(&pod, start);
        let states = containers(&pod).map(|container| {
            let running = json!({"running": {"startedAt": rfc3339(again)}});
            let before = json!({"terminated": {
                "startedAt": rfc3339(start),
                "finishedAt": rfc3339(end),
                "exitCode": 1,
                "reason": "Error",
            }});
            status_of(container, true, running, Some(before))
        });
        let statuses: Vec<_> = states.collect();
        self.patch_status(name, json!({"containerStatuses": statuses}))
            .await
    }

    /// Merges `status` into the pod's status.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn patch_status(&self, name: &str, status: Value) -> anyhow::Result<Pod> {
        let patch = Patch::Merge(json!({"status": status}));
        let parameters = PatchParams::default();
        Ok(self.api.patch_status(name, &parameters, &patch).await?)
    }

    /// Changes the CPU request of the first container in place, without a restart.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn resize_cpu(&self, name: &str, request: &str) -> anyhow::Result<Pod> {
        let pod = self.api.get(name).await?;
        let first = containers(&pod).next().map(|container| &container.name);
        let patch = Patch::Strategic(json!({"spec": {"containers": [
            {"name": first, "resources": {"requests": {"cpu": request}}},
        ]}}));
        let parameters = PatchParams::default();
        Ok(self.api.patch_resize(name, &parameters, &patch).await?)
    }

    /// Sets the status: the node has granted what the spec asks for, and the runtime has applied it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn grant_resize(&self, name: &str) -> anyhow::Result<Pod> {
        let pod = self.api.get(name).await?;
        let statuses = pod.status.and_then(|status| status.container_statuses);
        let mut statuses = statuses.unwrap_or_default();
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for (status, container) in statuses.iter_mut().zip(containers) {
            let resources = container.resources.clone().unwrap_or_default();
            status.allocated_resources = resources.requests.clone();
            status.resources = Some(resources);
        }
        let status = json!({"containerStatuses": statuses, "conditions": []});
        self.patch_status(name, status).await
    }

    /// Sets the status: the node does not grant what the spec asks for, for this reason (`Deferred` or
    /// `Infeasible`).
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn refuse_resize(&self, name: &str, reason: &str) -> anyhow::Result<Pod> {
        let condition = json!({
            "type": "PodResizePending", "status": "True", "reason": reason,
            "lastTransitionTime": rfc3339(now()),
        });
        self.patch_status(name, json!({"conditions": [condition]}))
            .await
    }

    /// Sets an annotation, or removes it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn annotate(
        &self,
        name: &str,
        key: &str,
        value: Option<&str>,
    ) -> anyhow::Result<Pod> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        Ok(self
            .api
            .patch(name, &PatchParams::default(), &patch)
            .await?)
    }

    /// Removes an annotation as another field manager, so that the object does not record when that happened.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn strip(&self, name: &str, key: &str) -> anyhow::Result<Pod> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: null}}}));
        let parameters = PatchParams {
            field_manager: Some("another".to_owned()),
            ..PatchParams::default()
        };
        Ok(self.api.patch(name, &parameters, &patch).await?)
    }

    /// Deletes a pod at once, without a grace period.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let parameters = DeleteParams::default().grace_period(0);
        self.api.delete(name, &parameters).await?;
        Ok(())
    }

    /// Requests a deletion, which completes when the node reports that the pod has stopped.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete_gracefully(&self, name: &str) -> anyhow::Result<()> {
        self.api.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// Repeats a request until the API server accepts it, as a kubelet does.
///
/// # Errors
/// The last error, when it fails for a minute.
pub async fn until_done<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    const LIMIT: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(50);
    /// The client of the API has no limit of its own.
    const ANSWER: Duration = Duration::from_secs(15);
    let deadline = Instant::now() + LIMIT;
    loop {
        let result = tokio::time::timeout(ANSWER, attempt()).await;
        match result.unwrap_or_else(|late| Err(late.into())) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
    }
}

/// What a node says of a start whose clock is right: a test takes its time before the API server creates the pod.
fn not_before_creation(pod: &Pod, start: DateTime<Utc>) -> DateTime<Utc> {
    let created = pod.metadata.creation_timestamp.as_ref();
    let created = created.and_then(|it| DateTime::from_timestamp(it.0.as_second(), 0));
    created.map_or(start, |created| start.max(created))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

/// Returns a time of the first container's state, if the container is in this state.
fn time_of(pod: &Pod, state: &str, time: &str) -> anyhow::Result<Option<DateTime<Utc>>> {
    let pod = serde_json::to_value(pod)?;
    let time = pod.pointer(&format!("/status/containerStatuses/0/state/{state}/{time}"));
    Ok(time.and_then(Value::as_str).and_then(|it| it.parse().ok()))
}

/// The status of a pod whose containers have all been running since `start`.
fn running(pod: &Pod, start: DateTime<Utc>) -> Value {
    let start = not_before_creation(pod, start);
    let states = containers(pod).map(|container| {
        let running = json!({"running": {"startedAt": rfc3339(start)}});
        status_of(container, true, running, None)
    });
    let statuses: Vec<_> = states.collect();
    json!({
        "phase": "Running",
        "startTime": rfc3339(start),
        "containerStatuses": statuses,
    })
}

/// The status of a pod that has ended, and whose containers all ran from `start` to `end`.
fn ended(pod: &Pod, phase: Phase, start: DateTime<Utc>, end: DateTime<Utc>) -> Value {
    let start = not_before_creation(pod, start);
    let (phase, reason, code) = match phase {
        Phase::Succeeded => ("Succeeded", "Completed", 0),
        Phase::Failed => ("Failed", "Error", 1),
    };
    let states = containers(pod).map(|container| {
        let ended = json!({"terminated": {
            "startedAt": rfc3339(start),
            "finishedAt": rfc3339(end),
            "exitCode": code,
            "reason": reason,
        }});
        status_of(container, false, ended, None)
    });
    let statuses: Vec<_> = states.collect();
    json!({"phase": phase, "containerStatuses": statuses})
}

fn status_of(container: &Container, ready: bool, state: Value, before: Option<Value>) -> Value {
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": ready,
        "restartCount": u8::from(before.is_some()),
        "state": state,
        "lastState": before.unwrap_or_else(|| json!({})),
        // Without them the API server assumes that the node cannot resize.
        "resources": container.resources.clone().unwrap_or_default(),
    })
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
