//! A TCP proxy in front of the API server, whose connections can stop forwarding.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::control_plane::ControlPlane;

/// The proxy. It ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    silences: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy in front of the API server on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(control_plane: &ControlPlane) -> anyhow::Result<Self> {
        let target = control_plane.url();
        let target = target.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free_port()?)).await?;
        let address = listener.local_addr()?;
        let silences = watch::Sender::new(0);
        let task = tokio::spawn(accept(listener, target, silences.clone()));
        Ok(Self {
            address,
            silences,
            task,
        })
    }

    /// Silences the open connections: they carry nothing and stay open, as when the other end
    /// disappears without closing them. New connections work.
    pub fn silence(&self) {
        self.silences.send_modify(|count| *count += 1);
    }

    /// Writes a kubeconfig for one of the control plane's users that leads through the proxy, and
    /// returns its path, which lives as long as the control plane.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn kubeconfig_for(
        &self,
        control_plane: &ControlPlane,
        user: &str,
    ) -> anyhow::Result<PathBuf> {
        let path = control_plane.kubeconfig_for(user)?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let server = config
            .pointer_mut("/clusters/0/cluster/server")
            .context("no server in the kubeconfig")?;
        *server = json!(format!("https://{}", self.address));
        let path = path.with_extension("through-proxy");
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, silences: watch::Sender<usize>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let mut silence = silences.subscribe();
        let target = target.clone();
        connections.spawn(async move {
            let mut near = near;
            // A client whose server refuses sees its connection closed.
            let Ok(mut far) = TcpStream::connect(target).await else {
                return;
            };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                // The sockets are kept, and with them the connections.
                _ = silence.changed() => std::future::pending().await,
            }
        });
    }
}
