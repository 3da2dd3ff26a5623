//! Resolves the component of a node: its type, its label, and the resource that it refers to.

use std::sync::Arc;

use meterline_core::ProcessorPlan;

use crate::{
    context::{PlanContext, Spec},
    diagnostic::{Severity, suggestion},
    fields::Child,
    node::{Entry, Kind, Node},
};

/// The most components, because a few resources that refer to one another can expand to any number.
const MAX_COMPONENTS: usize = 10_000;
/// The deepest nesting. Each component is planned by the one around it, on the stack.
const MAX_DEPTH: usize = 100;

/// Processors with the label of the node that has them.
type Labelled = (Arc<str>, Vec<Box<dyn ProcessorPlan>>);

/// The order in which messages pass through the processors around a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Messages come out of the component.
    InnermostFirst,
    /// Messages go into the component.
    OutermostFirst,
}

/// A component of a known type. It is the current one until [`PlanContext::leave`].
pub(crate) struct Component<'a, P: ?Sized + 'static> {
    pub(crate) spec: &'static Spec<P>,
    pub(crate) node: &'a Node,
    pub(crate) body: &'a Node,
    /// The nodes whose `resource` refers to this one, the outermost first.
    referrers: Vec<&'a Node>,
    /// The surrounding component.
    outer: Option<(&'a Node, Option<String>)>,
}

impl<'a> PlanContext<'a> {
    /// Finds the type of a component and makes it the current one.
    pub(crate) fn component<P: ?Sized>(
        &mut self,
        child: Child,
        kind: &'static str,
        specs: &'static [Spec<P>],
    ) -> Option<Component<'a, P>> {
        let (node, _) = self.index.nodes.get(&child.0)?;
        if !self.is_within_limits(node) {
            return None;
        }
        let before = self.resolving.len();
        let mut referrers = Vec::new();
        let found = self
            .resolve(node, kind, specs, &mut referrers)
            .and_then(|(node, entry)| Some((node, entry, self.spec(node, entry, kind, specs)?)));
        let Some((node, entry, spec)) = found else {
            self.resolving.truncate(before);
            return None;
        };
        if matches!(kind, "processor" | "buffer")
            && let Some(list) = [node]
                .iter()
                .chain(&referrers)
                .find_map(|it| it.get("processors"))
        {
            let message = format!("a {kind} cannot have `processors` beside its type");
            self.report_node(list, Severity::Error, message);
        }
        self.depth += 1;
        let label = self.read_label(node);
        let outer = self.current.replace((&entry.value, label));
        Some(Component {
            spec,
            node,
            body: &entry.value,
            referrers,
            outer,
        })
    }

    /// Makes the surrounding component the current one again, and returns the label.
    pub(crate) fn leave<P: ?Sized>(&mut self, component: Component<'a, P>) -> Arc<str> {
        let label = self.path();
        self.current = component.outer;
        self.depth -= 1;
        let before = self.resolving.len() - component.referrers.len();
        self.resolving.truncate(before);
        label
    }

    /// Whether the limits allow another component; reports the first one that they do not.
    fn is_within_limits(&mut self, node: &Node) -> bool {
        if self.depth >= MAX_DEPTH {
            let message = format!(
                "components are nested more than {MAX_DEPTH} levels deep, resources included"
            );
            self.report_node(node, Severity::Error, message);
            return false;
        }
        self.components += 1;
        if self.components == MAX_COMPONENTS + 1 {
            let message = format!(
                "the configuration expands to more than {MAX_COMPONENTS} components, counting a resource \
                 each time it is used; do resources refer to one another repeatedly?"
            );
            self.report_node(node, Severity::Error, message);
        }
        self.components <= MAX_COMPONENTS
    }

    /// Follows references to resources. Returns the node of the component and the entry of its type.
    fn resolve<P: ?Sized>(
        &mut self,
        mut node: &'a Node,
        kind: &'static str,
        specs: &'static [Spec<P>],
        referrers: &mut Vec<&'a Node>,
    ) -> Option<(&'a Node, &'a Entry)> {
        loop {
            let entry = self.type_of(node, kind, specs)?;
            if entry.key != "resource" {
                return Some((node, entry));
            }
            referrers.push(node);
            node = self.resource(&entry.value, kind)?;
        }
    }

    /// Returns the entry of a component that names its type.
    fn type_of<P: ?Sized>(
        &mut self,
        node: &'a Node,
        kind: &'static str,
        specs: &'static [Spec<P>],
    ) -> Option<&'a Entry> {
        let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
        let message = if matches!(node.kind, Kind::Map(_)) {
            let types: Vec<_> = node
                .entries()
                .iter()
                .filter(|entry| !matches!(entry.key.as_str(), "label" | "processors"))
                .collect();
            match types.as_slice() {
                [entry] => return Some(*entry),
                [] => format!("the {kind} has no type{}", suggestion("", &names)),
                many => {
                    let keys: Vec<_> = many.iter().map(|it| format!("`{}`", it.key)).collect();
                    format!(
                        "a component has one type, but this has {}; check the indentation",
                        keys.join(" and ")
                    )
                }
            }
        } else {
            format!(
                "expected an {kind} (a map with one type), found {}{}",
                node.what(),
                suggestion("", &names)
            )
            .replace("an processor", "a processor")
            .replace("an buffer", "a buffer")
        };
        self.report(Some(node), None, Severity::Error, message);
        None
    }

    fn spec<P: ?Sized>(
        &mut self,
        node: &Node,
        entry: &Entry,
        kind: &'static str,
        specs: &'static [Spec<P>],
    ) -> Option<&'static Spec<P>> {
        if let Some(spec) = specs.iter().find(|spec| spec.name == entry.key) {
            return Some(spec);
        }
        let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
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
        // Its children count as nested in it.
        self.depth += 1;
        self.look_inside(&entry.value);
        self.depth -= 1;
        None
    }

    /// Returns the resource of this name, and marks it as being resolved.
    fn resource(&mut self, name: &'a Node, kind: &'static str) -> Option<&'a Node> {
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
        let this = (kind, wanted.as_str());
        if let Some(from) = self.resolving.iter().position(|it| *it == this) {
            let cycle: Vec<_> = self
                .resolving
                .iter()
                .skip(from)
                .chain([&this])
                .filter(|(of, _)| *of == kind)
                .map(|(_, label)| format!("`{label}`"))
                .collect();
            let message = format!(
                "the resource `{wanted}` contains itself: {}",
                cycle.join(" → ")
            );
            self.report(Some(name), None, Severity::Error, message);
            return None;
        }
        self.resolving.push(this);
        self.used.insert(node.id);
        Some(node)
    }

    /// Plans the processors beside the type of an input or output.
    pub(crate) fn own_processors(&mut self, node: &Node) -> Option<Vec<Box<dyn ProcessorPlan>>> {
        let Some(list) = node.get("processors") else {
            return Some(Vec::new());
        };
        match &list.kind {
            Kind::Null => Some(Vec::new()),
            Kind::List(items) => {
                let children: Vec<_> = items.iter().map(|it| Child(it.id)).collect();
                self.processors(&children)
            }
            _ => {
                let message = format!("expected a list of processors, found {}", list.what());
                self.report_node(list, Severity::Error, message);
                None
            }
        }
    }

    /// Plans the processors beside each `resource` that refers to a component, and returns the
    /// innermost first. They surround the processors of the resource itself. They are planned in the
    /// order in which messages pass through them.
    pub(crate) fn referrers_processors<P: ?Sized>(
        &mut self,
        component: &Component<'a, P>,
        order: Order,
    ) -> Option<Vec<Labelled>> {
        let mut nodes = component.referrers.clone();
        if order == Order::InnermostFirst {
            nodes.reverse();
        }
        let planned: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                let processors = self.own_processors(node)?;
                Some((self.path_of(node).into(), processors))
            })
            .collect();
        let planned: Option<Vec<Labelled>> = planned.into_iter().collect();
        planned.map(|mut planned| {
            if order == Order::OutermostFirst {
                planned.reverse();
            }
            planned.retain(|(_, processors)| !processors.is_empty());
            planned
        })
    }

    fn read_label(&mut self, node: &Node) -> Option<String> {
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
                "the label `{text}` may only contain lower-case letters, digits, `_` and `-`"
            );
            self.report_node(label, Severity::Error, message);
        }
        if let Some(first) = self
            .labels
            .get(text)
            .copied()
            .filter(|it| *it != label.place)
        {
            let message = format!("the label `{text}` is already used on line {}", first.line);
            self.report_node(label, Severity::Error, message);
        } else {
            self.labels.insert(text.clone(), label.place);
        }
        Some(text.clone())
    }
}
