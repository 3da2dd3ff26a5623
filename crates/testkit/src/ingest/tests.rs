use super::*;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

fn event(id: &str) -> Value {
    json!({
        "id": id, "source": "kubernetes-api", "specversion": "1.0",
        "type": "kube-pod-exec-time", "subject": "customer", "data": {"value": 1},
    })
}

fn client() -> reqwest::Client {
    crate::install_crypto();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}

async fn try_post(ingest: &RecordingIngest, events: &Value) -> reqwest::Result<reqwest::Response> {
    client()
        .post(format!("{}/api/v1/events", ingest.url()))
        .header("content-type", "application/json")
        .body(events.to_string())
        .send()
        .await
}

async fn post(ingest: &RecordingIngest, events: &Value) -> u16 {
    try_post(ingest, events).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn valid_events_are_kept_once() {
    let ingest = RecordingIngest::start().await.unwrap();
    assert_eq!(post(&ingest, &json!([event("a"), event("b")])).await, 204);
    assert_eq!(post(&ingest, &event("a")).await, 204);
    let konnect = client()
        .post(format!("{}/events", ingest.konnect_url()))
        .header("content-type", "application/cloudevents+json")
        .body(event("c").to_string());
    assert_eq!(konnect.send().await.unwrap().status(), 202);
    assert_eq!(ingest.events(), [event("a"), event("b"), event("c")]);
    assert_eq!(ingest.state().duplicates, 1);
    assert_eq!(ingest.state().answered(204), 2);
    ingest.assert_clean();
}

#[tokio::test]
async fn the_same_id_with_another_content_is_a_conflict_and_the_first_stays() {
    let ingest = RecordingIngest::start().await.unwrap();
    let mut other = event("a");
    other["data"]["value"] = json!(2);
    let mut elsewhere = event("a");
    elsewhere["source"] = json!("elsewhere");
    post(
        &ingest,
        &json!([event("a"), other.clone(), elsewhere.clone()]),
    )
    .await;
    assert_eq!(ingest.events(), [event("a"), elsewhere]);
    assert_eq!(ingest.state().conflicts.len(), 1);
    assert_eq!(ingest.state().conflicts[0].other, other);
}

#[tokio::test]
async fn an_invalid_request_is_refused_whole_and_recorded() {
    let ingest = RecordingIngest::start().await.unwrap();
    let mut bad = event("bad");
    bad["subject"] = json!("");
    let response = try_post(&ingest, &json!([event("a"), bad])).await.unwrap();
    assert_eq!(response.status(), 400);
    let media_type = response.headers()["content-type"].clone();
    assert_eq!(media_type, "application/problem+json");
    let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains("bad"),
        "{problem}"
    );
    assert_eq!(ingest.events().len(), 0);
    assert_eq!(ingest.state().violations.len(), 1);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_violations() {
    let ingest = RecordingIngest::start().await.unwrap();
    let get = client().get(format!("{}/api/v1/events", ingest.url()));
    assert_eq!(get.send().await.unwrap().status(), 405);
    let lost = client().post(format!("{}/api/v2/events", ingest.url()));
    assert_eq!(lost.send().await.unwrap().status(), 404);
    assert_eq!(ingest.state().violations.len(), 2);
}

#[tokio::test]
async fn queued_behaviours_apply_in_order_and_then_the_usual_one() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond(2, &Behaviour::status(503).header("retry-after", "7"));
    ingest.respond(1, &Behaviour::redirect("http://elsewhere.test/"));
    let busy = try_post(&ingest, &event("a")).await.unwrap();
    assert_eq!(busy.status(), 503);
    assert_eq!(busy.headers()["retry-after"], "7");
    assert_eq!(post(&ingest, &event("a")).await, 503);
    assert_eq!(post(&ingest, &event("a")).await, 307);
    assert_eq!(ingest.events().len(), 0);
    assert_eq!(post(&ingest, &event("a")).await, 204);
    ingest.respond_always(Behaviour::status(200).body("<html>"));
    assert_eq!(post(&ingest, &event("b")).await, 200);
    assert_eq!(post(&ingest, &event("b")).await, 200);
    assert_eq!(ingest.events().len(), 1);
}

#[tokio::test]
async fn events_can_be_taken_although_the_answer_fails_or_never_comes() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond(1, &Behaviour::accept_then(500));
    assert_eq!(post(&ingest, &event("a")).await, 500);
    ingest.respond(1, &Behaviour::accept_first_then(1, 500));
    assert_eq!(post(&ingest, &json!([event("b"), event("c")])).await, 500);
    ingest.respond(1, &Behaviour::accept_then_drop());
    try_post(&ingest, &event("d")).await.unwrap_err();
    ingest.respond(1, &Behaviour::drop_connection());
    try_post(&ingest, &event("e")).await.unwrap_err();
    assert_eq!(ingest.events(), [event("a"), event("b"), event("d")]);
}

#[tokio::test]
async fn a_reset_reads_nothing_and_the_next_request_is_served() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond(1, &Behaviour::reset());
    let error = try_post(&ingest, &event("a")).await.unwrap_err();
    let chain = format!("{:#}", anyhow::Error::from(error));
    assert!(chain.contains("reset"), "{chain}");
    assert_eq!(post(&ingest, &event("a")).await, 204);
    let answers: Vec<_> = ingest.state().requests.iter().map(|r| r.answer).collect();
    assert_eq!(answers, [Answer::Reset, Answer::Status(204)]);
}

#[tokio::test]
async fn rules_refuse_by_token_size_and_content() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.require_token(Some("secret"));
    assert_eq!(post(&ingest, &event("a")).await, 401);
    let with_token = client()
        .post(format!("{}/api/v1/events", ingest.url()))
        .header("content-type", "application/json")
        .bearer_auth("secret")
        .body(event("a").to_string());
    assert_eq!(with_token.send().await.unwrap().status(), 204);
    ingest.require_token(None);

    ingest.limit_events(Some(1));
    assert_eq!(post(&ingest, &json!([event("b"), event("c")])).await, 413);
    assert_eq!(post(&ingest, &event("b")).await, 204);
    ingest.limit_events(None);

    ingest.refuse_when(|event| event["id"] == "poison");
    assert_eq!(
        post(&ingest, &json!([event("c"), event("poison")])).await,
        400
    );
    assert_eq!(post(&ingest, &event("c")).await, 204);
    ingest.refuse_nothing();
    assert_eq!(post(&ingest, &event("poison")).await, 204);
    assert_eq!(ingest.events().len(), 4);
    ingest.assert_clean();
}

#[tokio::test]
async fn a_message_that_kafka_does_not_take_is_a_500_and_what_came_before_it_stays() {
    let ingest = RecordingIngest::start().await.unwrap();
    let mut large = event("large");
    large["data"]["x"] = json!("<".repeat(150_000));
    assert_eq!(
        post(&ingest, &json!([event("a"), large, event("b")])).await,
        500
    );
    assert_eq!(ingest.events(), [event("a")]);
    ingest.poison_when(|event| event["id"] == "c");
    assert_eq!(post(&ingest, &event("c")).await, 500);
    ingest.assert_clean();
}

#[tokio::test]
async fn where_ids_are_claimed_first_what_failed_is_answered_as_known_and_never_kept() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.claim_ids_first();
    let mut large = event("large");
    large["data"]["x"] = json!("<".repeat(150_000));
    let batch = json!([event("a"), large.clone(), event("b")]);
    assert_eq!(post(&ingest, &batch).await, 500);
    assert_eq!(ingest.events(), [event("a")]);
    assert_eq!(post(&ingest, &batch).await, 204);
    assert_eq!(ingest.events(), [event("a"), event("b")]);
    assert_eq!(ingest.state().swallowed, [large]);
    assert_eq!(ingest.state().duplicates, 1);
    ingest.assert_clean();
}

#[tokio::test]
async fn an_answer_whose_body_is_shorter_than_its_content_length_is_cut_off() {
    let ingest = RecordingIngest::start().await.unwrap();
    let cut = Behaviour::accept_then(202).header("content-length", "10");
    ingest.respond(1, &cut.body("{}"));
    let answer = try_post(&ingest, &event("a")).await.unwrap();
    assert_eq!(answer.status(), 202);
    answer.text().await.unwrap_err();
    assert_eq!(ingest.events(), [event("a")]);
    assert_eq!(post(&ingest, &event("b")).await, 204);
}

#[tokio::test]
async fn held_requests_are_in_flight_until_released() {
    let ingest = RecordingIngest::start().await.unwrap();
    ingest.respond(2, &Behaviour::normal().hold());
    let (a, b) = (event("a"), event("b"));
    let posts = async { tokio::join!(post(&ingest, &a), post(&ingest, &b)) };
    let release = async {
        let both = |state: &State| state.in_flight == 2 && state.requests.len() == 2;
        ingest.wait_until(SOON, both).await.unwrap();
        ingest.release();
    };
    let (answers, ()) = tokio::join!(posts, release);
    assert_eq!(answers, (204, 204));
    assert_eq!(ingest.state().max_in_flight, 2);
}

#[tokio::test]
async fn a_closed_port_refuses_connections_until_it_is_opened_again() {
    let ingest = RecordingIngest::start().await.unwrap();
    assert_eq!(post(&ingest, &event("a")).await, 204);
    ingest.go_away().await;
    assert!(
        try_post(&ingest, &event("b"))
            .await
            .unwrap_err()
            .is_connect()
    );
    ingest.come_back().await.unwrap();
    assert_eq!(post(&ingest, &event("b")).await, 204);
    assert_eq!(ingest.events().len(), 2);
}

#[tokio::test]
async fn a_wait_that_fails_reports_what_arrived() {
    let ingest = RecordingIngest::start().await.unwrap();
    post(&ingest, &event("a")).await;
    let never = ingest.wait_until(Duration::from_millis(1), |state| state.events.len() > 1);
    let error = never.await.unwrap_err().to_string();
    assert!(error.contains("1 events"), "{error}");
}

#[tokio::test]
async fn a_counting_server_counts_what_it_takes_and_keeps_nothing() {
    let ingest = RecordingIngest::start_counting().await.unwrap();
    let at = |id: &str, time: &str| {
        let mut event = event(id);
        event["time"] = json!(time);
        event
    };
    let (early, late) = ("2025-01-01T00:00:00Z", "2025-01-01T00:00:31Z");
    let newest = json!([at("a", late), at("b", late)]);
    assert_eq!(post(&ingest, &newest).await, 204);
    assert_eq!(post(&ingest, &json!([at("c", early)])).await, 204);
    assert_eq!(post(&ingest, &json!("no events")).await, 400);
    ingest.respond_always(Behaviour::status(503));
    assert_eq!(post(&ingest, &newest).await, 503);
    let state = ingest.state();
    let tally = state.tally;
    assert_eq!((tally.events, tally.requests), (3, 2));
    assert_eq!((tally.largest, tally.disordered), (2, 1));
    assert!(state.events.is_empty() && state.requests.is_empty());
}
