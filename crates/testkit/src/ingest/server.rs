//! The server: connections, and what is done with each request.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use chrono::Utc;
use http::{Method, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::behaviour::{Behaviour, Reply, Wait};
use super::state::{Answer, Key, Request, State, key};
use super::validate::{Contract, Form, kafka_bytes};

/// The ingest operation of OpenMeter and of Konnect.
fn form(path: &str) -> Option<Form> {
    match path {
        "/api/v1/events" => Some(Form::V1),
        "/v3/openmeter/events" => Some(Form::V3),
        _ => None,
    }
}

/// The most bytes of a message that the API's Kafka producer takes.
pub(super) const KAFKA_BYTES: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct Shared {
    /// `None` where requests are only counted.
    contract: Option<Contract>,
    pub(super) state: watch::Sender<State>,
    pub(super) rules: Mutex<Rules>,
    pub(super) releases: watch::Sender<u64>,
}

type Predicate = Box<dyn Fn(&Value) -> bool + Send>;

pub(super) struct Rules {
    pub(super) next: VecDeque<Behaviour>,
    pub(super) otherwise: Behaviour,
    pub(super) token: Option<String>,
    pub(super) max_events: usize,
    pub(super) max_bytes: usize,
    pub(super) refuse: Option<Predicate>,
    pub(super) poison: Option<Predicate>,
    /// The most bytes of an event; `None` where requests are only counted.
    pub(super) kafka_bytes: Option<usize>,
    /// The ids that de-duplication has claimed for events that were never written, where it claims
    /// before the write.
    pub(super) claimed: Option<HashSet<Key>>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Rules").finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data is consistent after every statement, so a panic does not damage it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Aborting this task drops the set, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let reset = Arc::new(AtomicBool::new(false));
    let service = {
        let reset = Arc::clone(&reset);
        service_fn(move |request| {
            Box::pin(answer(Arc::clone(&shared), Arc::clone(&reset), request))
        })
    };
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error means that the client disconnected, or that the test cut the connection.
    let _ = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    if reset.load(Ordering::Relaxed) {
        // Closing with a linger time of zero sends RST instead of FIN.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// Makes hyper close the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("connection cut on request of the test")
    }
}

impl std::error::Error for Cut {}

type AnswerBody = Either<Full<Bytes>, OfUnknownLength>;

/// A body of unknown length, so that a header may declare another length. If it declares more than the
/// body has, the connection is closed at the end of the body.
struct OfUnknownLength {
    body: Full<Bytes>,
    is_flushed: bool,
}

impl Body for OfUnknownLength {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) && !self.is_flushed {
            // `Pending` makes the server write the data before the end is reported.
            self.is_flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        frame
    }
}

/// What is done with a request.
struct Verdict {
    answer: Answer,
    headers: Vec<(String, String)>,
    body: String,
    take: usize,
    /// The indexes of the accepted events that are not kept, because their ids are claimed.
    unkept: Vec<usize>,
}

impl Verdict {
    fn problem(status: u16, detail: &str) -> Self {
        let title = StatusCode::from_u16(status).ok();
        let title = title.and_then(|status| status.canonical_reason());
        let body = json!({
            "type": "about:blank",
            "title": title.unwrap_or("Unexpected"),
            "status": status,
            "detail": detail,
            "instance": "urn:request:recording-ingest",
        });
        Self {
            answer: Answer::Status(status),
            headers: vec![("content-type".into(), "application/problem+json".into())],
            body: body.to_string(),
            take: 0,
            unkept: Vec::new(),
        }
    }

    fn response(self, status: u16) -> Result<Response<AnswerBody>, Cut> {
        let mut response = Response::builder().status(status);
        let is_of = |name: &str| self.headers.iter().any(|(it, _)| it == name);
        let body = Full::new(Bytes::from(self.body));
        let body = if is_of("content-length") {
            Either::Right(OfUnknownLength {
                body,
                is_flushed: false,
            })
        } else {
            Either::Left(body)
        };
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        // If a test misspells a header, the connection ends without an answer.
        response.body(body).map_err(|_| Cut)
    }
}

async fn answer(
    shared: Arc<Shared>,
    reset: Arc<AtomicBool>,
    request: http::Request<Incoming>,
) -> Result<Response<AnswerBody>, Cut> {
    let _in_flight = InFlight::new(&shared);
    let behaviour = {
        let mut rules = lock(&shared.rules);
        let next = rules.next.pop_front();
        next.unwrap_or_else(|| rules.otherwise.clone())
    };
    let mut releases = shared.releases.subscribe();
    let (head, body) = request.into_parts();
    if matches!(behaviour.reply, Reply::Reset) {
        reset.store(true, Ordering::Relaxed);
        shared.record(&head, Bytes::new(), Ok(Vec::new()), (Answer::Reset, 0, &[]));
        return Err(Cut);
    }
    // A body that breaks off means that the client has disconnected, so an answer is not needed.
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let found = shared.validate(&head, &body);
    let verdict = shared.judge(behaviour.reply, (&head, body.len()), &found);
    let found = found.map_err(|(_, reason)| reason);
    let kept = (verdict.answer, verdict.take, verdict.unkept.as_slice());
    shared.record(&head, body, found, kept);
    match behaviour.wait {
        Wait::No => {}
        Wait::For(delay) => tokio::time::sleep(delay).await,
        Wait::UntilReleased => releases.changed().await.map_err(|_| Cut)?,
    }
    match verdict.answer {
        Answer::Status(status) => verdict.response(status),
        Answer::Dropped => Err(Cut),
        Answer::Reset => {
            reset.store(true, Ordering::Relaxed);
            Err(Cut)
        }
    }
}

impl Shared {
    pub(super) fn new(contract: Option<Contract>) -> Self {
        let rules = Rules {
            next: VecDeque::new(),
            otherwise: Behaviour::normal(),
            token: None,
            max_events: usize::MAX,
            max_bytes: usize::MAX,
            refuse: None,
            poison: None,
            kafka_bytes: contract.as_ref().map(|_| KAFKA_BYTES),
            claimed: None,
        };
        Self {
            contract,
            state: watch::Sender::default(),
            rules: Mutex::new(rules),
            releases: watch::Sender::default(),
        }
    }

    /// The events of the request, or the status and the reason of its refusal.
    fn validate(&self, head: &Parts, body: &[u8]) -> Result<Vec<Value>, (u16, String)> {
        let (method, path) = (&head.method, head.uri.path());
        let (Some(form), None) = (form(path), head.uri.query()) else {
            return Err((404, format!("no operation at {}", head.uri)));
        };
        if *method != Method::POST {
            return Err((405, format!("method {method} at {path}")));
        }
        let events = match &self.contract {
            Some(contract) => contract.events(form, &head.headers, body),
            None => serde_json::from_slice(body).map_err(|error| error.to_string()),
        };
        events.map_err(|reason| (400, reason))
    }

    fn judge(
        &self,
        reply: Reply,
        (head, size): (&Parts, usize),
        found: &Result<Vec<Value>, (u16, String)>,
    ) -> Verdict {
        match reply {
            Reply::Answer {
                status,
                headers,
                body,
                take,
            } => {
                let mut verdict = Verdict::problem(status, "requested by the test");
                if !headers.is_empty() || !body.is_empty() || status < 400 {
                    (verdict.headers, verdict.body) = (headers, body);
                }
                verdict.take = take;
                verdict
            }
            Reply::Drop { take, reset } => Verdict {
                answer: if reset {
                    Answer::Reset
                } else {
                    Answer::Dropped
                },
                headers: Vec::new(),
                body: String::new(),
                take,
                unkept: Vec::new(),
            },
            Reply::Judge | Reply::Reset => self.judge_as_the_real_one((head, size), found),
        }
    }

    fn judge_as_the_real_one(
        &self,
        (head, size): (&Parts, usize),
        found: &Result<Vec<Value>, (u16, String)>,
    ) -> Verdict {
        let mut rules = lock(&self.rules);
        if let Some(token) = &rules.token {
            let given = head.headers.get(header::AUTHORIZATION);
            let wanted = format!("Bearer {token}");
            if given.is_none_or(|given| given.as_bytes() != wanted.as_bytes()) {
                return Verdict::problem(401, "no valid token");
            }
        }
        let events = match found {
            Ok(events) => events,
            Err((status, reason)) => return Verdict::problem(*status, reason),
        };
        if events.len() > rules.max_events {
            return Verdict::problem(413, "too many events");
        }
        if size > rules.max_bytes {
            return Verdict::problem(413, "too many bytes");
        }
        if let Some(refuse) = &rules.refuse
            && events.iter().any(refuse)
        {
            return Verdict::problem(400, "an event of the request is not acceptable");
        }
        // Events are sent to Kafka one by one, so those before the failed one are kept.
        let is_poison = |event: &Value| {
            rules
                .kafka_bytes
                .is_some_and(|most| kafka_bytes(event) > most)
                || rules.poison.as_ref().is_some_and(|it| it(event))
        };
        let poison: Vec<_> = (0..).zip(events).filter(|(_, it)| is_poison(it)).collect();
        let mut unkept = Vec::new();
        for (at, event) in poison {
            let is_new = rules
                .claimed
                .as_mut()
                .is_none_or(|it| it.insert(key(event)));
            if is_new {
                let mut verdict = Verdict::problem(500, "producing kafka message: too large");
                (verdict.take, verdict.unkept) = (at, unkept);
                return verdict;
            }
            // De-duplication treats it as a duplicate.
            unkept.push(at);
        }
        let status = match form(head.uri.path()) {
            Some(Form::V3) => 202,
            Some(Form::V1) | None => 204,
        };
        Verdict {
            answer: Answer::Status(status),
            headers: Vec::new(),
            body: String::new(),
            take: usize::MAX,
            unkept,
        }
    }

    fn record(
        &self,
        head: &Parts,
        body: Bytes,
        found: Result<Vec<Value>, String>,
        (answer, take, unkept): (Answer, usize, &[usize]),
    ) {
        self.state.send_modify(|state| {
            let at = Utc::now();
            let events = found.unwrap_or_else(|reason| {
                state.violations.push(reason);
                Vec::new()
            });
            let taken = take.min(events.len());
            if self.contract.is_none() {
                state.tally.add(events.get(..taken).unwrap_or_default());
                return;
            }
            for (place, event) in events.iter().enumerate().take(taken) {
                if unkept.contains(&place) {
                    state.swallowed.push(event.clone());
                } else {
                    state.keep(at, event);
                }
            }
            state.requests.push(Request {
                at,
                method: head.method.clone(),
                path: head.uri.to_string(),
                headers: head.headers.clone(),
                body,
                events,
                taken,
                answer,
            });
        });
    }
}

/// Counts a request while it is being answered, also when the client goes away.
struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.state.send_modify(|state| {
            state.in_flight += 1;
            state.max_in_flight = state.max_in_flight.max(state.in_flight);
        });
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.in_flight -= 1);
    }
}
