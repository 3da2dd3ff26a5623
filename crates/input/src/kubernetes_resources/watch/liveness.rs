//! Tracks whether the connection under a watch is alive.
//!
//! `kube`'s watcher yields nothing while it resumes a watch on which nothing changes, and a window may only
//! be made while the watch is known to be current. So a layer under the watcher records when the server
//! answers a watch, when bytes arrive on it, when it ends, and whether other answers come over the same
//! connection.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{future::BoxFuture, task::AtomicWaker};
use http::{
    Request, Response, Version,
    header::{DATE, RETRY_AFTER},
};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy::connect::HttpInfo;
use kube::client::Body as KubeBody;
use tokio::{sync::Notify, time::Instant};
use tower::{BoxError, Layer, Service};

use super::limits::{Pages, Read};
use crate::kubernetes_resources::clock::Clock;

/// The `Date` of an answer that took longer is too imprecise to compare clocks.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);
/// The longest pause that the API server may request.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The connection of a watch at one moment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Connection {
    /// Since when the present watch has been open; `None` while there is none.
    pub(crate) open_since: Option<Instant>,
    /// When bytes last arrived on it.
    pub(crate) last_bytes_at: Option<Instant>,
    /// When the server itself ended the watch that was open last, and so had sent everything.
    pub(crate) ended_at: Option<Instant>,
}

/// What is known of the connection under one watch. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchLiveness(Arc<Tracked>);

#[derive(Debug, Default)]
struct Tracked {
    /// Gets the time of the API server's clock.
    clock: Clock,
    state: Mutex<LivenessState>,
    changed: Notify,
    /// The pages of the list that is being received.
    pages: Mutex<Pages>,
    /// The task that reads the present watch.
    reader: AtomicWaker,
}

#[derive(Debug, Default, Clone, Copy)]
struct LivenessState {
    /// Counts the watches, so that the late end of an old one does not close a new one.
    generation: u64,
    connection: Connection,
    /// The local address of the connection, if other requests may share it.
    shared: Option<SocketAddr>,
    /// The end of the pause that the API server requested.
    pause: Option<Instant>,
}

impl WatchLiveness {
    /// Passes the time of the API server's clock to `clock`.
    pub(crate) fn new(clock: Clock) -> Self {
        Self(Arc::new(Tracked {
            clock,
            ..Tracked::default()
        }))
    }

    /// The connection as it is now.
    pub(crate) fn connection(&self) -> Connection {
        let connection = self.read().connection;
        Connection {
            last_bytes_at: connection.open_since.and(connection.last_bytes_at),
            ..connection
        }
    }

    /// Returns the rest of the pause that the API server requested.
    pub(crate) fn pause(&self) -> Duration {
        let pause = self.read().pause;
        pause.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Waits until a watch is answered or ends.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn read(&self) -> LivenessState {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut LivenessState)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The server answered a watch. Returns its generation.
    fn opened(&self, shared: Option<SocketAddr>) -> u64 {
        let mut generation = 0;
        self.write(|state| {
            generation = state.generation.wrapping_add(1);
            *state = LivenessState {
                generation,
                connection: Connection {
                    open_since: Some(Instant::now()),
                    ..Connection::default()
                },
                shared,
                pause: None,
            };
        });
        self.0.changed.notify_one();
        generation
    }

    /// The server answered another request over `shared`. A watch that is not on this connection was left
    /// behind on one that is being closed or is lost: it ends, so that it is resumed on the new one.
    fn answered(&self, shared: Option<SocketAddr>) {
        let mut is_left_behind = false;
        self.write(|state| {
            is_left_behind = state.connection.open_since.is_some()
                && state.shared.is_some()
                && state.shared != shared;
            if is_left_behind {
                state.generation = state.generation.wrapping_add(1);
                state.connection.open_since = None;
            }
        });
        if is_left_behind {
            self.0.reader.wake();
            self.0.changed.notify_one();
        }
    }

    fn refused<T>(&self, response: &Response<T>) {
        let seconds = response.headers().get(RETRY_AFTER);
        let seconds = seconds.and_then(|it| it.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = seconds {
            let pause = Duration::from_secs(seconds).min(LONGEST_PAUSE);
            self.write(|state| state.pause = Some(Instant::now() + pause));
        }
    }

    /// Whether the watch of this generation was left behind.
    fn is_over(&self, generation: u64) -> bool {
        self.read().generation != generation
    }

    fn received(&self) {
        self.write(|state| state.connection.last_bytes_at = Some(Instant::now()));
    }

    fn ended(&self) {
        self.write(|state| state.connection.ended_at = Some(Instant::now()));
    }

    fn closed(&self, generation: u64) {
        self.write(|state| {
            if state.generation == generation {
                state.connection.open_since = None;
            }
        });
        self.0.changed.notify_one();
    }
}

/// Puts a [`LivenessService`] around the service of a client.
pub(crate) struct LivenessLayer(pub(crate) WatchLiveness);

impl<S> Layer<S> for LivenessLayer {
    type Service = LivenessService<S>;

    fn layer(&self, inner: S) -> LivenessService<S> {
        LivenessService {
            inner,
            liveness: self.0.clone(),
        }
    }
}

/// Records what the server answers to watches and other requests.
pub(crate) struct LivenessService<S> {
    inner: S,
    liveness: WatchLiveness,
}

impl<S, B> Service<Request<KubeBody>> for LivenessService<S>
where
    S: Service<Request<KubeBody>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<TrackedBody<B>>;
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
        let liveness = self.liveness.clone();
        if !is_watch {
            let query = request.uri().query().unwrap_or_default();
            let mut pages = liveness
                .0
                .pages
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Err(too_many) = pages.requested(query) {
                return Box::pin(async move { Err(too_many.into()) });
            }
        }
        let requested_at = Instant::now();
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            let date = response.headers().get(DATE).map(|it| it.to_str());
            // An answer that waited to be read does not show the current time: this process may have been suspended.
            if let (Some(Ok(date)), true) = (date, requested_at.elapsed() < LONGEST_ROUND_TRIP) {
                liveness.0.clock.server_time(date);
            }
            let generation = match (response.status().is_success(), is_watch) {
                (true, true) => Some(liveness.opened(shared_connection(&response))),
                (true, false) => {
                    liveness.answered(shared_connection(&response));
                    None
                }
                (false, _) => {
                    liveness.refused(&response);
                    None
                }
            };
            Ok(response.map(|body| TrackedBody {
                body,
                read: if is_watch {
                    Read::Line(0)
                } else {
                    Read::Page(0)
                },
                watch: generation.map(|generation| OpenWatch {
                    liveness,
                    generation,
                }),
            }))
        })
    }
}

/// Returns the local address of the connection of an answer, if other answers may come on it.
fn shared_connection<T>(response: &Response<T>) -> Option<SocketAddr> {
    let info = response.extensions().get::<HttpInfo>()?;
    (response.version() == Version::HTTP_2).then(|| info.local_addr())
}

/// Closes its watch when it is dropped, however the body ends.
struct OpenWatch {
    liveness: WatchLiveness,
    generation: u64,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.liveness.closed(self.generation);
    }
}

/// A response body whose bytes are recorded and bounded.
pub(crate) struct TrackedBody<B> {
    body: B,
    /// Bounds what is read.
    read: Read,
    watch: Option<OpenWatch>,
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(watch) = &self.watch {
            watch.liveness.0.reader.register(cx.waker());
            if watch.liveness.is_over(watch.generation) {
                self.watch = None;
                return Poll::Ready(None);
            }
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let frame = frame.map(|frame| {
            let frame = frame.map_err(Into::into)?;
            self.read.add(frame.data_ref().map_or(&[], |it| it))?;
            Ok(frame)
        });
        match (&frame, &self.watch) {
            // A part of a line proves nothing about when the rest of it happened.
            (Some(Ok(_)), Some(watch)) if self.read.is_whole() => watch.liveness.received(),
            (Some(Ok(_)), _) => {}
            (Some(Err(_)), _) => self.watch = None,
            (None, _) => {
                if let Some(watch) = self.watch.take() {
                    watch.liveness.ended();
                }
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn address(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn a_watch_that_was_left_behind_on_an_old_connection_ends() {
        let liveness = WatchLiveness::default();
        let old = liveness.opened(address(1));
        liveness.answered(address(1));
        assert!(liveness.connection().open_since.is_some());
        liveness.answered(address(2));
        assert!(liveness.connection().open_since.is_none() && liveness.is_over(old));
        let new = liveness.opened(address(2));
        liveness.closed(old);
        liveness.answered(address(2));
        assert!(liveness.connection().open_since.is_some() && !liveness.is_over(new));
    }

    #[test]
    fn over_http_1_every_answer_comes_on_its_own_connection() {
        let liveness = WatchLiveness::default();
        liveness.opened(None);
        liveness.answered(None);
        liveness.answered(address(1));
        assert!(liveness.connection().open_since.is_some());
    }

    #[test]
    fn a_pause_that_the_api_server_asks_for_is_kept_up_to_a_minute() {
        let pause = |value: &str| {
            let liveness = WatchLiveness::default();
            let response = Response::builder().status(429).header(RETRY_AFTER, value);
            liveness.refused(&response.body(()).unwrap());
            liveness.pause().as_secs_f64().round()
        };
        assert_eq!(pause("7"), 7.0);
        assert_eq!(pause("1000000000"), 60.0);
        assert_eq!(pause("soon"), 0.0);
        assert_eq!(pause("-1"), 0.0);
    }
}
