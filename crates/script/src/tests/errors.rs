//! Snapshots of the errors of scripts.

use insta::assert_snapshot;
use serde_json::json;

use super::{evaluate, map};

fn compile(source: &str) -> String {
    map(source, &json!({})).unwrap_err()
}

fn run(source: &str) -> String {
    let input = json!({
        "name": "web", "n": 5, "list": [1, 2], "map": {"a": 1}, "null": null, "text": "abc",
    });
    map(source, &input).unwrap_err()
}

#[test]
fn errors_that_need_no_message() {
    assert_snapshot!(compile("root = ths.name"), @"line 1, column 8: there is no variable `ths`; the message is `this`, the result is `root`; declare others with `let`");
    assert_snapshot!(compile("root = this;\nthis.a = 1"), @"line 2, column 1: `this` is read-only; assign to `root`; `root = this` starts from a copy");
    assert_snapshot!(compile("this[\"a\"] += 1"), @"line 1, column 1: `this` is read-only; assign to `root`; `root = this` starts from a copy");
    assert_snapshot!(compile("root = this.\"a b\""), @r#"line 1, column 13: expecting name of a property; a quoted field is written `this["a b"]`, not `this."a b"`"#);
    assert_snapshot!(compile("root = this.list.filter(x -> x > 1)"), @"line 1, column 27: '->' is not a valid symbol. This is not C or C++!; a function value is written `|item| …`, not `item -> …`");
    assert_snapshot!(compile("root = { \"a\": 1 }"), @r#"line 1, column 13: expecting ';' to terminate this statement; an object is written `#{ "key": value }`, with a `#`"#);
    assert_snapshot!(compile("root = #{ a: 1"), @"line 1, column 14: the script is incomplete; check for an unclosed bracket or quote");
    assert_snapshot!(compile("root = 1\n}\nfn evil() { 1"), @"line 1, column 1: there is one `}` too many; remove the `}` that closes no brace of the script");
    assert_snapshot!(compile("root = 1 }"), @"line 1, column 10: there is one `}` too many");
    assert_snapshot!(compile("fn double(x) { x * 2 }\nroot = double(1)"), @"line 1, column 1: a mapping cannot define functions; use a function value: `let double = |x| x * 2; double.call(21)`");
    assert_snapshot!(compile("root = null"), @"line 1, column 8: 'null' is a reserved keyword; null and a missing value are both written `()`");
    assert_snapshot!(compile("root = this.new"), @r#"line 1, column 13: 'new' is a reserved keyword; to read a field write `this["new"]`"#);
    assert_snapshot!(compile("root.a.b.c = 1; root.d = oops"), @"line 1, column 26: there is no variable `oops`; the message is `this`, the result is `root`; declare others with `let`");
    assert_snapshot!(compile("a\nb\nthis.c = 1"), @"line 2, column 1: expecting ';' to terminate this statement");
    assert_snapshot!(evaluate("root = 1", &json!({})).unwrap_err(), @"line 1, column 1: an expression cannot assign; use a `mapping` processor to change a message");
    assert_snapshot!(evaluate(" ", &json!({})).unwrap_err(), @"line 1, column 1: an expression is missing");
}

#[test]
fn all_syntax_errors_are_reported_at_once_without_consequences() {
    let mut shown = String::new();
    for source in [
        "root.a = (1 + ;\nroot.b = ) 2;\nroot.c = ths.x;\nroot.d = 1 1",
        "let x = 5 5;\nroot.a = x + 1;\nroot.b = [1, 2;\nroot.c = frob(x)",
        "if this.a {\n  root.a = 1 1;\n  root.b = 2 2\n} else { root.c = 3 3 }\nroot.d = 4",
        "root = #{\n  a: 1;\n  b: 2,\n};\nroot.c = null;",
        "root.x = switch this.a { 1 => foo bar, 2 => 3 };\nroot.y = { \"a\": 1 };\nroot.z = this.list.filter(x -> x)",
        "root.a = \"open;\nroot.b = 2;\nroot.c = 3 3;",
        "root.a = 1 1;\nroot.b = #{ c: 1",
        "root.a = 1 1;\n}\nroot.b = 2 2;",
        "let f = |x| { x x }; root.é = `${ 1 1 }`; root.y = `${ f.call(1) }` 5;",
        "fn f(x) { x }\nroot = 1;\nroot.b = 2 2;",
        "for x in this.list { root.push(x x); } root.a = x y;",
    ] {
        shown += &format!("{source}\n");
        for error in compile(source).lines() {
            shown += &format!("  → {error}\n");
        }
    }
    assert_snapshot!(shown, @r#"
    root.a = (1 + ;
    root.b = ) 2;
    root.c = ths.x;
    root.d = 1 1
      → line 1, column 15: unexpected ';'
      → line 2, column 10: unexpected ')'
      → line 3, column 10: there is no variable `ths`; the message is `this`, the result is `root`; declare others with `let`
      → line 4, column 12: expecting ';' to terminate this statement
    let x = 5 5;
    root.a = x + 1;
    root.b = [1, 2;
    root.c = frob(x)
      → line 1, column 11: expecting ';' to terminate this statement
      → line 3, column 15: expecting ',' to separate the items of this array literal
      → line 4, column 10: there is no function `frob`
    if this.a {
      root.a = 1 1;
      root.b = 2 2
    } else { root.c = 3 3 }
    root.d = 4
      → line 2, column 14: expecting ';' to terminate this statement
      → line 3, column 14: expecting ';' to terminate this statement
      → line 4, column 21: expecting ';' to terminate this statement
    root = #{
      a: 1;
      b: 2,
    };
    root.c = null;
      → line 2, column 7: expecting '}' to end this object map literal
      → line 5, column 10: 'null' is a reserved keyword; null and a missing value are both written `()`
    root.x = switch this.a { 1 => foo bar, 2 => 3 };
    root.y = { "a": 1 };
    root.z = this.list.filter(x -> x)
      → line 1, column 35: expecting ',' to separate the items in this switch block
      → line 2, column 15: expecting ';' to terminate this statement; an object is written `#{ "key": value }`, with a `#`
      → line 3, column 29: '->' is not a valid symbol. This is not C or C++!; a function value is written `|item| …`, not `item -> …`
    root.a = "open;
    root.b = 2;
    root.c = 3 3;
      → line 1, column 10: open string is not terminated
      → line 3, column 12: expecting ';' to terminate this statement
    root.a = 1 1;
    root.b = #{ c: 1
      → line 1, column 12: expecting ';' to terminate this statement
    root.a = 1 1;
    }
    root.b = 2 2;
      → line 1, column 12: expecting ';' to terminate this statement
      → line 3, column 12: expecting ';' to terminate this statement
    let f = |x| { x x }; root.é = `${ 1 1 }`; root.y = `${ f.call(1) }` 5;
      → line 1, column 17: expecting ';' to terminate this statement
      → line 1, column 27: expecting name of a property
      → line 1, column 69: expecting ';' to terminate this statement
    fn f(x) { x }
    root = 1;
    root.b = 2 2;
      → line 1, column 1: a mapping cannot define functions; use a function value: `let double = |x| x * 2; double.call(21)`
      → line 3, column 12: expecting ';' to terminate this statement
    for x in this.list { root.push(x x); } root.a = x y;
      → line 1, column 34: expecting ',' to separate the arguments to function call 'push'
      → line 1, column 51: expecting ';' to terminate this statement
    "#);
    let many = "root.a = 1 1;\n".repeat(1000);
    assert_eq!(compile(&many).lines().count(), 20);
}

#[test]
fn the_number_and_types_of_arguments_are_checked() {
    let mut shown = String::new();
    for source in [
        "root = event_id(5)",
        "root = event_id(\"a\", 5)",
        "root = event_id(\"a\", \"b\", \"c\")",
        "root = pod_request(1)",
        "root = pod_request()",
        "root = parse_duration(true)",
        "root = true.parse_duration()",
        "root = meta(\"a\").parse_duration(\"s\")",
        "let x = this.list; x.push(); root = x",
        "root = this.text.split(\",\", \"2\")",
        "root = this.list.filter(\"now\")",
        "root = this.list.map_each(|n| n.round(2))",
        "root = `at ${now(1)}`",
        "pod_limit(\"cpu\", 2)",
    ] {
        shown += &format!("{source}\n  {}\n", compile(source));
    }
    assert_snapshot!(shown, @r#"
    root = event_id(5)
      line 1, column 17: `event_id` does not take an integer here; it is `event_id() -> text`, `event_id(type) -> text` or `event_id(type, key) -> text`
    root = event_id("a", 5)
      line 1, column 22: `event_id` does not take an integer here; it is `event_id() -> text`, `event_id(type) -> text` or `event_id(type, key) -> text`
    root = event_id("a", "b", "c")
      line 1, column 8: `event_id` does not take 3 arguments; it is `event_id() -> text`, `event_id(type) -> text` or `event_id(type, key) -> text`
    root = pod_request(1)
      line 1, column 20: `pod_request` does not take an integer here; it is `pod_request(resource) -> number`
    root = pod_request()
      line 1, column 8: `pod_request` does not take 0 arguments; it is `pod_request(resource) -> number`
    root = parse_duration(true)
      line 1, column 23: `parse_duration` does not take true or false here; it is `text.parse_duration() -> integer`
    root = true.parse_duration()
      line 1, column 8: `parse_duration` does not take true or false here; it is `text.parse_duration() -> integer`
    root = meta("a").parse_duration("s")
      line 1, column 18: `parse_duration` does not take 2 arguments (including the value before the dot); it is `text.parse_duration() -> integer`
    let x = this.list; x.push(); root = x
      line 1, column 22: `push` does not take 1 argument (including the value before the dot); it is `array.push(value)`
    root = this.text.split(",", "2")
      line 1, column 29: `split` does not take text here; it is `text.split()`, `text.split(text)`, `text.split(character)`, `text.split(position)`, `text.split(text, count)`, `text.split(character, count)` or `array.split(position)`
    root = this.list.filter("now")
      line 1, column 25: `filter` does not take text here; it is `array.filter(|item| …) -> array` or `object.filter(|item| …) -> object`
    root = this.list.map_each(|n| n.round(2))
      line 1, column 33: `round` does not take 2 arguments (including the value before the dot); it is `number.round() -> integer`
    root = `at ${now(1)}`
      line 1, column 14: `now` does not take 1 argument; it is `now() -> text`
    pod_limit("cpu", 2)
      line 1, column 1: `pod_limit` does not take 2 arguments; it is `pod_limit(resource) -> number`
    "#);
    // An index is not the receiver of the method, and the type of a variable is unknown.
    for source in [
        "root = this.rows[0].trim_prefix(\"a\")",
        "let x = 5; root = x.trim_prefix(\"a\")",
        "root = \"a,b\".split(\",\").len().round()",
        "root = [\"a\"][0].trim()",
        "let f = |a, b| a + b; root = f.call(1, 2); let g = f.curry(1); root = g.call(2)",
    ] {
        let compiled = crate::Engine::new(crate::Limits::default()).compile_mapping(source);
        assert!(compiled.is_ok(), "{source}: {compiled:?}");
    }
}

#[test]
fn errors_of_a_run() {
    assert_snapshot!(run("root = this.a.b.c"), @"line 1, column 15: `b` is read from a missing value; write `?.b` to get () instead, and `??` for a default");
    assert_snapshot!(run("root = this.a[\"b\"]"), @"line 1, column 14: a missing value is indexed; write `?[…]` to get () instead, and `??` for a default");
    assert_snapshot!(run("root = this.a.trim_prefix(\"x\")"), @"line 1, column 15: `trim_prefix` is called on a missing value; use a default: `(… ?? default).trim_prefix(…)`");
    assert_snapshot!(run("root = this.n.trim_prefix(\"x\")"), @"line 1, column 15: `trim_prefix` does not take (an integer, text)");
    assert_snapshot!(run("root = this.nil.filter(|x| true)"), @r#"line 1, column 13: 'nil' is a reserved keyword; to read a field write `this["nil"]`"#);
    assert_snapshot!(run("root = frobnicate(1)"), @"line 1, column 8: there is no function `frobnicate`");
    assert_snapshot!(run("root = frobnicate()"), @"line 1, column 8: there is no function `frobnicate`");
    assert_snapshot!(run("root = this.list[7]"), @"line 1, column 18: array index 7 out of bounds: only 2 elements in array");
    assert_snapshot!(run("root = this.n / 0"), @"line 1, column 15: division by 0");
    assert_snapshot!(run("root = this.n + \"x\" - 1"), @"line 1, column 21: `-` does not take (text, an integer)");
    assert_snapshot!(run("root = this.list.map_each(|x| this.n)"), @"line 1, column 31: `this` is not available inside a function value; copy what you need to a variable before it");
    assert_snapshot!(run("root = this.list.map_each(|x| x + oops)"), @"line 1, column 35: there is no variable `oops`; the message is `this`, the result is `root`; declare others with `let`");
    assert_snapshot!(run("root = this.list.map_each(|x|\n  x.missing.deeper)"), @"line 2, column 5: `missing` is read from an integer, which has no such field");
    assert_snapshot!(run("if this.n { root = 1 }"), @"line 1, column 8: expected true or false, found an integer");
    assert_snapshot!(run("throw \"no \" + this.name"), @"line 1, column 1: no web");
    assert_snapshot!(run("root.a.b.c = this.missing.deeper"), @"line 1, column 27: `deeper` is read from a missing value; write `?.deeper` to get () instead, and `??` for a default");
    assert_snapshot!(run("root.list = 5; root.list.b.c = 1"), @"line 1, column 26: `b` is read from an integer, which has no such field");
    assert_snapshot!(run("meta = 5"), @r#"`meta` is no longer an object; set `meta["key"]` instead of `meta`"#);
    assert_snapshot!(run("root = this.list.filter(|x| x)"), @"line 1, column 18: the function of filter() must return true or false, but returned an integer");
    assert_snapshot!(run("root = #{ data: #{ cpu: [1, 1.0e308 * 10.0] } }"), @"line 1, column 37: the result is beyond 1.8e308, the largest number that JSON parsers accept");
    assert_snapshot!(run("root = 0.0 / 0.0"), @"line 1, column 12: division by 0");
    assert_snapshot!(run("root.f = |x| x"), @"`f` is a function, which JSON cannot represent");
    assert_snapshot!(run("root.data.cpu = [1, (-1.0).sqrt()]"), @"`data.cpu[1]` is not a finite number: NaN");
}

#[test]
fn no_call_can_change_this() {
    assert_snapshot!(run("this.list.push(3); root = this"), @"line 1, column 11: `this` is read-only but `push` changes it; change a copy instead");
    assert_snapshot!(run("this.remove(\"n\")"), @"line 1, column 6: `this` is read-only but `remove` changes it; change a copy instead");
    assert_snapshot!(run("this.map.clear()"), @"line 1, column 10: `this` is read-only but `clear` changes it; change a copy instead");
    assert_snapshot!(run("this.text.make_upper()"), @"line 1, column 11: `this` is read-only but `make_upper` changes it; change a copy instead");
    // A function call with a copy changes the copy.
    assert_eq!(
        map(
            "clear(this.map); root = this.map",
            &json!({"map": {"a": 1}})
        ),
        Ok(json!({"a": 1}))
    );
}

#[test]
fn a_copy_of_this_can_be_changed() {
    let input = json!({"list": [1], "map": {"a": 1}});
    for source in [
        "let x = this; x.list.push(2); root = x.list",
        "let x = this.list; x.push(2); root = x",
        "root = this.list; root.push(2)",
        "root = this; root.list.push(2); root = root.list",
        "root = []; for x in this.list { root.push(x) } root.push(2)",
    ] {
        assert_eq!(map(source, &input), Ok(json!([1, 2])), "{source}");
    }
}
