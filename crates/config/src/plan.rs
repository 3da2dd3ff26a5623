//! From configuration to plan: what a component declares, and the context in which it is checked.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use meterline_core::{BufferPlan, InputPlan, OutputPlan, ProcessorPlan};
use serde::de::DeserializeOwned;

use crate::{
    diagnostic::{Diagnostic, Place, Severity, suggestion},
    fields::{Child, Located},
    interpolate::Interpolated,
    node::{Kind, Node, TypeError, TypeErrorKind},
    wrap::{LabelledOutput, ProcessedInput},
};

/// A component's configuration as it is written. Derive `Deserialize` with `deny_unknown_fields`.
pub trait Configure: DeserializeOwned {
    /// What it becomes: `dyn InputPlan`, `dyn ProcessorPlan` or `dyn OutputPlan`.
    type Plan: ?Sized + 'static;

    /// Checks and compiles everything that can be without touching the world. Faults are told to
    /// `cx`; `None` when the component cannot go on.
    fn plan(self, cx: &mut Cx<'_>) -> Option<Box<Self::Plan>>;
}

type PlanFn<P> = fn(&Node, &mut Cx<'_>) -> Option<Box<P>>;

/// The declaration of a component.
pub struct Spec<P: ?Sized + 'static> {
    /// Its name in a configuration.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Whole components in YAML, each of which lints.
    pub examples: &'static [&'static str],
    plan: PlanFn<P>,
}

/// The declaration of an input.
pub type InputSpec = Spec<dyn InputPlan>;
/// The declaration of a buffer.
pub type BufferSpec = Spec<dyn BufferPlan>;
/// The declaration of a processor.
pub type ProcessorSpec = Spec<dyn ProcessorPlan>;
/// The declaration of an output.
pub type OutputSpec = Spec<dyn OutputPlan>;

impl<P: ?Sized + 'static> Spec<P> {
    /// Declares a component whose configuration is `C`.
    #[must_use]
    pub const fn new<C: Configure<Plan = P>>(
        name: &'static str,
        summary: &'static str,
        examples: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            summary,
            examples,
            plan: |node, cx| cx.configure::<C>(node),
        }
    }
}

/// Every component there is, and what a blank `input:` or `output:` stands for (YAML of one
/// component).
#[derive(Clone, Copy)]
pub struct Registry {
    /// The inputs.
    pub inputs: &'static [InputSpec],
    /// The buffers.
    pub buffers: &'static [BufferSpec],
    /// The processors.
    pub processors: &'static [ProcessorSpec],
    /// The outputs.
    pub outputs: &'static [OutputSpec],
    /// The input that a blank `input:` stands for.
    pub default_input: &'static str,
    /// The output that a blank `output:` stands for.
    pub default_output: &'static str,
}

/// A text that was read: the file, a default, an override.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) interpolated: Interpolated,
    /// Whether places in it mean something to a person.
    pub(crate) has_places: bool,
    pub(crate) dir: Option<PathBuf>,
}

/// Everything that can be found by its number.
pub(crate) struct Index<'a> {
    pub(crate) nodes: HashMap<u64, (&'a Node, String)>,
    /// Resources by kind and label.
    pub(crate) resources: HashMap<(&'static str, &'a str), &'a Node>,
}

/// Where a component is being checked, and what was found wrong so far.
pub struct Cx<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) texts: &'a [Text],
    pub(crate) index: &'a Index<'a>,
    pub(crate) found: Vec<Diagnostic>,
    /// The component at hand: its node, and its label if it has one.
    pub(crate) at: Option<(&'a Node, Option<String>)>,
    /// Labels that were used, with the place of each.
    pub(crate) labels: HashMap<String, Place>,
    /// Resources that are being resolved, against a resource that contains itself.
    pub(crate) resolving: Vec<String>,
}

impl<'a> Cx<'a> {
    /// Checks a nested input.
    pub fn input(&mut self, child: Child) -> Option<Box<dyn InputPlan>> {
        let component = self.component(child, "input", self.registry.inputs)?;
        let planned = (component.spec.plan)(component.body, self);
        let processors = self.own_processors(component.node);
        let label = self.leave(component.outer);
        Some(Box::new(ProcessedInput {
            label,
            plan: planned?,
            processors: processors?,
        }))
    }

    /// Checks the buffer; with it comes its label.
    pub(crate) fn buffer(&mut self, child: Child) -> Option<(Arc<str>, Box<dyn BufferPlan>)> {
        let component = self.component(child, "buffer", self.registry.buffers)?;
        let planned = (component.spec.plan)(component.body, self);
        let label = self.leave(component.outer);
        Some((label, planned?))
    }

    /// Checks a nested processor.
    pub fn processor(&mut self, child: Child) -> Option<Box<dyn ProcessorPlan>> {
        let component = self.component(child, "processor", self.registry.processors)?;
        let planned = (component.spec.plan)(component.body, self);
        self.leave(component.outer);
        planned
    }

    /// Checks nested processors; all of them, whatever is wrong with one.
    pub fn processors(&mut self, children: &[Child]) -> Option<Vec<Box<dyn ProcessorPlan>>> {
        let planned: Vec<_> = children.iter().map(|it| self.processor(*it)).collect();
        planned.into_iter().collect()
    }

    /// Checks a nested output.
    pub fn output(&mut self, child: Child) -> Option<Box<dyn OutputPlan>> {
        let component = self.component(child, "output", self.registry.outputs)?;
        let planned = (component.spec.plan)(component.body, self);
        let processors = self.own_processors(component.node);
        let label = self.leave(component.outer);
        Some(Box::new(LabelledOutput {
            label,
            plan: planned?,
            processors: processors?,
        }))
    }

    /// A fault of the component at hand.
    pub fn error(&mut self, message: impl Into<String>) {
        let node = self.at.as_ref().map(|(node, _)| *node);
        self.report(node, None, Severity::Error, message.into());
    }

    /// A fault of a value.
    pub fn error_at<T>(&mut self, at: &Located<T>, message: impl Into<String>) {
        self.report_located(at, None, Severity::Error, message.into());
    }

    /// A fault inside a text: `line` and `column` are places in its value, from 1.
    pub fn error_in<T>(
        &mut self,
        at: &Located<T>,
        line: usize,
        column: usize,
        message: impl Into<String>,
    ) {
        let inside = Some(Place { line, column });
        self.report_located(at, inside, Severity::Error, message.into());
    }

    /// Something about a value that may not be meant.
    pub fn warning_at<T>(&mut self, at: &Located<T>, message: impl Into<String>) {
        self.report_located(at, None, Severity::Warning, message.into());
    }

    /// Something inside a text that may not be meant; see [`Cx::error_in`].
    pub fn warning_in<T>(
        &mut self,
        at: &Located<T>,
        line: usize,
        column: usize,
        message: impl Into<String>,
    ) {
        let inside = Some(Place { line, column });
        self.report_located(at, inside, Severity::Warning, message.into());
    }

    /// The component at hand: its label, else its place in the configuration.
    #[must_use]
    pub fn path(&self) -> Arc<str> {
        match &self.at {
            Some((_, Some(label))) => label.as_str().into(),
            Some((node, None)) => self.path_of(node).into(),
            None => "".into(),
        }
    }

    /// The directory of the configuration file, if it is a file.
    #[must_use]
    pub fn file_dir(&self) -> Option<&Path> {
        self.texts.first().and_then(|text| text.dir.as_deref())
    }

    // --- components -------------------------------------------------------------------------

    /// Finds the type of a component and makes it the one at hand.
    fn component<P: ?Sized>(
        &mut self,
        child: Child,
        kind: &'static str,
        specs: &'static [Spec<P>],
    ) -> Option<Component<'a, P>> {
        let (node, _) = self.index.nodes.get(&child.0)?;
        let node = *node;
        let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
        if !matches!(node.kind, Kind::Map(_)) {
            let message = format!(
                "expected an {kind}, a map with one type, found {}{}",
                node.what(),
                suggestion("", &names)
            )
            .replace("an processor", "a processor")
            .replace("an buffer", "a buffer");
            self.report(Some(node), None, Severity::Error, message);
            return None;
        }
        let types: Vec<_> = node
            .entries()
            .iter()
            .filter(|entry| !matches!(entry.key.as_str(), "label" | "processors"))
            .collect();
        let [entry] = types.as_slice() else {
            let message = match types.as_slice() {
                [] => format!("the {kind} has no type{}", suggestion("", &names)),
                many => {
                    let keys: Vec<_> = many.iter().map(|it| format!("`{}`", it.key)).collect();
                    format!(
                        "a component has one type, this has {}; is something indented wrongly?",
                        keys.join(" and ")
                    )
                }
            };
            self.report(Some(node), None, Severity::Error, message);
            return None;
        };
        if entry.key == "resource" {
            return self.resource(&entry.value, kind, specs);
        }
        let Some(spec) = specs.iter().find(|spec| spec.name == entry.key) else {
            self.report_at(
                node.text,
                entry.key_place,
                self.path_of(node),
                Severity::Error,
                format!(
                    "unknown {kind} `{}`{}",
                    entry.key,
                    suggestion(&entry.key, &names)
                ),
            );
            self.look_inside(&entry.value);
            return None;
        };
        let label = self.label(node);
        let outer = self.at.replace((&entry.value, label));
        Some(Component {
            spec,
            node,
            body: &entry.value,
            outer,
        })
    }

    fn resource<P: ?Sized>(
        &mut self,
        name: &'a Node,
        kind: &'static str,
        specs: &'static [Spec<P>],
    ) -> Option<Component<'a, P>> {
        let Kind::Text(wanted) = &name.kind else {
            let message = "expected the label of a resource".to_owned();
            self.report(Some(name), None, Severity::Error, message);
            return None;
        };
        let Some(node) = self.index.resources.get(&(kind, wanted.as_str())) else {
            let labels: Vec<_> = self
                .index
                .resources
                .keys()
                .filter(|(of, _)| *of == kind)
                .map(|(_, label)| *label)
                .collect();
            let message = format!(
                "there is no {kind} with the label `{wanted}` in `{kind}_resources`{}",
                suggestion(wanted, &labels)
            );
            self.report(Some(name), None, Severity::Error, message);
            return None;
        };
        if self.resolving.contains(wanted) {
            let message = format!("the resource `{wanted}` contains itself");
            self.report(Some(name), None, Severity::Error, message);
            return None;
        }
        self.resolving.push(wanted.clone());
        let component = self.component(Child(node.id), kind, specs);
        self.resolving.pop();
        component
    }

    fn leave(&mut self, outer: Option<(&'a Node, Option<String>)>) -> Arc<str> {
        let label = self.path();
        self.at = outer;
        label
    }

    fn own_processors(&mut self, node: &Node) -> Option<Vec<Box<dyn ProcessorPlan>>> {
        let Some(list) = node.get("processors") else {
            return Some(Vec::new());
        };
        if matches!(list.kind, Kind::Null) {
            return Some(Vec::new());
        }
        let children: Vec<_> = list.children().iter().map(|it| Child(it.id)).collect();
        self.processors(&children)
    }

    fn label(&mut self, node: &Node) -> Option<String> {
        let label = node.get("label")?;
        let Kind::Text(text) = &label.kind else {
            return None;
        };
        if text.is_empty() {
            return None;
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if !text.chars().all(plain) {
            let message = format!(
                "the label `{text}` may hold lower-case letters, digits, `_` and `-` alone"
            );
            self.report_node(label, Severity::Error, message);
        }
        if let Some(first) = self
            .labels
            .get(text)
            .copied()
            .filter(|it| *it != label.place)
        {
            let message = format!("the label `{text}` is used before, on line {}", first.line);
            self.report_node(label, Severity::Error, message);
        } else {
            self.labels.insert(text.clone(), label.place);
        }
        Some(text.clone())
    }

    /// Reads a component's configuration and plans it. After a fault in a field the rest is read
    /// without that field, so that one look finds all faults.
    fn configure<C: Configure>(&mut self, body: &Node) -> Option<Box<C::Plan>> {
        let mut body = body.clone();
        let config = self.read::<C>(&mut body);
        match config {
            (Some(config), clean) => {
                let planned = config.plan(self);
                if clean { planned } else { None }
            }
            (None, _) => {
                self.look_inside(&body);
                None
            }
        }
    }

    /// Reads a value of a type, telling every fault. `true` when there was none.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, body: &mut Node) -> (Option<T>, bool) {
        let mut pruned: Vec<String> = Vec::new();
        let mut clean = true;
        loop {
            let error = match T::deserialize(&*body) {
                Ok(value) => return (Some(value), clean),
                Err(error) => error,
            };
            clean = false;
            let caused_by_us = matches!(
                &error.kind,
                TypeErrorKind::MissingField(field) if pruned.iter().any(|it| it == field)
            );
            if !caused_by_us {
                self.report_type_error(body, &error);
            }
            match prune(body, &error) {
                Some(key) => pruned.push(key),
                None => return (None, false),
            }
        }
    }

    /// Checks what looks like components inside one that could not be read.
    fn look_inside(&mut self, body: &Node) {
        for entry in body.entries() {
            let is_map = matches!(entry.value.kind, Kind::Map(_));
            let list: Vec<_> = entry.value.children();
            match entry.key.as_str() {
                "input" if is_map => {
                    self.input(Child(entry.value.id));
                }
                "output" if is_map => {
                    self.output(Child(entry.value.id));
                }
                "processors" => list.iter().for_each(|it| {
                    self.processor(Child(it.id));
                }),
                "outputs" => list.iter().for_each(|it| {
                    self.output(Child(it.id));
                }),
                "cases" => list.iter().for_each(|it| self.look_inside(it)),
                _ => {}
            }
        }
    }
}

struct Component<'a, P: ?Sized + 'static> {
    spec: &'static Spec<P>,
    node: &'a Node,
    body: &'a Node,
    outer: Option<(&'a Node, Option<String>)>,
}

/// Takes the field that an error is about out of `body`; gives back its name, or `None` when the
/// error is about the whole of it.
fn prune(body: &mut Node, error: &TypeError) -> Option<String> {
    let mut keys: Vec<&str> = error.path.iter().rev().map(String::as_str).collect();
    if let TypeErrorKind::UnknownField { field, .. } = &error.kind {
        keys.push(field);
    }
    prune_at(body, &keys)
}

fn prune_at(node: &mut Node, keys: &[&str]) -> Option<String> {
    let (key, rest) = keys.split_first()?;
    let Kind::Map(entries) = &mut node.kind else {
        return None;
    };
    if !rest.is_empty()
        && let Some(entry) = entries.iter_mut().find(|entry| entry.key == *key)
        && let Some(pruned) = prune_at(&mut entry.value, rest)
    {
        return Some(pruned);
    }
    // A list's items have no names in the path, so the whole list goes.
    let before = entries.len();
    entries.retain(|entry| entry.key != *key);
    (entries.len() < before).then(|| (*key).to_owned())
}
