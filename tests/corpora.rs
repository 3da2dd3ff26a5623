//! Input of any kind is read or refused without a panic: each line or file of `tests/corpora`, and
//! thousands of mutations of each. A text that once caused a failure is added there.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use meterline_config::{Registry, Source, load};
use meterline_core::{Message, duration};
use meterline_script::{Engine, Limits, quantity::Quantity};
use serde_json::json;

use crate::support::{Chance, root};

/// The texts of a corpus: the lines of a file of lines, any other file whole.
fn corpus(name: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(root().join("tests/corpora").join(name)).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|it| it == "yaml") {
            texts.push(text);
        } else {
            texts.extend(text.lines().map(str::to_owned));
        }
    }
    assert!(!texts.is_empty());
    texts
}

/// A mutation of this text, with parts of others.
fn mutated(text: &str, others: &[String], chance: &mut Chance) -> String {
    const ODD: &[&str] = &[
        "\0", "\u{feff}", "é", "𝕏", "\"", "'", "${", "}", "{", "[", "]", ":", "-", "|", "&", "*",
        "\n", "\t", " ", "0", "9", "e", ".", "!", "%", "~", "\\", "`", "#", "()",
    ];
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..=chance.below(4) {
        let at = |chance: &mut Chance, length: usize| {
            usize::try_from(chance.below(length as u64 + 1)).unwrap_or(0)
        };
        let (from, to) = (at(chance, letters.len()), at(chance, letters.len()));
        let (from, to) = (from.min(to), from.max(to));
        match chance.below(5) {
            0 => drop(letters.drain(from..to.min(from + 8))),
            1 => {
                let odd = ODD[at(chance, ODD.len() - 1)];
                letters.splice(from..from, odd.chars());
            }
            2 => {
                let copy = letters[from..to].to_vec();
                letters.splice(to..to, copy);
            }
            3 => {
                let other: Vec<char> = others[at(chance, others.len() - 1)].chars().collect();
                let (a, b) = (at(chance, other.len()), at(chance, other.len()));
                letters.splice(from..from, other[a.min(b)..a.max(b)].iter().copied());
            }
            _ => letters.truncate(to.max(1)),
        }
        letters.truncate(20_000);
    }
    letters.into_iter().collect()
}

/// Tries every text of a corpus and this many mutations of each.
fn each(name: &str, mutations: u64, mut read: impl FnMut(&str)) {
    let texts = corpus(name);
    let mut chance = Chance::new();
    for text in &texts {
        let mut tried = text.clone();
        for _ in 0..=mutations {
            let outcome = catch_unwind(AssertUnwindSafe(|| read(&tried)));
            assert!(outcome.is_ok(), "{name}: this broke it: {tried:?}");
            tried = mutated(text, &texts, &mut chance);
        }
    }
}

#[test]
fn quantities_are_read_or_refused() {
    each("quantity", 10_000, |text| {
        if let Ok(quantity) = Quantity::parse(text) {
            // A value that was read can be written and read again.
            assert_eq!(
                Quantity::parse(&quantity.to_string()),
                Ok(quantity),
                "{text:?}"
            );
        }
    });
}

#[test]
fn durations_are_read_or_refused() {
    each("duration", 10_000, |text| {
        let _ = duration::parse(text);
    });
}

fn registry() -> Registry {
    Registry {
        default_input: "stdin: {}",
        default_output: "drop: {}",
        ..meterline_components::registry().unwrap()
    }
}

fn source(text: String) -> Source {
    Source {
        name: "fuzz.yaml".to_owned(),
        text,
        dir: None,
    }
}

#[test]
fn configurations_are_read_or_refused() {
    each("configuration", 2_000, |text| {
        let env = |name: &str| name.len().is_multiple_of(2).then(|| "a: [value".to_owned());
        let _ = load(&source(text.to_owned()), &[], &env, &registry());
    });
}

/// The value of a variable, and the text around it, is read or refused; between double quotes the value
/// arrives unchanged.
#[test]
fn variables_are_replaced_or_refused() {
    const VALUES: &[&str] = &[
        "",
        "1",
        "a: [",
        "\"'\\",
        "}\n- x",
        "# é",
        "${ODD}",
        "\0",
        "$&*!|>%@`",
    ];
    let mut turn = 0;
    each("environment", 300, |text| {
        turn += 1;
        let value = VALUES[turn % VALUES.len()];
        let env = |name: &str| match name {
            "EMPTY" => Some(String::new()),
            "UNSET" => None,
            _ => Some(value.to_owned()),
        };
        for place in ["log", "label", "input"] {
            let config = match place {
                "log" => format!("pipeline: {{processors: [{{log: {{message: {text}}}}}]}}\n"),
                "label" => format!("output:\n  drop: {{}}\n  label: {text}\n"),
                _ => format!("input: {text}\n"),
            };
            let _ = load(&source(config), &[], &env, &registry());
        }
        let quoted = "input: {generate: {mapping: \"${VALUE}\"}}\n".to_owned();
        let env = |_: &str| Some(format!("root = {}", serde_json::to_string(text).unwrap()));
        let loaded = load(&source(quoted), &[], &env, &registry());
        assert!(loaded.is_ok(), "{text:?}");
    });
}

#[test]
fn mappings_map_or_fail() {
    // The other tests of this process need its keys, which come before the first document.
    registry();
    let limits = Limits {
        time: std::time::Duration::from_millis(20),
        operations: 10_000,
        ..Limits::default()
    };
    let engine = Engine::new(limits);
    let messages = [
        json!({"a": {"b": {"c": [1, null, "x"]}}, "s": "é", "kind": "Pod", "n": 3, "list": [{"a": 1}, {}]}),
        json!([1, 2.5, {"a": null}]),
        json!("text"),
    ];
    // With the stack size of the threads that run scripts.
    let thread = std::thread::Builder::new().stack_size(meterline_script::STACK_SIZE);
    let fuzz = move || {
        each("mapping", 1_000, |text| {
            let Ok(mapping) = engine.compile_mapping(text) else {
                return;
            };
            for value in &messages {
                let mut message = Message::value(value);
                if mapping.run(&mut message).is_ok() {
                    assert!(message.bytes().is_ok());
                }
            }
        });
    };
    thread.spawn(fuzz).unwrap().join().unwrap();
}
