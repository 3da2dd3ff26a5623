//! Tests of templates, checks, purity and lints.

use meterline_core::Message;
use serde_json::json;

use super::text;
use crate::{Engine, Limits, script::Script};

fn engine() -> Engine {
    Engine::new(Limits::default())
}

fn render(template: &str, message: &Message) -> Result<String, String> {
    engine()
        .compile_template(template)
        .map_err(|errors| text(&errors))?
        .render(message)
        .map_err(|error| error.to_string())
}

/// A path has the syntax of Benthos, and only the values on it are converted.
#[test]
fn a_path_in_json_works_as_in_benthos() {
    let message = Message::value(&json!({
        "a": {"b.c": {"~": 1}, "0": "zero", "": "blank"},
        "list": [{"n": 1}, {}, {"n": 3}],
        "*": "star",
    }));
    for (path, expected) in [
        ("a.b~1c.~0", "1"),
        ("a.0", "zero"),
        ("a.", "blank"),
        ("list.2.n", "3"),
        ("list.-1", "null"),
        ("list.3", "null"),
        ("list.*.n", "[1,3]"),
        ("list.*.m", "null"),
        ("list.*", r#"[{"n":1},{},{"n":3}]"#),
        ("*", "star"),
    ] {
        let template = format!("${{! json(\"{path}\") }}");
        assert_eq!(
            render(&template, &message).as_deref(),
            Ok(expected),
            "{path}"
        );
    }
    assert!(render("${! json(\"a\") }", &Message::raw("no JSON")).is_err());
    let script = Script::compile(&engine(), "root = json(\"a.b\")", (1, 1)).unwrap();
    assert!(script.analysis.this.is_nothing());
}

#[test]
fn unknown_functions_are_found_without_a_message() {
    let error = engine()
        .compile_template("a ${! batch_index() }")
        .unwrap_err();
    assert_eq!(
        text(&error),
        "line 1, column 7: there is no function `batch_index`"
    );
    let error = engine().compile_template("${! json(1) }").unwrap_err();
    assert!(text(&error).contains("`json` does not take an integer here"));
}

#[test]
fn expressions_are_replaced_by_their_values() {
    let mut message = Message::value(&json!({"name": "web", "n": 1.5, "map": {"a": [true]}}));
    message.fail("mapping", "it broke");
    for (template, expected) in [
        ("plain", "plain"),
        ("", ""),
        ("${! this.name }", "web"),
        (
            "pod ${!this.name}: ${! this.n }, ${! this.map }!",
            "pod web: 1.5, {\"a\":[true]}!",
        ),
        ("${! this.missing }", "null"),
        (
            "${! json(\"map.a.0\") } ${! json(\"name\") } ${! json(\"map.b\") } ${! json(\"n.x\") }",
            "true web null null",
        ),
        ("failed due to: ${!error()}", "failed due to: it broke"),
        ("${! #{ a: \"}\" }.a + '}' + `}` }", "}}}"),
        (
            "${{! this.name }} and ${ENV} and $ and {}",
            "${! this.name } and ${ENV} and $ and {}",
        ),
        ("é${! this.name }é", "éwebé"),
    ] {
        assert_eq!(
            render(template, &message).as_deref(),
            Ok(expected),
            "{template}"
        );
    }
}

#[test]
fn errors_in_a_template_have_their_place() {
    let message = Message::value(&json!({}));
    insta::assert_snapshot!(render("a\nbc ${! this. }", &message).unwrap_err(), @"line 2, column 13: the script is incomplete; check for an unclosed bracket or quote");
    insta::assert_snapshot!(render("${! this.name", &message).unwrap_err(), @"line 1, column 1: `${!` has no closing `}`; for the literal text write `${{! … }}`");
    insta::assert_snapshot!(render("${! }", &message).unwrap_err(), @"line 1, column 4: an expression is missing");
    insta::assert_snapshot!(render("${! x } ${! y }", &message).unwrap_err(), @r"
    line 1, column 5: there is no variable `x`; the message is `this`, the result is `root`; declare others with `let`
    line 1, column 13: there is no variable `y`; the message is `this`, the result is `root`; declare others with `let`
    ");
    insta::assert_snapshot!(render("first\n  ${! this.a.b }", &message).unwrap_err(), @"line 2, column 14: `b` is read from a missing value; write `?.b` to get () instead, and `??` for a default");
}

#[test]
fn text_without_expressions_is_static() {
    let is_static = |template| {
        let template = engine().compile_template(template).unwrap();
        template.is_static().map(str::to_owned)
    };
    assert_eq!(is_static("plain"), Some("plain".into()));
    assert_eq!(is_static(""), Some(String::new()));
    assert_eq!(is_static("a ${! 1 }"), None);
}

#[test]
fn a_check_must_return_true_or_false() {
    let message = Message::value(&json!({"a": 1}));
    let check = |source| {
        engine()
            .compile_expression(source)
            .unwrap()
            .check(&message)
            .map_err(|error| error.to_string())
    };
    assert_eq!(check("this.a == 1"), Ok(true));
    assert_eq!(check("this.b != ()"), Ok(false));
    insta::assert_snapshot!(check("this.a").unwrap_err(), @"a check must return true or false, but this returns an integer");
    insta::assert_snapshot!(check("this.b").unwrap_err(), @"a check must return true or false, but this returns a missing value");
}

#[test]
fn content_that_is_not_json_fails_only_scripts_that_read_it() {
    let message = Message::raw(&b"not json"[..]);
    assert_eq!(
        render("${! content() }", &message).as_deref(),
        Ok("not json")
    );
    assert_eq!(
        render("${! meta(\"x\") ?? 5 }", &message).as_deref(),
        Ok("5")
    );
    insta::assert_snapshot!(render("${! this.a }", &message).unwrap_err(), @"the message is not valid JSON: expected ident at line 1 column 2");
    insta::assert_snapshot!(render("${! pod_request(\"cpu\") }", &message).unwrap_err(), @"line 1, column 5: the message is not valid JSON: expected ident at line 1 column 2");
}

#[test]
fn purity_depends_on_the_functions_called() {
    let engine = engine();
    for (source, is_pure) in [
        ("root = this", true),
        (
            "root = #{ id: event_id(), cpu: pod_request(\"cpu\"), t: meta(\"t\") }",
            true,
        ),
        ("root = now()", false),
        ("root.a = #{ b: [uuid_v4()] }", false),
        ("root = [1].map_each(|x| now())", false),
        ("root = Fn(\"now\").call()", false),
        ("let n = \"now\"; root = Fn(n).call()", false),
        ("if this.a { meta[\"x\"] = timestamp_unix() }", false),
        ("switch this.a { 1 => root = now() }", false),
    ] {
        let mapping = engine.compile_mapping(source).unwrap();
        assert_eq!(mapping.is_pure(), is_pure, "{source}");
    }
}

#[test]
fn random_ids_are_reported() {
    let lints = |source| text(&engine().compile_mapping(source).unwrap().lints());
    insta::assert_snapshot!(lints("root = #{\n  \"id\": uuid_v4(),\n}"), @"line 2, column 9: `uuid_v4()` returns a new id each time, so an event that is sent again is billed twice; use `event_id()`, which is the same for the same usage");
    insta::assert_snapshot!(lints("root.x = 1;\nroot.id = uuid_v4();"), @"line 2, column 11: `uuid_v4()` returns a new id each time, so an event that is sent again is billed twice; use `event_id()`, which is the same for the same usage");
    assert_eq!(lints("root.id = event_id(); root.trace = uuid_v4()"), "");
}
