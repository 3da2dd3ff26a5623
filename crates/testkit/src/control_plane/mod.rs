//! A real etcd and kube-apiserver on loopback, with TLS, token authentication and RBAC.
//!
//! No scheduler, kubelet or controller runs: a pod needs a node name, [`crate::pods`] or
//! [`crate::kwok`] has to write its status, and a deleted namespace is never removed.
//!
//! The binaries are found in the folder that `KUBEBUILDER_ASSETS` names;
//! `tests/envtest/build.sh` builds them and prints the folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::child::Child;
use crate::ports::free_port;

mod access;
#[cfg(test)]
mod tests;

/// The variable that names the folder with the binaries.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// How long etcd and the API server together may take to start. On an idle machine it takes seconds.
const START_LIMIT: Duration = Duration::from_secs(120);
/// The pause between two requests to a server that does not announce that it is ready.
const POLL: Duration = Duration::from_millis(50);

/// The users that the API server knows. `admin` may do everything, the others nothing until a test
/// [grants](ControlPlane::grant_pods) it.
pub const USERS: [&str; 4] = ["admin", "reader", "writer", "nobody"];

/// A running control plane. Dropping it ends both processes and removes their data.
#[derive(Debug)]
pub struct ControlPlane {
    // Declared before the folder: fields are dropped in this order.
    apiserver: Mutex<Option<Child>>,
    etcd: Child,
    binaries: PathBuf,
    dir: TempDir,
    etcd_port: u16,
    port: u16,
    tokens: Vec<(&'static str, String)>,
}

/// The path of a binary in [`ASSETS`].
pub(crate) fn binary(name: &str) -> Result<PathBuf, String> {
    const REMEDY: &str = "build it with `export KUBEBUILDER_ASSETS=$(tests/envtest/build.sh)`";
    let Some(folder) = std::env::var_os(ASSETS).filter(|folder| !folder.is_empty()) else {
        return Err(format!("{ASSETS} is not set, no {name}; {REMEDY}"));
    };
    let path = Path::new(&folder).join(name);
    if !path.is_file() {
        return Err(format!("no {name} in {ASSETS}={folder:?}; {REMEDY}"));
    }
    Ok(path)
}

impl ControlPlane {
    /// Starts both servers and waits until the API server is ready.
    ///
    /// # Errors
    /// When a binary is missing, or a server ends or is not ready within two minutes; the error
    /// shows the end of its log.
    pub async fn start() -> anyhow::Result<Self> {
        crate::install_crypto();
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_start().await {
                // Another process may have taken a port after it was chosen.
                Err(error)
                    if tries < 3 && format!("{error:#}").contains("address already in use") => {}
                result => return result,
            }
        }
    }

    async fn try_start() -> anyhow::Result<Self> {
        let etcd = binary("etcd").map_err(anyhow::Error::msg)?;
        let apiserver = binary("kube-apiserver").map_err(anyhow::Error::msg)?;
        let dir = tempfile::Builder::new()
            .prefix("meterline-control-plane-")
            .tempdir()?;
        let tokens = USERS.map(|user| (user, format!("{user}-{}", uuid::Uuid::new_v4())));
        access::write_credentials(dir.path(), &tokens)?;
        let (etcd_port, port) = (free_port()?, free_port()?);
        let etcd = Child::spawn("etcd", etcd_command(&etcd, dir.path(), etcd_port)?)?;
        let this = Self {
            apiserver: Mutex::new(None),
            etcd,
            binaries: apiserver,
            dir,
            etcd_port,
            port,
            tokens: tokens.to_vec(),
        };
        this.start_apiserver().await?;
        Ok(this)
    }

    /// Starts the API server again after [`ControlPlane::stop_apiserver`], on the same port with the
    /// same data, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within two minutes; the error shows the end of its log.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        let child = Child::spawn("kube-apiserver", self.apiserver_command())?;
        *self.apiserver() = Some(child);
        self.wait_ready().await
    }

    /// Kills the API server at once (SIGKILL), as a failed node would.
    pub fn stop_apiserver(&self) {
        // Dropping the handle kills the process and waits until it has ended.
        drop(self.apiserver().take());
    }

    /// [`ControlPlane::stop_apiserver`] and [`ControlPlane::start_apiserver`].
    ///
    /// # Errors
    /// As [`ControlPlane::start_apiserver`].
    pub async fn restart_apiserver(&self) -> anyhow::Result<()> {
        self.stop_apiserver();
        self.start_apiserver().await
    }

    /// Where the API server listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The file with the certificates to trust, as the API server wrote them.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("certs/apiserver.crt")
    }

    /// The token of one of [`USERS`]; for any other name an empty one, which is invalid.
    #[must_use]
    pub fn token(&self, user: &str) -> &str {
        let mut tokens = self.tokens.iter();
        tokens
            .find(|(name, _)| *name == user)
            .map_or("", |(_, token)| token)
    }

    /// Writes a kubeconfig for one of [`USERS`] and returns its path, which lives as long as the
    /// control plane.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_for(&self, user: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join(format!("{user}.kubeconfig"));
        self.write_kubeconfig(&path, self.token(user))?;
        Ok(path)
    }

    /// Writes a kubeconfig with any token, such as one that the API server refuses, to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, token: &str) -> anyhow::Result<()> {
        // JSON is valid YAML, and its encoder takes care of the quotes.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(),
                "certificate-authority": self.ca_file(),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        std::fs::write(path, config.to_string())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The kubeconfig of `admin`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn admin_kubeconfig(&self) -> anyhow::Result<PathBuf> {
        self.kubeconfig_for("admin")
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub async fn admin_client(&self) -> anyhow::Result<Client> {
        self.client("admin").await
    }

    /// A client of one of [`USERS`].
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub async fn client(&self, user: &str) -> anyhow::Result<Client> {
        crate::install_crypto();
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig_for(user)?)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Client::try_from(config)?)
    }

    fn apiserver(&self) -> MutexGuard<'_, Option<Child>> {
        self.apiserver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn apiserver_command(&self) -> Command {
        let dir = self.dir.path();
        let file = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new(&self.binaries);
        command.current_dir(dir);
        for (flag, value) in [
            (
                "etcd-servers",
                format!("http://127.0.0.1:{}", self.etcd_port),
            ),
            ("cert-dir", file("certs")),
            ("bind-address", "127.0.0.1".to_owned()),
            ("advertise-address", "127.0.0.1".to_owned()),
            // A loopback address cannot be an endpoint, and nothing in the cluster needs one.
            ("endpoint-reconciler-type", "none".to_owned()),
            ("secure-port", self.port.to_string()),
            ("service-account-key-file", file(access::PUBLIC_KEY)),
            (
                "service-account-signing-key-file",
                file(access::PRIVATE_KEY),
            ),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", file(access::TOKENS)),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            // No controller creates the service accounts that it would wait for.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            // Otherwise statuses of claims lose the shares of devices.
            ("feature-gates", "DRAConsumableCapacity=true".to_owned()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        command
    }

    async fn wait_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let last = match self.ready().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            {
                let apiserver = self.apiserver();
                let apiserver = apiserver.as_ref().context("kube-apiserver was stopped")?;
                for (name, child) in [("etcd", &self.etcd), ("kube-apiserver", apiserver)] {
                    if let Some(status) = child.exited() {
                        bail!("{name} ended ({status}):{}", child.tail());
                    }
                }
                if Instant::now() > deadline {
                    let tail = apiserver.tail();
                    bail!("kube-apiserver is not ready after {START_LIMIT:?}: {last:#}{tail}");
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The API server is ready when it reports so and has created its own namespace.
    async fn ready(&self) -> anyhow::Result<()> {
        const ANSWER: Duration = Duration::from_secs(5);
        if !self.ca_file().is_file() {
            bail!("it has written no certificate");
        }
        let check = async {
            let client = self.admin_client().await?;
            let request = http::Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await?;
            Api::<Namespace>::all(client).get("default").await?;
            Ok(())
        };
        tokio::time::timeout(ANSWER, check).await?
    }
}

fn etcd_command(binary: &Path, dir: &Path, port: u16) -> anyhow::Result<Command> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new(binary);
    command.current_dir(dir).args([
        // The data is needed only during the test, and no test simulates a power failure.
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--name=default",
    ]);
    for (flag, value) in [
        ("data-dir", dir.join("etcd").display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("default={peer}")),
    ] {
        command.arg(format!("--{flag}={value}"));
    }
    Ok(command)
}
