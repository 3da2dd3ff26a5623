//! Checks of the repository itself: the dependencies that ARCHITECTURE.md allows, links, the size of
//! files, the function reference, examples that lint.

mod circles;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use meterline_components::registry;
use meterline_config::{Registry, Source, load};
use meterline_script::{Engine, Group, Limits};
use serde_json::Value;

use crate::support::root;

/// Which crate may depend on which, as in ARCHITECTURE.md.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("ledger", &[]),
    ("kubesim", &[]),
    ("meter", &[]),
    ("testkit", &["kubesim"]),
    ("config", &["core"]),
    ("script", &["core", "config"]),
    ("runtime", &["core"]),
    ("input", &["core", "config", "script", "ledger"]),
    ("processors", &["core", "config", "script"]),
    ("output", &["core", "config", "script"]),
    (
        "components",
        &["core", "config", "input", "processors", "output"],
    ),
];

#[test]
fn crates_depend_only_on_what_architecture_md_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut known = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let short = |value: &Value| {
            value
                .as_str()?
                .strip_prefix("meterline-")
                .map(str::to_owned)
        };
        if let Some(name) = short(&package["name"]) {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            // Tests may use anything.
            let normal = dependencies.filter(|it| it["kind"].is_null());
            let knows: BTreeSet<_> = normal.filter_map(|it| short(&it["name"])).collect();
            known.insert(name, knows);
        }
    }
    let names: BTreeSet<_> = known.keys().map(String::as_str).collect();
    assert_eq!(names, MAY_DEPEND_ON.iter().map(|(name, _)| *name).collect());
    for (name, allowed) in MAY_DEPEND_ON {
        let allowed: BTreeSet<_> = allowed.iter().map(|it| (*it).to_owned()).collect();
        let too_much: Vec<_> = known[*name].difference(&allowed).collect();
        assert!(too_much.is_empty(), "{name} depends on {too_much:?}");
    }
}

/// All files of the repository with this extension, without what is built or fetched.
fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .file_name()
                .and_then(|it| it.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "node_modules" {
                    walk(&path, extension, found);
                }
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), extension, &mut found);
    assert!(!found.is_empty());
    found
}

#[test]
fn no_file_is_too_long() {
    for path in files("rs") {
        let text = fs::read_to_string(&path).unwrap();
        // The tests at its end do not count.
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().count();
        assert!(
            lines <= 500,
            "{} has {lines} lines of code; split it",
            path.display()
        );
    }
}

/// Calls at the start of a test that need a part which is not on every machine.
const PARTS: &[&str] = &[
    "ControlPlane::start(",
    "Scene::bare(",
    "Scene::with(",
    "Pair::new(",
    "Cluster::new(",
    "Cluster::bare(",
    "Tools::find(",
    "SmallDisk::mount(",
];

#[test]
fn a_test_whose_part_may_be_missing_is_ignored_with_the_reason() {
    let mut needy = 0;
    for path in files("rs") {
        let text = fs::read_to_string(&path).unwrap();
        // Written in two parts, because this file is searched as well.
        let tests = text.split(concat!("#[", "test]\n")).skip(1);
        for test in tests.chain(text.split(concat!("#[tokio::", "test")).skip(1)) {
            // A test ends at the brace in the first column.
            let test = test.split("\n}\n").next().unwrap();
            if PARTS.iter().any(|part| test.contains(part)) {
                needy += 1;
                let name = test.split("fn ").nth(1).and_then(|it| it.split('(').next());
                assert!(
                    test.contains("#[ignore = \"needs "),
                    "{}: {}: add `#[ignore = \"needs …\"]`",
                    path.display(),
                    name.unwrap_or_default()
                );
            }
        }
    }
    assert!(needy > 0);
}

/// Otherwise a test could end without the audit of the bill and of the fates.
#[test]
fn only_a_scene_starts_an_api_server() {
    // A release of the chart has its own API server, in which helm creates the rights.
    let may = [Path::new("tests/chart/release.rs"), Path::new(file!())];
    for path in files("rs") {
        let path = path.strip_prefix(root()).unwrap();
        let text = fs::read_to_string(root().join(path)).unwrap();
        let starts = ["ControlPlane", "Kubesim"].map(|it| format!("{it}::start("));
        let does = path.starts_with("tests") && starts.iter().any(|it| text.contains(it));
        assert!(
            !does || may.contains(&path),
            "{}: set the test up with a testkit::Scene",
            path.display()
        );
    }
}

#[test]
fn links_and_named_files_exist() {
    for path in files("md") {
        let text = fs::read_to_string(&path).unwrap();
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|it| !it.contains("://") && !it.starts_with('#')) {
            let target = target.split('#').next().unwrap_or_default();
            let target = path.parent().unwrap().join(target);
            assert!(target.exists(), "{}: {}", path.display(), target.display());
        }
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = [
                "docs/",
                "tests/",
                "crates/",
                "examples/",
                "presets/",
                "benches/",
            ]
            .iter()
            .any(|folder| name.starts_with(folder));
            if is_path && !name.contains([' ', '*']) {
                assert!(root().join(name).exists(), "{}: `{name}`", path.display());
            }
        }
    }
}

/// The chapters of docs/mapping.md that are made from the functions themselves.
fn reference() -> String {
    let engine = Engine::new(Limits::default());
    let mut text = String::new();
    let mut docs = engine.functions().to_vec();
    docs.sort_by_key(|doc| doc.group);
    let mut group = None;
    for doc in docs {
        if group.replace(doc.group) != Some(doc.group) {
            let title = match doc.group {
                Group::Message => "The message",
                Group::Ids => "Ids",
                Group::Kubernetes => "Kubernetes",
                Group::Time => "Time",
                Group::Collections => "Arrays and objects",
                Group::Text => "Text",
                Group::Values => "Numbers and conversions",
            };
            writeln!(text, "\n## {title}").unwrap();
        }
        // Several forms are on lines of their own.
        let again = format!(", {}", doc.name);
        let signature = doc.signature.replace(&again, &format!("\n{}", doc.name));
        writeln!(
            text,
            "\n### `{}`\n\n```\n{signature}\n```\n\n{}\n",
            doc.name, doc.summary
        )
        .unwrap();
        for example in doc.examples {
            let input = example
                .input
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            let input = if input == "{}" {
                String::new()
            } else {
                format!("this    {input}\n")
            };
            writeln!(
                text,
                "```\n{input}script  {}\ngives   {}\n```",
                example.script, example.output
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn the_function_reference_matches_the_functions() {
    const MARK: &str =
        "<!-- What follows is made by tests/repo_checks.rs; UPDATE_DOCS=1 writes it. -->\n";
    let path = root().join("docs/mapping.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, after) = text.split_once(MARK).unwrap();
    let reference = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{MARK}{reference}")).unwrap();
    } else {
        assert!(
            after == reference,
            "docs/mapping.md is stale; run the test with UPDATE_DOCS=1"
        );
    }
}

/// Every error of a configuration.
fn errors(text: &str) -> Vec<String> {
    let registry = Registry {
        default_input: "stdin: {}",
        default_output: "stdout: {}",
        ..registry().unwrap()
    };
    let source = Source {
        name: "example".to_owned(),
        text: text.to_owned(),
        dir: None,
    };
    match load(&source, &[], &|_: &str| None, &registry) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_example_of_every_component_lints() {
    let indented = |example: &str, by: &str| example.replace('\n', &format!("\n{by}"));
    for spec in registry().unwrap().inputs {
        assert!(!spec.examples.is_empty(), "{}", spec.name);
        for example in spec.examples {
            let text = format!("input:\n  {}\n", indented(example, "  "));
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
        }
    }
    for spec in registry().unwrap().processors {
        assert!(!spec.examples.is_empty(), "{}", spec.name);
        for example in spec.examples {
            let text = format!(
                "pipeline:\n  processors:\n    - {}\n",
                indented(example, "      ")
            );
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
        }
    }
    for spec in registry().unwrap().outputs {
        assert!(!spec.examples.is_empty(), "{}", spec.name);
        for example in spec.examples {
            let text = format!("output:\n  {}\n", indented(example, "  "));
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
        }
    }
}
