//! Parses a script and finds all of its syntax errors.
//!
//! The interpreter's parser stops at the first error. To find the next one, the statement with the error
//! is blanked out and the rest is parsed again. Errors that only follow from the blank are not reported.

use rhai::{AST, Engine, Position};

use crate::{
    ScriptError,
    error::{self, Origin},
    statements::{Region, Statements},
};

/// The wrapper around the source. The line break keeps the columns unchanged.
const HEAD: &str = "fn __script(){\n";
const TAIL: &str = "\n}";
/// The most statements to blank out. Each one costs another parse of the script.
const MAX_BLANKS: usize = 20;

/// Wraps the source in a function.
pub(crate) fn wrapped(source: &str) -> String {
    format!("{HEAD}{source}{TAIL}")
}

/// A script that was parsed, at least in part.
pub(crate) struct Parsed {
    /// The part that could be parsed, if any.
    pub(crate) ast: Option<AST>,
    pub(crate) errors: Vec<ScriptError>,
    /// The statements that are not in `ast`.
    pub(crate) blanked: String,
}

/// Parses a script.
pub(crate) fn parse(engine: &Engine, source: &str, origin: &Origin) -> Parsed {
    let mut parsed = Parsed {
        ast: None,
        errors: Vec::new(),
        blanked: String::new(),
    };
    let first = match engine.compile(wrapped(source)) {
        Ok(ast) => {
            parsed.ast = Some(ast);
            return parsed;
        }
        Err(first) => first,
    };
    let original: Vec<char> = source.chars().collect();
    let mut text = original.clone();
    let statements = Statements::of(&original);
    let mut error = first;
    let mut last: Option<Region> = None;
    for _ in 0..MAX_BLANKS {
        let at = index(error.position(), &original);
        let innermost = at.and_then(|at| statements.innermost(at));
        // An error around a blank is likely a consequence of it.
        let is_consequence = last.is_some_and(|last| innermost.is_none_or(|it| it.contains(last)));
        if !is_consequence {
            let whole = at.and_then(|at| statements.outermost(at));
            let statement = whole.map_or_else(|| source.to_owned(), |it| it.of(&original));
            parsed
                .errors
                .push(error::from_parse(&error, source, &statement, origin));
        }
        // Stop at an error outside of statements, or one that remains after its statement is blank.
        let Some(region) = innermost.filter(|it| last != Some(*it)) else {
            return parsed;
        };
        parsed.blanked += &region.of(&original);
        parsed.blanked.push('\n');
        region.blank(&mut text);
        last = Some(region);
        error = match engine.compile(wrapped(&text.iter().collect::<String>())) {
            Ok(ast) => {
                parsed.ast = Some(ast);
                return parsed;
            }
            Err(error) => error,
        };
    }
    parsed
}

/// Converts a position in the wrapped source to the index of a character of the source.
fn index(position: Position, source: &[char]) -> Option<usize> {
    // The wrapper puts the source on the second line.
    let line = position.line()?.checked_sub(2)?;
    let column = position.position().unwrap_or(1).max(1) - 1;
    let lines: Vec<&[char]> = source.split(|it| *it == '\n').collect();
    let length = lines.get(line)?.len();
    let before: usize = lines.iter().take(line).map(|it| it.len() + 1).sum();
    Some(before + column.min(length))
}
