//! Tracks whether the current position in YAML text is inside quotes, a comment or a block scalar. This
//! decides how a variable's value is escaped, and ignores unset variables in comments.
//!
//! Quotes are tracked per line. That suffices, because scalars with variables that span lines are block
//! scalars. A block scalar has neither quotes nor comments in YAML, but the scripts in them have quotes,
//! and Rhai's ` #{` does not start a comment.

/// What the current position is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quote {
    None,
    Single,
    Double,
    Comment,
}

/// Escapes a value so that it cannot end the scalar around it.
pub(crate) fn escaped(value: &str, quote: Quote) -> String {
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

/// Scans a text character by character.
pub(crate) struct Quotes<'a> {
    text: &'a str,
    quote: Quote,
    previous: char,
    /// Whether a backslash escapes the next character.
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

    /// What the next character is inside of.
    pub(crate) fn now(&self) -> Quote {
        self.quote
    }

    /// Skips a reference that was replaced. It ended with `}`.
    pub(crate) fn skip(&mut self) {
        self.previous = '}';
        self.escaped = false;
    }

    /// Advances past the character at an offset.
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
                // Rhai escapes a quote, as in `'\''`. In YAML single quotes a backslash has no meaning.
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
        // In a script any character may precede a string, such as `=`, except for letters as in `it's`.
        let opens_single = opens || (in_block && !self.previous.is_alphanumeric());
        match (self.quote, character) {
            (Quote::None, '#') if self.previous.is_whitespace() && !in_block => Quote::Comment,
            (Quote::None, '"') if opens || in_block => Quote::Double,
            (Quote::None, '\'') if opens_single => Quote::Single,
            (Quote::Double, '"') | (Quote::Single, '\'') if !self.escaped => Quote::None,
            (quote, _) => quote,
        }
    }

    /// Ends the current line at the offset of its line break.
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
    /// The indentation of its lines, or its minimum until the first line settles it.
    indent: usize,
    settled: bool,
}

impl Block {
    /// Returns the block scalar that a line (without its comment) opens, such as `- mapping: |2-`.
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

    /// Adds the next line to the block; `None` when the block ends before it.
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

/// Returns the minimum indentation of a block scalar after this text (`- key: `, `- `, `key: !tag `):
/// one more than the key or the dash. `None` when no block scalar can follow.
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
        // The key is on an earlier line, and its indentation is unknown.
        None => Some(least.max(1)),
        Some(&"---") => Some(0),
        Some(key) if key.ends_with(':') => Some(column + 1),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the `X` in a text is inside of.
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
    fn a_block_scalar_has_no_comments() {
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
    fn other_lines_open_no_block_scalar() {
        for head in [
            "a: b |", "# a: |", "a: 'b |", "a: b # |", "a: |x", "a|", "a: |123", "",
        ] {
            let text = format!("{head}\n      y # X\n");
            assert_eq!(at_x(&text), Quote::Comment, "{text}");
        }
    }

    #[test]
    fn a_block_scalar_ends_at_a_smaller_indentation() {
        assert_eq!(at_x("- a: |\n    b\n  c: # X"), Quote::Comment);
        assert_eq!(at_x("- a: |\n  c: # X"), Quote::Comment);
        assert_eq!(at_x("a: |\nc: # X"), Quote::Comment);
        assert_eq!(at_x("- |\n - # X"), Quote::None);
        assert_eq!(at_x("- a: |2\n     b\n    # X"), Quote::None);
        assert_eq!(at_x("- a: |2\n     b\n   # X"), Quote::Comment);
        assert_eq!(at_x("--- |\na # X"), Quote::None);
    }

    #[test]
    fn strings_in_scripts_are_tracked() {
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
