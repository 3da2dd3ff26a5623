//! An ear on the connections of a watch.
//!
//! `kube`'s watcher says nothing while it resumes a watch on which nothing changes, and a window
//! may only be made while the watch is known to be current. So a layer under the watcher notes
//! when a watch is answered, when bytes arrive on it, when it ends, and whether other answers come
//! over the same connection.

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

/// The clock that an answer tells of was read some time in so long.
const FRESH: Duration = Duration::from_secs(2);
/// The longest pause that the API server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is known of the connection under one watch. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchLiveness(Arc<LivenessState>);

#[derive(Debug, Default)]
struct LivenessState {
    /// Learns what the API server's clock shows.
    clock: Clock,
    state: Mutex<Opened>,
    changed: Notify,
    /// Of the list that is under way.
    pages: Mutex<Pages>,
    /// The reader of the present watch.
    reader: AtomicWaker,
}

#[derive(Debug, Default, Clone, Copy)]
struct Opened {
    /// Counts the watches, so that the late end of an old one does not close a new one.
    generation: u64,
    since: Option<Instant>,
    /// When bytes last arrived.
    heard: Option<Instant>,
    /// When the server itself ended the present watch, and so had said all that there was.
    ended: Option<Instant>,
    /// The connection, by its own address, if others may share it.
    shared: Option<SocketAddr>,
    /// The API server asked to be left alone until then.
    pause: Option<Instant>,
}

impl WatchLiveness {
    /// A line on which the API server's clock is heard.
    pub(crate) fn with(clock: Clock) -> Self {
        Self(Arc::new(LivenessState {
            clock,
            ..LivenessState::default()
        }))
    }

    /// Since when the present watch has been open; `None` while there is none.
    pub(crate) fn open_since(&self) -> Option<Instant> {
        self.read().since
    }

    /// When bytes last arrived on the present watch.
    pub(crate) fn heard_at(&self) -> Option<Instant> {
        let opened = self.read();
        opened.since.and(opened.heard)
    }

    /// When the server itself ended the watch that was open last.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.read().ended
    }

    /// How long the API server wants to be left alone.
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

    fn read(&self) -> Opened {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut Opened)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn open(&self, shared: Option<SocketAddr>) -> u64 {
        let mut generation = 0;
        self.write(|opened| {
            generation = opened.generation.wrapping_add(1);
            *opened = Opened {
                generation,
                since: Some(Instant::now()),
                heard: None,
                ended: None,
                shared,
                pause: None,
            };
        });
        self.0.changed.notify_one();
        generation
    }

    /// Something else was answered over `shared`. A watch that is not on this connection was left
    /// behind on one that is being closed or is dead: it ends, so that it is resumed on the new one.
    fn answered(&self, shared: Option<SocketAddr>) {
        let mut left_behind = false;
        self.write(|opened| {
            left_behind =
                opened.since.is_some() && opened.shared.is_some() && opened.shared != shared;
            if left_behind {
                opened.generation = opened.generation.wrapping_add(1);
                opened.since = None;
            }
        });
        if left_behind {
            self.0.reader.wake();
            self.0.changed.notify_one();
        }
    }

    fn refused<T>(&self, response: &Response<T>) {
        let seconds = response.headers().get(RETRY_AFTER);
        let seconds = seconds.and_then(|it| it.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = seconds {
            let pause = Duration::from_secs(seconds).min(LONGEST_PAUSE);
            self.write(|opened| opened.pause = Some(Instant::now() + pause));
        }
    }

    /// Whether the watch of this generation was left behind.
    fn is_over(&self, generation: u64) -> bool {
        self.read().generation != generation
    }

    fn hear(&self) {
        self.write(|opened| opened.heard = Some(Instant::now()));
    }

    fn end(&self) {
        self.write(|opened| opened.ended = Some(Instant::now()));
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

pub(crate) struct LivenessLayer(pub(super) WatchLiveness);

impl<S> Layer<S> for LivenessLayer {
    type Service = LivenessService<S>;

    fn layer(&self, inner: S) -> LivenessService<S> {
        LivenessService {
            inner,
            line: self.0.clone(),
        }
    }
}

pub(crate) struct LivenessService<S> {
    inner: S,
    line: WatchLiveness,
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
        let line = self.line.clone();
        if !is_watch {
            let query = request.uri().query().unwrap_or_default();
            let mut pages = line.0.pages.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(too_many) = pages.ask(query) {
                return Box::pin(async move { Err(too_many.into()) });
            }
        }
        let asked = Instant::now();
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            let date = response.headers().get(DATE).map(|it| it.to_str());
            // An answer that lay about says nothing of the clock: this process may have slept.
            if let (Some(Ok(date)), true) = (date, asked.elapsed() < FRESH) {
                line.0.clock.server_says(date);
            }
            let generation = match (response.status().is_success(), is_watch) {
                (true, true) => Some(line.open(shared_connection(&response))),
                (true, false) => {
                    line.answered(shared_connection(&response));
                    None
                }
                (false, _) => {
                    line.refused(&response);
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
                watch: generation.map(|generation| OpenWatch { line, generation }),
            }))
        })
    }
}

/// Our address of the connection on which an answer came, if other answers may come on it.
fn shared_connection<T>(response: &Response<T>) -> Option<SocketAddr> {
    let info = response.extensions().get::<HttpInfo>()?;
    (response.version() == Version::HTTP_2).then(|| info.local_addr())
}

/// Closes its watch when it is dropped, however the body ends.
struct OpenWatch {
    line: WatchLiveness,
    generation: u64,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.line.close(self.generation);
    }
}

/// A response body that is listened to.
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
            watch.line.0.reader.register(cx.waker());
            if watch.line.is_over(watch.generation) {
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
            // Part of a line says nothing of when the rest of it happened.
            (Some(Ok(_)), Some(watch)) if self.read.is_whole() => watch.line.hear(),
            (Some(Ok(_)), _) => {}
            (Some(Err(_)), _) => self.watch = None,
            (None, _) => {
                if let Some(watch) = self.watch.take() {
                    watch.line.end();
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
        let line = WatchLiveness::default();
        let old = line.open(address(1));
        line.answered(address(1));
        assert!(line.open_since().is_some());
        line.answered(address(2));
        assert!(line.open_since().is_none() && line.is_over(old));
        let new = line.open(address(2));
        line.close(old);
        line.answered(address(2));
        assert!(line.open_since().is_some() && !line.is_over(new));
    }

    #[test]
    fn over_http_1_every_answer_comes_on_a_connection_of_its_own() {
        let line = WatchLiveness::default();
        line.open(None);
        line.answered(None);
        line.answered(address(1));
        assert!(line.open_since().is_some());
    }

    #[test]
    fn the_api_server_is_left_alone_as_long_as_it_asks_within_reason() {
        let pause = |value: &str| {
            let line = WatchLiveness::default();
            let response = Response::builder().status(429).header(RETRY_AFTER, value);
            line.refused(&response.body(()).unwrap());
            line.pause().as_secs_f64().round()
        };
        assert_eq!(pause("7"), 7.0);
        assert_eq!(pause("1000000000"), 60.0);
        assert_eq!(pause("soon"), 0.0);
        assert_eq!(pause("-1"), 0.0);
    }
}
