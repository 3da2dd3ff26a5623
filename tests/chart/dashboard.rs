//! The dashboard against the presets and the metrics of the program.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::root;

fn panels() -> Vec<Value> {
    let path = root().join("charts/meterline/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    dashboard["panels"].as_array().unwrap().clone()
}

/// The expressions of a panel, with its variables replaced.
fn expressions_of(panel: &Value) -> Vec<String> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    let expressions = targets.map(|it| it["expr"].as_str().unwrap());
    expressions
        .map(|it| it.replace("$namespace", ".*").replace("$pod", ".*"))
        .collect()
}

/// The expressions of the dashboard, with its variables replaced.
pub(super) fn expressions() -> Vec<String> {
    let expressions: Vec<_> = panels().iter().flat_map(expressions_of).collect();
    assert!(expressions.len() >= 10);
    expressions
}

/// The metrics that an expression selects: the words before a brace.
pub(super) fn metrics(expression: &str) -> Vec<String> {
    let words = expression.split('{').map(|before| {
        let word = before.rsplit(|it: char| !it.is_ascii_alphanumeric() && it != '_');
        word.into_iter().next().unwrap_or_default().to_owned()
    });
    let mut metrics: Vec<_> = words.collect();
    // Nothing after the last brace selects a metric.
    metrics.pop();
    metrics
}

#[test]
fn the_metrics_of_an_expression_are_found() {
    let expression = "sum by (a) (rate(x_y{a=\"b\"}[5m])) / z{} > 0";
    assert_eq!(metrics(expression), ["x_y", "z"]);
}

/// The presets by name, as text.
fn presets() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(root().join("presets")).unwrap();
    let files = files.map(|it| it.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The words after each `resource_type` of a preset, or of an expression that selects by them.
fn resource_types(text: &str) -> BTreeSet<String> {
    let after = text.split("resource_type").skip(1);
    let words = after.filter_map(|it| {
        let it = it.strip_prefix(": ").map(|it| it.lines().next());
        it.flatten()
    });
    let selected = text.split("resource_type=").skip(1).filter_map(|it| {
        let it = it.trim_start_matches('~').strip_prefix('"')?;
        it.split('"').next()
    });
    let words = words.chain(selected).flat_map(|it| it.split('|'));
    words.map(ToOwned::to_owned).collect()
}

#[test]
fn each_preset_has_a_row_with_the_objects_that_it_bills() {
    let presets = presets();
    let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut row = None;
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            let (_, name) = title.split_once('(').unwrap();
            let name = name.trim_end_matches(')').to_owned();
            assert_eq!(rows.insert(name.clone(), BTreeSet::new()), None, "{title}");
            row = Some(name);
        } else if let Some(row) = &row {
            let found = expressions_of(&panel).into_iter();
            let found: Vec<_> = found.flat_map(|it| resource_types(&it)).collect();
            rows.get_mut(row).unwrap().extend(found);
        }
    }
    let expected: BTreeMap<_, _> = presets
        .into_iter()
        .map(|(name, text)| (name, resource_types(&text)))
        .collect();
    assert!(expected.values().all(|it| !it.is_empty()));
    assert_eq!(rows, expected);
}

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels() {
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_i64().unwrap();
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                assert!(x < 24 && cells.insert((x, y)), "{x} {y}: {panel}");
            }
        }
    }
}

/// The text of the program's source files.
fn sources() -> String {
    let (mut folders, mut text) = (vec![root().join("crates")], String::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

#[test]
fn every_metric_that_a_panel_names_exists() {
    let sources = sources();
    let named: BTreeSet<_> = expressions().iter().flat_map(|it| metrics(it)).collect();
    assert!(named.len() >= 10, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("\"{name}\"")), "{name}");
    }
}
