//! The admin server, whose endpoints name customers: `/rejected` and `/rejected/retry`.
//!
//! It listens on the loopback interface, which `kubectl port-forward` reaches. A web page in a browser
//! on the same machine reaches it too. The server therefore refuses what such a page cannot avoid
//! sending: a foreign host name that resolves to this address (DNS rebinding), and `Origin`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Extension, Router,
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, SecondsFormat};
use meterline_core::{Rejected, RejectedError, RejectedItem, RejectedStore};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex};
use tracing::{info, warn};

use crate::{http, server::Local};

/// The most connections at once.
pub(crate) const CONNECTIONS: usize = 16;
/// How many rejected pieces a response lists by default.
const LIMIT: usize = 100;
const LARGEST_LIMIT: usize = 1_000;

#[derive(Clone)]
struct Admin {
    rejected: Rejected,
    /// The host of the configured address.
    host: Arc<str>,
    /// Held while the stores are read or start a retry.
    one_at_a_time: Arc<Mutex<()>>,
}

type Stores = Vec<(Arc<str>, Arc<dyn RejectedStore>)>;

/// Binds the address. When that fails, it logs a warning and returns `None`: billing continues without
/// the admin server.
pub(crate) async fn bind(address: &str) -> Option<TcpListener> {
    match http::bind(address, "admin").await {
        Ok(listener) => {
            let open = listener.local_addr().is_ok_and(|it| !it.ip().is_loopback());
            if open {
                warn!(
                    address,
                    "/rejected names customers, and every client that reaches this address can read it; \
                     set `admin.address` to an address on 127.0.0.1"
                );
            }
            info!(address, "serving /rejected and /rejected/retry");
            Some(listener)
        }
        Err(error) => {
            warn!("{error:#}; /rejected is not served, billing continues");
            None
        }
    }
}

/// The routes of the admin server, for requests that name `address`, a loopback name or the address that was reached.
pub(crate) fn router(address: &str, rejected: Rejected) -> Router {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let admin = Admin {
        rejected,
        host: host.into(),
        one_at_a_time: Arc::default(),
    };
    Router::new()
        .route("/", get(index))
        .route("/rejected", get(list))
        .route("/rejected/retry", post(retry))
        .layer(middleware::from_fn_with_state(admin.clone(), guard))
        .with_state(admin)
}

async fn index() -> &'static str {
    "meterline: endpoints that name customers\n\nGET  /rejected        rejected usage, which is not billed, as JSON (?limit=100&after=NEXT)\nPOST /rejected/retry  retry all of it now\n"
}

/// Refuses the requests that a foreign web page in a browser can send.
async fn guard(
    State(admin): State<Admin>,
    Extension(Local(local)): Extension<Local>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if !is_ours(headers, &admin.host, local) {
        let message =
            format!("unknown host name; use http://{local}/, or forward a port with kubectl");
        return refusal(StatusCode::FORBIDDEN, &message);
    }
    if headers.contains_key(header::ORIGIN) {
        let message = "requests from web pages are refused; leave out the header Origin";
        return refusal(StatusCode::FORBIDDEN, message);
    }
    next.run(request).await
}

/// Whether the request names this host, by a name that no foreign DNS record can claim.
fn is_ours(headers: &HeaderMap, configured: &str, local: SocketAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip == local.ip().to_canonical(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(configured),
    }
}

async fn list(
    State(admin): State<Admin>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let (limit, after) = match arguments(&query) {
        Ok(arguments) => arguments,
        Err(message) => return refusal(StatusCode::BAD_REQUEST, &message),
    };
    let listed = with_stores(&admin, move |stores| page(stores, after.as_deref(), limit)).await;
    match listed {
        Some(Ok(page)) => answer(StatusCode::OK, &page),
        Some(Err((status, message))) => refusal(status, &message),
        None => failed(),
    }
}

async fn retry(State(admin): State<Admin>) -> Response {
    match with_stores(&admin, retry_all).await {
        Some(Ok(retrying)) => answer(StatusCode::OK, &json!({"retrying": retrying})),
        Some(Err(error)) => refusal(status(&error), &error.to_string()),
        None => failed(),
    }
}

/// Makes all stores retry now. Returns the number of pieces.
///
/// # Errors
/// The reason of the last store that refuses.
fn retry_all(stores: &Stores) -> Result<usize, RejectedError> {
    let mut retrying = 0_usize;
    let mut refused = None;
    for (_, store) in stores {
        match store.retry() {
            Ok(pieces) => retrying = retrying.saturating_add(pieces),
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(retrying), Err)
}

/// Returns the status of a response that reports this error.
fn status(error: &RejectedError) -> StatusCode {
    match error {
        RejectedError::UnknownCursor(_) => StatusCode::BAD_REQUEST,
        RejectedError::Ended => StatusCode::SERVICE_UNAVAILABLE,
        RejectedError::NotLeader { .. } => StatusCode::CONFLICT,
    }
}

/// Runs `act` on a blocking thread, because a store may read a file; one call at a time. Returns
/// `None` when it panicked.
async fn with_stores<T: Send + 'static>(
    admin: &Admin,
    act: impl FnOnce(&Stores) -> T + Send + 'static,
) -> Option<T> {
    let _turn = admin.one_at_a_time.lock().await;
    let rejected = admin.rejected.clone();
    let done = tokio::task::spawn_blocking(move || act(&rejected.stores()));
    done.await.ok()
}

/// Reads `limit` and `after` from a query.
///
/// # Errors
/// What is wrong with the query and what to write instead.
fn arguments(query: &BTreeMap<String, String>) -> Result<(usize, Option<String>), String> {
    let unknown = |key: &&String| !["limit", "after"].contains(&key.as_str());
    if let Some(key) = query.keys().find(unknown) {
        return Err(format!(
            "unknown field `{key}`; there are `limit` and `after`"
        ));
    }
    let limit = match query.get("limit") {
        None => LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LARGEST_LIMIT).contains(limit))
            .ok_or_else(|| {
                format!("limit: expected a whole number from 1 to {LARGEST_LIMIT}, found `{text}`")
            })?,
    };
    Ok((limit, query.get("after").cloned()))
}

/// Lists up to `limit` pieces, store after store. The cursor is `LABEL@CURSOR`; an empty `CURSOR` is
/// the start of that store.
///
/// # Errors
/// The status and the text of a response: `after` is not one of these cursors, or an input has ended.
fn page(stores: &Stores, after: Option<&str>, limit: usize) -> Result<Value, (StatusCode, String)> {
    let bad = |why: &str| {
        let remedy = "use `next` of the previous response, or leave it out";
        (StatusCode::BAD_REQUEST, format!("after: {why}; {remedy}"))
    };
    let (first, mut cursor) = match after {
        None => (0, None),
        Some(after) => {
            let (first, cursor) = place(stores, after).ok_or_else(|| bad("unknown cursor"))?;
            (first, (!cursor.is_empty()).then_some(cursor))
        }
    };
    let mut items = Vec::new();
    let mut next = None;
    let (mut total, mut seconds, mut not_kept) = (0_usize, 0_i64, 0_u64);
    for (index, (label, store)) in stores.iter().enumerate() {
        let remaining = if index < first || next.is_some() {
            0
        } else {
            limit.saturating_sub(items.len())
        };
        let from = if remaining > 0 { cursor.take() } else { None };
        let page = store.page(from, remaining).map_err(|error| match &error {
            RejectedError::UnknownCursor(_) => bad("unknown cursor"),
            _ => (status(&error), error.to_string()),
        })?;
        total = total.saturating_add(page.total);
        seconds = seconds.saturating_add(page.total_seconds);
        not_kept = not_kept.saturating_add(page.not_kept);
        if remaining > 0 {
            next = page.next.map(|cursor| format!("{label}@{cursor}"));
            items.extend(page.items.iter().map(|item| shown(label, item)));
        } else if index >= first && next.is_none() && page.total > 0 {
            next = Some(format!("{label}@"));
        }
    }
    Ok(json!({
        "rejected": items,
        "next": next,
        "total": total,
        "total_seconds": seconds,
        "not_kept": not_kept,
    }))
}

/// Returns the index of the store that a cursor names, and the cursor within it.
fn place<'a>(stores: &Stores, after: &'a str) -> Option<(usize, &'a str)> {
    let of = |label: &str| after.strip_prefix(label)?.strip_prefix('@');
    let named = stores.iter().enumerate();
    let named = named.filter_map(|(index, (label, _))| Some((label.len(), index, of(label)?)));
    // A label may contain `@`, so the longest matching label counts.
    let (_, index, cursor) = named.max_by_key(|(length, ..)| *length)?;
    Some((index, cursor))
}

fn shown(label: &str, item: &RejectedItem) -> Value {
    json!({
        "input": label,
        "uid": &*item.uid,
        "about": &*item.about,
        "namespace": item.namespace.as_deref(),
        "start": time(item.start),
        "seconds": item.seconds,
        "cause": &*item.cause,
        "reason": &*item.reason,
        "component": &*item.component,
        "subject": item.subject.as_deref(),
        "first_try": time(item.first_try),
        "last_try": time(item.last_try),
        "tries": item.tries,
        "next_try": item.next_try.map(time),
    })
}

/// Formats Unix seconds as RFC 3339; seconds outside the range of dates stay a number.
fn time(seconds: i64) -> Value {
    match DateTime::from_timestamp(seconds, 0) {
        Some(time) => json!(time.to_rfc3339_opts(SecondsFormat::Secs, true)),
        None => json!(seconds),
    }
}

fn failed() -> Response {
    let message = "reading the rejected pieces failed; see the log for the reason";
    refusal(StatusCode::INTERNAL_SERVER_ERROR, message)
}

fn refusal(status: StatusCode, message: &str) -> Response {
    answer(status, &json!({"error": message}))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{body}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use meterline_core::RejectedPage;

    use super::*;

    /// Holds pieces of the objects `PREFIX-0` and so on; its cursor is the index.
    struct FakeStore(&'static str, usize);

    impl RejectedStore for FakeStore {
        fn page(&self, after: Option<&str>, limit: usize) -> Result<RejectedPage, RejectedError> {
            let first = after.map_or(Ok(0), str::parse::<usize>);
            let unknown = |_| RejectedError::UnknownCursor(after.unwrap_or_default().to_owned());
            let first = first.map_err(unknown)?;
            let last = self.1.min(first + limit);
            Ok(RejectedPage {
                items: (first..last).map(|index| item(self.0, index)).collect(),
                next: (last < self.1).then(|| last.to_string()),
                total: self.1,
                total_seconds: 10 * self.1 as i64,
                not_kept: 1,
            })
        }

        fn retry(&self) -> Result<usize, RejectedError> {
            match self.1 {
                0 => Err(RejectedError::NotLeader {
                    leader: "other".into(),
                }),
                pieces => Ok(pieces),
            }
        }
    }

    fn item(prefix: &str, index: usize) -> RejectedItem {
        RejectedItem {
            uid: format!("{prefix}-{index}").into(),
            about: format!("pod default/{prefix}-{index}").into(),
            namespace: Some("default".into()),
            start: 1_700_000_000,
            seconds: 10,
            reason: "400 from the API".into(),
            cause: "sink".into(),
            component: "output.openmeter".into(),
            subject: None,
            first_try: 1_700_000_010,
            last_try: i64::MAX,
            tries: 3,
            next_try: None,
        }
    }

    fn stores() -> Stores {
        let rejected = Rejected::default();
        rejected.register("a", Arc::new(FakeStore("first", 3)));
        rejected.register("a@1", Arc::new(FakeStore("second", 0)));
        rejected.register("b", Arc::new(FakeStore("third", 2)));
        rejected.stores()
    }

    #[test]
    fn pagination_visits_every_store_and_misses_nothing() {
        for limit in 1..=6 {
            let (mut uids, mut after) = (Vec::new(), None);
            loop {
                let page = page(&stores(), after.as_deref(), limit).unwrap();
                let items = page["rejected"].as_array().unwrap();
                assert!(items.len() <= limit);
                uids.extend(
                    items
                        .iter()
                        .map(|it| it["uid"].as_str().unwrap().to_owned()),
                );
                assert_eq!(page["total"], 5);
                assert_eq!(page["total_seconds"], 50);
                assert_eq!(page["not_kept"], 3);
                match page["next"].as_str() {
                    Some(next) => after = Some(next.to_owned()),
                    None => break,
                }
            }
            let all = ["first-0", "first-1", "first-2", "third-0", "third-1"];
            assert_eq!(uids, all, "{limit}");
        }
    }

    #[test]
    fn a_retry_fails_when_a_store_refuses() {
        let refused = retry_all(&stores()).unwrap_err();
        assert_eq!(status(&refused), StatusCode::CONFLICT);
        assert!(
            refused.to_string().contains("the leader, `other`"),
            "{refused}"
        );
        let rejected = Rejected::default();
        rejected.register("a", Arc::new(FakeStore("first", 3)));
        rejected.register("b", Arc::new(FakeStore("second", 2)));
        assert_eq!(retry_all(&rejected.stores()), Ok(5));
    }

    /// The query is right; it is the program that cannot answer.
    #[test]
    fn an_input_that_has_ended_is_no_error_of_the_client() {
        struct EndedStore;

        impl RejectedStore for EndedStore {
            fn page(&self, _: Option<&str>, _: usize) -> Result<RejectedPage, RejectedError> {
                Err(RejectedError::Ended)
            }

            fn retry(&self) -> Result<usize, RejectedError> {
                Err(RejectedError::Ended)
            }
        }

        let rejected = Rejected::default();
        rejected.register("a", Arc::new(EndedStore));
        let (code, error) = page(&rejected.stores(), None, 10).unwrap_err();
        assert_eq!(
            (code, error.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "the input has ended")
        );
        let error = retry_all(&rejected.stores()).unwrap_err();
        assert_eq!(status(&error), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_piece_is_shown_with_all_its_fields() {
        let page = page(&stores(), None, 1).unwrap();
        assert_eq!(
            page["rejected"][0],
            json!({
                "input": "a", "uid": "first-0", "about": "pod default/first-0",
                "namespace": "default", "start": "2023-11-14T22:13:20Z", "seconds": 10,
                "cause": "sink", "reason": "400 from the API", "component": "output.openmeter",
                "subject": null, "first_try": "2023-11-14T22:13:30Z", "last_try": i64::MAX,
                "tries": 3, "next_try": null,
            })
        );
        assert_eq!(page["next"], "a@1");
    }

    #[test]
    fn a_bad_query_is_refused_with_a_remedy() {
        let query = |key: &str, value: &str| {
            let query = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            arguments(&query)
        };
        assert_eq!(query("limit", "1000"), Ok((1000, None)));
        for bad in ["0", "1001", "-1", "x", ""] {
            assert!(query("limit", bad).unwrap_err().contains("from 1 to 1000"));
        }
        assert!(query("page", "2").unwrap_err().contains("`after`"));
        for bad in ["", "nowhere@1", "a", "a@x"] {
            let (status, error) = page(&stores(), Some(bad), 10).unwrap_err();
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(error.contains("`next`"), "{bad}: {error}");
        }
    }

    #[test]
    fn only_host_names_that_no_foreign_dns_can_claim_are_served() {
        let local = "10.1.2.3:4196".parse().unwrap();
        let is_ours = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            is_ours(&headers, "collector.internal", local)
        };
        for host in [
            "localhost:4196",
            "LOCALHOST",
            "127.0.0.1:1",
            "127.8.8.8",
            "[::1]:4196",
            "10.1.2.3:80",
            "collector.internal:4196",
        ] {
            assert!(is_ours(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:4196",
            "127.0.0.1.evil.example",
            "10.1.2.4:4196",
            "[::2]",
            "a b",
            "",
        ] {
            assert!(!is_ours(host), "{host}");
        }
        assert!(!super::is_ours(&HeaderMap::new(), "x", local));
    }
}
