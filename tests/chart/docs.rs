//! The commands of `docs/install.md`, run one after the other on a real API server.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Service};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use super::{
    release::{Cluster, NAME, NAMESPACE},
    text,
};
use crate::{readme::blocks, support::root};

/// Adapts a block to a cluster without kubelet and controllers. Nothing becomes ready, so it does not wait.
/// No pod is behind the Service, which the API server reports. A controller would remove the finalizer of
/// what is deleted without its pods.
fn without_kubelet(block: &str) -> String {
    let proxied =
        "kubectl get --raw /api/v1/namespaces/metering/services/meterline:http/proxy/stats";
    let refused = format!(
        "{{ ! {proxied} 2>refusal; cat refusal >&2; grep -q 'no endpoints available' refusal; }}"
    );
    let orphaned = "--cascade=orphan --wait=false\n\
                    kubectl --namespace metering patch statefulset meterline --type=json \
                    --patch='[{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]'";
    block
        .replace(" --wait ", " ")
        .replace(proxied, &refused)
        .replace("--cascade=orphan", orphaned)
}

/// Creates what the controllers of a cluster create for a Service without pods. Without it the API server
/// does not know where to forward a request.
async fn empty_endpoints(cluster: &Cluster) {
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let ports = services.get(NAME).await.unwrap().spec.unwrap().ports;
    let names: Vec<_> = ports
        .iter()
        .flatten()
        .map(|it| it.name.as_deref())
        .collect();
    assert_eq!(names, [Some("http")]);
    let endpoints: Api<Endpoints> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let empty = Endpoints {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        subsets: None,
    };
    endpoints
        .create(&PostParams::default(), &empty)
        .await
        .unwrap();
}

/// Runs a block in a folder that looks like a checkout. A command that fails makes it fail.
fn run(cluster: &Cluster, folder: &Path, block: &str) {
    let path = std::env::var("PATH").unwrap();
    let tools = cluster.tools.path("");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &without_kubelet(block)])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", tools.display()))
        .env("KUBECONFIG", &cluster.kubeconfig)
        .env("HOME", folder)
        .env("OPENMETER_TOKEN", "om_of-the-page")
        .output()
        .unwrap();
    assert!(output.status.success(), "{block}\n{}", text(&output));
}

/// The program accepts the configuration that the page passes to the release.
async fn lint(cluster: &Cluster, folder: &Path) {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let Some(map) = api.get_opt(NAME).await.unwrap() else {
        return;
    };
    let path = folder.join("linted.yaml");
    std::fs::write(&path, &map.data.unwrap()["config.yaml"]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_meterline"))
        .arg("lint")
        .arg(path)
        .env("STATE_PATH", "")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane and the tools of the chart: KUBEBUILDER_ASSETS and METERLINE_TOOLS, as CONTRIBUTING.md has it"]
async fn every_command_of_the_installation_guide_works() {
    let cluster = Cluster::bare().await;
    cluster.kubectl(&["apply", "--filename", "tests/chart/crds.yaml"]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]);
    let folder = tempfile::tempdir().unwrap();
    for name in ["charts", "examples"] {
        symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    let blocks = blocks("docs/install.md");
    assert!(blocks.len() >= 10, "{blocks:?}");
    let mut installed = 0;
    let mut configured = Vec::new();
    for block in &blocks {
        if block.contains("/proxy/") {
            empty_endpoints(&cluster).await;
        }
        run(&cluster, folder.path(), block);
        lint(&cluster, folder.path()).await;
        if block.contains("helm upgrade") {
            installed += 1;
            let set = cluster.stateful_set().await;
            let template = set.spec.unwrap().template.spec.unwrap();
            let arguments = template.containers[0].args.clone().unwrap();
            configured.push(arguments.last().unwrap().clone());
        }
    }
    assert!(installed >= 8, "{installed} blocks with a release");
    configured.dedup();
    assert_eq!(
        configured,
        [
            "kubernetes-pod-exec-time",
            "/etc/meterline/config/config.yaml",
            "/etc/limits/config.yaml"
        ]
    );
    // The last block applies the manifests for users without Helm: two replicas with a Lease.
    let set = cluster.stateful_set().await.spec.unwrap();
    assert_eq!(set.replicas, Some(2));
}
