//! The Kubernetes client: HTTP/2 where the server supports it, with keep-alive.
//!
//! `kube`'s own client uses HTTP/1.1, where a watch has its own connection: an answer on another connection
//! proves nothing about it. Over HTTP/2 both share a connection, and a lost peer is detected within seconds.

use std::time::Duration;

use http::{HeaderValue, Request, header::ACCEPT};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
    config::InferConfigError,
};
use thiserror::Error;
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder, util::MapRequestLayer};

use super::liveness::{LivenessLayer, WatchLiveness};

/// The time between two pings on a connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection on which a ping is not answered for this long is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection and its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Streaming lists are on by default from this minor version of Kubernetes 1.
const STREAMING_LIST_MINOR: u32 = 34;
/// A server that does not answer a small request in this time counts as unavailable.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    /// No address of the API server or no credentials are configured.
    #[error("no usable cluster configuration: {0}")]
    Configuration(#[source] Box<InferConfigError>),
    /// The configuration names certificates or credentials that cannot be used.
    #[error("{0}")]
    Client(#[source] BoxError),
    /// The server did not answer in time.
    #[error("the API server does not answer")]
    NoAnswer,
}

/// The address of the API server, and the credentials for it.
#[derive(Debug, Clone, Default)]
pub(crate) enum Cluster {
    /// From KUBECONFIG, `~/.kube/config` or the service account, read for each new client: a token or a
    /// certificate authority may be replaced at any time.
    #[default]
    Inferred,
    /// At an address that needs no credentials.
    #[cfg(test)]
    At(http::Uri),
}

impl Cluster {
    /// The address and the credentials as they are now.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) async fn config(&self) -> Result<Config, ConnectError> {
        match self {
            Self::Inferred => Config::infer()
                .await
                .map_err(|error| ConnectError::Configuration(Box::new(error))),
            #[cfg(test)]
            Self::At(uri) => Ok(Config::new(uri.clone())),
        }
    }
}

/// Makes a client that tracks the liveness of its watches.
///
/// # Errors
/// When the configuration names certificates or credentials that cannot be used.
pub(crate) fn client(config: Config, liveness: WatchLiveness) -> Result<Client, ConnectError> {
    build(config, liveness, Wanted::Objects).map_err(ConnectError::Client)
}

/// What is requested of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whole objects.
    Objects,
    /// Their metadata alone: the status of a node has many kilobytes, and changes all the time.
    Metadata,
}

/// The media types of the metadata of each object of a watch, and of a list. A server that does not know them answers with
/// whole objects. (Kubernetes API concepts, "Metadata-only fetches".)
const EACH: HeaderValue = HeaderValue::from_static(
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
);
const LIST: HeaderValue = HeaderValue::from_static(
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
);

impl Wanted {
    fn request<B>(self, mut request: Request<B>) -> Request<B> {
        if self == Self::Metadata && request.uri().path() != VERSION {
            let query = request.uri().query().unwrap_or_default();
            let is_watch = query.split('&').any(|it| it == "watch=true");
            let accepted = if is_watch { EACH } else { LIST };
            request.headers_mut().insert(ACCEPT, accepted);
        }
        request
    }
}

/// The path at which a server tells its version.
const VERSION: &str = "/version";

fn build(config: Config, liveness: WatchLiveness, wanted: Wanted) -> Result<Client, BoxError> {
    let wanted = MapRequestLayer::new(move |request| wanted.request(request));
    if config.proxy_url.is_some() {
        // Only `kube`'s own client supports proxies.
        let builder = ClientBuilder::try_from(config)?;
        let builder = builder.with_layer(&LivenessLayer(liveness));
        return Ok(builder.with_layer(&wanted).build());
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
        .layer(wanted)
        .layer(LivenessLayer(liveness))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// The clients of the API server.
pub(crate) struct Clients {
    /// Watches and lists; the liveness of its watches is tracked.
    pub(crate) client: Client,
    /// Requests the past. Its watches do not show whether the current watch is alive, and that one waits,
    /// with its list begun, until the past is known.
    pub(crate) history: Client,
    pub(crate) has_streaming_lists: bool,
}

impl Clients {
    /// Makes clients with the credentials as they are now.
    ///
    /// # Errors
    /// When there are no usable credentials, or the server does not answer.
    pub(crate) async fn connect(
        cluster: &Cluster,
        liveness: WatchLiveness,
        wanted: Wanted,
    ) -> Result<Self, ConnectError> {
        let config = cluster.config().await?;
        let history = client(config.clone(), WatchLiveness::default())?;
        let client = build(config, liveness, wanted).map_err(ConnectError::Client)?;
        let version = timeout(ANSWER_TIMEOUT, client.apiserver_version())
            .await
            .map_err(|_| ConnectError::NoAnswer)?;
        // A service account that may not read the version may still watch pods; lists in pages work everywhere.
        let minor = version.ok().and_then(|version| {
            let digits: String = version
                .minor
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse::<u32>().ok()
        });
        Ok(Self {
            client,
            history,
            has_streaming_lists: minor.is_some_and(|minor| minor >= STREAMING_LIST_MINOR),
        })
    }
}

#[cfg(test)]
mod tests {
    use meterline_kubesim::{Kubesim, Options};
    use tokio::net::TcpListener;

    use super::*;

    async fn has_streaming_lists(minor: u32, refused: u64) -> bool {
        let options = Options {
            minor,
            ..Options::default()
        };
        let sim = Kubesim::start(options).await.unwrap();
        sim.refuse(403, refused);
        let cluster = Cluster::At(sim.url().parse().unwrap());
        let clients = Clients::connect(&cluster, WatchLiveness::default(), Wanted::Objects).await;
        clients.unwrap().has_streaming_lists
    }

    #[tokio::test]
    async fn streaming_lists_are_used_from_kubernetes_1_34_on() {
        assert!(!has_streaming_lists(33, 0).await);
        assert!(has_streaming_lists(34, 0).await);
    }

    #[test]
    fn metadata_is_requested_in_the_form_of_a_watch_or_of_a_list() {
        let accepted = |wanted: Wanted, uri: &str| {
            let request = Request::get(uri)
                .header(ACCEPT, "as before")
                .body(())
                .unwrap();
            let request = wanted.request(request);
            request.headers()[ACCEPT].to_str().unwrap().to_owned()
        };
        let (list, watch) = ("/api/v1/nodes?limit=1", "/api/v1/nodes?&watch=true&x=y");
        assert!(accepted(Wanted::Metadata, list).contains("as=PartialObjectMetadataList;"));
        assert!(accepted(Wanted::Metadata, watch).contains("as=PartialObjectMetadata;"));
        for (wanted, uri) in [
            (Wanted::Metadata, VERSION),
            (Wanted::Objects, list),
            (Wanted::Objects, watch),
        ] {
            assert_eq!(accepted(wanted, uri), "as before", "{uri}");
        }
    }

    #[tokio::test]
    async fn a_service_account_that_may_not_read_the_version_lists_in_pages() {
        assert!(!has_streaming_lists(35, 1).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_connections_and_does_not_answer_is_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cluster = Cluster::At(url.parse().unwrap());
        let error = Clients::connect(&cluster, WatchLiveness::default(), Wanted::Objects).await;
        let error = error.err().unwrap();
        assert!(matches!(error, ConnectError::NoAnswer), "{error}");
        assert_eq!(error.to_string(), "the API server does not answer");
    }

    #[tokio::test]
    async fn a_certificate_authority_that_cannot_be_read_is_an_error() {
        let mut config = Config::new("https://127.0.0.1:1".parse().unwrap());
        config.root_cert = Some(vec![b"no certificate".to_vec()]);
        let error = client(config, WatchLiveness::default()).err().unwrap();
        assert!(matches!(error, ConnectError::Client(_)), "{error}");
    }

    #[tokio::test]
    async fn an_answer_to_a_watch_opens_the_connection_and_its_bytes_are_recorded() {
        use futures::StreamExt;
        use kube::{Api, api::WatchParams, core::ApiResource};

        let sim = Kubesim::start(Options::default()).await.unwrap();
        let liveness = WatchLiveness::default();
        let config = Config::new(sim.url().parse().unwrap());
        let client = client(config, liveness.clone()).unwrap();
        let pods = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let api: Api<kube::core::DynamicObject> = Api::all_with(client, &pods);
        let mut events = api
            .watch(&WatchParams::default(), "1")
            .await
            .unwrap()
            .boxed();
        let connection = liveness.connection();
        assert!(connection.open_since.is_some() && connection.last_bytes_at.is_none());
        let pod = serde_json::json!({"metadata": {"name": "a", "namespace": "n", "uid": "a"}});
        sim.change(|store| store.put(meterline_kubesim::Kind::Pod, pod));
        assert!(events.next().await.unwrap().is_ok());
        assert!(liveness.connection().last_bytes_at.is_some());
        sim.cut_watches();
        while events.next().await.is_some() {}
        let connection = liveness.connection();
        assert!(connection.open_since.is_none() && connection.ended_at.is_some());
    }
}
