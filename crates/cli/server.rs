//! An HTTP/1 server for few people, which nobody can fill up.
//!
//! A connection has ten seconds for each of its phases: until a request's header is there, until the
//! answer is made, until it is taken and the next header is there. When there is one connection too
//! many, another is closed to make room, so that who holds many never shuts out who asks once.

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
/// The pause after a connection could not be taken; each is twice the one before, up to a second.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The address on which a request came in, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local(pub(crate) SocketAddr);

/// Serves `pages` with at most `most` connections until `stop`, and then until the requests that it
/// has begun are answered. `closed` counts the connections that had to make room.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Router,
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
                open.make_room().await;
                open.attend(stream, peer, pages.clone(), stop.clone());
            }
            Err(error) if is_of_the_client(error.kind()) => {}
            Err(error) => {
                if pause == PAUSE {
                    warn!("cannot take a connection to the pages: {error}; trying again");
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

/// Whether only that one connection is lost.
fn is_of_the_client(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        kind,
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// The connections that are open.
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
    /// Whether an answer is being made.
    answering: bool,
    since: Instant,
}

impl Open {
    fn ended(&mut self, ended: Result<u64, tokio::task::JoinError>) {
        match ended {
            Ok(id) => drop(self.connections.remove(&id)),
            // A page panicked: which connection it was is not known, but its task held the other
            // half of what is kept here.
            Err(_) => self.connections.retain(|_, it| Arc::strong_count(it) > 1),
        }
    }

    /// Closes connections until there is room for one more.
    async fn make_room(&mut self) {
        while self.tasks.len() >= self.most {
            if let Some(id) = self.least_deserving()
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

    /// Of the address that holds most connections the one that has waited longest for its client.
    fn least_deserving(&self) -> Option<u64> {
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

    fn attend(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        pages: Router,
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
            connection.attend(stream, pages, stop).await;
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

    /// Answers the requests of a client until it, we or the time says that it is enough.
    async fn attend(self: &Arc<Self>, stream: TcpStream, pages: Router, stop: CancellationToken) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let service = service_fn(move |request| {
            let (connection, pages) = (Arc::clone(self), pages.clone());
            async move {
                connection.enter(true);
                let answer = answer(request, pages, local).await;
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
                // What is wrong with a connection is its client's concern.
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
    pages: Router,
    local: SocketAddr,
) -> Result<Response, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Local(local));
    pages.oneshot(request).await
}
