//! Reports errors and warnings with their places.

use crate::{
    context::PlanContext,
    diagnostic::{Diagnostic, Place, Severity},
    fields::Located,
    node::{Node, TypeError},
};

impl PlanContext<'_> {
    pub(crate) fn path_of(&self, node: &Node) -> String {
        self.index
            .nodes
            .get(&node.id)
            .map(|(_, path)| path.clone())
            .unwrap_or_default()
    }

    pub(crate) fn report_type_error(&mut self, body: &Node, error: &TypeError) {
        let mut path = self.path_of(body);
        for key in error.path.iter().rev() {
            path.push('.');
            path.push_str(key);
        }
        let path = path.trim_start_matches('.').to_owned();
        let place = error.place.unwrap_or(body.place);
        self.report_at(body.text, place, path, Severity::Error, error.to_string());
    }

    pub(crate) fn report_located<T>(
        &mut self,
        at: &Located<T>,
        inside: Option<Place>,
        severity: Severity,
        message: String,
    ) {
        let node = at
            .id
            .and_then(|id| self.index.nodes.get(&id))
            .map(|(node, _)| *node)
            .or(self.current.as_ref().map(|(node, _)| *node));
        let inside = at.id.and(inside);
        self.report(node, inside, severity, message);
    }

    pub(crate) fn report_node(&mut self, node: &Node, severity: Severity, message: String) {
        let path = self.path_of(node);
        self.report_at(node.text, node.place, path, severity, message);
    }

    pub(crate) fn report(
        &mut self,
        node: Option<&Node>,
        inside: Option<Place>,
        severity: Severity,
        message: String,
    ) {
        let Some(node) = node else {
            self.report_at(
                0,
                Place { line: 1, column: 1 },
                String::new(),
                severity,
                message,
            );
            return;
        };
        let place = match (inside, self.texts.get(node.text)) {
            (Some(inside), Some(text)) => {
                inside_scalar(&text.interpolated.text, node.place, inside)
            }
            _ => node.place,
        };
        let path = self.path_of(node);
        self.report_at(node.text, place, path, severity, message);
    }

    pub(crate) fn report_at(
        &mut self,
        text: usize,
        place: Place,
        path: String,
        severity: Severity,
        message: String,
    ) {
        let text = self.texts.get(text);
        let message = match text {
            Some(text) => text.interpolated.masked(message),
            None => message,
        };
        self.found.push(Diagnostic {
            file: text.map(|it| it.name.clone()).unwrap_or_default(),
            place: text
                .filter(|it| it.has_places)
                .map(|it| it.interpolated.place(place)),
            path,
            severity,
            message,
        });
    }
}

/// Converts a place inside a scalar's value to a place in the file.
///
/// The YAML reader places a block scalar (`|`, `>`) at its first line that is not blank, and any other
/// scalar at its first character.
fn inside_scalar(text: &str, scalar: Place, inside: Place) -> Place {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.chars().take_while(|c| *c == ' ').count();
    let line = |number: usize| {
        lines
            .get(number.wrapping_sub(1))
            .copied()
            .unwrap_or_default()
    };
    let header = (1..scalar.line)
        .rev()
        .find(|number| !line(*number).trim().is_empty())
        .filter(|number| {
            indent(line(scalar.line)) + 1 == scalar.column && is_block_header(line(*number))
        });
    if let Some(header) = header {
        return Place {
            line: header + inside.line,
            column: scalar.column + inside.column - 1,
        };
    }
    if inside.line > 1 {
        let at = scalar.line + inside.line - 1;
        return Place {
            line: at,
            column: indent(line(at)) + inside.column,
        };
    }
    let quoted = line(scalar.line)
        .chars()
        .nth(scalar.column.saturating_sub(1))
        .is_some_and(|first| matches!(first, '"' | '\''));
    Place {
        line: scalar.line,
        column: scalar.column + inside.column - usize::from(!quoted),
    }
}

/// Whether a line ends with a block scalar header, such as `mapping: |` or `- >-  # why`.
fn is_block_header(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or_default().trim_end();
    let modifiers = |c: char| c.is_ascii_digit() || c == '+' || c == '-';
    line.trim_end_matches(modifiers).ends_with(['|', '>'])
}
