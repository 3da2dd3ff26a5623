//! An HTTP proxy in front of the API server that answers at once and delays watch events.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::control_plane::ControlPlane;

/// The proxy. It ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct LaggingProxy {
    address: SocketAddr,
    lag: watch::Sender<Duration>,
    task: JoinHandle<()>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl LaggingProxy {
    /// Starts a proxy on a free loopback port, which sends requests as this user of the control plane. At
    /// first it delays nothing.
    ///
    /// # Errors
    /// When there is no free port, or the user's credentials cannot be read.
    pub async fn start(control_plane: &ControlPlane, user: &str) -> anyhow::Result<Self> {
        let client = control_plane.client(user).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::ports::free_port()?)).await?;
        let address = listener.local_addr()?;
        let lag = watch::Sender::new(Duration::ZERO);
        let task = tokio::spawn(accept(listener, client, lag.subscribe()));
        Ok(Self { address, lag, task })
    }

    /// Delays watch events by this much from now on.
    pub fn hold_back(&self, lag: Duration) {
        self.lag.send_replace(lag);
    }

    /// Writes a kubeconfig that leads through the proxy into a folder, and returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_in(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lagging",
            "clusters": [{"name": "lagging", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "lagging", "context": {"cluster": "lagging", "user": "lagging"}}],
            "users": [{"name": "lagging", "user": {}}],
        });
        let path = folder.join("lagging.kubeconfig");
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

impl Drop for LaggingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, client: Client, lag: watch::Receiver<Duration>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        let (client, lag) = (client.clone(), lag.clone());
        connections.spawn(async move {
            let service = service_fn(|request| answer(client.clone(), lag.clone(), request));
            // A client that disconnects is not a failure of the proxy.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}

async fn answer(
    client: Client,
    lag: watch::Receiver<Duration>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let is_watch = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    Ok(match forward(client, request).await {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            // The body is forwarded in other chunks.
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.remove(header::TRANSFER_ENCODING);
            let lag = is_watch.then_some(lag);
            Response::from_parts(head, held_back(body, lag))
        }
        Err(error) => {
            let mut response =
                Response::new(Full::new(Bytes::from(format!("{error:#}"))).boxed_unsync());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}

async fn forward(client: Client, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut headers = HeaderMap::new();
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = head.headers.remove(&name) {
            headers.insert(name, value);
        }
    }
    head.headers = headers;
    let path = head.uri.path_and_query().map_or("/", |it| it.as_str());
    head.uri = path.parse()?;
    head.version = http::Version::HTTP_11;
    Ok(client
        .send(Request::from_parts(head, Body::from(body.to_vec())))
        .await?)
}

/// The body, of which each chunk and the end are delayed by the lag that applies when they arrive.
fn held_back(
    body: Body,
    lag: Option<watch::Receiver<Duration>>,
) -> UnsyncBoxBody<Bytes, Infallible> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut pieces = BodyStream::new(body);
        loop {
            let piece = futures::StreamExt::next(&mut pieces).await;
            let piece = piece.and_then(|piece| piece.ok()?.into_data().ok());
            let lag = lag.as_ref().map_or(Duration::ZERO, |it| *it.borrow());
            let is_end = piece.is_none();
            // Sending fails when the client has disconnected.
            if sender.send((Instant::now() + lag, piece)).is_err() || is_end {
                return;
            }
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let (at, piece) = receiver.recv().await?;
        tokio::time::sleep_until(at).await;
        Some((Ok(Frame::data(piece?)), receiver))
    });
    StreamBody::new(pieces).boxed_unsync()
}
