//! An HTTP/1 server for a few clients, which no client can exhaust.
//!
//! A connection has ten seconds for each of its phases: receiving a request header, computing the
//! response, and sending the response and receiving the next header. A connection above the limit
//! replaces one of the client that holds most, so that a client with many connections never locks out
//! a client with one.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use meterline_core::IntCounter;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::warn;

/// How long a connection may stay in one phase.
const PHASE: Duration = Duration::from_secs(10);
/// The largest header of a request, in bytes.
const HEADER: usize = 16 * 1024;
/// The pause after an accept failed; it doubles with each failure, up to a second.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The local address that received a request, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local(pub(crate) SocketAddr);

/// Serves `router` with at most `most` connections until `stop`, then finishes the requests in
/// progress. `closed` counts the connections that were closed to admit others.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    most: usize,
    closed: IntCounter,
    stop: CancellationToken,
) {
    let mut open = Open {
        tasks: JoinSet::new(),
        connections: HashMap::new(),
        next: 0,
        most,
        closed,
    };
    let mut pause = PAUSE;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = open.tasks.join_next() => {
                open.ended(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = PAUSE;
                open.close_excess().await;
                open.spawn(stream, peer, router.clone(), stop.clone());
            }
            Err(error) if is_of_the_client(error.kind()) => {}
            Err(error) => {
                if pause == PAUSE {
                    warn!("cannot accept an HTTP connection: {error}; retrying");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep(pause) => {}
                }
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
    drop(listener);
    while open.tasks.join_next().await.is_some() {}
}

/// Whether the error concerns that one connection only.
fn is_of_the_client(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        kind,
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// The open connections.
struct Open {
    tasks: JoinSet<u64>,
    connections: HashMap<u64, Arc<Connection>>,
    next: u64,
    most: usize,
    closed: IntCounter,
}

struct Connection {
    from: IpAddr,
    close: CancellationToken,
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy)]
struct Phase {
    /// Whether a response is being computed.
    answering: bool,
    since: Instant,
}

impl Open {
    fn ended(&mut self, ended: Result<u64, tokio::task::JoinError>) {
        match ended {
            Ok(id) => drop(self.connections.remove(&id)),
            // A handler panicked. The error does not name the connection, but its task has dropped
            // its reference to it.
            Err(_) => self.connections.retain(|_, it| Arc::strong_count(it) > 1),
        }
    }

    /// Closes connections until another one can be admitted.
    async fn close_excess(&mut self) {
        while self.tasks.len() >= self.most {
            if let Some(id) = self.to_close()
                && let Some(connection) = self.connections.remove(&id)
            {
                connection.close.cancel();
                self.closed.inc();
            }
            match self.tasks.join_next().await {
                Some(ended) => self.ended(ended),
                None => return,
            }
        }
    }

    /// Returns the connection to close: of the address with the most connections, the one that has
    /// waited longest for its client.
    fn to_close(&self) -> Option<u64> {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.connections.values() {
            let held = held.entry(connection.from).or_default();
            *held = held.saturating_add(1);
        }
        let rank = |(id, connection): (&u64, &Arc<Connection>)| {
            let Phase { answering, since } = *connection.phase();
            let held = held.get(&connection.from).copied().unwrap_or_default();
            (held, !answering, since.elapsed(), *id)
        };
        let (.., id) = self.connections.iter().map(rank).max()?;
        Some(id)
    }

    fn spawn(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        router: Router,
        stop: CancellationToken,
    ) {
        let id = self.next;
        self.next = id.wrapping_add(1);
        let connection = Arc::new(Connection {
            from: peer.ip(),
            close: CancellationToken::new(),
            phase: Mutex::new(Phase {
                answering: false,
                since: Instant::now(),
            }),
        });
        self.connections.insert(id, Arc::clone(&connection));
        self.tasks.spawn(async move {
            connection.serve(stream, router, stop).await;
            id
        });
    }
}

impl Connection {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, answering: bool) {
        let since = Instant::now();
        *self.phase() = Phase { answering, since };
    }

    fn deadline(&self) -> Instant {
        self.phase().since + PHASE
    }

    /// Answers requests until the client closes the connection, `stop` ends it, or a phase takes too
    /// long.
    async fn serve(self: &Arc<Self>, stream: TcpStream, router: Router, stop: CancellationToken) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let service = service_fn(move |request| {
            let (connection, router) = (Arc::clone(self), router.clone());
            async move {
                connection.enter(true);
                let answer = answer(request, router, local).await;
                connection.enter(false);
                answer
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PHASE)
            .max_buf_size(HEADER)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(served);
        let mut stopping = false;
        loop {
            tokio::select! {
                // An error on a connection concerns its client only.
                _ = served.as_mut() => return,
                () = self.close.cancelled() => return,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    served.as_mut().graceful_shutdown();
                }
                () = sleep_until(self.deadline()) => {
                    if Instant::now() >= self.deadline() {
                        return;
                    }
                }
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    router: Router,
    local: SocketAddr,
) -> Result<Response, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Local(local));
    router.oneshot(request).await
}
