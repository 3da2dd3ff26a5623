//! Scripts that mean harm, or do it by accident. Faults 29 to 33.

use std::time::{Duration, Instant};

use meterline_core::Message;
use serde_json::{Value, json};

use super::{evaluate, map};
use crate::{Engine, Limits};

#[test]
fn nothing_that_waits_or_reaches_outside_can_be_called() {
    for name in [
        "eval",
        "sleep",
        "print",
        "debug",
        "import",
        "timestamp",
        "exit",
        "open_file",
        "env",
        "system",
        "parse_script",
        "get_fn_metadata_list",
        "back_trace",
        "read",
        "include",
    ] {
        for arguments in ["", "1", "1e300", "\"1\"", "\"/etc/passwd\"", "1, 2"] {
            for source in [
                format!("root = {name}({arguments})"),
                format!("root = Fn(\"{name}\").call({arguments})"),
                format!("let f = Fn(\"{name}\"); root = f.call({arguments})"),
                format!("root = call(Fn(\"{name}\"), {arguments})"),
            ] {
                let outcome = map(&source, &json!({}));
                assert!(outcome.is_err(), "{source} gave {outcome:?}");
            }
        }
    }
    for source in [
        "import \"x\" as x;",
        "export root;",
        "root = x::y()",
        "let x = 1; export x;",
    ] {
        assert!(map(source, &json!({})).is_err(), "{source}");
    }
}

#[test]
fn what_never_ends_is_stopped() {
    for source in [
        "loop { }",
        "while true { root = 1 }",
        "do { } until false",
        "for i in 0..9223372036854775807 { root = i }",
        "let f = |f| f.call(f); f.call(f)",
        "let f = |f, n| 1 + f.call(f, n + 1); f.call(f, 0)",
        "__script()",
        "let s = \"x\"; loop { s += s; }",
        "let s = \"xxxxxxxx\"; loop { s = s.replace_all(\"x\", s); }",
        "let a = [1]; loop { a += a; }",
        "let a = [1]; loop { a.push(a); }",
        "let m = #{}; let i = 0; loop { m[`k${i}`] = i; i += 1; }",
        "let a = []; a.pad(1000000000, 1);",
        "let s = \"\"; s.pad(1000000000, 'x');",
        "let a = []; for i in 0..10000 { a.push(i * 7919 % 10007) } \
         loop { a.sort(|x, y| x - y); }",
        "let a = []; for i in 0..9999 { a.push(i) } root = a.map_each(|x| a.sort())",
        "root = 2 ** 1000000000",
        "root = \"x\".format(1, 2, 3)",
        "let s = \"a\"; for i in 0..20 { s += s } root = s.split(\"\")",
        "let s = \"a\"; for i in 0..20 { s += s } root = s.to_chars()",
        "root = range(0, 1000000000000).len()",
    ] {
        let started = Instant::now();
        let outcome = map(source, &json!({}));
        assert!(outcome.is_err(), "{source} gave something");
        // Far more than the limit of 250 ms, so that a slow machine does not matter; far less than
        // what these scripts ask for.
        assert!(started.elapsed() < Duration::from_secs(20), "{source}");
    }
}

#[test]
fn values_nested_without_end_do_not_overflow_the_stack() {
    for source in [
        "let a = []; loop { a = [a]; }",
        "let a = #{}; loop { a = #{ a: a }; }",
        "root = []; loop { root = [root]; }",
        "let a = []; loop { a = [#{ a: [#{ a: a }] }]; }",
        "let a = []; for i in 0..4900 { a = [#{ a: a }]; } root = a;",
        "let a = []; for i in 0..9000 { a = [a]; } root = a == a",
        "let a = []; for i in 0..9000 { a = [a]; } root = a.unique()",
        "let a = []; for i in 0..9000 { a = [a]; } root = a.string()",
        "let a = []; for i in 0..9000 { a = [a]; } root = a.to_string()",
        "let a = []; for i in 0..9000 { a = [a]; } root = `${a}`",
        "let a = #{}; for i in 0..9000 { a = #{ a: a }; } root = a.assign(a)",
        "let a = #{}; for i in 0..9000 { a = #{ a: a }; } root = a.merge(a)",
        "let a = []; for i in 0..100 { a = [a]; a = [[[[[[[[[[a]]]]]]]]]]; } root = a",
        "let a = []; let f = |x| { a = [x]; a }; for i in 0..9000 { a = f.call(a); } root = a",
    ] {
        // A thread of the size that pipelines have; an overflow would end the whole test program.
        let thread = std::thread::Builder::new().stack_size(crate::STACK_SIZE);
        let outcome = thread.spawn(move || map(source, &json!({}))).unwrap();
        let outcome = outcome.join().unwrap();
        let is_harmless = outcome.is_err() || outcome.as_ref().is_ok_and(Value::is_boolean);
        assert!(is_harmless, "{source}");
    }
    let deep = format!("root = {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(map(&deep, &json!({})).is_err());
    let deep = format!("root = {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(map(&deep, &json!({})).is_err());
}

#[test]
fn a_script_that_was_stopped_does_no_harm_to_the_next() {
    let engine = Engine::new(Limits::default());
    let endless = engine.compile_mapping("loop { }").unwrap();
    let good = engine.compile_mapping("root = this.a").unwrap();
    let mut message = Message::value(&json!({"a": 1}));
    for _ in 0..3 {
        assert!(endless.run(&mut message).is_err());
    }
    good.run(&mut message).unwrap();
    assert_eq!(message.tree().unwrap(), json!(1));
}

#[test]
fn quantities_are_kubernetes_quantities_or_errors() {
    let quantity = |text: &str| evaluate("this.resource_quantity()", &json!(text));
    for (text, expected) in [
        ("100m", json!(0.1)),
        ("0.5Ki", json!(512)),
        ("1E", json!(1_000_000_000_000_000_000_i64)),
        ("1e3", json!(1000)),
        ("-5", json!(-5)),
    ] {
        assert_eq!(quantity(text), Ok(expected), "{text}");
    }
    for text in ["1e400", "", "NaN", "9223372036854775808"] {
        assert!(quantity(text).is_err(), "{text}");
    }
    let pod =
        |cpu: &str| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
    for text in ["1e400", "-5", "", "NaN", "9223372036854775808"] {
        let error = evaluate("pod_request(\"cpu\")", &pod(text)).unwrap_err();
        assert!(
            error.contains("spec.containers[0].resources.requests.cpu"),
            "{error}"
        );
    }
}

#[test]
fn numbers_that_are_not_finite_never_leave() {
    for source in [
        "root = 1.0e308 * 10.0",
        "root.a = 0.0 / 0.0",
        "root = [#{ a: -1.0 / 0.0 }]",
        "meta[\"x\"] = 1.0 / 0.0",
        "root = (1.0 / 0.0).string()",
        "root = #{ a: 1.0 / 0.0 }.to_json()",
        "root = [1.0 / 0.0].sum()",
        "root = (1.0 / 0.0).round()",
        "root = (0.0 / 0.0).int64()",
        "root = (1.0 / 0.0).multiply_exact(0)",
        "root = \"inf\".number()",
        "root = \"1e999\".number()",
    ] {
        let outcome = map(source, &json!({}));
        assert!(outcome.is_err(), "{source} gave {outcome:?}");
    }
}

#[test]
fn large_and_odd_pods_are_mapped_or_refused_with_a_reason() {
    let odd = "\u{0}\u{1}\u{feff}\u{202e}\u{1f469}\u{200d}\u{1f680}\u{fffd}\"\\`${x}";
    let pod = json!({
        "metadata": {
            "name": odd,
            "annotations": {"large": "é".repeat(128 << 10), odd: odd},
        },
        "spec": {"containers": vec![json!({"env": [{"name": "A", "value": "x".repeat(30_000)}]}); 30]},
    });
    let source = "root.name = this.metadata.name; root.annotations = this.metadata.annotations";
    let mapped = map(source, &pod).unwrap();
    assert_eq!(mapped["name"], pod["metadata"]["name"]);
    assert_eq!(mapped["annotations"], pod["metadata"]["annotations"]);
    assert_eq!(map("root = this", &pod), Ok(pod.clone()));

    let mut huge = pod;
    huge["spec"]["text"] = json!("x".repeat(3 << 20));
    assert_eq!(map("root = this", &huge), Ok(huge.clone()));
    assert_eq!(
        map("root = this.spec.text + \"y\"", &huge).unwrap_err(),
        "length of string is too large for a script"
    );
    assert!(map(source, &huge).is_ok());
}

#[test]
fn whole_numbers_stay_whole_and_beyond_64_bits_they_pass_unharmed() {
    let input = json!({"i": i64::MAX, "u": u64::MAX, "f": 0.1, "whole": 5.0});
    assert_eq!(map("root = this", &input), Ok(input.clone()));
    assert_eq!(
        map("root = #{ u: this.u }", &input),
        Ok(json!({"u": u64::MAX}))
    );
    assert!(map("root = this.u + 1", &input).is_err());
    assert_eq!(
        map("root = this", &input).unwrap().to_string(),
        input.to_string()
    );
}
