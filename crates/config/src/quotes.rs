//! What the text at hand stands in: quotes, a comment, a block scalar. By that a variable's value is
//! protected, and an unset variable in a comment forgiven.
//!
//! Quotes are followed line by line, which is all that is needed: scalars with variables in them that
//! go over several lines are block scalars. YAML knows neither quotes nor comments in those, but the
//! scripts in them have quotes, and Rhai's ` #{` must not be taken for a comment.

/// The quotes that the text at hand stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quote {
    None,
    Single,
    Double,
    Comment,
}

/// A value such that it cannot end the scalar it stands in.
pub(crate) fn protected(value: &str, quote: Quote) -> String {
    match quote {
        Quote::None => value.to_owned(),
        Quote::Comment => value.replace(['\n', '\r'], " "),
        Quote::Single => value.replace('\'', "''"),
        Quote::Double => value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
            .replace('\r', "\\r"),
    }
}

/// Goes through a text character by character.
pub(crate) struct Quotes<'a> {
    text: &'a str,
    quote: Quote,
    previous: char,
    /// Whether a backslash stands before the next character, and means it.
    escaped: bool,
    line_start: usize,
    comment_start: Option<usize>,
    block: Option<Block>,
}

impl<'a> Quotes<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            quote: Quote::None,
            previous: '\n',
            escaped: false,
            line_start: 0,
            comment_start: None,
            block: None,
        }
    }

    /// What the next character stands in.
    pub(crate) fn now(&self) -> Quote {
        self.quote
    }

    /// Goes past something that was replaced, which ended with `}`.
    pub(crate) fn skip(&mut self) {
        self.previous = '}';
        self.escaped = false;
    }

    /// Goes past a character at an offset.
    pub(crate) fn pass(&mut self, at: usize, character: char) {
        if character == '\n' {
            self.next_line(at);
        } else {
            let quote = self.next(character);
            if quote == Quote::Comment && self.quote != Quote::Comment {
                self.comment_start = Some(at);
            }
            let escapes = match self.quote {
                Quote::Double => true,
                // A quote as Rhai writes one, `'\''`. In YAML a backslash in single quotes is itself.
                Quote::Single => self.block.is_some(),
                Quote::None | Quote::Comment => false,
            };
            self.escaped = escapes && character == '\\' && !self.escaped;
            self.quote = quote;
        }
        self.previous = character;
    }

    fn next(&self, character: char) -> Quote {
        let in_block = self.block.is_some();
        let opens = self.previous.is_whitespace() || "[{,:-(".contains(self.previous);
        // In a script anything may stand before a string, such as `=`; but not in `it's`.
        let opens_single = opens || (in_block && !self.previous.is_alphanumeric());
        match (self.quote, character) {
            (Quote::None, '#') if self.previous.is_whitespace() && !in_block => Quote::Comment,
            (Quote::None, '"') if opens || in_block => Quote::Double,
            (Quote::None, '\'') if opens_single => Quote::Single,
            (Quote::Double, '"') | (Quote::Single, '\'') if !self.escaped => Quote::None,
            (quote, _) => quote,
        }
    }

    /// At the line break at an offset.
    fn next_line(&mut self, end: usize) {
        let quoted = matches!(self.quote, Quote::Single | Quote::Double);
        if self.block.is_none() && !quoted {
            let end = self.comment_start.unwrap_or(end);
            let line = self.text.get(self.line_start..end).unwrap_or_default();
            self.block = Block::opened_by(line);
        }
        self.quote = Quote::None;
        self.escaped = false;
        self.comment_start = None;
        self.line_start = end + 1;
        let rest = self.text.get(self.line_start..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default();
        self.block = self.block.and_then(|block| block.with(line));
    }
}

/// A block scalar, `|` or `>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    /// How far its lines are indented, or as long as that is open the least it can be.
    indent: usize,
    settled: bool,
}

impl Block {
    /// The block scalar that begins behind a line (without its comment), such as `- mapping: |2-`.
    fn opened_by(line: &str) -> Option<Self> {
        let head = line.trim_end();
        let before = head
            .trim_end_matches(|c: char| c.is_ascii_digit() || c == '+' || c == '-')
            .strip_suffix(['|', '>'])?;
        let indicators = head.get(before.len() + 1..)?;
        if indicators.len() > 2 || !(before.is_empty() || before.ends_with([' ', '\t'])) {
            return None;
        }
        let indent = least_indent(before)?;
        let indicated = indicators.chars().find_map(|c| c.to_digit(10));
        Some(match indicated.and_then(|it| usize::try_from(it).ok()) {
            Some(more) => Self {
                indent: (indent + more).saturating_sub(1),
                settled: true,
            },
            None => Self {
                indent,
                settled: false,
            },
        })
    }

    /// The block with the next line in it; `None` when it ended before that.
    fn with(self, line: &str) -> Option<Self> {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if line.trim().is_empty() {
            return Some(self);
        }
        if indent < self.indent {
            return None;
        }
        Some(Self {
            indent: if self.settled { self.indent } else { indent },
            settled: true,
        })
    }
}

/// How far a block scalar behind this (`- key: `, `- `, `key: !tag `) is indented at the least: one
/// more than the key or the dash. `None` when no block scalar can stand there.
fn least_indent(before: &str) -> Option<usize> {
    let mut least = 0;
    let mut rest = before.trim_start_matches(' ');
    let column = |rest: &str| before.len() - rest.len();
    while let Some(after) = rest.strip_prefix("- ").or_else(|| rest.strip_prefix("? ")) {
        least = column(rest) + 1;
        rest = after.trim_start_matches(' ');
    }
    let column = column(rest);
    let mut words: Vec<&str> = rest.split_whitespace().collect();
    while words.last().is_some_and(|it| it.starts_with(['!', '&'])) {
        words.pop();
    }
    match words.last() {
        // Alone on its line, below its key; which that is, is not known.
        None => Some(least.max(1)),
        Some(&"---") => Some(0),
        Some(key) if key.ends_with(':') => Some(column + 1),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the `X` in a text stands in.
    fn at_x(text: &str) -> Quote {
        let mut quotes = Quotes::new(text);
        for (at, character) in text.char_indices() {
            if character == 'X' {
                return quotes.now();
            }
            quotes.pass(at, character);
        }
        panic!("no X");
    }

    #[test]
    fn a_block_scalar_has_no_comment() {
        for head in [
            "a: |",
            "a: >",
            "a: |-",
            "a: |+",
            "a: |2",
            "a: >2-",
            "a: !!str |",
            "a: &b |",
            "- a: |",
            "- |",
            "- - |",
            "a: |  # why",
            "\"a b\": |",
            "? |",
            "a: |\r",
        ] {
            let text = format!("{head}\n\n      y #{{ X\n");
            assert_eq!(at_x(&text), Quote::None, "{text}");
            let text = format!("{head}\n      y\n\n      z #{{ \"X\n");
            assert_eq!(at_x(&text), Quote::Double, "{text}");
            let text = format!("{head}\n      y\n# X\n");
            assert_eq!(at_x(&text), Quote::Comment, "{text}");
        }
    }

    #[test]
    fn what_opens_no_block_scalar() {
        for head in [
            "a: b |", "# a: |", "a: 'b |", "a: b # |", "a: |x", "a|", "a: |123", "",
        ] {
            let text = format!("{head}\n      y # X\n");
            assert_eq!(at_x(&text), Quote::Comment, "{text}");
        }
    }

    #[test]
    fn a_block_scalar_ends_where_less_is_indented() {
        assert_eq!(at_x("- a: |\n    b\n  c: # X"), Quote::Comment);
        assert_eq!(at_x("- a: |\n  c: # X"), Quote::Comment);
        assert_eq!(at_x("a: |\nc: # X"), Quote::Comment);
        assert_eq!(at_x("- |\n - # X"), Quote::None);
        assert_eq!(at_x("- a: |2\n     b\n    # X"), Quote::None);
        assert_eq!(at_x("- a: |2\n     b\n   # X"), Quote::Comment);
        assert_eq!(at_x("--- |\na # X"), Quote::None);
    }

    #[test]
    fn strings_in_scripts_are_followed() {
        for (script, quote) in [
            (r#"x="X"#, Quote::Double),
            (r#"x = "a\\" + "X"#, Quote::Double),
            (r#"x = "a\"X"#, Quote::Double),
            (r#"x=='"' && y == "X"#, Quote::Double),
            (r#"x=='\'' && y == "X"#, Quote::Double),
            (r#"// it's "X"#, Quote::Double),
            (r"// it's X", Quote::None),
        ] {
            assert_eq!(at_x(&format!("a: |\n  {script}")), quote, "{script}");
        }
    }
}
