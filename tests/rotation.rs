//! Credentials and certificates that change while the program runs, on a real API server.

use std::path::Path;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use meterline_testkit::{
    audit::Life,
    control_plane::ControlPlane,
    ingest::RecordingIngest,
    pods::{self, Phase, Pods, pod},
    process::Meterline,
    truth::Truth,
};
use serde_json::{Value, json};

use crate::support::{MINUTE, preset, preset_at, seconds, settled, stop, until_done};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A service account that may read pods, and a token of it.
async fn service_account(client: &Client, name: &str) -> String {
    let create = PostParams::default();
    let metadata = json!({"metadata": {"name": name}});
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts.create(&create, &object(metadata)).await.unwrap();
    let role = object::<Role>(json!({"metadata": {"name": name}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]}));
    let roles = Api::namespaced(client.clone(), "default");
    roles.create(&create, &role).await.unwrap();
    let binding = object::<RoleBinding>(json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]}));
    let bindings = Api::namespaced(client.clone(), "default");
    bindings.create(&create, &binding).await.unwrap();
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let made = accounts
        .create_token_request(name, &create, &request)
        .await
        .unwrap();
    made.status.unwrap().token
}

/// A kubeconfig that names the file with the token, as a pod's service account does.
fn write_kubeconfig(control_plane: &ControlPlane, path: &Path, token_file: &Path) {
    control_plane.write_kubeconfig(path, "").unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"tokenFile": token_file});
    std::fs::write(path, config.to_string()).unwrap();
}

/// As the kubelet does: the new file takes the place of the old one at once.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Waits until a pod is billed.
async fn events_of(ingest: &RecordingIngest, name: &str) {
    ingest
        .wait_until(MINUTE, |state| {
            let mut events = state.events.iter();
            events.any(|it| it.event["data"]["pod_name"] == name)
        })
        .await
        .unwrap();
}

async fn exact(meterline: &Meterline, ingest: &RecordingIngest, lives: &[Life]) {
    let start = lives.iter().map(|it| it.start).min().unwrap();
    let range = start..pods::now();
    let report = settled(ingest, lives, &range, MINUTE).await;
    if !report.is_exact() {
        eprintln!("{}", meterline.log().join("\n"));
    }
    report.assert_exact();
    ingest.assert_clean();
}

/// The old token is worth nothing any more before the new one is there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_service_account_token_that_is_replaced_costs_no_second() {
    let control_plane = ControlPlane::start().await.unwrap();
    let client = control_plane.admin_client().await.unwrap();
    let truth = Truth::watch(client.clone()).await.unwrap();
    let old = service_account(&client, "old").await;
    let new = service_account(&client, "new").await;
    let dir = tempfile::tempdir().unwrap();
    let (token_file, kubeconfig) = (dir.path().join("token"), dir.path().join("kubeconfig"));
    replace(&token_file, &old);
    write_kubeconfig(&control_plane, &kubeconfig, &token_file);
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset_at(&kubeconfig, &ingest).start().unwrap();
    let pods = Pods::new(client.clone(), "default");
    let start = pods::now();
    for name in ["ends", "stays"] {
        pods.create_running(&pod(name), start).await.unwrap();
    }
    events_of(&ingest, "stays").await;

    let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
    accounts
        .delete("old", &DeleteParams::default())
        .await
        .unwrap();
    // A watch that is open is not asked for its token again.
    control_plane.restart_apiserver().await.unwrap();
    meterline
        .wait_for_page("/ready", MINUTE, |status, page| {
            status == 503 && page.contains("Unauthorized")
        })
        .await
        .unwrap();
    let spec = pod("new");
    until_done(|| pods.create_running(&spec, pods::now())).await;
    let end = pods::now();
    until_done(|| pods.set_ended("ends", Phase::Succeeded, start, end)).await;
    truth
        .wait_until(MINUTE, |lives| {
            lives.len() == 3 && lives.iter().any(|it| it.end.is_some())
        })
        .await
        .unwrap();
    replace(&token_file, &new);
    meterline.wait_ready(MINUTE).await.unwrap();
    events_of(&ingest, "new").await;
    exact(&meterline, &ingest, &truth.lives()).await;
    stop(&meterline).await;
}

/// The API server comes back with a certificate of another authority; the file that the kubeconfig
/// names is replaced, too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn another_certificate_authority_costs_no_second() {
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.grant_pods("reader", "default").await.unwrap();
    let ingest = RecordingIngest::start().await.unwrap();
    let meterline = preset(&control_plane, "reader", &ingest).start().unwrap();
    let life = async |name: &str| {
        let pods = Pods::new(control_plane.admin_client().await.unwrap(), "default");
        let start = pods::now();
        let made = pods.create_running(&pod(name), start).await.unwrap();
        Life {
            uid: made.metadata.uid.unwrap(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            start,
            end: None,
        }
    };
    let mut lives = vec![life("ends").await, life("stays").await];
    events_of(&ingest, "stays").await;

    let before = std::fs::read(control_plane.ca_file()).unwrap();
    control_plane.stop_apiserver();
    std::fs::remove_dir_all(control_plane.ca_file().parent().unwrap()).unwrap();
    control_plane.start_apiserver().await.unwrap();
    assert_ne!(std::fs::read(control_plane.ca_file()).unwrap(), before);
    lives.push(life("new").await);
    let pods = Pods::new(control_plane.admin_client().await.unwrap(), "default");
    let end = pods::now().max(lives[0].start + seconds(1));
    pods.set_ended("ends", Phase::Succeeded, lives[0].start, end)
        .await
        .unwrap();
    lives[0].end = Some(end);
    events_of(&ingest, "new").await;
    exact(&meterline, &ingest, &lives).await;
    stop(&meterline).await;
}
