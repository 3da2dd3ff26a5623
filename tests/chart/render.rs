//! What the chart renders and refuses, without a cluster.

use std::process::Command;

use serde_json::Value;

use super::{Tools, cases, rendered, text};
use crate::support::root;

/// Compares with the file in the repository, or writes that file when `UPDATE_DOCS` is set.
fn assert_kept(path: &std::path::Path, text: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let differs = kept.lines().zip(text.lines()).find(|(was, is)| was != is);
    assert!(
        kept == text,
        "{} is not what is rendered, first in {differs:?}; look at the difference after \
         UPDATE_DOCS=1 cargo test --test tests -- --include-ignored chart",
        path.display()
    );
}

#[test]
#[ignore = "needs the tools of the chart: METERLINE_TOOLS, as CONTRIBUTING.md has it"]
fn every_case_renders_to_the_file_in_the_repository() {
    let tools = Tools::find();
    let cases = cases();
    assert!(cases.len() >= 25, "{cases:?}");
    for case in cases {
        assert_kept(&case.join("rendered.yaml"), &rendered(&tools, &case));
    }
}

#[test]
#[ignore = "needs the tools of the chart: METERLINE_TOOLS, as CONTRIBUTING.md has it"]
fn every_case_passes_a_strict_lint() {
    let tools = Tools::find();
    for case in cases() {
        let values = case.join("values.yaml");
        let values = values.to_str().unwrap();
        let arguments = ["lint", "--strict", "charts/meterline", "--values", values];
        tools.run("helm", None, &arguments);
    }
}

/// The manifests for users without Helm are what these cases render to.
#[test]
#[ignore = "needs the tools of the chart: METERLINE_TOOLS, as CONTRIBUTING.md has it"]
fn the_plain_manifests_are_what_the_chart_renders() {
    let tools = Tools::find();
    for (name, case) in [
        ("one-replica", "manifests-one-replica"),
        ("two-replicas", "manifests-two-replicas"),
    ] {
        let case = root().join("charts/meterline/examples").join(case);
        let head = format!(
            "# Made from the chart; change charts/meterline/examples/{}/values.yaml instead.\n\
             # kubectl create namespace metering\n\
             # kubectl --namespace metering create secret generic openmeter --from-literal=token=om_...\n\
             # kubectl apply -f examples/manifests/{name}.yaml\n",
            case.file_name().unwrap().to_str().unwrap()
        );
        let path = root().join(format!("examples/manifests/{name}.yaml"));
        assert_kept(&path, &format!("{head}{}", rendered(&tools, &case)));
    }
}

/// Invalid values, with a part of the error.
const REFUSED: &[(&[&str], &str)] = &[
    (&[], "nothing to meter is configured: set `preset`"),
    (&["preset=kubernetes"], "at '/preset': value must be one of"),
    (
        &["preset=kubernetes-pod-exec-time", "replicas=2"],
        "additional properties 'replicas' not allowed",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "openmeter.apiToken=x"],
        "additional properties 'apiToken' not allowed",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "leaderElection.lease.renewDeadlin=1s",
        ],
        "additional properties 'renewDeadlin' not allowed",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "replicaCount=2"],
        "each replica would bill: set leaderElection.enabled=true",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "replicaCount=two"],
        "at '/replicaCount': got string, want integer",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "openmeter.token=a",
            "openmeter.existingSecret=b",
        ],
        "set openmeter.token or openmeter.existingSecret, not both",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "openmeter.url=openmeter.cloud",
        ],
        "at '/openmeter/url'",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "image.digest=latest"],
        "at '/image/digest'",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "leaderElection.lease.duration=15",
        ],
        "at '/leaderElection/lease/duration'",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "storage.size=10GB"],
        "at '/storage/size'",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "scrape.namespaces={Team A}",
        ],
        "at '/scrape/namespaces/0'",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "scrape.resourceTypes={pods}",
        ],
        "at '/scrape/resourceTypes/0'",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "caRootCertificates.company=file.pem",
        ],
        "at '/caRootCertificates/company'",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "env.MY-NAME=1"],
        "'MY-NAME'",
    ),
    (&["configFile=config.yaml"], "at '/configFile'"),
    (
        &["configFile=/etc/own/config.yaml"],
        "configFile names a file that no volume contains: set volumes and volumeMounts",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "envVars[0].name=SCRAPE_NAMESPACE",
            "envVars[0].valueFrom.configMapKeyRef.name=x",
            "envVars[0].valueFrom.configMapKeyRef.key=y",
        ],
        "its value is known only in the cluster: give it a value in env (for SCRAPE_NAMESPACE, name the namespaces",
    ),
    (
        &["config.input.kubernetes_resources.namespaces[0]=${TEAM}"],
        "config depends on the variable TEAM, which is set neither in env nor in envVars",
    ),
    (
        &[
            "config.input.kubernetes_resources.resource_type=pod",
            "scrape.namespaces={team-a}",
        ],
        "scrape.namespaces names namespaces, but the configuration reads all of them",
    ),
    (
        &[
            "config.input.kubernetes_resources.namespaces[0]=team-b",
            "scrape.namespaces={team-a}",
        ],
        "scrape.namespaces names team-a, which the configuration does not read",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "scrape.namespaces={team-a}",
            "env.SCRAPE_NAMESPACE=team-b",
        ],
        "scrape.namespaces names team-a, which the configuration does not read",
    ),
    (
        &["config.input.kubernetes_resources.resource_type=deployment"],
        "resource_type is deployment, and must be pod, node, persistentvolume",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "env.LEADER_ELECTION=true",
        ],
        "LEADER_ELECTION is set by leaderElection.enabled",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            "envVars[0].name=LEADER_ELECTION",
            "envVars[0].value=false",
        ],
        "LEADER_ELECTION is set by leaderElection.enabled",
    ),
    (
        &["config.http.address=127.0.0.1:4195"],
        "which the probes and the Service do not reach: leave it out, or listen on 0.0.0.0",
    ),
    (
        &["config.http.enabled=false", "podMonitor.enabled=true"],
        "so there are no metrics for serviceMonitor and podMonitor",
    ),
    (
        &["config.shutdown_timeout=45s"],
        "terminationGracePeriodSeconds must be longer than shutdown_timeout, which is 45s",
    ),
    (
        &[
            "config.output.http_client.headers.Authorization=Bearer ${OPENMETER_TOKEN}",
            "openmeter.existingSecret=openmeter",
        ],
        "a file that only the output openmeter reads",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "fullnameOverride=My App"],
        "at '/fullnameOverride'",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "storage=null"],
        "missing property 'storage'",
    ),
    (
        &["preset=kubernetes-pod-exec-time", "storage.size=1ki"],
        "at '/storage/size'",
    ),
    (
        &[
            "preset=kubernetes-pod-exec-time",
            r"podLabels.app\.kubernetes\.io/name=x",
        ],
        "invalid propertyName 'app.kubernetes.io/name'",
    ),
];

/// Helm drops the quotes of a configuration before its variables are replaced. The result has to have the
/// same meaning as the original.
#[test]
#[ignore = "needs the tools of the chart: METERLINE_TOOLS, as CONTRIBUTING.md has it"]
fn every_rendered_configuration_runs() {
    let tools = Tools::find();
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let mut seen = 0;
    for case in cases() {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered(&tools, &case)).unwrap();
        let of_kind = |kind: &'static str| objects.iter().filter(move |it| it["kind"] == kind);
        let config = of_kind("ConfigMap").find_map(|it| it["data"]["config.yaml"].as_str());
        let Some(config) = config else {
            continue;
        };
        seen += 1;
        let set = of_kind("StatefulSet").next().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterline"));
        command.env_clear().arg("lint").arg(file.path());
        std::fs::write(file.path(), config).unwrap();
        for variable in set["spec"]["template"]["spec"]["containers"][0]["env"]
            .as_array()
            .unwrap()
        {
            let value = variable["value"].as_str().unwrap_or("from-the-pod");
            command.env(variable["name"].as_str().unwrap(), value);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}{config}", text(&output));
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
#[ignore = "needs the tools of the chart: METERLINE_TOOLS, as CONTRIBUTING.md has it"]
fn invalid_values_are_refused_with_the_remedy() {
    let tools = Tools::find();
    for (values, words) in REFUSED {
        let mut command = tools.command("helm", None);
        command.args(["template", "meterline", "charts/meterline"]);
        for value in *values {
            command.args(["--set", value]);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{values:?} is not refused");
        let text = text(&output);
        assert!(text.contains(words), "{values:?}: {text}");
    }
}
