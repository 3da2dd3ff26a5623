//! The Kubernetes client: HTTP/2 where the server speaks it, with keep-alive.
//!
//! `kube`'s own speaks HTTP/1.1, where a watch has a connection for itself: an answered question on
//! another one says nothing of it. Over HTTP/2 both share a connection, and one whose other end is gone
//! is noticed within seconds.

use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tower::{BoxError, ServiceBuilder};

use super::liveness::{LivenessLayer, WatchLiveness};

/// Between two signs of life that a connection is asked for.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection that gives no sign of life for so long is dead.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection and its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client whose watches are listened to on `line`.
///
/// # Errors
/// When the configuration names certificates or credentials that cannot be used.
pub(crate) fn client(config: Config, line: WatchLiveness) -> Result<Client, BoxError> {
    if config.proxy_url.is_some() {
        // What `kube` knows about proxies is all in its own client.
        let builder = ClientBuilder::try_from(config)?;
        return Ok(builder.with_layer(&LivenessLayer(line)).build());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut tls = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name.clone().try_into()?));
    }
    let mut connector = TimeoutConnector::new(tls.enable_all_versions().wrap_connector(tcp));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connections = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(LivenessLayer(line))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
