use super::*;
use serde_json::json;

struct Client<'a> {
    http: reqwest::Client,
    api: &'a MetersApi,
}

impl<'a> Client<'a> {
    fn of(api: &'a MetersApi) -> Self {
        crate::install_crypto();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, api }
    }

    async fn send(&self, method: http::Method, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.api.url());
        let request = self.http.request(method, url);
        let request = request.header("content-type", "application/json");
        let request = request.header("authorization", "Bearer t");
        let response = request.body(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn post(&self, body: &Value) -> u16 {
        self.send(http::Method::POST, "/api/v1/meters", body)
            .await
            .0
    }

    async fn get(&self, path: &str) -> Value {
        self.send(http::Method::GET, path, &Value::Null).await.1
    }
}

fn meter(slug: &str) -> Value {
    json!({"slug": slug, "eventType": "t", "aggregation": "SUM", "valueProperty": "$.v",
           "groupBy": {"g": "$.g"}})
}

#[tokio::test]
async fn definitions_that_the_real_api_refuses_are_refused() {
    let api = MetersApi::start().await.unwrap();
    let client = Client::of(&api);
    assert_eq!(client.post(&meter("a_1")).await, 201);
    assert_eq!(client.post(&meter("a_1")).await, 409);
    let count = json!({"slug": "c", "eventType": "t", "aggregation": "COUNT"});
    assert_eq!(client.post(&count).await, 201);
    api.assert_clean();
    let wrong = [
        ("slug", json!("A")),
        ("slug", json!("a__b")),
        ("slug", json!("a_")),
        ("slug", json!("a".repeat(65))),
        ("aggregation", json!("sum")),
        ("aggregation", json!("COUNT")),
        ("valueProperty", json!("v")),
        ("valueProperty", Value::Null),
        ("eventType", json!("openmeter.x")),
        ("groupBy", json!({"1": "$.g"})),
        ("groupBy", json!({"subject": "$.g"})),
        ("groupBy", json!({"g": "g"})),
        ("groupBy", json!({"g": "$.v"})),
        ("event_type", json!("t")),
    ];
    for (field, value) in wrong {
        let mut body = meter("b");
        body[field] = value;
        assert_eq!(client.post(&body).await, 400, "{body}");
    }
    assert_eq!(api.meters().len(), 2);
    assert_eq!(lock(&api.state).violations.len(), 14);
}

#[tokio::test]
async fn lists_have_pages_in_both_forms() {
    let api = MetersApi::start().await.unwrap();
    for number in 0..25 {
        api.put(&meter(&format!("m_{number}"))).unwrap();
    }
    let client = Client::of(&api);
    let count = |value: &Value| value.as_array().unwrap().len();
    assert_eq!(count(&client.get("/api/v1/meters").await), 25);
    let second = client.get("/api/v1/meters?page=2&pageSize=20").await;
    assert_eq!(count(&second), 5);
    assert_eq!(second[0]["slug"], "m_20");
    let first = client.get("/v3/openmeter/meters").await;
    assert_eq!(count(&first["data"]), 20);
    let page = json!({"number": 1, "size": 20, "total": 25});
    assert_eq!(first["meta"]["page"], page);
    let path = "/api/v3/openmeter/meters?page%5Bnumber%5D=3&page%5Bsize%5D=10";
    let third = client.get(path).await;
    assert_eq!(count(&third["data"]), 5);
    assert_eq!(third["data"][0]["key"], "m_20");
    assert_eq!(third["data"][0]["aggregation"], "sum");
    api.ignore_pages();
    let all = client.get("/api/v1/meters?page=2&pageSize=20").await;
    assert_eq!(count(&all), 25);
    assert_eq!(client.post(&meter("more")).await, 200);
    api.assert_clean();
    assert_eq!(
        client.get("/v3/openmeter/meters?page=1").await["status"],
        400
    );
    assert_eq!(
        client.get("/api/v1/meters?pageSize=1001").await["status"],
        400
    );
    assert_eq!(client.get("/api/v2/meters").await["status"], 404);
}

#[tokio::test]
async fn final_fields_are_final_and_a_meter_can_be_deleted() {
    let api = MetersApi::start().await.unwrap();
    api.put(&meter("a")).unwrap();
    let client = Client::of(&api);
    let put = async |body: Value| {
        let path = "/api/v1/meters/a";
        client.send(http::Method::PUT, path, &body).await.0
    };
    let mut named = meter("a");
    named["name"] = json!("Named");
    assert_eq!(put(named).await, 200);
    assert_eq!(api.meters()[0]["name"], "Named");
    for (field, value) in [
        ("slug", "b"),
        ("eventType", "u"),
        ("aggregation", "MAX"),
        ("valueProperty", "$.w"),
    ] {
        let mut body = meter("a");
        body[field] = json!(value);
        assert_eq!(put(body).await, 400, "{field}");
    }
    let path = "/v3/openmeter/meters/a";
    let by_key = client.send(http::Method::DELETE, path, &Value::Null).await;
    assert_eq!(by_key.0, 404);
    let path = "/api/v1/meters/a";
    let by_slug = client.send(http::Method::DELETE, path, &Value::Null).await;
    assert_eq!(by_slug.0, 204);
    assert_eq!(api.meters(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_token_is_required_and_answers_can_be_chosen() {
    let api = MetersApi::start().await.unwrap();
    let client = Client::of(&api);
    api.require_token("other");
    assert_eq!(client.post(&meter("a")).await, 401);
    api.require_token("t");
    api.reply([None, Some(Reply::page(503))]);
    let mut theirs = meter("a");
    theirs["aggregation"] = json!("MAX");
    api.put_before_next(&theirs).unwrap();
    assert_eq!(client.post(&meter("a")).await, 409);
    assert_eq!(client.post(&meter("b")).await, 503);
    assert_eq!(client.post(&meter("b")).await, 201);
    let meters = api.meters();
    let kinds: Vec<_> = meters.iter().map(|it| &it["aggregation"]).collect();
    assert_eq!(kinds, ["MAX", "SUM"]);
    let statuses: Vec<_> = api.exchanges().iter().map(|it| it.status).collect();
    assert_eq!(statuses, [401, 409, 503, 201]);
    assert_eq!(api.exchanges()[0].request, "POST /api/v1/meters");
}
