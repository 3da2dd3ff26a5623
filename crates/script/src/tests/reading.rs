//! Tests that a script cannot observe that only what it reads is converted.

use meterline_core::{Content, Document, Message, Reads, Step};
use proptest::prelude::*;
use rhai::Scope;
use serde_json::{Value, json};

use crate::{Engine, Limits, convert, reads, script::Script};

/// Returns the value or error of a script in three variants: `this` reduced to the parts that it reads,
/// the message reduced to the parts that it reads, and everything unreduced.
fn each(engine: &Engine, source: &str, message: &Message) -> Option<[Result<Value, String>; 3]> {
    let mut script = Script::compile(engine, source, (1, 1)).ok()?;
    let value = |script: &Script, message: &Message| {
        let value = script.run(&mut message.clone(), |_| Scope::new());
        value
            .map_err(|error| error.to_string())
            .and_then(|done| convert::to_document(&done.value))
            .map(|document| document.root().to_value())
    };
    let kept = message.document().unwrap().project(&script.analysis.reads);
    let some = value(&script, message);
    let of_kept = value(&script, &Message::new(Content::Document(kept)));
    script.analysis.this = Reads::All;
    Some([some, of_kept, value(&script, message)])
}

/// Parses a path in which `0` is an item of an array.
fn steps<'a>(path: &[&'a str]) -> Vec<Step<'a>> {
    let steps = path.iter();
    steps
        .map(|key| {
            if *key == "0" {
                Step::Item
            } else {
                Step::Key(key)
            }
        })
        .collect()
}

#[test]
fn only_the_parts_that_a_script_reads_are_converted() {
    let engine = Engine::new(Limits::default());
    let wanted = |source: &str| {
        let source = format!("fn __script(){{\n{source}\n}}");
        format!(
            "{:?}",
            reads::of_this(&engine.0.rhai.compile(source).unwrap()).this
        )
    };
    let expected = |paths: &[&[&str]]| {
        let mut wanted = Reads::default();
        for path in paths {
            wanted.add(&steps(path));
        }
        format!("{wanted:?}")
    };
    let cases: &[(&str, &[&[&str]])] = &[
        ("1", &[]),
        ("this", &[&[]]),
        ("this.a.b", &[&["a", "b"]]),
        ("this?.a?[\"b c\"].d", &[&["a", "b c", "d"]]),
        ("this[\"a\"][\"b\"]", &[&["a", "b"]]),
        ("this.a[0].b", &[&["a", "0", "b"]]),
        ("this.a.index(-1)?.b.c", &[&["a", "0", "b", "c"]]),
        ("this.a[0][1]", &[&["a", "0", "0"]]),
        ("let x = this.a.index(0)?.b; x?.c", &[&["a", "0", "b", "c"]]),
        ("this.a[0].b + this.a.len()", &[&["a"]]),
        ("this.a[0].len()", &[&["a", "0"]]),
        ("this.a.b.len()", &[&["a", "b"]]),
        ("this.a.filter(|x| x.c).d", &[&["a"]]),
        ("this.a[this.b]", &[&["a"], &["b"]]),
        ("this[this.k]", &[&[]]),
        ("this.a[this.k.j].z", &[&["a"], &["k", "j"]]),
        ("this.keys()", &[&[]]),
        ("[this.a.b, this.a]", &[&["a"]]),
        ("#{ x: `${this.a.b}` }", &[&["a", "b"]]),
        ("this.a ?? this.b.c", &[&["a"], &["b", "c"]]),
        ("let x = this.a; x.b", &[&["a", "b"]]),
        (
            "let x = this?.a?.b ?? #{}; [x.c, x?[\"d\"].e]",
            &[&["a", "b", "c"], &["a", "b", "d", "e"]],
        ),
        (
            "let x = this.a; x.b.c.len() + x.d.or(1)",
            &[&["a", "b", "c"], &["a", "d"]],
        ),
        ("let x = this.a; x.len()", &[&["a"]]),
        ("let x = this.a; [x.b, x]", &[&["a"]]),
        ("let x = this.a; x = this.b; x.c", &[&["a"], &["b"]]),
        ("let x = this.a; x.b = 1; x.c", &[&["a"]]),
        ("let x = this.a; let x = this.b; x.c", &[&["a"], &["b"]]),
        ("let x = this.a; [1].map_each(|i| x.b)", &[&["a"]]),
        ("let x = this.a; for x in this.b { x.c }", &[&["a"], &["b"]]),
        ("let x = this.a ?? this.b; x.c", &[&["a"], &["b"]]),
        ("let x = this.a.len(); x.c", &[&["a"]]),
        (
            "switch this.a.b { 1 => this.c, _ => this.d.e }",
            &[&["a", "b"], &["c"], &["d", "e"]],
        ),
        (
            "if this.a.b == this.c { this.d } else { () }",
            &[&["a", "b"], &["c"], &["d"]],
        ),
        ("for x in this.a.b { x }", &[&["a", "b"]]),
        (
            "while this.a.b { break this.c.d; }",
            &[&["a", "b"], &["c", "d"]],
        ),
        (
            "try { throw this.a.b } catch (e) { this.c }",
            &[&["a", "b"], &["c"]],
        ),
        ("max(this.a.b, this.c)", &[&["a", "b"], &["c"]]),
        ("this.a.b.max(this.c)", &[&["a", "b"], &["c"]]),
        ("return this.a.b;", &[&["a", "b"]]),
        ("this.a in this.b", &[&["a"], &["b"]]),
        ("!this.a.b && -this.c > 1", &[&["a", "b"], &["c"]]),
        ("namespace()", &[&["namespace()"]]),
        ("namespace().labels.a", &[&["namespace()", "labels", "a"]]),
        (
            "node()?.labels?[\"a/b\"]?.nonblank() ?? this.c",
            &[&["node()", "labels", "a/b"], &["c"]],
        ),
        (
            "let ns = namespace(); [ns.labels.a, ns?.name]",
            &[&["namespace()", "labels", "a"], &["namespace()", "name"]],
        ),
        (
            "let labels = namespace()?.labels ?? #{}; labels?.a",
            &[&["namespace()", "labels", "a"]],
        ),
        (
            "[owner()?.kind, owner()?.labels?[\"a/b\"]]",
            &[&["owner()", "kind"], &["owner()", "labels", "a/b"]],
        ),
        (
            "[1].map_each(|i| namespace().name)",
            &[&["namespace()", "name"]],
        ),
    ];
    for (source, paths) in cases {
        assert_eq!(wanted(source), expected(paths), "{source}");
    }
    // Everything of an object is nothing of others, in either order.
    for source in [
        "[this, namespace().a]",
        "[namespace().a, this]",
        "let x = namespace(); [this, x.a]",
    ] {
        let mut expected = Reads::default();
        expected.add(&steps(&["namespace()", "a"]));
        expected.add_prefix(&[], "");
        assert_eq!(wanted(source), format!("{expected:?}"), "{source}");
    }
    let mut expected = Reads::default();
    expected.add(&steps(&["a", "b"]));
    expected.add_needed_prefix(&steps(&["a"]), "p/");
    for source in [
        "this.a.select_prefix(\"p/\").len() + this.a.b",
        "let x = this?.a ?? #{}; x?.select_prefix(\"p/\").c + x[\"b\"]",
    ] {
        assert_eq!(wanted(source), format!("{expected:?}"), "{source}");
    }
}

#[test]
fn fields_of_a_prefix_are_labels_only_if_they_become_data() {
    let engine = Engine::new(Limits::default());
    let reads = |source: &str| {
        let script = Script::compile(&engine, source, (1, 1)).unwrap();
        script.analysis.reads.to_string()
    };
    for source in [
        "root = #{ data: this.a.select_prefix(\"p/\") }",
        "root.data = this.a.select_prefix(\"p/\").assign(#{ x: 1 })",
        "let a = this?.a ?? #{}; root = #{ id: 1, data: a.select_prefix(\"p/\").assign(#{}) }",
    ] {
        assert_eq!(reads(source), "a.p/^", "{source}");
    }
    for source in [
        "root = #{ subject: this.a.select_prefix(\"p/\").len() }",
        "root = #{ data: #{ x: this.a.select_prefix(\"p/\") } }",
        "root = #{ x: #{ data: this.a.select_prefix(\"p/\") } }",
        "let x = #{ data: this.a.select_prefix(\"p/\") }; root = x",
        "root.data = this.a.select_prefix(\"p/\"); root.subject = root.data.len()",
        "root.data = this.a.select_prefix(\"p/\"); let x = root; root.subject = x.data.len()",
        "root.data.x = this.a.select_prefix(\"p/\")",
        "root[this.a.k] = #{ data: this.a.select_prefix(\"p/\") }; root = this.a.k",
        "root.data += this.a.select_prefix(\"p/\")",
        "root = [#{ data: this.a.select_prefix(\"p/\") }]",
        "root = this.a.select_prefix(\"p/\")",
        "root.data = #{}; root.data = [this.a.select_prefix(\"p/\")]",
        "root.data = this.a.select_prefix(\"p/\"); root.subject = this.a.select_prefix(\"p/\").len()",
    ] {
        let reads = reads(source);
        assert!(reads.ends_with("a.p/^^"), "{source}: {reads}");
    }
}

#[test]
fn parts_that_functions_read_are_included() {
    let engine = Engine::new(Limits::default());
    let reads = |source: &str| {
        let expression = engine.compile_expression(source).unwrap();
        expression.reads().to_string()
    };
    assert_eq!(
        reads("pod_request(\"cpu\")"),
        "spec.containers.*.name, spec.containers.*.resources, spec.initContainers.*.name, \
         spec.initContainers.*.resources, spec.initContainers.*.restartPolicy, spec.overhead, \
         spec.resources, status.allocatedResources, \
         status.containerStatuses.*.allocatedResources, status.containerStatuses.*.name, \
         status.containerStatuses.*.resources, \
         status.initContainerStatuses.*.allocatedResources, \
         status.initContainerStatuses.*.name, status.initContainerStatuses.*.resources, \
         status.resources"
    );
    let of_limits = reads("pod_limit(\"cpu\")");
    assert!(of_limits.contains("status.containerStatuses.*.resources"));
    assert!(!of_limits.contains("allocatedResources"), "{of_limits}");
    assert_eq!(reads("[this.a, json(\"b.c\")]"), "a, b.c");
    assert_eq!(reads("json(\"list.0.x\")"), "list.0.x, list.*.x");
    assert_eq!(reads("json(\"\")"), "everything");
    assert_eq!(reads("content()"), "everything");
    assert_eq!(reads("Fn(\"json\")"), "everything");
    assert_eq!(reads("Fn(this.f)"), "everything");
    assert_eq!(
        reads("[event_id(\"t\"), meta(\"schedule_time\"), now()]"),
        "nothing"
    );
}

#[test]
fn every_use_of_this_is_found() {
    let engine = Engine::new(Limits::default());
    let input = json!({
        "a": {"b": {"c": 1, "d": [1, {"e": 2}]}, "x": "s"}, "k": "a", "list": [{"c": 3}, 4],
        "n": null, "text": "abc", "num": 2, "yes": true,
    });
    let message = Message::new(Content::Document(Document::from(&input)));
    for source in [
        "this.a.b",
        "this.a.b.d[1].e",
        "this[this.k].x",
        "this.text.len()",
        "this.text.x",
        "this.list.c",
        "this.list[0].c",
        "this.num.x",
        "this.n.x",
        "this.n?.x",
        "this.nope?.x",
        "this.a.b.keys()",
        "this.keys()",
        "this.list.map_each(|i| i)",
        "this.a == this.a",
        "this.text[0]",
        "this.list[this.num - 2]",
        "let t = this; t.a",
        "this.a.b.d.len",
        "type_of(this)",
        "type_of(this.a)",
        "this.a.get(\"b.c\")",
        "[this].len()",
        "`${this.a.b.c}`",
        "this.a?.b?[\"d\"]?[1]",
        "(this).a",
        "(this.a).b",
        "json(\"a.b.d.1.e\")",
        "json(\"a.b.d.*.e\")",
        "json(\"list.*.c\")",
        "json(\"n.0\")",
        "[json(\"a.b.c\"), this.a.b.d[0]]",
        "json(\"\")",
        "json(this.k)",
        "json().a.x",
        "content()",
        "Fn(\"content\").call()",
        "[1].map_each(|i| json().list)",
    ] {
        let [some, of_kept, all] =
            each(&engine, source, &message).unwrap_or_else(|| panic!("{source} does not compile"));
        assert_eq!(some, all, "{source}");
        assert_eq!(of_kept, all, "{source}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_i64..3).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abc]{1,2}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Generates scripts in which `w` is declared in different ways.
fn any_script() -> impl Strategy<Value = String> {
    let start = prop_oneof![
        Just("let w = this.a;"),
        Just("let w = this?.a?.b ?? #{};"),
        Just("let w = this[\"a\"] ?? #{ a: 1 };"),
        Just("let w = this;"),
        Just("let w = this.a; if this.b == () { w = this.c; }"),
        Just("let w = this.a; w.b = 1;"),
        Just("let w = this.b; { let w = this.a; w.c }"),
        Just("let w = this.a; for w in [this.b] { w.a }"),
        Just("let w = this.a.keys();"),
        Just("let w = this.a[0];"),
        Just("let w = this.a.index(0)?.b ?? #{};"),
    ];
    (start, any_expression()).prop_map(|(start, expression)| format!("{start} {expression}"))
}

fn any_expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => Just("this".to_owned()),
        3 => Just("w".to_owned()),
        1 => Just("1".to_owned()),
        1 => Just("\"a\"".to_owned()),
        1 => Just("()".to_owned()),
        1 => Just("true".to_owned()),
    ];
    leaf.prop_recursive(6, 32, 3, |inner| {
        let key = prop_oneof![Just("a"), Just("b"), Just("c")];
        prop_oneof![
            6 => (inner.clone(), key.clone()).prop_map(|(x, k)| format!("{x}.{k}")),
            3 => (inner.clone(), key.clone()).prop_map(|(x, k)| format!("{x}?.{k}")),
            3 => (inner.clone(), key.clone()).prop_map(|(x, k)| format!("{x}[\"{k}\"]")),
            2 => (inner.clone(), key.clone()).prop_map(|(x, k)| format!("{x}?[\"{k}\"]")),
            2 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("{x}[{y}]")),
            3 => inner.clone().prop_map(|x| format!("{x}[0]")),
            1 => inner.clone().prop_map(|x| format!("{x}.index(-1)")),
            1 => inner.clone().prop_map(|x| format!("({x})")),
            1 => inner.clone().prop_map(|x| format!("[{x}]")),
            1 => inner.clone().prop_map(|x| format!("`${{{x}}}`")),
            1 => (inner.clone(), key.clone()).prop_map(|(x, k)| format!("#{{ {k}: {x} }}")),
            1 => inner.clone().prop_map(|x| format!("{x}.len()")),
            2 => (inner.clone(), key.clone()).prop_map(|(x, k)| format!("{x}.select_prefix(\"{k}\")")),
            1 => inner.clone().prop_map(|x| format!("{x}.keys()")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("{x}.or({y})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("({x} ?? {y})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("({x} == {y})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("{{ let v = {x}; v.a ?? {y} }}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("{x}.map_each(|v| [v, {y}])")),
            1 => (inner.clone(), inner.clone(), inner)
                .prop_map(|(x, y, z)| format!("if {x} == () {{ {y} }} else {{ {z} }}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn reading_parts_equals_reading_everything(
        scripts in prop::collection::vec(any_script(), 1..8), input in any_json()
    ) {
        let engine = engine();
        let kinds = [
            Content::Document(Document::from(&input)),
            Content::Raw(input.to_string().into_bytes().into()),
        ];
        for content in kinds {
            let message = Message::new(content);
            for source in &scripts {
                if let Some([some, of_kept, all]) = each(engine, source, &message) {
                    prop_assert_eq!(&some, &all, "{}", source);
                    prop_assert_eq!(of_kept, all, "{}", source);
                }
            }
        }
    }
}

/// Created once, because setting up the interpreter takes milliseconds.
fn engine() -> &'static Engine {
    static ENGINE: std::sync::LazyLock<Engine> =
        std::sync::LazyLock::new(|| Engine::new(Limits::default()));
    &ENGINE
}
