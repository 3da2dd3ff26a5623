//! Releases on a real API server with real RBAC, and their pods as processes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use meterline_testkit::{
    ingest::RecordingIngest,
    pods::{self, Pods, pod},
};

use super::{
    cases,
    release::{Cluster, NAME, NAMESPACE},
    rendered, text,
};
use crate::support::MINUTE;

const PRESET: &str = "preset=kubernetes-pod-exec-time";
const TOKEN: &str = "om_of-the-release";

/// The events of pods in a namespace.
fn of(ingest: &RecordingIngest, namespace: &str) -> usize {
    let of = |event: &serde_json::Value| event["data"]["pod_namespace"] == namespace;
    ingest.events().iter().filter(|event| of(event)).count()
}

/// A pod that runs, in each of these namespaces.
async fn running(cluster: &Cluster, namespaces: &[&str]) {
    for namespace in namespaces {
        let pods = Pods::new(cluster.client.clone(), namespace);
        pods.create_running(&pod("worker"), pods::now())
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn a_release_bills_the_namespaces_it_may_read_and_nothing_else() {
    let cluster = Cluster::new(&["team-a", "team-b", "team-c"]).await;
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.require_token(Some(TOKEN));
    cluster.install(&[
        PRESET,
        "fullnameOverride=meterline",
        &format!("openmeter.url={}", ingest.url()),
        &format!("openmeter.token={TOKEN}"),
        "scrape.namespaces={team-a,team-b}",
        "env.SCRAPE_INTERVAL=2s",
        "env.BATCH_PERIOD=1s",
    ]);
    running(&cluster, &["team-a", "team-b", "team-c"]).await;
    let meterline = cluster.run_pod(0).await;
    ingest.wait_for_events(8).await.unwrap();
    assert!(of(&ingest, "team-a") > 0 && of(&ingest, "team-b") > 0);
    assert_eq!(of(&ingest, "team-c"), 0);
    ingest.assert_clean();

    // The token of the release may read these two namespaces and do nothing else.
    let kubeconfig = cluster.kubeconfig_of(NAME).await;
    let may = |arguments: &[&str]| {
        let mut command = cluster.tools.command("kubectl", Some(&kubeconfig));
        let output = command.args(arguments).output().unwrap();
        (output.status.success(), text(&output))
    };
    for namespace in ["team-a", "team-b"] {
        let (allowed, output) = may(&["get", "pods", "--namespace", namespace]);
        assert!(allowed, "{output}");
    }
    for refused in [
        ["get", "pods", "--namespace", "team-c"],
        ["get", "pods", "--all-namespaces", "--output=name"],
        ["get", "secrets", "--namespace", "team-a"],
        ["get", "nodes", "--output", "name"],
        ["delete", "pod/worker", "--namespace", "team-a"],
        ["get", "leases", "--namespace", NAMESPACE],
    ] {
        let (allowed, output) = may(&refused);
        assert!(
            !allowed && output.contains("Forbidden"),
            "{refused:?}: {output}"
        );
    }
    meterline.stop().await;
}

/// A release changes its configuration and keeps its state; an uninstall leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn a_release_is_upgraded_without_a_gap_and_uninstalled_completely() {
    let cluster = Cluster::new(&["team-a", "team-b"]).await;
    let before = objects(&cluster);
    let ingest = RecordingIngest::start().await.unwrap();
    let url = format!("openmeter.url={}", ingest.url());
    let common = [
        "fullnameOverride=meterline",
        url.as_str(),
        "env.BATCH_PERIOD=1s",
    ];
    cluster.install(
        &[
            &common[..],
            &[
                PRESET,
                "scrape.namespaces={team-a}",
                "env.SCRAPE_INTERVAL=2s",
            ],
        ]
        .concat(),
    );
    running(&cluster, &["team-a", "team-b"]).await;
    let meterline = cluster.run_pod(0).await;
    ingest.wait_for_events(3).await.unwrap();
    let checksum = |set: &k8s_openapi::api::apps::v1::StatefulSet| {
        let template = &set.spec.as_ref().unwrap().template;
        let annotations = template.metadata.as_ref().unwrap().annotations.clone();
        annotations
            .unwrap_or_default()
            .get("checksum/config")
            .cloned()
    };
    assert_eq!(checksum(&cluster.stateful_set().await), None);

    // The operator's own mapping, and other namespaces.
    let own = [
        "config.input.schedule.interval=2s",
        "config.input.schedule.input.kubernetes_resources.namespaces={team-a,team-b}",
        "config.input.schedule.input.kubernetes_resources.state.path=${STATE_PATH}",
        "config.pipeline.processors[0].mapping=root = #{ id: event_id(\"own\")\\, specversion: \"1.0\"\\, type: \"own\"\\, source: \"s\"\\, subject: \"x\"\\, time: meta(\"schedule_time\")\\, data: #{ pod_namespace: this.metadata.namespace } };",
    ];
    cluster.install(&[&common[..], &own].concat());
    assert!(checksum(&cluster.stateful_set().await).is_some());
    meterline.stop().await;
    let meterline = cluster.run_pod(0).await;
    ingest
        .wait_until(MINUTE, |state| {
            let own = |it: &meterline_testkit::ingest::Received| {
                it.event["type"] == "own" && it.event["data"]["pod_namespace"] == "team-b"
            };
            state.events.iter().any(own)
        })
        .await
        .unwrap_or_else(|error| panic!("{error}{}", meterline.tail()));
    meterline.stop().await;
    ingest.assert_clean();

    cluster.helm(&["uninstall", NAME]);
    let left: Vec<_> = objects(&cluster)
        .into_iter()
        .filter(|object| !before.contains(object))
        .collect();
    assert_eq!(left, ["pod/worker of team-a", "pod/worker of team-b"]);
}

/// Every object in the cluster except Events.
fn objects(cluster: &Cluster) -> Vec<String> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--output=name"]);
    let kinds: Vec<_> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events") && !kind.starts_with("componentstatuses"))
        .collect();
    let format = "--output=go-template={{range .items}}{{.kind}}/{{.metadata.name}} of {{.metadata.namespace}}\n{{end}}";
    let listed = cluster.kubectl(&["get", &kinds.join(","), "--all-namespaces", format]);
    let mut objects: Vec<_> = listed
        .lines()
        // The API server creates and renews these itself.
        .filter(|line| !line.contains("of kube-system") && !line.starts_with("APIService/"))
        .map(|line| line.replacen("Pod/", "pod/", 1))
        .collect();
    objects.sort();
    objects
}

/// One replica leads, with the rights on Leases that the chart grants; the other takes over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn two_replicas_of_a_release_share_a_lease() {
    let cluster = Cluster::new(&["team-a"]).await;
    let ingest = RecordingIngest::start().await.unwrap();
    let url = format!("openmeter.url={}", ingest.url());
    let values = [
        PRESET,
        "fullnameOverride=meterline",
        url.as_str(),
        "replicaCount=2",
        "leaderElection.enabled=true",
        "scrape.namespaces={team-a}",
        "env.SCRAPE_INTERVAL=2s",
        "env.BATCH_PERIOD=1s",
    ];
    cluster.install(&values);
    running(&cluster, &["team-a"]).await;
    let leader = cluster.run_pod(0).await;
    leader.wait_for_log("leads now", MINUTE).await.unwrap();
    let standby = cluster.run_pod(1).await;
    standby.wait_ready(MINUTE).await.unwrap();
    let (_, page) = standby.get("/ready").await.unwrap();
    assert!(page.contains("standby; `meterline-0` leads"), "{page}");
    // An upgrade keeps what the replicas wrote into the Lease.
    cluster.install(&[&values[..], &["podAnnotations.again=yes"]].concat());
    let lease = ["get", "lease", NAME, "--namespace", NAMESPACE, "--output"];
    let held = cluster.kubectl(&[&lease[..], &["jsonpath={.spec.holderIdentity}"]].concat());
    assert_eq!(held, "meterline-0");
    let kept = cluster.kubectl(&[&lease[..], &["jsonpath={.metadata.annotations}"]].concat());
    assert!(kept.contains("meterline.io/watermark"), "{kept}");
    leader.stop().await;
    standby
        .wait_for_log("leads now", Duration::from_secs(10))
        .await
        .unwrap();
    let since = pods::now();
    ingest
        .wait_until(MINUTE, |state| {
            let after = |it: &meterline_testkit::ingest::Received| {
                let time = it.event["time"].as_str().unwrap();
                time.parse::<chrono::DateTime<chrono::Utc>>().unwrap() >= since
            };
            state.events.iter().any(after)
        })
        .await
        .unwrap();
    ingest.assert_clean();
    standby.stop().await;
    cluster.helm(&["uninstall", NAME]);
    let leases = ["get", "leases", "--namespace", NAMESPACE, "--output=name"];
    assert_eq!(cluster.kubectl(&leases), "");
}

/// The namespace enforces the restricted standard: it accepts a pod of the chart and refuses another.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn the_pod_meets_the_restricted_standard() {
    let cluster = Cluster::new(&["team-a"]).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let create = async |name: &str, spec: PodSpec| {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
            ..Pod::default()
        };
        pods.create(&PostParams::default(), &pod).await
    };
    let common = ["fullnameOverride=meterline", PRESET, "openmeter.token=x"];
    let more: [&[&str]; 3] = [
        &[],
        &["storage.enabled=false"],
        &[
            "replicaCount=2",
            "leaderElection.enabled=true",
            "scrape.namespaces={team-a}",
        ],
    ];
    for (index, more) in more.iter().enumerate() {
        cluster.install(&[&common[..], more].concat());
        let set = cluster.stateful_set().await;
        let mut spec = set.spec.unwrap().template.spec.unwrap();
        // As the controller does with the claims that it creates.
        if let Some(mounts) = &spec.containers[0].volume_mounts
            && mounts.iter().any(|mount| mount.name == "storage")
        {
            let claim = serde_json::json!({"name": "storage",
                "persistentVolumeClaim": {"claimName": "storage-meterline-0"}});
            let claim = serde_json::from_value(claim).unwrap();
            spec.volumes.get_or_insert_default().push(claim);
        }
        create(&format!("chart-{index}"), spec.clone())
            .await
            .unwrap();
        // The volume claim templates of a StatefulSet cannot be changed.
        cluster.helm(&["uninstall", NAME]);
        spec.security_context = None;
        let refused = create(&format!("other-{index}"), spec).await.unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("violates PodSecurity \"restricted"),
            "{refused}"
        );
    }
}

/// The API server validates every field of every object of every case, as a dry run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn every_object_of_every_case_is_accepted() {
    let namespaces = ["team-a", "team-b", "team-c", "team-z", "shared", "data"];
    let cluster = Cluster::new(&namespaces).await;
    cluster.kubectl(&["apply", "--filename", "tests/chart/crds.yaml"]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
    for case in cases() {
        let path = case.join("rendered.yaml");
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, rendered(&cluster.tools, &case), "{}", path.display());
        let path = path.to_str().unwrap();
        let output = cluster.kubectl(&[
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "--filename",
            path,
        ]);
        assert!(output.contains("statefulset.apps/"), "{path}: {output}");
    }
}

/// Creates a pod with this annotation; `None` for none. Returns the reason of a refusal.
async fn admitted(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    subject: Option<&str>,
) -> Result<(), String> {
    let mut new = pod(name);
    if let Some(subject) = subject {
        new = new.annotation("openmeter.io/subject", subject);
    }
    let pods = Pods::new(cluster.client.clone(), namespace);
    let created = pods.create(&new).await;
    created.map(drop).map_err(|it| format!("{it:#}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn with_the_admission_policy_a_pod_names_the_customer_of_its_namespace_or_none() {
    let cluster = Cluster::new(&["team-a", "team-b", "other"]).await;
    for namespace in ["team-a", "team-b"] {
        cluster.kubectl(&["label", "namespace", namespace, "tenant=paying"]);
    }
    let subject = "openmeter.io/subject=acme";
    cluster.kubectl(&["annotate", "namespace", "team-a", subject]);
    // One that exists before the policy.
    admitted(&cluster, "team-a", "before", Some("victim"))
        .await
        .unwrap();
    cluster.install(&[
        PRESET,
        "admissionPolicy.enabled=true",
        "admissionPolicy.required=true",
        "admissionPolicy.namespaceSelector.matchLabels.tenant=paying",
    ]);
    // The API server applies a new policy after a moment.
    let mut attempts = 0..;
    let refused = until_refused(async || {
        let name = format!("attempt-{}", attempts.next().unwrap());
        admitted(&cluster, "team-a", &name, Some("victim")).await
    });
    let refused = refused.await;
    assert!(refused.contains("has to be acme"), "{refused}");
    for (namespace, name, subject, is_admitted) in [
        ("team-a", "own", Some("acme"), true),
        ("team-a", "none", None, false),
        ("team-a", "blank", Some(" "), false),
        ("team-b", "own", Some("team-b"), true),
        ("team-b", "none", None, true),
        ("team-b", "foreign", Some("acme"), false),
        ("other", "any", Some("acme"), true),
    ] {
        let admitted = admitted(&cluster, namespace, name, subject).await;
        assert_eq!(
            admitted.is_ok(),
            is_admitted,
            "{namespace}/{name}: {admitted:?}"
        );
    }

    let pods = Pods::new(cluster.client.clone(), "team-a");
    // The kubelet goes on writing the status of the pod that was there before.
    pods.set_running("before", pods::now()).await.unwrap();
    let annotate = async |name: &str, key: &str, value: &str| {
        let annotated = pods.annotate(name, key, Some(value)).await;
        annotated.map(drop).map_err(|it| format!("{it:#}"))
    };
    annotate("before", "other", "x").await.unwrap();
    annotate("own", "openmeter.io/subject", "victim")
        .await
        .unwrap_err();
    let product = annotate("own", "data.openmeter.io/gpu_type", "cheap").await;
    assert!(product.unwrap_err().contains("gpu_type"));
    // The status cannot be used to write it either.
    let status =
        serde_json::json!({"metadata": {"annotations": {"openmeter.io/subject": "victim"}}});
    let patch = kube::api::Patch::Merge(status);
    let parameters = kube::api::PatchParams::default();
    let written = pods.api().patch_status("own", &parameters, &patch).await;
    assert!(written.is_err());
}

/// Repeats what is to be refused until it is. Returns the reason.
async fn until_refused(mut attempt: impl AsyncFnMut() -> Result<(), String>) -> String {
    let attempts = async {
        loop {
            if let Err(reason) = attempt().await {
                return reason;
            }
        }
    };
    tokio::time::timeout(MINUTE, attempts).await.unwrap()
}
