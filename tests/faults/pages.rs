//! Hostile clients of the HTTP server, and the admin endpoints, which name customers.

use std::time::Duration;

use meterline_testkit::{process::Meterline, scene::Scene};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::{BINARY, MINUTE, meterline};

/// Longer than any time limit of the server.
const LONG: Duration = Duration::from_secs(40);

/// The address of the HTTP server.
fn address(meterline: &Meterline) -> String {
    meterline.url("").trim_start_matches("http://").to_owned()
}

/// The most memory that the process had resident, in MiB.
fn peak_memory(meterline: &Meterline) -> u64 {
    let status = format!("/proc/{}/status", meterline.id());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

/// Opens this many connections that send this and wait. The server may have closed some already.
async fn connections(meterline: &Meterline, count: usize, sent: &str) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let (address, sent) = (address(meterline), sent.to_owned());
        opening.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may have closed it by now.
            let _ = timeout(LONG, stream.write_all(sent.as_bytes())).await;
            stream
        });
    }
    opening.join_all().await
}

/// Waits until the server closes the connection, and returns what it sent before.
async fn until_closed(mut stream: TcpStream) -> String {
    let mut received = Vec::new();
    // A reset is an end as well.
    let ended = timeout(LONG, stream.read_to_end(&mut received)).await;
    assert!(ended.is_ok(), "the connection stays open");
    String::from_utf8(received).unwrap()
}

async fn is_answered(meterline: &Meterline) {
    let (status, text) = meterline.get("/ping").await.unwrap();
    assert_eq!((status, text.as_str()), (200, "pong"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn two_thousand_incomplete_headers_cost_little_memory_and_block_no_client() {
    let scene = Scene::with(BINARY, 2).await;
    let meterline = scene.preset().start_ready().await.unwrap();
    let before = peak_memory(&meterline);
    let header = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(390_000));
    let held = connections(&meterline, 2_000, &header).await;
    is_answered(&meterline).await;
    let after = peak_memory(&meterline);
    assert!(after < before + 64, "{before} MiB, then {after} MiB");
    scene.assert_exact(&meterline).await;
    is_answered(&meterline).await;
    drop(held);
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
async fn idle_connections_take_no_descriptor_from_billing() {
    let scene = Scene::with(BINARY, 2).await;
    let ingest = &scene.ingest;
    let meterline = scene
        .preset()
        .by_shell("ulimit -n 256", "")
        .start_ready()
        .await
        .unwrap();
    let request = "GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let held = connections(&meterline, 1_100, request).await;
    is_answered(&meterline).await;
    // From now on delivery needs new connections.
    ingest.go_away().await;
    ingest.come_back().await.unwrap();
    scene.assert_exact(&meterline).await;
    is_answered(&meterline).await;
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", meterline.id()));
    let descriptors = descriptors.unwrap().count();
    assert!(descriptors < 160, "{descriptors}");
    let log = meterline.log().join("\n");
    assert!(!log.contains("Too many open files"), "{log}");
    drop(held);
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_clients() {
    let meterline = meterline().config(IDLE).start_ready().await.unwrap();
    let held = connections(&meterline, 40, "GET /metrics HTTP/1.1\r\n").await;
    meterline.stop().await;
    drop(held);
}

/// The server limits the connections of each address.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_many_connections_blocks_only_itself() {
    let meterline = meterline().config(IDLE).start_ready().await.unwrap();
    let address = address(&meterline);
    let mut kept = TcpStream::connect(&address).await.unwrap();
    let mut greedy = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        greedy.push(socket.connect(address.parse().unwrap()).await.unwrap());
    }
    kept.write_all(b"GET /ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = until_closed(kept).await;
    assert!(answer.ends_with("pong"), "{answer}");
    let closed = meterline.metric("http_connections_closed").await.unwrap();
    assert!(closed.is_some_and(|closed| closed >= 200.0), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_the_response_is_disconnected() {
    let meterline = meterline().config(IDLE).start_ready().await.unwrap();
    let stream = TcpStream::connect(address(&meterline)).await.unwrap();
    let (_never_read, mut requests) = stream.into_split();
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1_000);
    let sends = async { while requests.write_all(request.as_bytes()).await.is_ok() {} };
    let ended = timeout(2 * LONG, sends).await;
    assert!(ended.is_ok(), "the connection stays open");
}

/// Runs until it is stopped, and delivers nothing.
const IDLE: &str = "input: {generate: {mapping: 'root = 1', interval: 1h}}\noutput: {drop: {}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_a_time_limit_and_a_size_limit() {
    let meterline = meterline().config(IDLE).start_ready().await.unwrap();
    let open = async |sent: &str| connections(&meterline, 1, sent).await.pop().unwrap();
    let half = open("GET /ping HTTP/1.1\r\nhost:").await;
    let nothing = open("").await;
    let answered = open("GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let (half, nothing, answered) = tokio::join!(
        until_closed(half),
        until_closed(nothing),
        until_closed(answered)
    );
    assert_eq!(nothing, "");
    assert!(
        half.is_empty() || half.starts_with("HTTP/1.1 408"),
        "{half}"
    );
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    assert!(answered.ends_with("pong"), "{answered}");
    let large = |size: usize| format!("GET /ping HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(size));
    let large = open(&large(20_000)).await;
    assert!(!until_closed(large).await.contains("pong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_open_files_is_raised_to_the_hard_limit() {
    let meterline = meterline()
        .config(IDLE)
        .by_shell("ulimit -Sn 64\nulimit -Hn 512", "")
        .start_ready()
        .await
        .unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", meterline.id())).unwrap();
    let line = limits.lines().find(|line| line.contains("open files"));
    let numbers: Vec<_> = line.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["512", "512"]);
}

/// Status and JSON of an endpoint of the admin server.
async fn admin(
    meterline: &Meterline,
    method: reqwest::Method,
    page: &str,
    header: Option<(&str, &str)>,
) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(LONG);
    let mut request = client
        .build()
        .unwrap()
        .request(method, meterline.admin_url(page));
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn customer_names_are_listed_on_loopback_only_and_not_for_web_pages() {
    let meterline = meterline().config(IDLE).start_ready().await.unwrap();
    let get =
        async |page: &str, header| admin(&meterline, reqwest::Method::GET, page, header).await;
    let post =
        async |page: &str, header| admin(&meterline, reqwest::Method::POST, page, header).await;
    let (status, page) = get("/rejected?limit=10", None).await;
    assert_eq!(status, 200);
    assert_eq!(
        page,
        serde_json::json!({
            "rejected": [], "next": null, "total": 0, "total_seconds": 0, "not_kept": 0,
        })
    );
    assert_eq!(
        post("/rejected/retry", None).await,
        (200, serde_json::json!({"retrying": 0}))
    );
    assert_eq!(get("/rejected/retry", None).await.0, 405);
    assert_eq!(post("/rejected", None).await.0, 405);
    assert_eq!(get("/", None).await.0, 200);
    let (status, page) = get("/rejected?limit=0", None).await;
    assert_eq!(status, 400);
    assert!(page["error"].as_str().unwrap().contains("from 1 to 1000"));
    // Headers that a browser always sends.
    for header in [
        ("host", "rebound.example:4196"),
        ("origin", "http://x.example"),
    ] {
        assert_eq!(get("/rejected", Some(header)).await.0, 403, "{header:?}");
        assert_eq!(
            post("/rejected/retry", Some(header)).await.0,
            403,
            "{header:?}"
        );
    }
    // The other server does not have it.
    assert_eq!(meterline.get("/rejected").await.unwrap().0, 404);
    meterline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_address_in_use_does_not_stop_billing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let meterline = meterline()
        .config(IDLE)
        .admin_port(port)
        .start_ready()
        .await
        .unwrap();
    let line = meterline.wait_for_log("cannot listen on", MINUTE).await;
    let line = line.unwrap();
    assert!(line.contains("--set admin.address=HOST:PORT"), "{line}");
    meterline.stop().await;
}
