//! The server: connections, and the operations.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::definition::Definition;
use super::{Exchange, Reply, State, lock};

/// The form of the API that a path belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V1,
    V3,
}

impl Form {
    fn read(self, body: &[u8]) -> Result<Definition, String> {
        let body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let meter = match self {
            Self::V1 => Definition::from_v1(&body),
            Self::V3 => Definition::from_v3(&body),
        };
        meter?.checked()
    }

    fn show(self, meter: &Definition) -> Value {
        match self {
            Self::V1 => meter.v1(),
            Self::V3 => meter.v3(),
        }
    }
}

pub(super) async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Aborting this task drops the set, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let state = Arc::clone(&state);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // An error means that the client disconnected.
                connections.spawn(async move { drop(connection.await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|it| it.to_bytes());
    let url = Url::parse("http://server").and_then(|base| base.join(&head.uri.to_string()));
    let reply = match (url, body) {
        (Ok(url), Ok(body)) => lock(&state).reply_to(&head, &url, &body),
        _ => problem(400, "the request is incomplete"),
    };
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let response = Response::builder()
        .status(reply.status)
        .header(header::CONTENT_TYPE, reply.content_type)
        .body(Full::from(reply.body));
    Ok(response.unwrap_or_default())
}

impl State {
    fn reply_to(&mut self, head: &Parts, url: &Url, body: &[u8]) -> Reply {
        let chosen = self.replies.pop_front().flatten();
        let reply = chosen.unwrap_or_else(|| self.judge(head, url, body));
        let query: Vec<_> = url.query_pairs().map(|(k, v)| format!("{k}={v}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let request = format!("{} {}{mark}{}", head.method, url.path(), query.join("&"));
        let status = reply.status;
        self.exchanges.push(Exchange { request, status });
        reply
    }

    fn judge(&mut self, head: &Parts, url: &Url, body: &[u8]) -> Reply {
        let wanted = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let given = head.headers.get(header::AUTHORIZATION);
        if wanted.is_some_and(|it| given.is_none_or(|given| given.as_bytes() != it.as_bytes())) {
            return problem(401, "no valid token");
        }
        let path = url.path();
        let places = [
            ("/api/v1/meters", Form::V1),
            ("/v3/openmeter/meters", Form::V3),
            ("/api/v3/openmeter/meters", Form::V3),
        ];
        let place = places.iter().find_map(|(place, form)| {
            let rest = path.strip_prefix(place)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((*form, rest))
        });
        let result = match (place, &head.method) {
            (Some((form, "")), &Method::GET) => self.list(form, url),
            (Some((form, "")), &Method::POST) => self.post(form, head, body),
            (Some((form, id)), &Method::PUT) => self.put_by(form, id.trim_matches('/'), body),
            (Some((form, id)), &Method::DELETE) => self.delete(form, id.trim_matches('/')),
            _ => return problem(404, &format!("no operation {} {path}", head.method)),
        };
        result.unwrap_or_else(|reason| {
            self.violations
                .push(format!("{} {path}: {reason}", head.method));
            problem(400, &reason)
        })
    }

    fn list(&self, form: Form, url: &Url) -> Result<Reply, String> {
        let mut query: BTreeMap<_, _> = url.query_pairs().collect();
        let mut number = |key: &str, default: usize| match query.remove(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{key}={text}")),
        };
        let (page, size, most) = match form {
            Form::V1 => (number("page", 1)?, number("pageSize", 100)?, 1000),
            Form::V3 => (number("page[number]", 1)?, number("page[size]", 20)?, 100),
        };
        if let Some(key) = query.keys().next() {
            return Err(format!("the parameter {key} is unknown"));
        }
        if page == 0 || size == 0 || size > most {
            return Err(format!("there is no page {page} of {size}"));
        }
        let (skipped, size) = if form == Form::V1 && self.ignores_pages {
            (0, most)
        } else {
            ((page - 1) * size, size)
        };
        let meters = self.meters.iter().skip(skipped).take(size);
        let meters: Vec<_> = meters.map(|it| form.show(it)).collect();
        Ok(json_reply(
            200,
            &match form {
                Form::V1 => json!(meters),
                Form::V3 => json!({
                    "data": meters,
                    "meta": {"page": {"number": page, "size": size, "total": self.meters.len()}},
                }),
            },
        ))
    }

    fn post(&mut self, form: Form, head: &Parts, body: &[u8]) -> Result<Reply, String> {
        let declared = head.headers.get(header::CONTENT_TYPE);
        if declared.is_none_or(|it| it.as_bytes() != b"application/json") {
            return Err(format!("the content type {declared:?} is not supported"));
        }
        let meter = form.read(body)?;
        if let Some(rival) = self.rival.take() {
            self.create(rival);
        }
        let status = if form == Form::V1 && self.ignores_pages {
            200
        } else {
            201
        };
        Ok(match self.create(meter) {
            Some(created) => json_reply(status, &form.show(created)),
            None => problem(409, "a meter of this name exists"),
        })
    }

    /// The place of a meter: v1 finds it by its id or slug, v3 by its id alone.
    fn place(&self, form: Form, id: &str) -> Option<usize> {
        let is_it = |it: &Definition| it.id == id || form == Form::V1 && it.slug == id;
        self.meters.iter().position(is_it)
    }

    fn put_by(&mut self, form: Form, id: &str, body: &[u8]) -> Result<Reply, String> {
        let meter = form.read(body)?;
        let place = self.place(form, id);
        let Some(found) = place.and_then(|at| self.meters.get_mut(at)) else {
            return Ok(problem(404, "there is no such meter"));
        };
        found.update(meter)?;
        Ok(json_reply(200, &form.show(found)))
    }

    fn delete(&mut self, form: Form, id: &str) -> Result<Reply, String> {
        let Some(place) = self.place(form, id) else {
            return Ok(problem(404, "there is no such meter"));
        };
        self.meters.remove(place);
        Ok(Reply::text(204, "application/json", ""))
    }
}

fn json_reply(status: u16, body: &Value) -> Reply {
    Reply::text(status, "application/json", body.to_string())
}

fn problem(status: u16, detail: &str) -> Reply {
    let title = StatusCode::from_u16(status).ok();
    let title = title.and_then(|status| status.canonical_reason());
    let body = json!({
        "type": "about:blank",
        "title": title.unwrap_or("Unexpected"),
        "status": status,
        "detail": detail,
    });
    Reply::text(status, "application/problem+json", body.to_string())
}
