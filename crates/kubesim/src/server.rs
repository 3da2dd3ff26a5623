//! The HTTP server: lists, watches, and the errors that it makes on request.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Query as UrlQuery, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};

use crate::{
    selector::Selector,
    store::{Key, Kind, Query, Store, WatchLine},
};

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many changes are kept for watches to resume from.
    pub history: usize,
    /// The pause between bookmarks.
    pub bookmarks: Duration,
    /// The minor version of Kubernetes 1 that it claims to be.
    pub minor: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history: 100_000,
            bookmarks: Duration::from_secs(60),
            minor: 35,
        }
    }
}

#[derive(Debug)]
struct Shared {
    options: Options,
    store: Mutex<Store>,
    /// The newest version; watches wait on it.
    version: watch::Sender<u64>,
    /// How often all watches were cut.
    cuts: watch::Sender<u64>,
    /// The status of the requests that are refused, and how many are left.
    refuse_status: AtomicU32,
    refuse_left: AtomicU64,
    requests: AtomicU64,
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Kubesim {
    shared: Arc<Shared>,
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Kubesim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubesim {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let store = Store::new(options.history);
        let shared = Arc::new(Shared {
            version: watch::Sender::new(store.version()),
            cuts: watch::Sender::new(0),
            store: Mutex::new(store),
            refuse_status: AtomicU32::new(0),
            refuse_left: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            options,
        });
        let router = Router::new()
            .fallback(handle)
            .with_state(Arc::clone(&shared));
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle ends it when it is dropped"
        )]
        let task = tokio::spawn(async move {
            // Ends with the process, or when the handle is dropped.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { shared, url, task })
    }

    /// Its address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig for it, as YAML.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: sim\n\
             clusters:\n- name: sim\n  cluster: {{server: \"{}\"}}\n\
             contexts:\n- name: sim\n  context: {{cluster: sim, user: sim}}\n\
             users:\n- name: sim\n  user: {{}}\n",
            self.url
        )
    }

    /// Writes [`Kubesim::kubeconfig`] to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.kubeconfig())
    }

    /// Changes the store; watches see it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.shared.store();
        let result = change(&mut store);
        self.shared.version.send_replace(store.version());
        result
    }

    /// Ends every watch, as a server that shuts down does.
    pub fn cut_watches(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Answers the next `count` requests with `status`.
    pub fn refuse(&self, status: u16, count: u64) {
        self.shared
            .refuse_status
            .store(u32::from(status), Ordering::Relaxed);
        self.shared.refuse_left.store(count, Ordering::Relaxed);
    }

    /// How many requests have arrived.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status that refuses this request; `None` when it is answered.
    fn refusal(&self) -> Option<StatusCode> {
        self.refuse_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .ok()?;
        let status = self.refuse_status.load(Ordering::Relaxed);
        StatusCode::from_u16(u16::try_from(status).ok()?).ok()
    }
}

type Parameters = HashMap<String, String>;

async fn handle(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    UrlQuery(parameters): UrlQuery<Parameters>,
) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    if let Some(code) = shared.refusal() {
        return status(code, "Refused", "refused by a test");
    }
    match uri.path() {
        "/version" => return version(shared.options.minor),
        "/readyz" | "/livez" | "/healthz" => return "ok".into_response(),
        _ => {}
    }
    let steps: Vec<_> = uri.path().trim_matches('/').split('/').collect();
    let (namespace, plural, name) = match steps.as_slice() {
        ["api", "v1", "namespaces", namespace, plural] => (Some(*namespace), *plural, None),
        ["api", "v1", "namespaces", namespace, plural, name] => {
            (Some(*namespace), *plural, Some(*name))
        }
        ["api", "v1", plural] => (None, *plural, None),
        ["api", "v1", plural, name] => (None, *plural, Some(*name)),
        _ => return not_found(uri.path()),
    };
    let Some(kind) = Kind::from_plural(plural) else {
        return not_found(uri.path());
    };
    if let Some(name) = name {
        let key = (
            kind,
            namespace.unwrap_or_default().to_owned(),
            name.to_owned(),
        );
        return match shared.store().get(&key) {
            Some(bytes) => json_body(bytes),
            None => not_found(uri.path()),
        };
    }
    let selector = |key: &str| Selector::parse(parameters.get(key).map_or("", String::as_str));
    let query = match (selector("labelSelector"), selector("fieldSelector")) {
        (Ok(labels), Ok(fields)) => Query {
            namespace: namespace.map(ToOwned::to_owned),
            labels,
            fields,
        },
        (Err(reason), _) | (_, Err(reason)) => {
            return status(StatusCode::BAD_REQUEST, "BadRequest", &reason);
        }
    };
    if is_true(&parameters, "watch") {
        watch_response(&shared, kind, query, &parameters)
    } else {
        list(&shared, kind, &query, &parameters)
    }
}

fn is_true(parameters: &Parameters, key: &str) -> bool {
    matches!(parameters.get(key).map(String::as_str), Some("true" | "1"))
}

fn list(shared: &Shared, kind: Kind, query: &Query, parameters: &Parameters) -> Response {
    let store = shared.store();
    let limit = parameters
        .get("limit")
        .and_then(|limit| limit.parse().ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let (version, after) = match parameters.get("continue").filter(|it| !it.is_empty()) {
        None => (store.version(), None),
        Some(token) => match decode(kind, token).filter(|(version, _)| store.has(*version)) {
            Some((version, key)) => (version, Some(key)),
            None => return expired("The provided continue parameter is too old"),
        },
    };
    let page = store.list(kind, query, after.as_ref(), limit);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(last) = &page.last {
        set(
            &mut metadata,
            "continue",
            format!("{version}/{}/{}", last.1, last.2),
        );
        set(&mut metadata, "remainingItemCount", page.remaining);
    }
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"v1\",\"metadata\":{metadata},\"items\":[",
        kind.name()
    );
    let mut body = BytesMut::with_capacity(page.items.iter().map(|it| it.len() + 1).sum());
    body.put_slice(head.as_bytes());
    for (index, item) in page.items.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        body.put_slice(item);
    }
    body.put_slice(b"]}");
    json_body(body.freeze())
}

/// The version and key of a `continue` token.
fn decode(kind: Kind, token: &str) -> Option<(u64, Key)> {
    let mut parts = token.splitn(3, '/');
    let version = parts.next()?.parse().ok()?;
    let namespace = parts.next()?.to_owned();
    Some((version, (kind, namespace, parts.next()?.to_owned())))
}

/// A watch in progress.
struct Watch {
    shared: Arc<Shared>,
    kind: Kind,
    query: Query,
    seen: u64,
    pending: Vec<Bytes>,
    version: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
    ends_at: Instant,
    bookmark_at: Option<Instant>,
    over: bool,
}

fn watch_response(
    shared: &Arc<Shared>,
    kind: Kind,
    query: Query,
    parameters: &Parameters,
) -> Response {
    let store = shared.store();
    let requested = parameters
        .get("resourceVersion")
        .and_then(|version| version.parse::<u64>().ok())
        .filter(|version| *version > 0);
    let bookmarks = is_true(parameters, "allowWatchBookmarks");
    let mut pending = Vec::new();
    // Without a version a watch begins with all objects, as if they were added now.
    if requested.is_none() || is_true(parameters, "sendInitialEvents") {
        let page = store.list(kind, &query, None, usize::MAX);
        pending.extend(page.items.iter().map(|bytes| line("ADDED", bytes)));
        if is_true(parameters, "sendInitialEvents") {
            pending.push(bookmark(kind, store.version(), true));
        }
    }
    let seen = match requested {
        Some(version) if pending.is_empty() => version,
        _ => store.version(),
    };
    let seconds = parameters
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(300);
    let now = Instant::now();
    let watch = Watch {
        kind,
        query,
        seen,
        pending,
        version: shared.version.subscribe(),
        cuts: shared.cuts.subscribe(),
        ends_at: now + Duration::from_secs(seconds),
        bookmark_at: bookmarks.then(|| now + shared.options.bookmarks),
        over: false,
        shared: Arc::clone(shared),
    };
    let chunks = futures::stream::unfold(watch, |mut watch| async move {
        watch
            .next()
            .await
            .map(|chunk| (Ok::<_, Infallible>(chunk), watch))
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(chunks),
    )
        .into_response()
}

impl Watch {
    /// The next lines; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            if !self.pending.is_empty() {
                return Some(std::mem::take(&mut self.pending).concat().into());
            }
            self.version.mark_unchanged();
            self.look();
            if !self.pending.is_empty() || self.over {
                continue;
            }
            let bookmark_at = self.bookmark_at;
            tokio::select! {
                _ = self.version.changed() => {}
                _ = self.cuts.changed() => self.over = true,
                () = tokio::time::sleep_until(self.ends_at) => self.over = true,
                () = async {
                    match bookmark_at {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.bookmark_at = Some(Instant::now() + self.shared.options.bookmarks);
                    self.pending.push(bookmark(self.kind, self.seen, false));
                }
            }
        }
    }

    /// Takes the changes since the last ones.
    fn look(&mut self) {
        let store = self.shared.store();
        match store.since(self.kind, &self.query, self.seen) {
            Ok(lines) => {
                self.pending.extend(
                    lines
                        .iter()
                        .map(|WatchLine { verb, bytes }| line(verb, bytes)),
                );
                self.seen = store.version();
            }
            Err(_) => {
                let gone = status_object(410, "Expired", "too old resource version");
                self.pending
                    .push(line("ERROR", gone.to_string().as_bytes()));
                // The watch ends after this line.
                self.seen = store.version();
                self.ends_at = Instant::now();
            }
        }
    }
}

fn line(verb: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(verb.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}

fn bookmark(kind: Kind, version: u64, ends_initial_events: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if ends_initial_events {
        set(
            &mut metadata,
            "annotations",
            json!({"k8s.io/initial-events-end": "true"}),
        );
    }
    let object = json!({"kind": kind.name(), "apiVersion": "v1", "metadata": metadata});
    line("BOOKMARK", object.to_string().as_bytes())
}

fn version(minor: u32) -> Response {
    let page = json!({
        "major": "1", "minor": minor.to_string(), "gitVersion": format!("v1.{minor}.0"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "2025-01-01T00:00:00Z",
        "goVersion": "go1.25", "compiler": "gc", "platform": "linux/amd64",
    });
    json_body(page.to_string().into())
}

fn json_body(bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code,
    })
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let body = status_object(code.as_u16(), reason, message).to_string();
    (code, json_body(body.into())).into_response()
}

fn not_found(path: &str) -> Response {
    status(
        StatusCode::NOT_FOUND,
        "NotFound",
        &format!("{path} not found"),
    )
}

fn expired(message: &str) -> Response {
    status(StatusCode::GONE, "Expired", message)
}

/// Sets a field of an object.
fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value.into());
    }
}
