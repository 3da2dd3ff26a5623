//! Tests of what is derived about mappings of the usage of pods.

use meterline_core::{
    Identity, Message,
    foreseen::{Fact, Foreseen, Kind},
};
use proptest::prelude::*;
use serde_json::json;

use crate::{Engine, Limits, Mapped};

fn after(before: &Foreseen, source: &str) -> Foreseen {
    let mapping = Engine::new(Limits::default()).compile_mapping(source);
    mapping
        .unwrap_or_else(|errors| panic!("{source}: {errors:?}"))
        .foresee(before, Some(1))
}

fn described(fact: &Fact) -> String {
    match &fact.kind {
        Kind::Null => "none".to_owned(),
        Kind::EventId(event_type, None) => format!("event_id({event_type})"),
        Kind::EventId(event_type, Some(key)) => format!("event_id({event_type}, {key})"),
        _ if fact.varies => "varies".to_owned(),
        _ => "fixed".to_owned(),
    }
}

/// Returns what is known about the id after several mappings.
fn id(sources: &[&str]) -> String {
    let mut foreseen = Foreseen::usage();
    for source in sources {
        foreseen = after(&foreseen, source);
    }
    described(&foreseen.content.field("id"))
}

#[test]
fn an_id_that_is_the_same_for_all_usage_is_found() {
    for source in [
        "root = #{ id: this.metadata.uid }",
        "root = #{ id: \"constant\", time: meta(\"schedule_time\") }",
        "root = #{ id: `pod-${this.metadata.uid}` }",
        "let uid = this.metadata.uid; let id = \"a-\" + uid; root = #{ id: id, subject: uid }",
        "root = this; root.id = this.metadata.uid",
        "root.id = this.metadata.uid.hash(\"sha256\")",
        "root = #{ id: event_id(\"a\") }; root.id = this.metadata.uid",
        "root = #{ id: this.metadata.uid + meta(\"schedule_interval\") }",
        "root = #{ id: if this.a == 1 { \"a\" } else { \"b\" } }",
        "if this.a == 1 { root = #{ id: \"a\" } } else { root = #{ id: \"b\" } }",
        "if this.skip { root = deleted() } else { root = #{ id: this.metadata.uid } }",
        "if this.skip { root = deleted(); return; } root = #{ id: this.metadata.uid }",
        "root = #{ id: this.metadata.uid }.assign(#{ data: pod_metrics(5), time: now() })",
        "root = this + #{ id: this.metadata.uid }",
        "root = #{ id: (this.metadata.name ?? \"x\").uuid_v5() }",
        "root = #{ id: switch this.kind { \"Pod\" => \"a\", _ => this.metadata.uid } }",
        "let names = []; for c in this.spec.containers { names.push(c.name) } root = #{ id: this.metadata.uid }",
        "root = #{ id: json(\"metadata.uid\") }",
        "let id = this.metadata.labels.map_each(|item| item.value); root = #{ id: id.values().join(\"-\") }",
        "root[\"id\"] = this.metadata.uid",
        "meta[\"uid\"] = this.metadata.uid; root = #{ id: meta(\"other\") ?? \"x\" }",
    ] {
        assert_eq!(id(&[source]), "fixed", "{source}");
    }
}

#[test]
fn an_id_that_may_differ_is_not_reported() {
    for source in [
        "root = #{ id: uuid_v4() }",
        "root = #{ id: this.metadata.uid + meta(\"schedule_time\") }",
        "root = #{ id: `${this.metadata.uid}-${meta(\"window_time\")}` }",
        "root = #{ id: (this.metadata.uid + now()).hash(\"sha256\") }",
        "let id = event_id(\"a\").to_upper(); root = #{ id: id }",
        "let time = meta(\"schedule_time\"); let id = [this.metadata.uid, time].join(\"/\"); root.id = id",
        "let id = \"a\"; if timestamp_unix() % 2 == 0 { id = \"b\" } root = #{ id: id }",
        "root = #{ id: if timestamp_unix() % 2 == 0 { \"a\" } else { \"b\" } }",
        "root = #{ id: \"a\" }; if now() > \"2\" { return; } root.id = \"b\"",
        "let ids = []; ids.push(event_id()); root = #{ id: ids[0] }",
        "let f = || uuid_v4(); root = #{ id: f.call() }",
        "let t = now(); let f = |x| x + t; root = #{ id: f.call(this.metadata.uid) }",
        "let id = \"\"; let f = |x| { id += now() }; f.call(1); root = #{ id: id }",
        "let id = \"\"; for x in [1, 2] { id += event_id(\"a\") } root = #{ id: id }",
        "let key = meta(\"key\"); root = #{ id: \"a\" }; root[key] = event_id()",
        "let keys = #{ id: event_id(), x: 1 }; root = #{ id: \"a\" }; for k in keys.keys() { root[k] = keys[k] }",
        "let key = \"schedule_time\"; root = #{ id: meta(key) }",
        "root = #{ id: meta[\"schedule_time\"] }",
        "let m = meta; root = #{ id: m[\"schedule_time\"] }",
        "meta[\"at\"] = now(); root = #{ id: meta[\"at\"] }",
        "root = #{ id: Fn(\"uuid_v4\").call() }",
        "let name = \"uuid_v4\"; root = #{ id: Fn(name).call() }",
        "let x = #{ ids: #{ a: event_id() } }; root = #{ id: x.ids.a }",
        "root = #{ id: \"a\" }; root.mixin(#{ id: event_id() })",
        "root = #{ id: \"a\" }.assign(#{ id: event_id() })",
        "root = #{ id: \"a\" } + #{ id: event_id() }",
        "root = #{ id: \"a\" }; try { root.id = event_id(); throw 1 } catch { }",
        "root = #{ id: this.metadata.annotations?[\"id\"] ?? event_id() }",
        "root = #{ id: this.metadata.uid.or(event_id()) }",
        "let id = event_id(); id = id + this.metadata.uid; root = #{ id: id }",
        "let i = 0; let id = while i < 3 { i += 1; if i == 2 { break now() } }; root = #{ id: id }",
        "root = #{ id: [|| now()][0].call() }",
        "if this.a == 1 { root = #{ id: \"a\" } } else { root = #{ id: event_id() } }",
        "root = #{ id: error() }",
    ] {
        let described = id(&[source]);
        assert!(
            described == "varies" || described.starts_with("event_id"),
            "{source}: {described}"
        );
    }
}

#[test]
fn the_event_type_of_an_id_is_tracked() {
    for source in [
        "root = #{ id: event_id(\"t\") }",
        "let t = \"t\"; let id = event_id(t); root = this; root.id = id",
        "root = #{ type: \"t\" }; root.id = event_id(root.type)",
        "let id = event_id(\"t\"); if this.a == 1 { root.x = 1 } root.id = id",
    ] {
        assert_eq!(id(&[source]), "event_id(t)", "{source}");
    }
    assert_eq!(id(&["root = #{ id: event_id() }"]), "event_id()");
    let keyed = "let k = \"cpu\"; root = #{ id: event_id(\"t\", k) }";
    assert_eq!(id(&[keyed]), "event_id(t, cpu)");
    let unknown = "root = #{ id: event_id(\"t\", this.kind) }";
    assert_eq!(id(&[unknown]), "varies");
}

#[test]
fn the_last_mapping_that_sets_the_id_counts() {
    let honest = "root = #{ id: event_id(\"t\"), subject: this.metadata.name, at: now() }";
    assert_eq!(id(&[honest, "root = this; root.x = 1"]), "event_id(t)");
    assert_eq!(id(&[honest, "let x = 1"]), "event_id(t)");
    assert_eq!(
        id(&[honest, "root = this; root.id = this.subject"]),
        "fixed"
    );
    assert_eq!(id(&[honest, "root = this; root.id = this.at"]), "varies");
    assert_eq!(id(&[honest, "root = #{ id: this.id + \"/1\" }"]), "varies");
    assert_eq!(id(&[honest, "root = #{ id: this.other }"]), "none");
    assert_eq!(id(&[honest, "root = this; root.id = deleted()"]), "none");
    assert_eq!(
        id(&["meta[\"x\"] = now()", "root = #{ id: meta(\"x\") }"]),
        "varies"
    );
    assert_eq!(id(&["root = deleted()", "root = #{ id: \"a\" }"]), "fixed");
}

#[test]
fn the_kind_of_a_result_is_derived() {
    let kind = |source: &str| after(&Foreseen::usage(), source).content.whole.kind;
    for (source, expected) in [
        ("root = [1, 2]", Some("an array")),
        ("root = this.list.map_each(|x| x).filter(|x| x)", None),
        ("root = [this.a, now()]", Some("an array")),
        ("root = \"text\"", Some("text")),
        ("root = `a ${this.b}`", Some("text")),
        ("root = 5", Some("a number")),
        ("root = 1.5 * 2", Some("a number")),
        ("root = true", Some("true or false")),
        ("root = ()", Some("null")),
        ("root = this.a == 1", Some("true or false")),
        ("root = this.metadata.name.uppercase()", Some("text")),
        ("root = #{}", None),
        ("root = this", None),
        ("root = this.metadata", None),
        ("root = deleted()", None),
        ("root = if this.a { [1] } else { [2] }", Some("an array")),
        (
            "root = if this.a { [1] } else { deleted() }",
            Some("an array"),
        ),
        ("root = if this.a { [1] } else { #{} }", None),
        ("root = [1]; root = #{ a: root }", None),
        ("let x = 1", None),
        ("if this.a { root = [1] }", None),
        ("throw \"never\"", None),
    ] {
        assert_eq!(kind(source).no_object(), expected, "{source}");
    }
    let foreseen = after(&Foreseen::default(), "root =\n  [1]");
    let spot = foreseen.content.whole.spot.unwrap();
    assert_eq!((spot.text, spot.line, spot.column), (Some(1), 2, 3));
}

#[test]
fn nothing_is_known_about_a_script_with_too_many_branches() {
    let many = "if this.a { root.b = 1 }\n".repeat(3000);
    let foreseen = after(
        &Foreseen::usage(),
        &format!("root = #{{ id: \"a\" }};\n{many}"),
    );
    assert!(foreseen.content.field("id").varies);
    assert!(foreseen.is_usage);
}

/// Generates expressions with text values, some of which differ between usage intervals.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "this.uid",
        "\"k\"",
        "\"1\"",
        "event_id(\"t\")",
        "event_id(\"t\", \"k\")",
        "event_id(\"t\", a)",
        "event_id(\"t\", this.uid)",
        "meta(\"schedule_time\")",
        "meta[\"schedule_time\"]",
        "(meta(\"x\") ?? \"none\")",
        "a",
        "b",
        "json(\"uid\")",
        "(root?.id ?? \"none\")",
        "(this?.id ?? \"none\")",
        "(root?.y ?? \"none\")",
    ]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(3, 8, 2, |inner| {
            let shapes = prop::sample::select(vec![
                "(@ + #)",
                "[@, #].join(\"-\")",
                "(|x| x + @).call(#)",
                "(if @ == \"1\" { # } else { \"k\" })",
                "#{ q: @, r: # }.q",
                "(switch @ { \"1\" => #, _ => \"k\" })",
                "[@, #][0]",
                "@.hash(\"sha256\")",
                "#{ q: @ }.assign(#{ q: # }).q",
                "(#{ q: @ } + #{ r: # }).q",
                "({ let c = @; c + # })",
            ]);
            (shapes, inner.clone(), inner)
                .prop_map(|(shape, one, other)| shape.replace('@', &one).replace('#', &other))
        })
}

fn statements() -> impl Strategy<Value = String> {
    let shapes = prop::sample::select(vec![
        "a = @;",
        "b = @;",
        "root.id = @;",
        "root.y = @;",
        "root = #{ id: @, y: b };",
        "root = this;",
        "root[a] = @;",
        "root[\"id\"] = @;",
        "meta[\"x\"] = @;",
        "if @ == \"1\" { return; }",
        "if @ == \"1\" { throw 1; }",
        "root.mixin(#{ id: @ });",
        "root += #{ id: @ };",
        "let f = |x| { a = x; x }; f.call(@);",
        "root.deep.id = @;",
        "root = [@];",
        "root = @;",
    ]);
    let simple = (shapes, expressions()).prop_map(|(shape, it)| shape.replace('@', &it));
    simple.prop_recursive(2, 6, 2, |inner| {
        let shapes = prop::sample::select(vec![
            "if @ == \"1\" { % } else { & }",
            "if @ == \"k\" { % }",
            "for i in 0..2 { % & }",
            "try { % & } catch { % }",
            "{ let a = @; % & }",
            "switch @ { \"1\" => { % }, _ => { & } }",
        ]);
        (shapes, expressions(), inner.clone(), inner).prop_map(|(shape, value, one, other)| {
            shape
                .replace('@', &value)
                .replace('%', &one)
                .replace('&', &other)
        })
    })
}

fn mappings() -> impl Strategy<Value = String> {
    prop::collection::vec(statements(), 1..5)
        .prop_map(|it| format!("let a = \"a\"; let b = \"b\"; {}", it.join(" ")))
}

/// A usage interval of a pod.
fn piece(start: i64) -> Message {
    let identity = Identity {
        about: "pod a/b".into(),
        uid: "u".into(),
        start,
        end: i64::MAX,
        cluster: None,
    };
    let mut message = Message::value(&json!({"uid": "u"})).with_identity(identity);
    message.metadata.set("schedule_time", start.to_string());
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No run contradicts a derived fact.
    #[test]
    fn derived_facts_hold_in_every_run(sources in prop::collection::vec(mappings(), 1..3)) {
        let engine = Engine::new(Limits::default());
        let mut foreseen = Foreseen::usage();
        let mut pieces = [piece(1), piece(2)];
        let mut is_there = true;
        for source in &sources {
            let Ok(mapping) = engine.compile_mapping(source) else {
                return Ok(());
            };
            foreseen = mapping.foresee(&foreseen, None);
            for message in &mut pieces {
                is_there &= matches!(mapping.run(message), Ok(Mapped::Kept));
            }
        }
        prop_assume!(is_there);
        let [one, other] = pieces.map(|it| it.tree().unwrap());
        let id = foreseen.content.field("id");
        let text = sources.join("\n");
        if !id.varies {
            prop_assert_eq!(&one["id"], &other["id"], "{}", text);
        }
        if let Kind::EventId(event_type, key) = &id.kind {
            let expected = match key {
                None => meterline_core::event_id(None, event_type, "u", 1),
                Some(key) => meterline_core::part_id(None, event_type, key, "u", 1),
            };
            prop_assert_eq!(&one["id"], &json!(expected.to_string()), "{}", text);
        }
        if foreseen.content.whole.kind.no_object().is_some() {
            prop_assert!(!one.is_object() && !other.is_object(), "{}", text);
        }
        if !foreseen.content.whole.varies {
            prop_assert_eq!(one, other, "{}", text);
        }
    }
}
