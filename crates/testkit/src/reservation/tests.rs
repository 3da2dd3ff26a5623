use std::fmt::Write as _;

use meterline_core::{Content, Document, Message};
use meterline_script::{Engine, Limits};

use super::{random::NAMES, *};

/// How many pods are compared.
const PODS: u64 = 10_000;

/// Every function for every resource, and each container.
fn script() -> String {
    let mut script = "#{ containers: containers(), gpus: #{ request: pod_gpu_request(), \
                      limit: pod_gpu_limit() }"
        .to_owned();
    for function in ["pod_request", "pod_limit", "pod_limit_or_request"] {
        write!(script, ", {function}: #{{").unwrap();
        for name in NAMES {
            write!(script, " \"{name}\": {function}(\"{name}\"),").unwrap();
        }
        script += "}";
    }
    for function in ["container_request", "container_limit"] {
        write!(script, ", {function}: #{{").unwrap();
        for container in ["c0", "c1", "i0", "i1", "e0", "none"] {
            for name in ["cpu", "nvidia.com/gpu"] {
                let call = format!("{function}(\"{container}\", \"{name}\")");
                write!(script, " \"{container}/{name}\": {call},").unwrap();
            }
        }
        script += "}";
    }
    script + " }"
}

/// Writes an object, without what is malformed.
fn object(fields: &BTreeMap<String, Known>) -> String {
    let fields = fields.iter().filter_map(|(name, amount)| {
        let amount = amount.as_ref()?;
        Some(format!("\"{name}\":{amount}"))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// What the script should return, with the keys in order.
fn expected(pod: &Value) -> String {
    let reservation = Reservation::of(pod);
    let containers: Vec<_> = reservation
        .parts
        .iter()
        .map(|part| {
            format!(
                "{{\"kind\":\"{}\",\"limits\":{},\"name\":\"{}\",\"requests\":{}}}",
                part.kind,
                object(&part.limits),
                part.name,
                object(&part.requests)
            )
        })
        .collect();
    let of_pod = |amount: &dyn Fn(&str) -> Known| {
        object(
            &NAMES
                .iter()
                .map(|it| ((*it).to_owned(), amount(it)))
                .collect(),
        )
    };
    let of_container = |of: &dyn Fn(&Part) -> &Need| {
        let mut fields = BTreeMap::new();
        for container in ["c0", "c1", "i0", "i1", "e0", "none"] {
            let part = reservation.parts.iter().find(|it| it.name == container);
            for name in ["cpu", "nvidia.com/gpu"] {
                let amount = part.and_then(|part| of(part).get(name));
                let amount = amount.cloned().unwrap_or_else(|| Some(Amount::default()));
                fields.insert(format!("{container}/{name}"), amount);
            }
        }
        object(&fields)
    };
    let gpus = [
        ("limit".to_owned(), reservation.gpu_limit()),
        ("request".to_owned(), reservation.gpu_request()),
    ];
    format!(
        "{{\"container_limit\":{},\"container_request\":{},\"containers\":[{}],\"gpus\":{},\
         \"pod_limit\":{},\"pod_limit_or_request\":{},\"pod_request\":{}}}",
        of_container(&|part| &part.limits),
        of_container(&|part| &part.requests),
        containers.join(","),
        object(&gpus.into()),
        of_pod(&|name| reservation.limit(name)),
        of_pod(&|name| reservation.limit_or_request(name)),
        of_pod(&|name| reservation.request(name)),
    )
}

/// Rewrites every number of a JSON text as a plain decimal, without a loss of digits.
fn plain(json: &str) -> String {
    let mut text = String::new();
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => rest[1..].find('"').unwrap() + 2,
            '0'..='9' | '-' => rest
                .find(|it: char| !"+-.eE0123456789".contains(it))
                .unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(end);
        match first {
            '0'..='9' | '-' => text += &Amount::parse(token).unwrap().to_string(),
            _ => text += token,
        }
        rest = behind;
    }
    text
}

/// The functions of mappings and the oracle agree on random pods, and on what is kept of these pods.
#[test]
fn functions_of_mappings_agree_with_the_oracle() {
    let first = std::env::var("SEED").ok().and_then(|it| it.parse().ok());
    let first: u64 = first.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let engine = Engine::new(Limits::default());
    let expression = engine.compile_expression(&script()).unwrap();
    let evaluate = |document: Document| {
        let message = Message::new(Content::Document(document));
        let value = expression.evaluate(&message).unwrap();
        let bytes = Message::new(Content::Document(value))
            .bytes()
            .map(Vec::from);
        plain(&String::from_utf8(bytes.unwrap()).unwrap())
    };
    let mut omitted = 0;
    for index in 0..PODS {
        let seed = first.wrapping_add(index);
        let pod = random::pod(seed);
        let expected = expected(&pod);
        let document = Document::from_json(pod.to_string().as_bytes()).unwrap();
        let kept = document.project(expression.reads());
        assert_eq!(
            evaluate(document),
            expected,
            "SEED={seed} begins with this pod: {pod}"
        );
        assert_eq!(
            evaluate(kept),
            expected,
            "SEED={seed} begins with this pod, projected: {pod}"
        );
        omitted += usize::from(!expected.contains("\"request\""));
    }
    // Malformed amounts occur, and seldom hide the others.
    assert!((1..1000).contains(&omitted), "SEED={first}: {omitted}");
}

/// The pods are not all of one kind.
#[test]
fn random_pods_are_resized_and_have_peaks_overhead_and_resources_of_their_own() {
    let mut counts = BTreeMap::new();
    for seed in 0..1000 {
        let pod = random::pod(seed);
        let reservation = Reservation::of(&pod);
        let mut spec_only = pod.clone();
        spec_only["status"] = Value::Null;
        let spec_only = Reservation::of(&spec_only);
        let has = |kind| reservation.parts.iter().any(|it| it.kind == kind);
        let running = |part: &&Part| part.kind != "init";
        let running: Known =
            reservation
                .parts
                .iter()
                .filter(running)
                .try_fold(Amount::default(), |sum, part| {
                    match part.requests.get("cpu") {
                        Some(amount) => Some(sum.plus(amount.as_ref()?)),
                        None => Some(sum),
                    }
                });
        let most = reservation.most(|part| part.requests.get("cpu").cloned());
        for (what, holds) in [
            ("sidecar", has("sidecar")),
            ("init", has("init")),
            ("peak", most.is_some() && most > running),
            ("pod level", !reservation.pod_requests.is_empty()),
            ("overhead", !reservation.overhead.is_empty()),
            (
                "resized",
                reservation.request("cpu") < spec_only.request("cpu"),
            ),
            (
                "shrinking",
                reservation.request("cpu") > spec_only.request("cpu"),
            ),
            (
                "limit resized",
                reservation.limit("memory") != spec_only.limit("memory"),
            ),
            (
                "gpu",
                reservation.gpu_request().is_some_and(|it| !it.is_zero()),
            ),
        ] {
            *counts.entry(what).or_insert(0) += usize::from(holds);
        }
    }
    assert!(counts.values().all(|count| *count >= 100), "{counts:?}");
}

/// Numbers that are known without either implementation.
#[test]
fn the_oracle_knows_the_cases_of_the_kep() {
    let container = |cpu: &str| serde_json::json!({"resources": {"requests": {"cpu": cpu}}});
    let sidecar = |cpu: &str| serde_json::json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
    for (main, init, expected) in [
        ("1", vec![container("2")], "2"),
        ("0.2", vec![sidecar("0.5"), container("1")], "1.5"),
        ("0.2", vec![container("1"), sidecar("0.5")], "1"),
        ("2", vec![sidecar("0.5"), container("1")], "2.5"),
        ("100", vec![sidecar("10"), container("200")], "210"),
        (
            "1",
            vec![
                container("5"),
                sidecar("1"),
                sidecar("2"),
                container("5"),
                sidecar("3"),
            ],
            "8",
        ),
    ] {
        let spec = serde_json::json!({"containers": [container(main)], "initContainers": init});
        let pod = serde_json::json!({"spec": spec});
        let request = Reservation::of(&pod).request("cpu").unwrap();
        assert_eq!(request.to_string(), expected, "{pod}");
    }
}
