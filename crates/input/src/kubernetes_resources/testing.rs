//! The parts of one input for tests, and a small API server that answers over real HTTP.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use meterline_core::{Health, Metrics, Reads};
use meterline_ledger::{Accounting, Completeness, Interval, Ledger, Observation, Times};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    clock::Clock,
    ledger::SharedLedger,
    lifetime::BilledFrom,
    metrics::LedgerReport,
    object::{BilledObject, Object, Projection},
    options::Options,
    resource_type::ResourceType,
    watch::{Cluster, Watched},
};

/// The name of the only watch.
pub(super) const WATCH: &str = "*";

/// A pod that runs since `started`, as an API server shows it.
pub(super) fn pod(name: &str, started: i64) -> Value {
    let started = meterline_kubesim::rfc3339(started);
    json!({
        "metadata": {
            "name": name, "namespace": "n", "uid": name, "creationTimestamp": started,
        },
        "spec": {"containers": [{"name": "c"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"state": {"running": {"startedAt": started}}},
        ]},
    })
}

/// An object of the API at a resource version.
pub(super) fn object(mut value: Value, version: u64) -> Object {
    value["metadata"]["resourceVersion"] = version.to_string().into();
    serde_json::from_value(value).unwrap()
}

/// The observation of a pod.
pub(super) fn observation(name: &str, start: i64, end: Option<i64>) -> Observation<BilledObject> {
    let object = object(pod(name, start.max(1)), 1);
    Observation {
        uid: name.into(),
        in_scope_since: None,
        times: Times::default(),
        start: Some(start),
        end,
        content_since: None,
        content: object.content,
        observed_at: end.unwrap_or(start),
    }
}

/// Options of an input without a state file and without other replicas.
pub(super) fn options(cluster: Cluster) -> Options {
    Options {
        resource_type: ResourceType::Pod,
        projection: Arc::new(Projection::of(&Reads::All, ResourceType::Pod)),
        named_devices: None,
        label_selector: None,
        from: BilledFrom::Started,
        settle: Duration::from_millis(300),
        max_backlog: i64::MAX,
        has_state: false,
        is_elected: false,
        cluster_name: None,
        clock: Clock::default(),
        cluster,
    }
}

/// A ledger with windows of ten seconds that bills from `horizon` on, and one watch.
pub(super) fn ledger(options: &Options, horizon: i64) -> Arc<SharedLedger> {
    let ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, horizon);
    let mut completeness = Completeness::new(0);
    completeness.register(WATCH);
    Arc::new(SharedLedger::new(ledger, completeness, options))
}

/// The parts of one input.
pub(super) struct Parts {
    pub(super) options: Options,
    pub(super) ledger: Arc<SharedLedger>,
    pub(super) report: Arc<LedgerReport>,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
}

impl Parts {
    pub(super) fn new(options: Options, horizon: i64) -> Self {
        let (health, metrics) = (Health::default(), Metrics::default());
        let ledger = ledger(&options, horizon);
        let report = LedgerReport::new(
            options.resource_type,
            options.has_state,
            &health,
            &metrics,
            "x",
        );
        Self {
            options,
            ledger,
            report: Arc::new(report),
            health,
            metrics,
        }
    }

    pub(super) fn watched(&self) -> Arc<Watched> {
        Arc::new(Watched::new(
            self.options.clone(),
            Arc::clone(&self.ledger),
            Arc::clone(&self.report),
            &self.health,
            &self.metrics,
            "x",
        ))
    }

    /// Whether a part is ready, and its text on `/ready`.
    pub(super) fn ready(&self, part: &str) -> (bool, String) {
        let report = self.health.report();
        let mut parts = report.parts.into_iter();
        let (_, is_ready, detail) = parts.find(|(name, ..)| **name == *part).unwrap();
        (is_ready, detail.to_string())
    }

    /// The value of a metric that has the label of this input.
    pub(super) fn metric(&self, name: &str) -> f64 {
        self.metrics.values()[&format!("{name}{{label=\"x\"}}")]
    }

    /// Names of the objects that exist.
    pub(super) fn existing(&self) -> Vec<String> {
        self.ledger
            .with_ledger(|it| it.existing().map(|it| it.uid.to_string()).collect())
    }
}

/// Waits until a condition holds, which must be soon.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), poll)
        .await
        .expect("the condition did not hold in time");
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    /// The body; null if there is none.
    pub(super) body: Value,
}

type Answer = Arc<dyn Fn(&Request) -> (u16, Value) + Send + Sync>;

/// An API server whose responses a test defines.
pub(super) struct Api {
    url: String,
    /// Ends the server when it is dropped.
    _task: JoinSet<()>,
}

impl Api {
    pub(super) async fn start(
        answer: impl Fn(&Request) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer: Answer = Arc::new(answer);
        let router = Router::new().fallback(handle).with_state(answer);
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, _task: task }
    }

    pub(super) fn cluster(&self) -> Cluster {
        at(&self.url)
    }
}

/// A cluster whose API server is at this address.
pub(super) fn at(url: &str) -> Cluster {
    Cluster::At(url.parse().unwrap())
}

async fn handle(
    State(answer): State<Answer>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let request = Request {
        method,
        path: uri.path().to_owned(),
        query,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let (status, answer) = answer(&request);
    let status = StatusCode::from_u16(status).unwrap();
    let json = [(CONTENT_TYPE, "application/json")];
    (status, json, answer.to_string()).into_response()
}

/// An error as the API server answers it.
pub(super) fn error(code: u16, message: &str) -> (u16, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "Test",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": code,
    });
    (code, status)
}

/// One object that is read and written like all objects: each write names the version that it replaces.
#[derive(Debug, Clone, Default)]
pub(super) struct StoredObject(Arc<Mutex<(u64, Option<Value>)>>);

impl StoredObject {
    /// The object as it is.
    pub(super) fn get(&self) -> Option<Value> {
        self.0.lock().unwrap().1.clone()
    }

    /// Changes the object as another client would.
    pub(super) fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut object = self.get().unwrap();
        change(&mut object);
        self.put(object);
    }

    fn put(&self, mut object: Value) -> Value {
        let mut stored = self.0.lock().unwrap();
        stored.0 += 1;
        object["metadata"]["resourceVersion"] = stored.0.to_string().into();
        stored.1 = Some(object.clone());
        object
    }

    pub(super) fn answer(&self, request: &Request) -> (u16, Value) {
        let present = self.get();
        match (request.method.as_str(), present) {
            ("GET", Some(object)) => (200, object),
            ("GET" | "PUT", None) => error(404, "not found"),
            ("POST", None) => (201, self.put(request.body.clone())),
            ("PUT", Some(object)) => {
                let version = |of: &Value| of["metadata"]["resourceVersion"].clone();
                if version(&object) == version(&request.body) {
                    (200, self.put(request.body.clone()))
                } else {
                    error(409, "the object has been modified")
                }
            }
            ("POST", Some(_)) => error(409, "already exists"),
            (method, _) => error(405, method),
        }
    }
}
