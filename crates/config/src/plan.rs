//! Turns a configuration into plans: components, and the components inside them.

use std::{path::Path, sync::Arc};

use meterline_core::{BufferPlan, InputPlan, OutputPlan, ProcessorPlan};
use serde::de::DeserializeOwned;

use crate::{
    component::Order,
    context::{Configure, PlanContext},
    decorate::{LabelledOutput, ProcessedInput},
    diagnostic::{Place, Severity},
    fields::{Child, Located},
    node::{Kind, Node, TypeError, TypeErrorKind},
};

impl<'a> PlanContext<'a> {
    /// Checks a nested input, and returns its plan unless it has errors.
    pub fn input(&mut self, child: Child) -> Option<Box<dyn InputPlan>> {
        let component = self.component(child, "input", self.registry.inputs)?;
        self.check_is_used_once(child, component.body);
        if let Some(place) = component.spec.keeps {
            let path = self.path_of(component.body);
            self.keeper = Some((component.spec.name, path, place));
        }
        let planned = (component.spec.plan)(component.body, self);
        self.keeps_objects |= self.foreseen.is_usage;
        let processors = self.own_processors(component.node);
        let referrers = self.referrers_processors(&component, Order::InnermostFirst);
        let label = self.leave(component);
        let mut plan: Box<dyn InputPlan> = Box::new(ProcessedInput {
            label,
            plan: planned?,
            processors: processors?,
        });
        for (label, processors) in referrers? {
            plan = Box::new(ProcessedInput {
                label,
                plan,
                processors,
            });
        }
        Some(plan)
    }

    /// Checks the buffer, and returns its label and its plan unless it has errors.
    pub(crate) fn buffer(&mut self, child: Child) -> Option<(Arc<str>, Box<dyn BufferPlan>)> {
        let component = self.component(child, "buffer", self.registry.buffers)?;
        if let Some(place) = component.spec.keeps
            && let Some((input, path, kept)) = self.keeper.take()
        {
            self.error(format!(
                "remove `buffer`: `{input}` ({path}) keeps usage itself until it is delivered, {kept}; \
                 a buffer acknowledges usage as soon as it is {place}, so usage that an output rejects \
                 or drops later would count as delivered"
            ));
        }
        let planned = (component.spec.plan)(component.body, self);
        let label = self.leave(component);
        Some((label, planned?))
    }

    /// Checks a nested processor, and returns its plan unless it has errors.
    pub fn processor(&mut self, child: Child) -> Option<Box<dyn ProcessorPlan>> {
        let component = self.component(child, "processor", self.registry.processors)?;
        let planned = self.reading(|cx| (component.spec.plan)(component.body, cx));
        self.leave(component);
        planned
    }

    /// Checks all nested processors, even when one has errors.
    pub fn processors(&mut self, children: &[Child]) -> Option<Vec<Box<dyn ProcessorPlan>>> {
        let planned: Vec<_> = children.iter().map(|it| self.processor(*it)).collect();
        planned.into_iter().collect()
    }

    /// Checks a nested output, and returns its plan unless it has errors.
    pub fn output(&mut self, child: Child) -> Option<Box<dyn OutputPlan>> {
        let component = self.component(child, "output", self.registry.outputs)?;
        // In the order in which messages pass through them.
        let before = self.foreseen.clone();
        let leaves = self.leaves;
        let referrers = self.referrers_processors(&component, Order::OutermostFirst);
        let processors = self.own_processors(component.node);
        let planned = self.reading(|cx| (component.spec.plan)(component.body, cx));
        if planned.is_some() && self.leaves == leaves {
            self.check_other_output();
        }
        self.foreseen = before;
        let label = self.leave(component);
        let mut plan: Box<dyn OutputPlan> = Box::new(LabelledOutput {
            label,
            plan: planned?,
            processors: processors?,
        });
        for (label, processors) in referrers? {
            plan = Box::new(LabelledOutput {
                label,
                plan,
                processors,
            });
        }
        Some(plan)
    }

    /// Reports an error of the current component.
    pub fn error(&mut self, message: impl Into<String>) {
        let node = self.current.as_ref().map(|(node, _)| *node);
        self.report(node, None, Severity::Error, message.into());
    }

    /// Reports an error of a value.
    pub fn error_at<T>(&mut self, at: &Located<T>, message: impl Into<String>) {
        self.report_located(at, None, Severity::Error, message.into());
    }

    /// Reports an error inside a text: `line` and `column` are places in its value, from 1.
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

    /// Reports a warning about a value.
    pub fn warning_at<T>(&mut self, at: &Located<T>, message: impl Into<String>) {
        self.report_located(at, None, Severity::Warning, message.into());
    }

    /// Reports a warning inside a text; see [`PlanContext::error_in`].
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

    /// Returns the name of the current component: its label, else its path in the configuration.
    #[must_use]
    pub fn path(&self) -> Arc<str> {
        match &self.current {
            Some((_, Some(label))) => label.as_str().into(),
            Some((node, None)) => self.path_of(node).into(),
            None => "".into(),
        }
    }

    /// Returns the path of the current component in the configuration.
    #[must_use]
    pub fn place(&self) -> String {
        let node = self.current.as_ref().map(|(node, _)| *node);
        node.map(|it| self.path_of(it)).unwrap_or_default()
    }

    /// Returns the label of the current component, if it has one.
    #[must_use]
    pub fn label(&self) -> Option<Arc<str>> {
        let (_, label) = self.current.as_ref()?;
        label.as_deref().map(Arc::from)
    }

    /// Returns the directory of the configuration file; `None` when the configuration is not a file.
    #[must_use]
    pub fn file_dir(&self) -> Option<&Path> {
        self.texts.first().and_then(|text| text.dir.as_deref())
    }

    /// Reads a component's configuration and plans it. A field with an error is left out and the rest
    /// is read, so that all errors show at once.
    pub(crate) fn configure<C: Configure>(&mut self, body: &Node) -> Option<Box<C::Plan>> {
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

    /// Reads a value and reports every error. The second result is `true` when there was none.
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

    /// Checks nested components of one that could not be read.
    pub(crate) fn look_inside(&mut self, body: &Node) {
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
                "inputs" => list.iter().for_each(|it| {
                    self.input(Child(it.id));
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

/// Removes the field with the error from `body`. Returns its name, or `None` when the error concerns
/// `body` as a whole.
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
    // The path does not name the items of a list, so the whole list is removed.
    let before = entries.len();
    entries.retain(|entry| entry.key != *key);
    (entries.len() < before).then(|| (*key).to_owned())
}
