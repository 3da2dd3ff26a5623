//! Tests of the requests against a real HTTP server.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::*;

type Answer = fn() -> Response;
type Seen = Arc<Mutex<Vec<(Method, Uri, HeaderMap, Bytes)>>>;

async fn serve(answer: Answer) -> (String, Seen) {
    let seen = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle = move |State(seen): State<Seen>,
                       method: Method,
                       uri: Uri,
                       headers: HeaderMap,
                       body: Bytes| async move {
        seen.lock().unwrap().push((method, uri, headers, body));
        answer()
    };
    let router = Router::new().fallback(handle).with_state(Arc::clone(&seen));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, seen)
}

fn api(url: &str, token: &str) -> Api {
    Api::new(ApiSettings {
        url,
        version: None,
        resource: "meters",
        token,
        root_cas_file: None,
        timeout: Duration::from_secs(5),
    })
    .unwrap()
}

#[tokio::test]
async fn a_request_has_its_token_its_query_and_its_body() {
    let (url, seen) = serve(|| "[1]".into_response()).await;
    let base = format!("{url}/v3/openmeter");
    let api = api(&base, " om_secret\n");
    assert_eq!(api.version(), ApiVersion::V3);
    assert_eq!(api.shown(), format!("{url}/v3/openmeter/meters"));
    let response = api.get(&[("page[number]", "1")]).await.unwrap();
    assert_eq!(response.body, ApiBody::Json(json!([1])));
    api.post(b"{}".to_vec()).await.unwrap();
    let seen = seen.lock().unwrap();
    let lines: Vec<_> = seen.iter().map(|(m, u, ..)| format!("{m} {u}")).collect();
    let path = "/v3/openmeter/meters";
    let expected = [
        format!("GET {path}?page%5Bnumber%5D=1"),
        format!("POST {path}"),
    ];
    assert_eq!(lines, expected);
    for (_, _, headers, _) in seen.iter() {
        assert_eq!(headers["authorization"], "Bearer om_secret");
    }
    assert_eq!(seen[1].2["content-type"], "application/json");
    assert_eq!(seen[1].3, "{}");
}

#[tokio::test]
async fn a_response_says_what_it_is_without_secrets() {
    for (answer, status, body) in [
        (
            (|| "<html>om_secret".into_response()) as Answer,
            200,
            ApiBody::Page,
        ),
        (|| "".into_response(), 200, ApiBody::Other),
        (
            || (StatusCode::BAD_REQUEST, "{\"detail\": \"not om_secret\"}").into_response(),
            400,
            ApiBody::Json(json!({"detail": "not om_secret"})),
        ),
        (
            || vec![b' '; MOST_BYTES + 1].into_response(),
            200,
            ApiBody::LongerThan(MOST_BYTES),
        ),
    ] {
        let (url, _) = serve(answer).await;
        let response = api(&url, "om_secret").get(&[]).await.unwrap();
        assert_eq!((response.status, response.body), (status, body));
        assert!(!response.what.contains("om_secret"), "{}", response.what);
    }
}

#[tokio::test]
async fn without_a_server_or_a_token_file_the_error_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = api(&url, "").get(&[]).await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    let error = api(&url, "file:///nowhere/token").get(&[]).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("cannot read the token in /nowhere/token"),
        "{error}"
    );
}

#[test]
fn unusable_settings_are_errors() {
    let new = |url, token, version| {
        let settings = ApiSettings {
            url,
            version,
            resource: "meters",
            token,
            root_cas_file: Some("/nowhere".to_owned()),
            timeout: Duration::from_secs(5),
        };
        Api::new(settings).err().unwrap().to_string()
    };
    for (url, token, version, expected) in [
        ("host", "", None, "this is not a URL"),
        ("https://h/v3/openmeter", "", Some(ApiVersion::V1), "API v3"),
        ("https://me:pass@h", "om_x", None, "leave out one"),
        ("https://h", "a\u{1}b", None, "characters"),
        ("https://h", "om_x", None, "/nowhere"),
    ] {
        let error = new(url, token, version);
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("pass@"), "{error}");
    }
}
