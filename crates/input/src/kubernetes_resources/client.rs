//! The Kubernetes client, with an ear on its watch connections.
//!
//! `kube`'s watcher says nothing while it resumes a watch on which nothing changes, and a window
//! may only be made while the watch is known to be current. So a layer under the watcher notes
//! when a watch is answered, when bytes arrive on it and when it ends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use kube::{
    Client, Config,
    client::{Body as KubeBody, ClientBuilder, DynBody},
};
use tokio::{sync::Notify, time::Instant};
use tower::{BoxError, Layer, Service};

/// What is known of the connection under one watch. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Arc<LineState>);

#[derive(Debug, Default)]
struct LineState {
    state: Mutex<Opened>,
    changed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct Opened {
    /// Counts the watches, so that the late end of an old one does not close a new one.
    generation: u64,
    since: Option<Instant>,
    /// When bytes last arrived.
    heard: Option<Instant>,
}

impl Line {
    /// Since when the present watch has been open; `None` while there is none.
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.read().since
    }

    /// When bytes last arrived on the present watch.
    pub(super) fn heard_at(&self) -> Option<Instant> {
        let opened = self.read();
        opened.since.and(opened.heard)
    }

    /// Waits until a watch is answered or ends.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn read(&self) -> Opened {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut Opened)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn open(&self) -> u64 {
        let mut generation = 0;
        self.write(|opened| {
            generation = opened.generation.wrapping_add(1);
            *opened = Opened {
                generation,
                since: Some(Instant::now()),
                heard: None,
            };
        });
        self.0.changed.notify_one();
        generation
    }

    fn hear(&self) {
        self.write(|opened| opened.heard = Some(Instant::now()));
    }

    fn close(&self, generation: u64) {
        self.write(|opened| {
            if opened.generation == generation {
                opened.since = None;
            }
        });
        self.0.changed.notify_one();
    }
}

/// A client whose watches are listened to on `line`.
///
/// # Errors
/// When the configuration names certificates or credentials that cannot be used.
pub(super) fn client(config: Config, line: Line) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&Listen(line))
        .build())
}

struct Listen(Line);

impl<S> Layer<S> for Listen {
    type Service = Listening<S>;

    fn layer(&self, inner: S) -> Listening<S> {
        Listening {
            inner,
            line: self.0.clone(),
        }
    }
}

struct Listening<S> {
    inner: S,
    line: Line,
}

impl<S> Service<Request<KubeBody>> for Listening<S>
where
    S: Service<Request<KubeBody>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Heard>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        let line = self.line.clone();
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            let generation = (is_watch && response.status().is_success()).then(|| line.open());
            Ok(response.map(|body| Heard {
                body,
                watch: generation.map(|generation| OpenWatch { line, generation }),
            }))
        })
    }
}

/// Closes its watch when it is dropped, however the body ends.
struct OpenWatch {
    line: Line,
    generation: u64,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.line.close(self.generation);
    }
}

/// A response body that is listened to.
struct Heard {
    body: Box<DynBody>,
    watch: Option<OpenWatch>,
}

impl Body for Heard {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match (&frame, &self.watch) {
            (Some(Ok(_)), Some(watch)) => watch.line.hear(),
            (Some(Ok(_)), None) => {}
            (Some(Err(_)) | None, _) => self.watch = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
