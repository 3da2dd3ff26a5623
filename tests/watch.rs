//! The watch against a simulated API server that misbehaves.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use meterline_kubesim::{Options, Size, World, rfc3339};
use meterline_testkit::scene::Scene;

use crate::support::{BINARY, MINUTE};

/// Waits until a moment after the second has begun.
async fn begun(second: i64) {
    let begins = UNIX_EPOCH + Duration::from_secs(second.unsigned_abs());
    let wait = begins.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(wait + Duration::from_millis(150)).await;
}

/// Seconds by customer.
type Seconds = BTreeMap<String, i128>;

/// Pods start, change and end while watches are cut and requests fail. Returns what was billed, and the
/// truth.
async fn through_faults(options: Options) -> (Seconds, Seconds) {
    let seed = u64::from(options.minor);
    let scene = Scene::simulated(BINARY, options).await;
    let (sim, ingest) = (&scene.sim, &scene.ingest);
    let collector = scene
        .preset()
        .env("LOOKBACK", "0s")
        .env("SCRAPE_INTERVAL", "3s")
        .start_ready()
        .await
        .unwrap();
    let mut world = World::new(seed, 40, Size::Small);
    let from = chrono::Utc::now().timestamp() + 1;
    let until = (from + 24).div_euclid(3) * 3;
    for second in from..until {
        begun(second).await;
        sim.change(|store| world.step(second, store));
        match second - from {
            4 | 5 | 13 => sim.cut_watches(),
            8 => {
                sim.refuse(500, 2);
                sim.cut_watches();
            }
            17 => {
                sim.refuse(429, 2);
                sim.cut_watches();
            }
            _ => {}
        }
    }
    collector
        .wait_for_metric("ledger_watermark_timestamp_seconds", MINUTE, |at| {
            at >= until as f64
        })
        .await
        .unwrap();
    let mut billed: Seconds = BTreeMap::new();
    for event in ingest.events() {
        if event["time"].as_str().unwrap() < rfc3339(until).as_str() {
            let subject = event["subject"].as_str().unwrap().to_owned();
            let seconds = event["data"]["duration_seconds"].as_i64().unwrap();
            *billed.entry(subject).or_default() += i128::from(seconds);
        }
    }
    let truth: BTreeMap<_, _> = world
        .truth(until)
        .into_iter()
        .map(|(customer, bill)| (customer, bill.pod_seconds))
        .filter(|(_, seconds)| *seconds > 0)
        .collect();
    collector.stop().await;
    ingest.assert_clean();
    (billed, truth)
}

fn options(history: usize, minor: u32) -> Options {
    Options {
        history,
        bookmarks: Duration::from_secs(1),
        minor,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_and_errors_cost_no_second() {
    // With streaming lists and, on an older server, without.
    for minor in [35, 29] {
        let (billed, truth) = through_faults(options(100_000, minor)).await;
        assert_eq!(billed, truth);
    }
}

/// A watch that missed more than a few changes gets 410 and lists again. It is unknown which pods started
/// and ended in between: nothing is billed that did not run, and everything else is billed.
#[tokio::test(flavor = "multi_thread")]
async fn expired_versions_cost_only_what_the_server_no_longer_has() {
    let (billed, truth) = through_faults(options(4, 35)).await;
    for (customer, seconds) in &billed {
        assert!(
            *seconds <= truth[customer],
            "{customer}: {billed:?} {truth:?}"
        );
    }
    let sum = |seconds: &Seconds| seconds.values().sum::<i128>();
    assert!(
        sum(&billed) * 100 >= sum(&truth) * 95,
        "{billed:?} {truth:?}"
    );
}

/// A busy API server requests a pause before the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_the_api_server_requests_is_respected() {
    const PAUSE: Duration = Duration::from_secs(4);
    let (requests, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let busy = axum::Router::new().fallback(move || {
        // Sending fails when the test has ended.
        let _ = requests.send(Instant::now());
        async {
            let headers = [("retry-after", PAUSE.as_secs().to_string())];
            (axum::http::StatusCode::TOO_MANY_REQUESTS, headers)
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, busy).await });
    let scene = Scene::simulated(BINARY, Options::default()).await;
    let collector = scene.preset_before(&format!("http://{address}"));
    let collector = collector.start().unwrap();

    let mut moments: Vec<Instant> = Vec::new();
    let rounds = |moments: &[Instant]| {
        let pauses = moments.windows(2).filter(|it| it[1] - it[0] > PAUSE / 2);
        pauses.count()
    };
    while rounds(&moments) < 3 {
        let moment = tokio::time::timeout(MINUTE, answers.recv()).await;
        moments.push(moment.unwrap().unwrap());
        // A round is one or two requests for the version, and a list.
        assert!(moments.len() <= 6 * (rounds(&moments) + 1), "{moments:?}");
    }
    let (status, page) = collector.get("/ready").await.unwrap();
    assert_eq!(status, 503);
    assert!(page.contains("429"), "{page}");
    collector.stop().await;
    server.abort();
}
