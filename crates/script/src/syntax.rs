//! From the text of a script to what the interpreter runs, and all of its syntax errors.
//!
//! The interpreter's parser stops at the first error. To find the next one the statement that has it
//! is blanked out and the rest is parsed again. What is only a consequence of the blank is not told.

use rhai::{AST, Engine, Position};

use crate::{
    ScriptError,
    error::{self, Origin},
    statements::{Region, Statements},
};

/// What stands around the source. The line break keeps columns as they are.
const HEAD: &str = "fn __script(){\n";
const TAIL: &str = "\n}";
/// The most statements that are blanked out: each is another time that the script is parsed.
const MOST: usize = 20;

/// What the source becomes before it is parsed.
pub(crate) fn wrapped(source: &str) -> String {
    format!("{HEAD}{source}{TAIL}")
}

/// A script that was parsed, perhaps in part.
pub(crate) struct Parsed {
    /// What could be parsed; `None` where nothing could.
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
    let mut fault = first;
    let mut last: Option<Region> = None;
    for _ in 0..MOST {
        let at = index(fault.position(), &original);
        let innermost = at.and_then(|at| statements.innermost(at));
        // What is wrong around a blank is likely wrong because of it.
        let is_consequence = last.is_some_and(|last| innermost.is_none_or(|it| it.holds(last)));
        if !is_consequence {
            let whole = at.and_then(|at| statements.outermost(at));
            let said = whole.map_or_else(|| source.to_owned(), |it| it.of(&original));
            parsed
                .errors
                .push(error::from_parse(&fault, source, &said, origin));
        }
        // What is in no statement, or still there once its statement is gone, ends it.
        let Some(region) = innermost.filter(|it| last != Some(*it)) else {
            return parsed;
        };
        parsed.blanked += &region.of(&original);
        parsed.blanked.push('\n');
        region.blank(&mut text);
        last = Some(region);
        fault = match engine.compile(wrapped(&text.iter().collect::<String>())) {
            Ok(ast) => {
                parsed.ast = Some(ast);
                return parsed;
            }
            Err(fault) => fault,
        };
    }
    parsed
}

/// Which character of the source a position of the wrapped source is.
fn index(position: Position, source: &[char]) -> Option<usize> {
    // The wrapper puts the source on the second line.
    let line = position.line()?.checked_sub(2)?;
    let column = position.position().unwrap_or(1).max(1) - 1;
    let lines: Vec<&[char]> = source.split(|it| *it == '\n').collect();
    let length = lines.get(line)?.len();
    let before: usize = lines.iter().take(line).map(|it| it.len() + 1).sum();
    Some(before + column.min(length))
}
