//! What people read when a script is wrong.

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
fn faults_that_show_without_a_message() {
    assert_snapshot!(compile("root = ths.name"), @"line 1, column 8: there is no variable `ths`; the message is `this`, the result is `root`; declare others with `let`");
    assert_snapshot!(compile("root = this;\nthis.a = 1"), @"line 2, column 1: `this` is read-only; assign to `root`; `root = this` starts from a copy");
    assert_snapshot!(compile("this[\"a\"] += 1"), @"line 1, column 1: `this` is read-only; assign to `root`; `root = this` starts from a copy");
    assert_snapshot!(compile("root = this.\"a b\""), @r#"line 1, column 13: expecting name of a property; a quoted field is written `this["a b"]`, not `this."a b"`"#);
    assert_snapshot!(compile("root = this.list.filter(x -> x > 1)"), @"line 1, column 27: '->' is not a valid symbol. This is not C or C++!; a function value is written `|item| …`, not `item -> …`");
    assert_snapshot!(compile("root = { \"a\": 1 }"), @r#"line 1, column 13: expecting ';' to terminate this statement; an object is written `#{ "key": value }`, with a `#`"#);
    assert_snapshot!(compile("root = #{ a: 1"), @"line 1, column 14: the script ends in the middle; is a bracket or a quote left open?");
    assert_snapshot!(compile("root = 1\n}\nfn evil() { 1"), @"line 1, column 1: there is a `}` too many; the script defines a function by closing a brace it did not open");
    assert_snapshot!(compile("root = 1 }"), @"line 1, column 10: there is a `}` too many");
    assert_snapshot!(compile("fn double(x) { x * 2 }\nroot = double(1)"), @"line 1, column 1: a mapping cannot define functions; write a function value: `let double = |x| x * 2; double.call(21)`");
    assert_snapshot!(compile("root = null"), @"line 1, column 8: 'null' is a reserved keyword; null and a missing value are both written `()`");
    assert_snapshot!(compile("root = this.new"), @r#"line 1, column 13: 'new' is a reserved keyword; as a field write `this["new"]`"#);
    assert_snapshot!(compile("root.a.b.c = 1; root.d = oops"), @"line 1, column 26: there is no variable `oops`; the message is `this`, the result is `root`; declare others with `let`");
    assert_snapshot!(compile("a\nb\nthis.c = 1"), @"line 2, column 1: expecting ';' to terminate this statement");
    assert_snapshot!(evaluate("root = 1", &json!({})).unwrap_err(), @"line 1, column 1: an expression cannot assign; use a `mapping` processor to change a message");
    assert_snapshot!(evaluate(" ", &json!({})).unwrap_err(), @"line 1, column 1: an expression is missing");
}

#[test]
fn faults_that_show_with_a_message() {
    assert_snapshot!(run("root = this.a.b.c"), @"line 1, column 15: `b` is read from a value that is missing; write `?.b` to get () instead, and `??` for a default");
    assert_snapshot!(run("root = this.a[\"b\"]"), @"line 1, column 14: a value that is missing is indexed; write `?[…]` to get () instead, and `??` for a default");
    assert_snapshot!(run("root = this.a.trim_prefix(\"x\")"), @"line 1, column 15: `trim_prefix` is called on a value that is missing; give it a default first: `(… ?? default).trim_prefix(…)`");
    assert_snapshot!(run("root = this.n.trim_prefix(\"x\")"), @"line 1, column 15: `trim_prefix` does not take (an integer, text)");
    assert_snapshot!(run("root = this.nil.filter(|x| true)"), @r#"line 1, column 13: 'nil' is a reserved keyword; as a field write `this["nil"]`"#);
    assert_snapshot!(run("root = frobnicate(1)"), @"line 1, column 8: there is no function `frobnicate`");
    assert_snapshot!(run("root = frobnicate()"), @"line 1, column 8: there is no function `frobnicate`");
    assert_snapshot!(run("root = this.list[7]"), @"line 1, column 18: array index 7 out of bounds: only 2 elements in array");
    assert_snapshot!(run("root = this.n / 0"), @"line 1, column 15: a number is divided by 0");
    assert_snapshot!(run("root = this.n + \"x\" - 1"), @"line 1, column 21: `-` does not take (text, an integer)");
    assert_snapshot!(run("root = this.list.map_each(|x| this.n)"), @"line 1, column 31: `this` is not the message inside a function value; copy what you need to a variable before it");
    assert_snapshot!(run("root = this.list.map_each(|x|\n  x.missing.deeper)"), @"line 2, column 5: `missing` is read from an integer, which has no such field");
    assert_snapshot!(run("if this.n { root = 1 }"), @"line 1, column 8: true or false is wanted here, this is an integer");
    assert_snapshot!(run("throw \"no \" + this.name"), @"line 1, column 1: no web");
    assert_snapshot!(run("root.a.b.c = this.missing.deeper"), @"line 1, column 27: `deeper` is read from a value that is missing; write `?.deeper` to get () instead, and `??` for a default");
    assert_snapshot!(run("root.list = 5; root.list.b.c = 1"), @"line 1, column 26: `b` is read from an integer, which has no such field");
    assert_snapshot!(run("meta = 5"), @r#"`meta` was replaced by something that is not an object; set `meta["key"]` instead"#);
    assert_snapshot!(run("root = this.list.filter(|x| x)"), @"line 1, column 18: filter() wants true or false from its function, this is an integer");
    assert_snapshot!(run("root = #{ data: #{ cpu: [1, 1.0e308 * 10.0] } }"), @"line 1, column 37: the result is beyond 1.8e308, the largest number that receivers of JSON read");
    assert_snapshot!(run("root = 0.0 / 0.0"), @"line 1, column 12: a number is divided by 0");
    assert_snapshot!(run("root.f = |x| x"), @"`f` is a function, which JSON cannot hold");
    assert_snapshot!(run("root.data.cpu = [1, (-1.0).sqrt()]"), @"`data.cpu[1]` is not a finite number: NaN");
}

#[test]
fn this_cannot_be_changed_by_any_road() {
    assert_snapshot!(run("this.list.push(3); root = this"), @"line 1, column 11: `this` is read-only and `push` would change it; change a copy of it");
    assert_snapshot!(run("this.remove(\"n\")"), @"line 1, column 6: `this` is read-only and `remove` would change it; change a copy of it");
    assert_snapshot!(run("this.map.clear()"), @"line 1, column 10: `this` is read-only and `clear` would change it; change a copy of it");
    assert_snapshot!(run("this.text.make_upper()"), @"line 1, column 11: `this` is read-only and `make_upper` would change it; change a copy of it");
    // A function that is called on a copy changes the copy.
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
