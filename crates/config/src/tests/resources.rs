//! Checks resources, and the labels and processors beside a type.

use super::check;

#[test]
fn unknown_resources_and_bad_labels_are_reported() {
    insta::assert_snapshot!(check(
        "processor_resources:\n  - label: shared\n    mapping: ok\n\
         pipeline:\n  processors:\n    - resource: shared\n    - resource: shard\n    - {label: a, mapping: x}\n    - {label: a, mapping: x}\n    - {label: A b, mapping: x}\n"
    ), @r"
    c.yaml:7:17: pipeline.processors.1.resource: there is no processor with the label `shard` in `processor_resources`; did you mean `shared`?
    c.yaml:9:15: pipeline.processors.3.label: the label `a` is already used on line 8
    c.yaml:10:15: pipeline.processors.4.label: the label `A b` may only contain lower-case letters, digits, `_` and `-`
    ");
}

/// Regression: the resource was no longer marked after its own processors were planned, and the stack
/// overflowed.
#[test]
fn a_resource_that_contains_itself_is_reported() {
    insta::assert_snapshot!(check(
        "processor_resources:\n  - label: p\n    catch: [{resource: p}]\n  - {label: a, catch: [{resource: b}]}\n  - {label: b, resource: c}\n  - {label: c, catch: [{unknown: {processors: [{resource: a}]}}]}\n\
         pipeline:\n  processors: [{resource: p}]\n"
    ), @r"
    c.yaml:3:24: processor_resources.0.catch.0.resource: the resource `p` contains itself: `p` → `p`
    c.yaml:4:5: warning: processor_resources.1: nothing uses this processor; refer to it with `resource: a` or remove it
    c.yaml:4:35: processor_resources.1.catch.0.resource: the resource `b` contains itself: `b` → `c` → `a` → `b`
    c.yaml:5:5: warning: processor_resources.2: nothing uses this processor; refer to it with `resource: b` or remove it
    c.yaml:6:5: warning: processor_resources.3: nothing uses this processor; refer to it with `resource: c` or remove it
    c.yaml:6:25: processor_resources.3.catch.0: unknown processor `unknown`; available: mapping, catch
    ");
    // A resource may use one of another kind.
    assert_eq!(
        check(
            "processor_resources: [{label: one, mapping: ok}]\noutput_resources: [{label: two, processors: [{resource: one}], http: {url: http://x}}]\noutput: {resource: two}\n"
        ),
        ""
    );
}

#[test]
fn resources_that_expand_without_limit_are_refused() {
    let mut doubling =
        "pipeline: {processors: [{resource: p0}]}\nprocessor_resources:\n".to_owned();
    let mut deep = "pipeline: {processors: [{resource: p0}]}\nprocessor_resources:\n".to_owned();
    for level in 0..40 {
        let next = format!("{{resource: p{}}}", level + 1);
        doubling.push_str(&format!(
            "  - {{label: p{level}, catch: [{next}, {next}]}}\n"
        ));
    }
    for level in 0..3000 {
        deep.push_str(&format!(
            "  - {{label: p{level}, catch: [{{resource: p{}}}]}}\n",
            level + 1
        ));
    }
    doubling.push_str("  - {label: p40, mapping: ok}\n");
    deep.push_str("  - {label: p3000, mapping: ok}\n");
    let report = check(&doubling);
    assert!(
        report.contains("expands to more than 10000 components"),
        "{report}"
    );
    assert_eq!(report.lines().count(), 1, "{report}");
    let report = check(&deep);
    assert!(
        report.contains("nested more than 100 levels deep"),
        "{report}"
    );
}

#[test]
fn unused_resources_are_checked() {
    insta::assert_snapshot!(check(
        "processor_resources:\n  - {label: p, maping: x}\n  - {mapping: x}\n  - {label: q, mapping: '!'}\n  - {label: q, mapping: ok}\n  - text\noutput_resources: {label: o}\ninput_resources:\n"
    ), @r"
    c.yaml:2:5: warning: processor_resources.0: nothing uses this processor; refer to it with `resource: p` or remove it
    c.yaml:2:16: processor_resources.0: unknown processor `maping`; did you mean `mapping`?
    c.yaml:3:5: processor_resources.1: a resource needs a `label`, which others refer to
    c.yaml:4:5: warning: processor_resources.2: nothing uses this processor; refer to it with `resource: q` or remove it
    c.yaml:4:26: processor_resources.2.mapping: exclamation mark
    c.yaml:5:5: warning: processor_resources.3: nothing uses this processor; refer to it with `resource: q` or remove it
    c.yaml:5:13: processor_resources.3.label: the label `q` is already used on line 4
    c.yaml:6:5: processor_resources.4: expected a processor (a map with one type), found text; available: mapping, catch
    c.yaml:7:19: output_resources: expected a list of outputs with labels, found a map
    ");
}

#[test]
fn processors_beside_a_type_are_checked() {
    insta::assert_snapshot!(check(
        "output_resources:\n  - {label: o, http: {url: http://x}, processors: [{mapping: '1!'}]}\n\
         output:\n  resource: o\n  processors: [{mapping: '2!'}]\n\
         input:\n  nothing: {}\n  processors: typo\n\
         pipeline:\n  processors: [{mapping: ok, processors: [{mapping: ok}]}]\n"
    ), @r"
    c.yaml:2:64: output_resources.0.processors.0.mapping: exclamation mark
    c.yaml:5:28: output.processors.0.mapping: exclamation mark
    c.yaml:8:15: input.processors: expected a list of processors, found text
    c.yaml:10:42: pipeline.processors.0.processors: a processor cannot have `processors` beside its type
    ");
}
