//! Tests of the output against a real HTTP server.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Bytes as Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};

use super::*;

type Answer = fn() -> Response;

#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<(String, HeaderMap, String)>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
    count: Arc<AtomicUsize>,
}

async fn handle(
    State(server): State<Server>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let text = String::from_utf8_lossy(&body).into_owned();
    server
        .seen
        .lock()
        .unwrap()
        .push((uri.path().to_owned(), headers, text));
    let index = server.count.fetch_add(1, Ordering::SeqCst);
    let answers = server.answers.lock().unwrap();
    let answer = answers.get(index).copied();
    answer.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |answer| answer())
}

async fn serve(answers: &[Answer]) -> (String, Server) {
    let server = Server::default();
    *server.answers.lock().unwrap() = answers.to_vec();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(handle).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, server)
}

async fn writer(base: &str, token: Token, batching: BatchPolicy) -> Arc<dyn Writer> {
    let plan = Plan {
        url: endpoint(base).unwrap(),
        token,
        batching,
        max_in_flight: 1,
        timeout: Duration::from_secs(5),
        tls: crate::tls::Tls::default(),
    };
    let cx = BuildContext::default().labelled("test");
    let mut node = Box::new(plan).build(&cx).await.unwrap();
    let mut writer = None;
    node.each_writer(&mut |leaf| writer = Some(Arc::clone(&leaf.writer)));
    writer.unwrap()
}

fn events(bodies: &[&'static str]) -> Vec<Message> {
    bodies.iter().map(|body| Message::raw(*body)).collect()
}

fn batched() -> BatchPolicy {
    BatchPolicy {
        count: 20,
        ..BatchPolicy::default()
    }
}

#[test]
fn the_path_depends_on_the_base() {
    for (base, path) in [
        (
            "https://openmeter.cloud",
            "https://openmeter.cloud/api/v1/events",
        ),
        (
            "https://openmeter.cloud/",
            "https://openmeter.cloud/api/v1/events",
        ),
        ("http://h:1/prefix/", "http://h:1/prefix/api/v1/events"),
        (
            "https://eu.api.konghq.com/v3/openmeter",
            "https://eu.api.konghq.com/v3/openmeter/events",
        ),
        (
            "https://eu.api.konghq.com/v3/openmeter/",
            "https://eu.api.konghq.com/v3/openmeter/events",
        ),
    ] {
        assert_eq!(endpoint(base).unwrap().as_str(), path);
    }
    assert!(endpoint("openmeter.cloud").is_err());
    assert!(endpoint("").is_err());
}

#[test]
fn a_missing_token_and_an_unencrypted_one_are_warned_of() {
    let warning = |base: &str, token: Token| token_warning(&endpoint(base).unwrap(), &token);
    let token = || Token::Text("om_x".to_owned());
    for quiet in [
        "http://localhost:8888",
        "http://127.0.0.1",
        "http://[::1]:8",
    ] {
        assert_eq!(warning(quiet, token()), None, "{quiet}");
        assert_eq!(warning(quiet, Token::None), None, "{quiet}");
    }
    assert_eq!(warning("https://openmeter.cloud", token()), None);
    assert_eq!(warning("https://me:pass@host", Token::None), None);
    let none = warning("https://openmeter.cloud", Token::None).unwrap();
    assert!(none.contains("no token"), "{none}");
    let clear = warning("http://openmeter.internal", token()).unwrap();
    assert!(clear.contains("use https"), "{clear}");
}

#[tokio::test]
async fn responses_of_another_server_neither_accept_nor_reject_events() {
    let error: Answer = || (StatusCode::OK, "{\"error\": \"no\"}").into_response();
    let ok: Answer = || (StatusCode::OK, "ok").into_response();
    let empty: Answer = || StatusCode::BAD_REQUEST.into_response();
    let plain: Answer = || {
        (
            StatusCode::BAD_REQUEST,
            "Client sent an HTTP request to an HTTPS server.\n",
        )
            .into_response()
    };
    let gateway: Answer = || {
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            [("content-type", "application/json")],
            "{\"message\": \"no route\"}",
        )
            .into_response()
    };
    let answers = [error, ok, empty, plain, gateway];
    let (url, _) = serve(&answers).await;
    let writer = writer(&url, Token::None, batched()).await;
    for index in 0..answers.len() {
        let error = writer.write(&events(&["{}"])).await.unwrap_err();
        assert!(
            matches!(error, WriteError::UnexpectedResponse { .. }),
            "{index}: {error:?}"
        );
    }
    writer.write(&events(&["{}"])).await.unwrap();
}

/// 200 and 202 responses whose body is shorter than declared, and a 400 response with a part of a
/// problem.
#[tokio::test]
async fn a_response_that_is_cut_off_is_neither_a_success_nor_a_rejection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        "HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\n{}",
        "HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "HTTP/1.1 400 Bad\r\ncontent-type: application/problem+json\r\ncontent-length: 10\r\n\r\n{}",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(head.as_bytes()).await.unwrap();
        });
        let writer = writer(&url, Token::None, batched()).await;
        let error = writer.write(&events(&["{}"])).await.unwrap_err();
        assert!(matches!(error, WriteError::Failed { .. }), "{error:?}");
    }
}

/// Some proxies declare a content type for an empty body.
#[tokio::test]
async fn a_success_without_a_body_is_no_web_page_whatever_its_content_type() {
    const PAGE: [(&str, &str); 1] = [("content-type", "text/html; charset=utf-8")];
    let answers: [Answer; 3] = [
        || (StatusCode::ACCEPTED, PAGE).into_response(),
        || (StatusCode::NO_CONTENT, PAGE).into_response(),
        || (StatusCode::OK, PAGE).into_response(),
    ];
    let (url, _) = serve(&answers).await;
    let writer = writer(&url, Token::None, batched()).await;
    for _ in &answers {
        writer.write(&events(&["{}"])).await.unwrap();
    }
}

#[tokio::test]
async fn a_batch_is_an_array_of_the_same_bytes() {
    let (url, server) = serve(&[]).await;
    let writer = writer(&url, Token::Text("om_x".to_owned()), batched()).await;
    writer
        .write(&events(&["{\"a\":1.50}", "{\"b\": 2}"]))
        .await
        .unwrap();
    writer.write(&events(&["{}"])).await.unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[0].0, "/api/v1/events");
    assert_eq!(seen[0].1["authorization"], "Bearer om_x");
    assert_eq!(
        seen[0].1["content-type"],
        "application/cloudevents-batch+json"
    );
    assert_eq!(seen[0].2, "[{\"a\":1.50},{\"b\": 2}]");
    assert_eq!(seen[1].2, "[{}]");
}

#[tokio::test]
async fn without_batching_a_single_event_goes_by_itself() {
    let (url, server) = serve(&[]).await;
    let writer = writer(&url, Token::None, BatchPolicy::default()).await;
    writer.write(&events(&["{}"])).await.unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[0].1["content-type"], "application/cloudevents+json");
    assert!(!seen[0].1.contains_key("authorization"));
    assert_eq!(seen[0].2, "{}");
}

#[tokio::test]
async fn only_a_response_that_accepts_the_events_is_a_success() {
    let page: Answer = || {
        (
            [("content-type", "text/html; charset=utf-8")],
            "<h1>Welcome</h1>",
        )
            .into_response()
    };
    let redirect: Answer = || (StatusCode::FOUND, [("location", "/elsewhere")]).into_response();
    let busy: Answer = || (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")]).into_response();
    let bad: Answer = || {
        (
            StatusCode::BAD_REQUEST,
            [("content-type", "application/problem+json; charset=utf-8")],
            "{\"detail\": \"event 3 has\\n no id\"}",
        )
            .into_response()
    };
    let (url, server) = serve(&[page, redirect, busy, bad]).await;
    let writer = writer(&url, Token::None, batched()).await;
    let mut error = Vec::new();
    for _ in 0..4 {
        error.push(writer.write(&events(&["{}"])).await.unwrap_err());
    }
    assert!(
        matches!(&error[0], WriteError::UnexpectedResponse { reason } if reason.contains("web page"))
    );
    assert!(
        matches!(&error[1], WriteError::UnexpectedResponse { reason } if reason.contains("redirects are not followed"))
    );
    assert!(
        matches!(&error[2], WriteError::Retry { after: Some(after), .. } if after.as_secs() == 7)
    );
    assert!(
        matches!(&error[3], WriteError::Rejected { reason } if reason.ends_with("event 3 has no id"))
    );
    assert_eq!(
        server.seen.lock().unwrap().len(),
        4,
        "the redirect was not followed"
    );
}

/// The page that nginx returns on its TLS port, and pages that other proxies return.
#[tokio::test]
async fn a_web_page_rejects_no_event() {
    const PAGE: &str =
        "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title>";
    let nginx: Answer = || {
        (
            StatusCode::BAD_REQUEST,
            [("content-type", "text/html")],
            PAGE,
        )
            .into_response()
    };
    let loud: Answer = || {
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            [("content-type", "Text/HTML; charset=utf-8")],
            "Bad Request",
        )
            .into_response()
    };
    let xhtml: Answer = || {
        (
            StatusCode::BAD_REQUEST,
            [("content-type", "application/xhtml+xml")],
            "?",
        )
            .into_response()
    };
    let undeclared: Answer = || {
        (
            StatusCode::BAD_REQUEST,
            "\n <!DOCTYPE HTML><title>?</title>",
        )
            .into_response()
    };
    let created: Answer = || {
        (
            StatusCode::CREATED,
            [("content-type", "TEXT/HTML")],
            "Please sign in",
        )
            .into_response()
    };
    let answers = [nginx, loud, xhtml, undeclared, created];
    let (url, _) = serve(&answers).await;
    let writer = writer(&url, Token::None, batched()).await;
    for index in 0..answers.len() {
        let error = writer.write(&events(&["{}"])).await.unwrap_err();
        assert!(
            matches!(&error, WriteError::UnexpectedResponse { reason } if reason.contains("web page")),
            "{index}: {error:?}"
        );
    }
}

/// Starts a server that sends endless responses, and counts how many bytes clients accepted.
async fn endless(status: &'static str) -> (String, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(&[b'x'; 16_384]).await.is_ok() {
                count.fetch_add(16_384, Ordering::SeqCst);
            }
        }
    });
    (url, sent)
}

#[tokio::test]
async fn a_response_without_end_is_not_read_to_its_end() {
    for status in ["500 Oh", "200 OK"] {
        let (url, sent) = endless(status).await;
        let writer = writer(&url, Token::None, batched()).await;
        let batch = events(&["{}"]);
        let error = tokio::time::timeout(Duration::from_secs(4), writer.write(&batch));
        let error = error.await.unwrap();
        assert!(error.is_err(), "{error:?}");
        // The buffers on the way hold more than the client reads, but the amount is bounded.
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent < 50_000_000, "{sent}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_retried_and_secrets_are_not_shown() {
    // A port that was free a moment ago and that nothing listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://user:hunter2@{address}");
    let writer = writer(&url, Token::Text("om_hunter2".to_owned()), batched()).await;
    let error = writer.write(&events(&["{}"])).await.unwrap_err();
    let WriteError::Retry {
        reason,
        after: None,
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(reason.contains("refused"), "{reason}");
    assert!(!reason.contains("hunter2"), "{reason}");
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes_or_is_refused() {
    let refuse: Answer = || StatusCode::UNAUTHORIZED.into_response();
    let (url, server) = serve(&[refuse]).await;
    let dir = std::env::temp_dir().join(format!("meterline-token-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("token");
    std::fs::write(&path, "first\n").unwrap();
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let writer = writer(&url, Token::File(path.clone()), batched()).await;
    let error = writer.write(&events(&["{}"])).await.unwrap_err();
    assert!(matches!(error, WriteError::Unauthorized { .. }));
    // Replaced within the resolution of the file's timestamp: only the 401 makes the output read it
    // again.
    std::fs::write(&path, "second").unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(before)
        .unwrap();
    writer.write(&events(&["{}"])).await.unwrap();
    std::fs::write(&path, " \n").unwrap();
    let error = writer.write(&events(&["{}"])).await.unwrap_err();
    assert!(
        matches!(&error, WriteError::Unauthorized { reason } if reason.ends_with("it is empty")),
        "{error:?}"
    );
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(matches!(
        writer.write(&events(&["{}"])).await.unwrap_err(),
        WriteError::Unauthorized { .. }
    ));
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen[0].1["authorization"], "Bearer first");
    assert_eq!(seen[1].1["authorization"], "Bearer second");
}
