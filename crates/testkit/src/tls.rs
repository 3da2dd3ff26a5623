//! TLS in front of a server without TLS, with certificates that the test chooses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// Who signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, as a server presents it.
#[derive(Debug, Clone)]
pub struct Certificate(Arc<ServerConfig>);

impl Authority {
    /// An authority that is not trusted yet.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> anyhow::Result<Self> {
        crate::install_crypto();
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Two authorities of the same name differ only in their keys, which is another error.
        let name = format!("authority {}", uuid::Uuid::new_v4());
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().context("cannot create a key")?;
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, pem })
    }

    /// The authority's own certificate, for those who are to trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `host`.
    ///
    /// # Errors
    /// When `host` is neither a name nor an address.
    pub fn certificate(&self, host: &str) -> anyhow::Result<Certificate> {
        self.sign(CertificateParams::new(vec![host.to_owned()])?)
    }

    /// A certificate for `host` that expired years ago.
    ///
    /// # Errors
    /// When `host` is neither a name nor an address.
    pub fn expired(&self, host: &str) -> anyhow::Result<Certificate> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> anyhow::Result<Certificate> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Certificate(Arc::new(config)))
    }
}

/// Terminates TLS. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    certificate: watch::Sender<Certificate>,
    connections: watch::Receiver<Vec<Instant>>,
    task: JoinHandle<()>,
}

impl TlsFront {
    /// Listens on a free loopback port in front of the server at `url`.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(url: &str, certificate: Certificate) -> anyhow::Result<Self> {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free_port()?)).await?;
        let address = listener.local_addr()?;
        let certificate = watch::Sender::new(certificate);
        let (sender, connections) = watch::channel(Vec::new());
        let task = tokio::spawn(accept(listener, target, certificate.subscribe(), sender));
        Ok(Self {
            address,
            certificate,
            connections,
            task,
        })
    }

    /// The base URL, `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Presents this certificate to new connections.
    pub fn present(&self, certificate: Certificate) {
        self.certificate.send_replace(certificate);
    }

    /// The time of each connection, whether or not the client trusted the certificate.
    #[must_use]
    pub fn connections(&self) -> Vec<Instant> {
        self.connections.borrow().clone()
    }

    /// Waits for `count` connections in all.
    ///
    /// # Errors
    /// When there are fewer after `limit`.
    pub async fn wait_for_connections(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let mut connections = self.connections.clone();
        timeout(limit, connections.wait_for(|it| it.len() >= count))
            .await
            .with_context(|| format!("no {count} connections within {limit:?}"))??;
        Ok(())
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    certificate: watch::Receiver<Certificate>,
    connections: watch::Sender<Vec<Instant>>,
) {
    let mut tasks = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        // A test that waits for a connection may present another certificate after it.
        let acceptor = TlsAcceptor::from(Arc::clone(&certificate.borrow().0));
        connections.send_modify(|it| it.push(Instant::now()));
        let target = target.clone();
        tasks.spawn(async move {
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut near) = acceptor.accept(near).await else {
                return;
            };
            let Ok(mut far) = TcpStream::connect(target).await else {
                return;
            };
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
    }
}
