//! Errors of scripts: those found before a run, and those of a run.

use std::fmt;

use rhai::{EvalAltResult, ParseError, ParseErrorType, Position};

/// An error in a script that is found before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    /// Line in the source, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, without a final dot.
    pub message: String,
    /// The remedy, if there is a known one.
    pub help: Option<String>,
}

impl ScriptError {
    /// The message and the remedy, without the place.
    pub(crate) fn text(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, .. } = self;
        write!(f, "line {line}, column {column}: {}", self.text())
    }
}

impl std::error::Error for ScriptError {}

/// The error of a run. The message is unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunError {
    line: usize,
    column: usize,
    reason: String,
}

impl RunError {
    pub(crate) fn new(place: (usize, usize), reason: impl Into<String>) -> Self {
        Self {
            line: place.0,
            column: place.1,
            reason: reason.into(),
        }
    }

    /// Returns an error without a place in the script.
    pub(crate) fn nowhere(reason: impl Into<String>) -> Self {
        Self::new((0, 0), reason)
    }

    /// Returns the reason, without the place.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns line and column in the script, from 1, if the error has a place.
    #[must_use]
    pub fn place(&self) -> Option<(usize, usize)> {
        (self.line > 0).then_some((self.line, self.column))
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Some((line, column)) => write!(f, "line {line}, column {column}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for RunError {}

/// Maps positions in the wrapped script to positions in the user's text.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Where the source starts in the user's text, from 1.
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Where the source ends, relative to its start; later positions are clamped to it.
    pub(crate) last: (usize, usize),
    /// Insertions into the source: line, column and number of characters.
    inserted: Vec<(usize, usize, usize)>,
}

impl Origin {
    pub(crate) fn new(source: &str, line: usize, column: usize) -> Self {
        let last_line = source.lines().last().unwrap_or_default();
        Self {
            line,
            column,
            last: (
                source.lines().count().max(1),
                last_line.chars().count().max(1),
            ),
            inserted: Vec::new(),
        }
    }

    /// Inserts statements at ascending positions of the wrapped source, and returns the new source.
    /// From now on positions refer to the new source.
    pub(crate) fn insert(&mut self, source: &str, statements: &[(Position, String)]) -> String {
        let mut lines: Vec<String> = source.split('\n').map(str::to_owned).collect();
        // From the back, so that earlier places stay valid.
        for (position, statement) in statements.iter().rev() {
            let (Some(line), Some(column)) = (position.line(), position.position()) else {
                continue;
            };
            let Some(text) = lines.get_mut(line.saturating_sub(2)) else {
                continue;
            };
            let at = text
                .char_indices()
                .nth(column.saturating_sub(1))
                .map_or(text.len(), |(at, _)| at);
            text.insert_str(at, statement);
            self.inserted
                .push((line - 1, column, statement.chars().count()));
        }
        self.inserted.reverse();
        lines.join("\n")
    }

    /// Converts a position of the wrapped source. The wrapper puts the source on the second line and
    /// keeps its columns.
    pub(crate) fn place(&self, position: Position) -> Option<(usize, usize)> {
        let line = position.line()?.saturating_sub(1).max(1);
        let mut column = position.position().unwrap_or(1).max(1);
        for (at_line, at, length) in &self.inserted {
            if *at_line == line && column > *at {
                column = column.saturating_sub(*length).max(*at);
            }
        }
        let (line, column) = (line, column).min(self.last);
        Some(if line == 1 {
            (self.line, self.column + column - 1)
        } else {
            (self.line + line - 1, column)
        })
    }

    pub(crate) fn error(
        &self,
        position: Position,
        message: impl Into<String>,
        help: Option<&str>,
    ) -> ScriptError {
        let (line, column) = self.place(position).unwrap_or((self.line, self.column));
        ScriptError {
            line,
            column,
            message: message.into(),
            help: help.map(str::to_owned),
        }
    }
}

/// Converts a parse error. It is in `statement`, which is a part of `source`.
pub(crate) fn from_parse(
    error: &ParseError,
    source: &str,
    statement: &str,
    origin: &Origin,
) -> ScriptError {
    let kind = error.err_type();
    // The line of the wrapper's closing brace and everything after it are not the user's.
    let is_behind = error
        .position()
        .line()
        .is_some_and(|line| line > source.split('\n').count() + 1);
    let message = match kind {
        ParseErrorType::BadInput(_) if is_behind => "there is one `}` too many".into(),
        _ if is_behind => "the script is incomplete; check for an unclosed bracket or quote".into(),
        ParseErrorType::UnexpectedEOF => "the script is incomplete".to_owned(),
        ParseErrorType::WrongFnDefinition => "a mapping cannot define functions".to_owned(),
        other => lower_first(&other.to_string()),
    };
    let help = match kind {
        ParseErrorType::WrongFnDefinition => {
            Some("use a function value: `let double = |x| x * 2; double.call(21)`".to_owned())
        }
        ParseErrorType::Reserved(word) if word == "null" => {
            Some("null and a missing value are both written `()`".to_owned())
        }
        ParseErrorType::Reserved(word) if word.starts_with(char::is_alphabetic) => {
            Some(format!("to read a field write `this[\"{word}\"]`"))
        }
        _ => hint(statement).map(str::to_owned),
    };
    ScriptError {
        help,
        ..origin.error(error.position(), message, None)
    }
}

/// Returns a remedy for Bloblang syntax that differs from Rhai.
fn hint(source: &str) -> Option<&'static str> {
    if source.contains("->") {
        return Some("a function value is written `|item| …`, not `item -> …`");
    }
    if source.contains(".\"") {
        return Some("a quoted field is written `this[\"a b\"]`, not `this.\"a b\"`");
    }
    let object = source
        .match_indices('{')
        .any(|(at, _)| quoted_key_follows(source, at));
    object.then_some("an object is written `#{ \"key\": value }`, with a `#`")
}

fn quoted_key_follows(source: &str, at: usize) -> bool {
    let before = source.get(..at).unwrap_or_default();
    let after = source.get(at + 1..).unwrap_or_default().trim_start();
    !before.ends_with('#') && after.starts_with('"')
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Converts a run-time error.
pub(crate) fn from_run(error: &EvalAltResult, origin: &Origin) -> RunError {
    let (position, reason) = describe(error);
    match origin.place(position) {
        Some(place) => RunError::new(place, reason),
        None => RunError::nowhere(reason),
    }
}

fn describe(error: &EvalAltResult) -> (Position, String) {
    use EvalAltResult as E;
    let position = error.position();
    let reason = match error {
        E::ErrorInFunctionCall(_, _, inner, _) => {
            let (inside, reason) = describe(inner);
            let position = if inside.is_none() { position } else { inside };
            return (position, reason);
        }
        E::ErrorRuntime(value, _) => value.to_string(),
        E::ErrorTooManyOperations(_) => {
            "the script ran too many operations; check for an endless loop".into()
        }
        E::ErrorTerminated(reason, _) => reason.to_string(),
        E::ErrorStackOverflow(_) => "function calls are nested too deeply".into(),
        E::ErrorDataTooLarge(what, _) => {
            format!("{} is too large for a script", lower_first(what))
        }
        E::ErrorUnboundThis(_) => {
            "`this` is not available inside a function value; copy what you need to a variable \
             before it"
                .into()
        }
        E::ErrorNonPureMethodCallOnConstant(name, _) => {
            let name = name.rsplit('$').next().unwrap_or(name);
            format!("`this` is read-only but `{name}` changes it; change a copy instead")
        }
        E::ErrorAssignmentToConstant(..) => {
            "`this` is read-only; assign to `root` instead".to_owned()
        }
        E::ErrorFunctionNotFound(signature, _) => not_found(signature),
        E::ErrorDotExpr(text, _) | E::ErrorIndexingType(text, _) => {
            missing_value(text).unwrap_or_else(|| lower_first(&text.replace("the type ", "")))
        }
        E::ErrorMismatchDataType(wanted, got, _) | E::ErrorMismatchOutputType(wanted, got, _) => {
            format!("expected {}, found {}", type_name(wanted), type_name(got))
        }
        other => strip_position(&lower_first(&other.to_string())),
    };
    (position, reason)
}

fn strip_position(text: &str) -> String {
    match text.rfind(" (line ") {
        Some(at) => text.get(..at).unwrap_or(text).to_owned(),
        None => text.to_owned(),
    }
}

/// Explains an access to a missing value, such as
/// `Unknown property 'x' - a getter is not registered for type '()'`.
fn missing_value(text: &str) -> Option<String> {
    if text.starts_with("Unknown property")
        && let [_, field, _, owner, ..] = text.split('\'').collect::<Vec<_>>().as_slice()
        && *owner != "()"
    {
        let owner = type_name(owner);
        return Some(format!(
            "`{field}` is read from {owner}, which has no such field"
        ));
    }
    if !text.contains("'()'") && !text.contains("()[") && !text.contains("() [") {
        return None;
    }
    let quoted = text.split('\'').nth(1).filter(|name| *name != "()");
    Some(match quoted {
        Some(name) => format!(
            "`{name}` is read from a missing value; write `?.{name}` to get () instead, and `??` \
             for a default"
        ),
        None => "a missing value is indexed; write `?[…]` to get () instead, and `??` for a \
                 default"
            .into(),
    })
}

/// Explains a call without a matching function, which Rhai writes as `name (type, type)`.
fn not_found(signature: &str) -> String {
    let Some((name, arguments)) = signature.split_once(" (") else {
        return format!("there is no function `{signature}`");
    };
    let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
    let types: Vec<_> = arguments
        .split(", ")
        .filter(|part| !part.is_empty())
        .map(type_name)
        .collect();
    match types.split_first() {
        None => format!("there is no function `{name}()`"),
        Some((first, _)) if first == MISSING => format!(
            "`{name}` is called on a missing value; use a default: `(… ?? default).{name}(…)`"
        ),
        Some(_) => format!("`{name}` does not take ({})", types.join(", ")),
    }
}

const MISSING: &str = "a missing value";

/// Returns the name of a type as used in messages.
pub(crate) fn type_name(rhai: &str) -> String {
    match rhai.trim().trim_start_matches("&mut ") {
        "()" => MISSING,
        "string" | "&str" | "ImmutableString" | "&str | ImmutableString | String" => "text",
        "i64" | "int" => "an integer",
        "f64" | "float" | "decimal" => "a decimal number",
        "bool" => "true or false",
        "array" => "an array",
        "map" => "an object",
        "Fn" => "a function",
        "char" => "a character",
        other => other,
    }
    .to_owned()
}
