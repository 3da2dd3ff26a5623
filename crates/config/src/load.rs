//! Reads a configuration: from text to checked plans.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use serde_saphyr::UserMessageFormatter;

use crate::{
    context::{Index, PlanContext, Registry, Text},
    diagnostic::{Diagnostic, Place, Severity},
    interpolate::{Interpolated, interpolate},
    node::{Kind, Node},
    overrides::{put, set},
    sections::{self, Loaded, RESOURCES},
};

/// The largest configuration, in bytes.
const MAX_SIZE: usize = 8 * 1024 * 1024;

/// The text of a configuration.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name to use in messages, such as the path as the user wrote it.
    pub name: String,
    /// The YAML.
    pub text: String,
    /// The directory that relative paths start from; `None` when the text is not from a file.
    pub dir: Option<PathBuf>,
}

/// Reads and checks a configuration. Reads no file except those that the configuration names.
///
/// `overrides` are fields to change, as path and YAML value; `env` returns the value of a variable.
///
/// # Errors
/// All errors and warnings, in the order of the file. Without errors the warnings are part of the
/// result.
pub fn load(
    source: &Source,
    overrides: &[(String, String)],
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<(Loaded, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut reading = Reading::default();
    let root = reading.root(source, overrides, env, registry);
    let Reading { texts, mut found } = reading;
    let Some(root) = root else {
        return Err(sorted(found));
    };
    let index = index(&root);
    let mut cx = PlanContext::new(registry, &texts, &index);
    let loaded = sections::plan(&root, &mut cx);
    found.append(&mut cx.found);
    let found = sorted(found);
    match loaded {
        Some(loaded) if found.iter().all(|it| it.severity == Severity::Warning) => {
            Ok((loaded, found))
        }
        _ => Err(found),
    }
}

fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort();
    // The same message may be an error for one output and a warning for another; the error is sorted
    // first and stays.
    let mut seen = BTreeSet::new();
    found.retain(|it| {
        seen.insert(Diagnostic {
            severity: Severity::Error,
            ..it.clone()
        })
    });
    found
}

/// Reads texts into a tree.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) texts: Vec<Text>,
    pub(crate) found: Vec<Diagnostic>,
}

impl Reading {
    /// Returns the tree of the whole configuration with overrides and defaults applied, or `None` when
    /// it cannot be parsed.
    pub(crate) fn root(
        &mut self,
        source: &Source,
        overrides: &[(String, String)],
        env: &dyn Fn(&str) -> Option<String>,
        registry: &Registry,
    ) -> Option<Node> {
        if source.text.len() > MAX_SIZE {
            self.error(
                &source.name,
                format!(
                    "the configuration has {} bytes; the limit is {MAX_SIZE}",
                    source.text.len()
                ),
            );
            return None;
        }
        let interpolated = interpolate(&source.text, env);
        let mut root = self.read(&source.name, interpolated, true, source.dir.clone())?;
        // An empty configuration would send whole pods to the default address, which is never intended.
        if matches!(root.kind, Kind::Null) {
            let remedy = "to use the defaults run with `--preset kubernetes-pod-exec-time`";
            self.error(
                &source.name,
                format!("the configuration is empty; {remedy}"),
            );
            return None;
        }
        if !matches!(root.kind, Kind::Map(_)) {
            let what = root.what();
            self.error(
                &source.name,
                format!("expected a map with `input`, `pipeline` and `output`, found {what}"),
            );
            return None;
        }
        self.apply(&mut root, overrides);
        for (key, default) in [
            ("input", registry.default_input),
            ("output", registry.default_output),
        ] {
            let blank = root
                .get(key)
                .is_none_or(|node| matches!(node.kind, Kind::Null));
            if blank {
                let name = format!("<default {key}>");
                let value = self.read(&name, interpolate(default, env), true, None)?;
                put(&mut root, key, value);
            }
        }
        root.number(&mut 1);
        Some(root)
    }

    fn apply(&mut self, root: &mut Node, overrides: &[(String, String)]) {
        for (path, value) in overrides {
            let name = format!("--set {path}");
            let plain = Interpolated::plain(value);
            if let Some(value) = self.read(&name, plain, false, None)
                && let Err(reason) = set(root, path, value)
            {
                self.error(&name, reason);
            }
        }
    }

    fn read(
        &mut self,
        name: &str,
        interpolated: Interpolated,
        has_places: bool,
        dir: Option<PathBuf>,
    ) -> Option<Node> {
        for (variable, place) in &interpolated.missing {
            self.found.push(Diagnostic {
                file: name.to_owned(),
                place: Some(*place),
                path: String::new(),
                severity: Severity::Error,
                message: format!(
                    "the variable `{variable}` is not set; set it, or write a default: \
                     `${{{variable}:default}}`"
                ),
            });
        }
        let parsed = serde_saphyr::from_str::<Node>(&interpolated.text);
        let number = self.texts.len();
        let error = match parsed {
            Ok(mut node) => {
                node.set_text(number);
                self.texts.push(Text {
                    name: name.to_owned(),
                    interpolated,
                    has_places,
                    dir,
                });
                return Some(node);
            }
            Err(error) => error,
        };
        let at = error.location().map(|location| Place {
            line: usize::try_from(location.line()).unwrap_or(1),
            column: usize::try_from(location.column()).unwrap_or(1),
        });
        let message = error
            .without_snippet()
            .render_with_formatter(&UserMessageFormatter);
        // Only the first line has the cause. Its "at line" is left out because it counts in the
        // text after interpolation.
        let message = message.lines().next().unwrap_or_default();
        let message = message.split(" at line ").next().unwrap_or(message);
        self.found.push(Diagnostic {
            file: name.to_owned(),
            place: at.filter(|_| has_places).map(|at| interpolated.place(at)),
            path: String::new(),
            severity: Severity::Error,
            message: interpolated.masked(format!("invalid YAML: {message}")),
        });
        None
    }

    pub(crate) fn error(&mut self, file: &str, message: String) {
        self.found.push(Diagnostic {
            file: file.to_owned(),
            place: None,
            path: String::new(),
            severity: Severity::Error,
            message,
        });
    }
}

fn index(root: &Node) -> Index<'_> {
    fn walk<'a>(node: &'a Node, path: String, nodes: &mut HashMap<u64, (&'a Node, String)>) {
        let below = |key: &str| {
            if path.is_empty() {
                key.to_owned()
            } else {
                format!("{path}.{key}")
            }
        };
        match &node.kind {
            Kind::Map(entries) => {
                for entry in entries {
                    walk(&entry.value, below(&entry.key), nodes);
                }
            }
            Kind::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, below(&index.to_string()), nodes);
                }
            }
            _ => {}
        }
        nodes.insert(node.id, (node, path));
    }
    let mut nodes = HashMap::new();
    walk(root, String::new(), &mut nodes);
    let mut resources = HashMap::new();
    for (section, kind) in RESOURCES {
        for node in root.get(section).map(Node::children).unwrap_or_default() {
            if let Some(Kind::Text(label)) = node.get("label").map(|label| &label.kind) {
                resources.insert((*kind, label.as_str()), node);
            }
        }
    }
    Index { nodes, resources }
}
