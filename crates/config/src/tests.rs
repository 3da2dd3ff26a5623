//! Checks whole configurations of test components.

use async_trait::async_trait;
use meterline_core::{
    Batch, BuildContext, BuildError, Drops, Input, InputPlan, OutputNode, OutputPlan, Processor,
    ProcessorPlan,
};
use serde::Deserialize;

use super::*;

mod inputs;
mod resources;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only read from YAML")]
struct Http {
    url: Located<String>,
    #[serde(default, deserialize_with = "optional_duration")]
    timeout: Option<GoDuration>,
    #[serde(default)]
    count: usize,
    #[serde(default)]
    nested: Nested,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(dead_code, reason = "only read from YAML")]
struct Nested {
    size: usize,
}

#[derive(Debug, Deserialize)]
struct Script(Located<String>);

#[derive(Debug, Deserialize)]
struct Catch(Vec<Child>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schedule {
    input: Child,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

struct Plan;

#[async_trait]
impl InputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        Err(BuildError {
            component: cx.label.clone(),
            reason: "test".to_owned(),
        })
    }
}

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        Err(BuildError {
            component: cx.label.clone(),
            reason: "test".to_owned(),
        })
    }
}

impl ProcessorPlan for Plan {
    fn build(&self, _: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        struct Same;
        impl Processor for Same {
            fn process(&mut self, batch: Batch, _: &mut Drops) -> Batch {
                batch
            }
        }
        Ok(Box::new(Same))
    }
}

impl Configure for Http {
    type Plan = dyn OutputPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        if !self.url.starts_with("http") {
            cx.error_at(&self.url, "the url must start with http");
        }
        Some(Box::new(Plan))
    }
}

impl Configure for Script {
    type Plan = dyn ProcessorPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        for (index, line) in self.0.value.lines().enumerate() {
            if let Some(column) = line.find('!') {
                cx.error_in(&self.0, index + 1, column + 1, "exclamation mark");
            }
        }
        Some(Box::new(Plan))
    }
}

impl Configure for Catch {
    type Plan = dyn ProcessorPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        cx.processors(&self.0)?;
        Some(Box::new(Plan))
    }
}

impl Configure for Schedule {
    type Plan = dyn InputPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        cx.input(self.input)
    }
}

impl Configure for Nothing {
    type Plan = dyn InputPlan;
    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        Some(Box::new(Plan))
    }
}

const INPUTS: &[InputSpec] = &[
    Spec::new::<Nothing>("nothing", "", &[]),
    Spec::new::<Schedule>("schedule", "", &[]),
];
const PROCESSORS: &[ProcessorSpec] = &[
    Spec::new::<Script>("mapping", "", &[]),
    Spec::new::<Catch>("catch", "", &[]),
];
const OUTPUTS: &[OutputSpec] = &[Spec::new::<Http>("http", "", &[])];

fn registry() -> Registry {
    Registry {
        inputs: INPUTS,
        buffers: &[],
        processors: PROCESSORS,
        outputs: OUTPUTS,
        default_input: "schedule:\n  input:\n    nothing: {}\n",
        default_output: "http:\n  url: ${URL:http://default}\n",
    }
}

fn check_with(yaml: &str, overrides: &[(&str, &str)]) -> String {
    let source = Source {
        name: "c.yaml".to_owned(),
        text: yaml.to_owned(),
        dir: None,
    };
    let env = |name: &str| match name {
        "EMPTY" => Some(String::new()),
        "TOKEN" => Some("s3cr3t".to_owned()),
        _ => None,
    };
    let overrides: Vec<_> = overrides
        .iter()
        .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
        .collect();
    let found = match load(&source, &overrides, &env, &registry()) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors,
    };
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn check(yaml: &str) -> String {
    check_with(yaml, &[])
}

/// A reference in quotes, such as `"${COUNT:3}"`, becomes one.
#[test]
fn numbers_and_booleans_may_be_in_quotes() {
    let output = |count: &str| format!("output: {{http: {{url: http://x, count: {count}}}}}\n");
    for good in ["3", "'3'", "\" 3 \"", "\"${UNSET:3}\""] {
        assert_eq!(check(&output(good)), "", "{good}");
    }
    for bad in ["'three'", "'-3'", "''", "'3.5'", "99999999999999999999"] {
        let report = check(&output(bad));
        assert!(
            report.contains("output.http.count: expected a whole number"),
            "{bad}: {report}"
        );
    }
    assert_eq!(check("http:\n  enabled: 'false'\n"), "");
    let report = check("http:\n  enabled: 'no'\n");
    assert!(
        report.contains("expected `true` or `false`, found text"),
        "{report}"
    );
}

#[test]
fn an_optional_duration_may_be_blank() {
    let output =
        |timeout: &str| format!("output: {{http: {{url: http://x, timeout: {timeout}}}}}\n");
    for good in ["", "~", "''", "\"${UNSET:}\"", "\"${UNSET:15s}\"", "15s"] {
        assert_eq!(check(&output(good)), "", "{good}");
    }
    for bad in ["soon", "-1s", "15", "[]"] {
        let report = check(&output(bad));
        assert!(report.contains("output.http.timeout: "), "{bad}: {report}");
    }
}

#[test]
fn blank_sections_have_the_defaults() {
    assert_eq!(check("input:\noutput:\n"), "");
    assert_eq!(check("{}"), "");
    assert_eq!(
        check("input:\n  # just use the defaults\n\npipeline:\n  processors: []\n"),
        ""
    );
}

/// An empty configuration would send whole pods to the default address.
#[test]
fn an_empty_configuration_is_refused_with_a_remedy() {
    for empty in [
        "",
        "\n\n",
        "# output:\n#   stdout: {}\n",
        "---\n",
        "~",
        "${EMPTY}",
    ] {
        assert_eq!(
            check(empty),
            "c.yaml: the configuration is empty; to use the defaults run with `--preset kubernetes-pod-exec-time`",
            "{empty}"
        );
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    insta::assert_snapshot!(check(
        "inptu: {}\n\
         pipeline:\n  processors:\n    - maping: 'x'\n    - catch:\n        - mapping: 'ok'\n        - mapping: 5\n\
         output:\n  http:\n    timout: 3s\n    timeout: soon\n    count: many\n    nested: {sise: 1}\n"
    ), @r"
    c.yaml:1:1: unknown section `inptu`; did you mean `input`?
    c.yaml:4:7: pipeline.processors.0: unknown processor `maping`; did you mean `mapping`?
    c.yaml:7:20: pipeline.processors.1.catch.1.mapping: expected text (put it in quotes), found a whole number
    c.yaml:10:5: output.http: the field `url` is required
    c.yaml:10:5: output.http: unknown field `timout`; did you mean `timeout`?
    c.yaml:11:14: output.http.timeout: `soon` is not a duration; write for example `15s`, `500ms` or `1h30m`
    c.yaml:12:12: output.http.count: expected a whole number, zero or more, found text
    c.yaml:13:14: output.http.nested: unknown field `sise`; did you mean `size`?
    ");
}

#[test]
fn components_of_the_wrong_shape_are_reported() {
    insta::assert_snapshot!(check(
        "input:\n  schedule: {}\noutput:\n  http: {url: http://x}\n  htpp: {}\n"
    ), @r"
    c.yaml:2:13: input.schedule: the field `input` is required
    c.yaml:4:3: output: a component has one type, but this has `http` and `htpp`; check the indentation
    ");
    insta::assert_snapshot!(check("input: nothing\noutput: {label: a}\n"), @r"
    c.yaml:1:8: input: expected an input (a map with one type), found text; available: nothing, schedule
    c.yaml:2:9: output: the output has no type; available: http
    ");
}

#[test]
fn errors_in_scripts_have_a_place_in_the_file() {
    insta::assert_snapshot!(check(
        "pipeline:\n  processors:\n    - mapping: |\n\n        ok\n        a !\n    - mapping: 'b!'\n    - mapping: c!\n"
    ), @r"
    c.yaml:6:11: pipeline.processors.0.mapping: exclamation mark
    c.yaml:7:18: pipeline.processors.1.mapping: exclamation mark
    c.yaml:8:17: pipeline.processors.2.mapping: exclamation mark
    ");
}

#[test]
fn places_refer_to_the_text_before_interpolation() {
    insta::assert_snapshot!(check(
        "output:\n  http: {url: \"${TOKEN}${TOKEN}\", timout: 1}\npipeline:\n  processors:\n    - mapping: ${NOPE}\n"
    ), @r"
    c.yaml:2:15: output.http.url: the url must start with http
    c.yaml:2:35: output.http: unknown field `timout`; did you mean `timeout`?
    c.yaml:5:14: pipeline.processors.0.mapping: expected text (put it in quotes), found nothing
    c.yaml:5:16: the variable `NOPE` is not set; set it, or write a default: `${NOPE:default}`
    ");
}

#[test]
fn messages_hold_no_secrets() {
    let report = check(
        "output:\n  http:\n    url: http://x\n    count: ${TOKEN}\n    timeout: \"${TOKEN}\"\n",
    );
    assert!(!report.contains("s3cr3t"), "{report}");
}

#[test]
fn invalid_yaml_is_reported_with_its_place() {
    let report = check("input: {\npipeline: ]\n");
    assert!(report.starts_with("c.yaml:1:8: "), "{report}");
    assert!(report.contains("invalid YAML"), "{report}");
    insta::assert_snapshot!(
        ["a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "~: 1\n", "a: !!binary x\n", "a: *b\n", "a: &a [*a]\n", "? [a]\n: 1\n"].map(check).join("\n"),
        @r"
    c.yaml:2:1: invalid YAML: duplicate mapping key `a` is not allowed here
    c.yaml:3:1: invalid YAML: only single YAML document expected but multiple found
    c.yaml:1:1: invalid YAML: null is not allowed here
    c.yaml:1:13: invalid YAML: invalid !!binary base64
    c.yaml:1:4: invalid YAML: reference to unknown value
    c.yaml:1:8: invalid YAML: Recursive reference not allowed here
    c.yaml:1:3: invalid YAML: expected string scalar
    "
    );
}

#[test]
fn bombs_are_refused() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, inner) in ('b'..='k').zip('a'..='j') {
        bomb.push_str(&format!(
            "{name}: &{name} [{}]\n",
            vec![format!("*{inner}"); 9].join(", ")
        ));
    }
    assert!(check(&bomb).contains("invalid YAML"));
    assert!(check(&"[".repeat(100_000)).contains("invalid YAML"));
    assert!(check(&"# x\n".repeat(3_000_000)).contains("the limit is"));
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let report = |address: &str| check(&format!("http: {{address: '{address}'}}\n"));
    for good in [
        "0.0.0.0:4195",
        "[::]:0",
        "localhost:80",
        "my-host.example:1",
    ] {
        assert_eq!(report(good), "", "{good}");
    }
    for bad in [
        "nonsense",
        "",
        ":4195",
        "host:",
        "host:99999",
        "a:b:1",
        "[x]:1",
        "http://x:1",
        "a b:1",
    ] {
        assert_eq!(
            report(bad),
            "c.yaml:1:17: http.address: expected `host:port`, such as `0.0.0.0:4195`",
            "{bad}"
        );
    }
}

#[test]
fn the_admin_section_has_its_own_address() {
    assert_eq!(
        check("http: {enabled: false}\nadmin: {enabled: true, address: '[::1]:1'}\n"),
        ""
    );
    assert_eq!(
        check("admin: {address: '4196'}\n"),
        "c.yaml:1:18: admin.address: expected `host:port`, such as `127.0.0.1:4196`"
    );
}

#[test]
fn overrides_change_fields() {
    assert_eq!(
        check_with(
            "input:",
            &[
                ("output.http.url", "http://y"),
                ("http.address", "127.0.0.1:1")
            ]
        ),
        ""
    );
    insta::assert_snapshot!(
        check_with("input:", &[("http.adress", "x"), ("pipeline.processors.3", "x"), ("logger.level", "LOUD")]),
        @r"
    --set http.adress: http: unknown field `adress`; did you mean `address`?
    --set logger.level: logger.level: `LOUD` is not a level; available: TRACE, DEBUG, INFO, WARN, ERROR, OFF
    --set pipeline.processors.3: pipeline.processors: expected a list, found a map
    "
    );
}

#[test]
fn sections_without_support_are_refused() {
    insta::assert_snapshot!(check("tests: [{name: a}]\nrate_limit_resources: [{label: a}]\n"), @r"
    c.yaml:1:8: tests: no command runs `tests` yet; remove the section
    c.yaml:2:23: rate_limit_resources: no component uses `rate_limit_resources` yet; remove the section
    ");
    // A blank section is accepted.
    assert_eq!(check("tests: []\ncache_resources:\n"), "");
    insta::assert_snapshot!(check("buffer:\n  sqlit: {}\ncache_resources: [{label: a}]\nmetrics:\n  statsd: {}\n"), @r"
    c.yaml:2:3: buffer: unknown buffer `sqlit`
    c.yaml:3:18: cache_resources: no component uses `cache_resources` yet; remove the section
    c.yaml:5:3: metrics: metrics are only served for Prometheus, on /metrics; leave `metrics` out or write `prometheus: {}`
    ");
    insta::assert_snapshot!(check("metrics:\n  prometheus: {typo: 1}\n  junk: 3\n"), @r"
    c.yaml:2:16: metrics.prometheus: unknown field `typo`
    c.yaml:3:3: metrics: unknown field `junk`; available: prometheus, none
    ");
    for good in ["prometheus: {}", "prometheus:", "none: {}"] {
        assert_eq!(
            check(&format!("metrics: {{{good}}}\n").replace("prometheus:}", "prometheus: }")),
            "",
            "{good}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[ -~\n]{0,200}") {
        let _ = check(&text);
    }
}
