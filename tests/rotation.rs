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
    pods::{self, Phase, Pods, pod, until_done},
    scene::Scene,
};
use serde_json::{Value, json};

use crate::support::{BINARY, MINUTE, seconds};

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

/// Replaces a file in one step, as the kubelet does.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// The old token becomes invalid before the new one is there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn a_service_account_token_that_is_replaced_costs_no_second() {
    let scene = Scene::bare(BINARY).await;
    let (control_plane, client) = (&scene.control_plane, &scene.client);
    let old = service_account(client, "old").await;
    let new = service_account(client, "new").await;
    let (token_file, kubeconfig) = (scene.file("token"), scene.file("kubeconfig"));
    replace(&token_file, &old);
    write_kubeconfig(control_plane, &kubeconfig, &token_file);
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "5s");
    let meterline = meterline.kubeconfig(&kubeconfig).start().unwrap();
    for name in ["ends", "stays"] {
        let running = scene.pods.create_running(&pod(name), scene.start).await;
        running.unwrap();
    }
    scene.wait_for_event_of("stays").await;

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts
        .delete("old", &DeleteParams::default())
        .await
        .unwrap();
    // The API server does not check the token of an open watch again.
    control_plane.restart_apiserver().await.unwrap();
    meterline.wait_unready("Unauthorized").await.unwrap();
    let spec = pod("new");
    let new_pod = until_done(|| scene.pods.create_running(&spec, pods::now())).await;
    new_pod.unwrap();
    let end = pods::now();
    let ended = || {
        scene
            .pods
            .set_ended("ends", Phase::Succeeded, scene.start, end)
    };
    until_done(ended).await.unwrap();
    scene
        .truth
        .wait_until(MINUTE, |lives| {
            lives.len() == 3 && lives.iter().any(|it| it.end.is_some())
        })
        .await
        .unwrap();
    replace(&token_file, &new);
    meterline.wait_ready(MINUTE).await.unwrap();
    scene.wait_for_event_of("new").await;
    scene.finish(&meterline).await;
}

/// The API server restarts with a certificate of another authority; the file that the kubeconfig names is
/// replaced as well.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn another_certificate_authority_costs_no_second() {
    let scene = Scene::with(BINARY, 0).await;
    let control_plane = &scene.control_plane;
    let meterline = scene.preset().env("SCRAPE_INTERVAL", "5s");
    let meterline = meterline.start_ready().await.unwrap();
    // With a new client each time: the truth trusts only the first authority.
    let life = async |name: &str| {
        let pods = Pods::new(control_plane.admin_client().await.unwrap(), "default");
        let made = pods.create(&pod(name)).await.unwrap();
        // No pod starts before its creation.
        let start = pods::now();
        pods.set_running(name, start).await.unwrap();
        Life {
            uid: made.metadata.uid.unwrap(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            start,
            end: None,
        }
    };
    let mut lives = vec![life("ends").await, life("stays").await];
    scene.wait_for_event_of("stays").await;

    let before = std::fs::read(control_plane.ca_file()).unwrap();
    control_plane.stop_apiserver();
    std::fs::remove_dir_all(control_plane.ca_file().parent().unwrap()).unwrap();
    control_plane.start_apiserver().await.unwrap();
    assert_ne!(std::fs::read(control_plane.ca_file()).unwrap(), before);
    lives.push(life("new").await);
    let pods = Pods::new(control_plane.admin_client().await.unwrap(), "default");
    let end = pods::now().max(lives[0].start + seconds(1));
    let ended = pods.set_ended("ends", Phase::Succeeded, lives[0].start, end);
    ended.await.unwrap();
    lives[0].end = Some(end);
    scene.wait_for_event_of("new").await;
    scene.assert_billed(&lives, &meterline).await;
    meterline.stop().await;
}
