//! Text with expressions in it: `pod ${! this.metadata.name } failed`.

use meterline_core::{Message, Reads};

use crate::{Engine, Expression, RunError, ScriptError};

const OPEN: &str = "${!";
const ESCAPED_OPEN: &str = "${{!";

/// Compiled text with `${! EXPRESSION }` parts.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Expression(Box<Expression>),
}

impl Engine {
    /// Compiles text with `${! EXPRESSION }` parts; `${{! … }}` stands for a literal `${! … }`.
    ///
    /// # Errors
    /// Every error that can be found without a message.
    pub fn compile_template(&self, text: &str) -> Result<Template, Vec<ScriptError>> {
        Template::compile(self, text)
    }
}

impl Template {
    fn compile(engine: &Engine, text: &str) -> Result<Self, Vec<ScriptError>> {
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(body) = rest.strip_prefix(ESCAPED_OPEN) {
                if let Some(end) = body.find("}}") {
                    literal.push_str(OPEN);
                    literal.push_str(body.get(..end).unwrap_or_default());
                    literal.push('}');
                    at += ESCAPED_OPEN.len() + end + "}}".len();
                    continue;
                }
            } else if let Some(body) = rest.strip_prefix(OPEN) {
                let start = at + OPEN.len();
                let Some(end) = expression_end(body) else {
                    errors.push(unclosed(text, at));
                    break;
                };
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                let source = body.get(..end).unwrap_or_default();
                match Expression::compile_at(engine, source, place(text, start)) {
                    Ok(expression) => parts.push(Part::Expression(Box::new(expression))),
                    Err(found) => errors.extend(found),
                }
                at = start + end + 1;
                continue;
            }
            let next = rest.chars().next().map_or(1, char::len_utf8);
            literal.push_str(rest.get(..next).unwrap_or_default());
            at += next;
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if errors.is_empty() {
            Ok(Self { parts })
        } else {
            Err(errors)
        }
    }

    /// Renders the text for `message`. A value other than text is written as JSON.
    ///
    /// # Errors
    /// When an expression fails.
    pub fn render(&self, message: &Message) -> Result<String, RunError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Expression(expression) => text.push_str(&expression.text(message)?),
            }
        }
        Ok(text)
    }

    /// Returns what the template reads of the content.
    #[must_use]
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.expressions().for_each(|it| reads.join(it.reads()));
        reads
    }

    /// The expressions in it.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Expression(expression) => Some(&**expression),
            Part::Text(_) => None,
        })
    }

    /// Returns the text, if it is the same for every message.
    #[must_use]
    pub fn is_static(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Returns the offset of the `}` that closes the expression; skips braces and quotes inside it.
fn expression_end(body: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in body.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"' | '\'') if character == '\\' => escaped = true,
            Some(open) => {
                if character == open {
                    quote = None;
                }
            }
            None => match character {
                '"' | '`' | '\'' => quote = Some(character),
                '{' => depth += 1,
                '}' if depth == 0 => return Some(at),
                '}' => depth -= 1,
                _ => {}
            },
        }
    }
    None
}

fn unclosed(text: &str, at: usize) -> ScriptError {
    let (line, column) = place(text, at);
    ScriptError {
        line,
        column,
        message: "`${!` has no closing `}`".into(),
        help: Some("for the literal text write `${{! … }}`".into()),
    }
}

/// Converts a byte offset to line and column, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count())
        + 1;
    (line, column)
}
