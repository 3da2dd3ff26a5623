//! A realistic pod: two containers, seven kilobytes of JSON.

use serde_json::{Value, json};

/// The pod.
pub(crate) fn pod() -> Value {
    let env: Vec<Value> = (0..18)
        .map(|n| {
            json!({
                "name": format!("APPLICATION_SETTING_{n}"),
                "value": format!("some-value-that-is-realistic-{n}"),
            })
        })
        .collect();
    let container = |name: &str| {
        json!({
            "name": name,
            "image": "registry.example.com/team/application:v1.2.3",
            "args": ["--listen=0.0.0.0:8080", "--log-format=json"],
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "env": env,
            "resources": {
                "requests": {"cpu": "250m", "memory": "512Mi"},
                "limits": {"cpu": "1", "memory": "1Gi"},
            },
            "volumeMounts": [
                {"name": "config", "readOnly": true, "mountPath": "/etc/application"},
                {"name": "kube-api-access-x7k2p", "readOnly": true,
                 "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
            ],
            "livenessProbe": {"httpGet": {"path": "/livez", "port": "http", "scheme": "HTTP"},
                "timeoutSeconds": 1, "periodSeconds": 10, "failureThreshold": 3},
            "imagePullPolicy": "IfNotPresent",
            "terminationMessagePath": "/dev/termination-log",
        })
    };
    let status = |name: &str| {
        json!({
            "name": name, "ready": true, "restartCount": 0, "started": true,
            "image": "registry.example.com/team/application:v1.2.3",
            "imageID": "registry.example.com/team/application@sha256:6f1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e",
            "containerID": "containerd://0f1a2b3c4d5e6f708192a3b4c5d6e7f80f1a2b3c4d5e6f708192a3b4c5d6e7f8",
            "state": {"running": {"startedAt": "2025-01-01T00:00:03Z"}},
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-6f7d8c9b5d-x7k2p", "generateName": "web-6f7d8c9b5d-",
            "namespace": "customer-a", "uid": "6b1c5a1e-5d55-4b1e-9a55-0d9f9f0f2a11",
            "resourceVersion": "1234567", "creationTimestamp": "2025-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "6f7d8c9b5d", "team": "payments"},
            "annotations": {
                "openmeter.io/subject": "customer-a",
                "data.openmeter.io/plan": "gold",
                "data.openmeter.io/region": "eu-west-1",
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "8080",
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "web-6f7d8c9b5d", "uid": "0b7f", "controller": true}],
        },
        "spec": {
            "volumes": [{"name": "config", "configMap": {"name": "web", "defaultMode": 420}}],
            "containers": [container("web"), container("proxy")],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
            "nodeName": "ip-10-0-12-34.eu-west-1.compute.internal",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "hostIP": "10.0.12.34", "podIP": "10.1.2.3",
            "startTime": "2025-01-01T00:00:00Z", "qosClass": "Burstable",
            "conditions": [
                {"type": "Initialized", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:04Z"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"},
            ],
            "containerStatuses": [status("web"), status("proxy")],
        },
    })
}
