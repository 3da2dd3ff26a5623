//! A release of the chart on a real API server, and its pods as processes: no kubelet runs, so the test
//! does its work.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Container, Namespace, PodSpec, Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use meterline_testkit::{control_plane::ControlPlane, process::Meterline};

use super::Tools;
use crate::support::meterline;

/// The namespace of releases.
pub(super) const NAMESPACE: &str = "metering";
pub(super) const NAME: &str = "meterline";

/// A cluster that releases are installed in.
pub(super) struct Cluster {
    pub(super) tools: Tools,
    pub(super) control_plane: ControlPlane,
    pub(super) client: Client,
    pub(super) kubeconfig: PathBuf,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// A cluster without a namespace for the release.
    pub(super) async fn bare() -> Self {
        let tools = Tools::find();
        let control_plane = ControlPlane::start().await.unwrap();
        let client = control_plane.admin_client().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("admin");
        std::fs::copy(control_plane.admin_kubeconfig().unwrap(), &kubeconfig).unwrap();
        Self {
            tools,
            control_plane,
            client,
            kubeconfig,
            dir,
        }
    }

    /// A cluster with these namespaces and that of the release.
    pub(super) async fn new(namespaces: &[&str]) -> Self {
        let cluster = Self::bare().await;
        // The pods of the release have to meet the strictest Pod Security Standard.
        cluster
            .namespace(
                NAMESPACE,
                &[("pod-security.kubernetes.io/enforce", "restricted")],
            )
            .await;
        for name in namespaces {
            cluster.namespace(name, &[]).await;
        }
        cluster
    }

    async fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.collect()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    /// Returns the command `helm` with these arguments, for the release.
    pub(super) fn helm(&self, arguments: &[&str]) -> String {
        let namespace = ["--namespace", NAMESPACE];
        let arguments = [arguments, &namespace].concat();
        self.tools.run("helm", Some(&self.kubeconfig), &arguments)
    }

    pub(super) fn kubectl(&self, arguments: &[&str]) -> String {
        self.tools.run("kubectl", Some(&self.kubeconfig), arguments)
    }

    /// Installs or upgrades the release with these values.
    pub(super) fn install(&self, values: &[&str]) {
        let mut arguments = vec!["upgrade", "--install", NAME, "charts/meterline"];
        for value in values {
            arguments.extend(["--set", value]);
        }
        self.helm(&arguments);
    }

    pub(super) async fn stateful_set(&self) -> StatefulSet {
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.get(NAME).await.unwrap()
    }

    /// A kubeconfig with a token of the account that the pods run under.
    pub(super) async fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3_600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let made = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .unwrap();
        let path = self.dir.path().join(format!("{account}.kubeconfig"));
        let token = made.status.unwrap().token;
        self.control_plane.write_kubeconfig(&path, &token).unwrap();
        path
    }

    /// Runs a pod of the StatefulSet: its arguments, its variables, its mounts, and the token of its
    /// account if it gets one.
    pub(super) async fn run_pod(&self, ordinal: usize) -> Meterline {
        let set = self.stateful_set().await;
        let template = set.spec.unwrap().template;
        let spec = template.spec.unwrap();
        let labels = template.metadata.unwrap().labels.unwrap();
        let name = format!("{NAME}-{ordinal}");
        let container = &spec.containers[0];
        let mounts = self.mounts(&name, &spec, container).await;
        let inside = |text: &str| {
            mounts.iter().fold(text.to_owned(), |text, (path, folder)| {
                text.replace(path, folder.to_str().unwrap())
            })
        };
        let arguments = container.args.iter().flatten().map(|it| inside(it));
        let mut command = meterline().args(arguments);
        for variable in container.env.iter().flatten() {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), _) => inside(value),
                (None, Some(source)) => {
                    match source.field_ref.as_ref().unwrap().field_path.as_str() {
                        "metadata.name" => name.clone(),
                        "metadata.namespace" => NAMESPACE.to_owned(),
                        "metadata.labels['app.kubernetes.io/instance']" => {
                            labels["app.kubernetes.io/instance"].clone()
                        }
                        other => panic!("{other}"),
                    }
                }
                (None, None) => String::new(),
            };
            command = command.env(&variable.name, value);
        }
        if spec.automount_service_account_token == Some(true) {
            let account = spec.service_account_name.as_deref().unwrap();
            command = command.kubeconfig(&self.kubeconfig_of(account).await);
        }
        command.start().unwrap()
    }

    /// Returns the mounts, as folders of the test. A volume that outlives the pod keeps its folder.
    async fn mounts(
        &self,
        pod: &str,
        spec: &PodSpec,
        container: &Container,
    ) -> BTreeMap<String, PathBuf> {
        let mut mounts = BTreeMap::new();
        for mount in container.volume_mounts.iter().flatten() {
            let folder = self.dir.path().join(pod).join(&mount.name);
            std::fs::create_dir_all(&folder).unwrap();
            let volume = spec
                .volumes
                .iter()
                .flatten()
                .find(|volume| volume.name == mount.name);
            if let Some(source) = volume.and_then(|it| it.secret.as_ref()) {
                let name = source.secret_name.as_deref().unwrap();
                let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
                let data = api.get(name).await.unwrap().data.unwrap();
                for item in source.items.iter().flatten() {
                    write(&folder.join(&item.path), &data[&item.key].0);
                }
            }
            if let Some(source) = volume.and_then(|it| it.config_map.as_ref()) {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
                let data = api.get(&source.name).await.unwrap().data.unwrap();
                for (key, text) in data {
                    write(&folder.join(key), text.as_bytes());
                }
            }
            mounts.insert(mount.mount_path.clone(), folder);
        }
        mounts
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}
