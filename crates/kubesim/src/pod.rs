//! Pods as an API server returns them.

#![expect(
    clippy::indexing_slicing,
    reason = "objects are put together from literals here: an absent key is made, none can panic"
)]

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

/// How much a pod contains in addition to what is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Size {
    /// Nothing else.
    Small,
    /// About seven kilobytes: two containers with environment, probes, mounts and conditions, and
    /// managed fields.
    #[default]
    Realistic,
}

/// What a pod looks like.
#[derive(Debug, Clone)]
pub struct PodShape {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// The annotation `openmeter.io/subject`; `None` means that the pod has no annotations at all.
    pub subject: Option<String>,
    /// The annotation `data.openmeter.io/plan`, if the pod has annotations.
    pub plan: String,
    /// CPU that the first container requests, in thousandths of a core.
    pub millicores: i64,
    /// Memory that the first container requests, in mebibytes.
    pub mebibytes: i64,
    /// GPUs.
    pub gpus: i64,
    /// Whether a sidecar runs beside the containers, with 50 thousandths of a core.
    pub sidecar: bool,
    /// How much it contains in addition to what is billed.
    pub size: Size,
    /// When it was created, Unix seconds.
    pub created: i64,
    /// When metadata or spec was last written.
    pub written: i64,
    /// Whether that write was an in-place resize.
    pub resized: bool,
}

/// Unix seconds as the API writes them.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The state of a container.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    Waiting,
    Running {
        since: i64,
    },
    /// Runs again after it stopped.
    Restarted {
        first: i64,
        stopped: i64,
        again: i64,
    },
    Finished {
        since: i64,
        at: i64,
        well: bool,
    },
}

const SIDECAR_MILLICORES: i64 = 50;

impl PodShape {
    /// The CPU that the whole pod requests, in thousandths of a core.
    #[must_use]
    pub fn total_millicores(&self) -> i64 {
        self.millicores + if self.sidecar { SIDECAR_MILLICORES } else { 0 }
    }

    /// The memory that the whole pod requests, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> i64 {
        self.mebibytes * 1024 * 1024
    }

    /// The pod while its containers are in `state`.
    pub(crate) fn object(&self, state: State) -> Value {
        let mut annotations = json!({});
        if let Some(subject) = &self.subject {
            annotations["openmeter.io/subject"] = subject.as_str().into();
            annotations["data.openmeter.io/plan"] = self.plan.as_str().into();
        }
        let mut pod = json!({
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "creationTimestamp": rfc3339(self.created),
                "labels": {"app.kubernetes.io/name": self.name, "pod-template-hash": "5d8c9bfc4b"},
                "managedFields": self.managed_fields(),
            },
            "spec": self.spec(),
            "status": self.status(state),
        });
        if self.subject.is_some() {
            pod["metadata"]["annotations"] = annotations;
        }
        if self.size == Size::Realistic {
            self.add_unbilled_fields(&mut pod);
        }
        pod
    }

    fn managed_fields(&self) -> Value {
        let subresource = if self.resized { "resize" } else { "" };
        json!([
            {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
             "time": rfc3339(self.created), "fieldsType": "FieldsV1",
             "fieldsV1": {"f:metadata": {"f:labels": {}}, "f:spec": {"f:containers": {}}}},
            {"manager": "operator", "operation": "Update", "apiVersion": "v1",
             "time": rfc3339(self.written), "subresource": subresource, "fieldsType": "FieldsV1",
             "fieldsV1": {"f:spec": {"f:containers": {}}, "f:metadata": {"f:annotations": {}}}},
            {"manager": "kubelet", "operation": "Update", "apiVersion": "v1",
             "time": rfc3339(self.created + 1), "subresource": "status", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:status": {"f:conditions": {}}}},
        ])
    }

    fn spec(&self) -> Value {
        let mut requests = json!({
            "cpu": format!("{}m", self.millicores),
            "memory": format!("{}Mi", self.mebibytes),
        });
        let mut limits = json!({
            "cpu": format!("{}m", 2 * self.millicores),
            "memory": format!("{}Mi", 2 * self.mebibytes),
        });
        let mut spec = json!({
            "nodeName": "node-1",
            "restartPolicy": "Always",
            "serviceAccountName": "default",
        });
        if self.gpus > 0 {
            requests["nvidia.com/gpu"] = self.gpus.to_string().into();
            limits["nvidia.com/gpu"] = self.gpus.to_string().into();
            spec["nodeSelector"] = json!({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"});
        }
        if self.sidecar {
            spec["initContainers"] = json!([{
                "name": "proxy", "image": "registry.example/proxy:1", "restartPolicy": "Always",
                "resources": {"requests": {"cpu": format!("{SIDECAR_MILLICORES}m")}},
            }]);
        }
        spec["containers"] = json!([
            {"name": "main", "image": "registry.example/team/service:1.42.0",
             "resources": {"requests": requests, "limits": limits}},
            {"name": "logger", "image": "registry.example/team/logger:2", "resources": {}},
        ]);
        spec
    }

    fn status(&self, state: State) -> Value {
        let (phase, container, last, restarts) = match state {
            State::Waiting => (
                "Pending",
                json!({"waiting": {"reason": "ContainerCreating"}}),
                json!({}),
                0,
            ),
            State::Running { since } => (
                "Running",
                json!({"running": {"startedAt": rfc3339(since)}}),
                json!({}),
                0,
            ),
            State::Restarted {
                first,
                stopped,
                again,
            } => (
                "Running",
                json!({"running": {"startedAt": rfc3339(again)}}),
                json!({"terminated": {"startedAt": rfc3339(first), "finishedAt": rfc3339(stopped),
                    "exitCode": 1, "reason": "Error"}}),
                1,
            ),
            State::Finished { since, at, well } => (
                if well { "Succeeded" } else { "Failed" },
                json!({"terminated": {"startedAt": rfc3339(since), "finishedAt": rfc3339(at),
                    "exitCode": i32::from(!well)}}),
                json!({}),
                0,
            ),
        };
        let statuses: Vec<_> = ["main", "logger"]
            .into_iter()
            .map(|name| {
                json!({"name": name, "ready": phase == "Running", "restartCount": restarts,
                    "image": "registry.example/team/service:1.42.0", "state": container,
                    "lastState": last})
            })
            .collect();
        json!({"phase": phase, "hostIP": "10.0.0.7", "podIP": "10.244.3.17", "qosClass": "Burstable",
            "startTime": rfc3339(self.created), "containerStatuses": statuses})
    }

    /// Fields of real pods that are not billed.
    fn add_unbilled_fields(&self, pod: &mut Value) {
        let env: Vec<_> = (0..20)
            .map(|index| {
                json!({"name": format!("SERVICE_SETTING_{index}"),
                "value": format!("value-{index}-of-{}", self.name)})
            })
            .collect();
        let probe = |path: &str| {
            json!({"httpGet": {"path": path, "port": 8080, "scheme": "HTTP"},
                "initialDelaySeconds": 10, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3})
        };
        let containers = pod["spec"]["containers"].as_array_mut();
        for container in containers.into_iter().flatten() {
            container["env"] = env.clone().into();
            container["ports"] =
                json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}]);
            container["livenessProbe"] = probe("/livez");
            container["readinessProbe"] = probe("/readyz");
            container["volumeMounts"] = json!([
                {"name": "config", "mountPath": "/etc/service", "readOnly": true},
                {"name": "kube-api-access-x7k2p", "readOnly": true,
                 "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
            container["terminationMessagePath"] = "/dev/termination-log".into();
            container["imagePullPolicy"] = "IfNotPresent".into();
            container["securityContext"] = json!({"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true});
        }
        pod["spec"]["volumes"] = json!([
            {"name": "config", "configMap": {"name": "service-config", "defaultMode": 420}},
            {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}]);
        pod["spec"]["tolerations"] = json!([
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
             "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
             "tolerationSeconds": 300}]);
        pod["spec"]["affinity"] = json!({"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": self.name}},
                "topologyKey": "kubernetes.io/hostname"}}]}});
        pod["spec"]["dnsPolicy"] = "ClusterFirst".into();
        pod["spec"]["schedulerName"] = "default-scheduler".into();
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
        let conditions: Vec<_> = [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
        ]
        .into_iter()
        .map(|kind| {
            json!({"type": kind, "status": "True", "lastProbeTime": null,
                "lastTransitionTime": rfc3339(self.created)})
        })
        .collect();
        pod["status"]["conditions"] = conditions.into();
        if self.subject.is_some() {
            pod["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
                pod["spec"].to_string().into();
        }
    }
}
