//! Finds the statements of a script without parsing it.

/// A range of a text, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    start: usize,
    end: usize,
}

impl Region {
    pub(crate) fn of(self, text: &[char]) -> String {
        text.get(self.start..self.end)
            .unwrap_or_default()
            .iter()
            .collect()
    }

    /// Whether it contains the other region.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Replaces the region by spaces, so that all other places stay the same.
    pub(crate) fn blank(self, text: &mut [char]) {
        for character in text.get_mut(self.start..self.end).unwrap_or_default() {
            if *character != '\n' {
                *character = ' ';
            }
        }
    }
}

/// The statements of a text that may have syntax errors.
pub(crate) struct Statements(Vec<Region>);

impl Statements {
    pub(crate) fn of(text: &[char]) -> Self {
        let mut scan = Scan {
            text,
            at: 0,
            open: vec![Open::Block {
                start: 0,
                word: None,
            }],
            found: Vec::new(),
        };
        scan.run();
        Self(scan.found)
    }

    /// Returns the smallest statement with this character. The end of the text belongs to the last one.
    pub(crate) fn innermost(&self, at: usize) -> Option<Region> {
        self.holding(at).min_by_key(|it| it.end - it.start)
    }

    /// Returns the largest statement with this character.
    pub(crate) fn outermost(&self, at: usize) -> Option<Region> {
        self.holding(at).max_by_key(|it| it.end - it.start)
    }

    fn holding(&self, at: usize) -> impl Iterator<Item = Region> {
        let last = self.0.iter().map(|it| it.end).max().unwrap_or_default();
        let at = if at >= last {
            last.saturating_sub(1)
        } else {
            at
        };
        let all = self.0.iter().copied();
        all.filter(move |it| (it.start..it.end).contains(&at))
    }
}

/// An open bracket or brace.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    /// `{`, with the start of the current statement and of its first word.
    Block { start: usize, word: Option<usize> },
    /// `#{`
    Map,
    /// `(` or `[`
    Bracket,
    /// `${` in a text between backticks.
    Interpolation,
}

struct Scan<'a> {
    text: &'a [char],
    at: usize,
    open: Vec<Open>,
    found: Vec<Region>,
}

impl Scan<'_> {
    fn run(&mut self) {
        while let Some(character) = self.peek(0) {
            let next = self.peek(1);
            match (character, next) {
                ('/', Some('/')) => self.skip_until(|it| it == '\n'),
                ('/', Some('*')) => self.block_comment(),
                ('#', Some('"' | '#')) => self.raw_text(),
                ('#', Some('{')) => {
                    self.open.push(Open::Map);
                    self.at += 2;
                }
                ('"' | '\'', _) => self.text_on_a_line(character),
                ('`', _) => self.text_on_lines(),
                (other, _) => {
                    if !other.is_whitespace()
                        && let Some(Open::Block { word, .. }) = self.open.last_mut()
                    {
                        word.get_or_insert(self.at);
                    }
                    self.punctuation(other);
                }
            }
        }
        let end = self.text.len();
        for open in std::mem::take(&mut self.open) {
            if let Open::Block { start, .. } = open {
                self.add(start, end);
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn add(&mut self, start: usize, end: usize) {
        if start < end {
            self.found.push(Region { start, end });
        }
    }

    fn punctuation(&mut self, character: char) {
        self.at += 1;
        match character {
            '{' => self.open.push(Open::Block {
                start: self.at,
                word: None,
            }),
            '(' | '[' => self.open.push(Open::Bracket),
            ')' | ']' if self.open.last() == Some(&Open::Bracket) => drop(self.open.pop()),
            '}' => self.close(),
            ';' => self.semicolon(),
            _ => {}
        }
    }

    /// Handles a semicolon. It ends a statement, even with brackets left open, unless it seems to be a
    /// misplaced comma in an object.
    fn semicolon(&mut self) {
        let inner = self.open.iter().rposition(|it| *it != Open::Bracket);
        if inner.and_then(|at| self.open.get(at)) == Some(&Open::Map) && self.a_field_follows() {
            return;
        }
        let block = |open: &Open| matches!(open, Open::Block { .. } | Open::Interpolation);
        let Some(at) = self.open.iter().rposition(block) else {
            return;
        };
        self.open.truncate(at + 1);
        self.end_statement();
    }

    /// Ends the statement of the current block here.
    fn end_statement(&mut self) {
        if let Some(Open::Block { start, word }) = self.open.last_mut() {
            *word = None;
            let from = std::mem::replace(start, self.at);
            self.add(from, self.at);
        }
    }

    /// Whether the closing brace just read ends the current statement.
    fn is_end_of_statement(&self) -> bool {
        let Some(Open::Block {
            word: Some(word), ..
        }) = self.open.last()
        else {
            return false;
        };
        let rest = self.text.get(self.at..).unwrap_or_default();
        let blank = rest.iter().take_while(|it| it.is_whitespace()).count();
        let next = self.word(self.at + blank);
        ["if", "for", "while", "loop", "switch", "try", "fn"].contains(&self.word(*word).as_str())
            && !["else", "catch"].contains(&next.as_str())
    }

    fn word(&self, at: usize) -> String {
        let text = self.text.get(at..).unwrap_or_default().iter();
        text.take_while(|it| it.is_alphabetic()).collect()
    }

    /// Whether `key:` or the end of an object follows.
    fn a_field_follows(&self) -> bool {
        let mut rest = self.text.get(self.at..).unwrap_or_default().iter();
        let first = rest.find(|it| !it.is_whitespace());
        match first {
            Some('}') => true,
            Some('"') => rest.find(|it| **it == '"').is_some() && is_colon(rest),
            Some(first) if first.is_alphabetic() || *first == '_' => {
                let rest = rest.as_slice();
                let name = rest
                    .iter()
                    .take_while(|it| it.is_alphanumeric() || **it == '_');
                is_colon(rest.get(name.count()..).unwrap_or_default().iter())
            }
            _ => false,
        }
    }

    fn close(&mut self) {
        let is_brace = |open: &Open| *open != Open::Bracket;
        let Some(at) = self.open.iter().rposition(is_brace) else {
            return;
        };
        match self.open.get(at).copied() {
            // A `}` too many.
            Some(Open::Block { .. }) if at == 0 => {}
            Some(Open::Block { start, .. }) => {
                self.open.truncate(at);
                self.add(start, self.at - 1);
                if self.is_end_of_statement() {
                    self.end_statement();
                }
            }
            Some(Open::Interpolation) => {
                self.open.truncate(at);
                self.at -= 1;
                self.text_on_lines();
            }
            _ => self.open.truncate(at),
        }
    }

    fn skip_until(&mut self, is_end: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(|it| !is_end(it)) {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(character) = self.peek(0) {
            match (character, self.peek(1)) {
                ('/', Some('*')) => depth += 1,
                ('*', Some('/')) => depth = depth.saturating_sub(1),
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            self.at += 2;
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips `#"…"#` with any number of `#`.
    fn raw_text(&mut self) {
        let start = self.at;
        self.skip_until(|it| it != '#');
        let hashes = self.at - start;
        if self.peek(0) != Some('"') {
            return;
        }
        self.at += 1;
        while self.peek(0).is_some() {
            let ends = self.peek(0) == Some('"')
                && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            self.at += 1;
            if ends {
                self.at += hashes;
                return;
            }
        }
    }

    /// Skips a text that ends at the end of its line at the latest.
    fn text_on_a_line(&mut self, quote: char) {
        self.at += 1;
        while let Some(character) = self.peek(0) {
            self.at += 1;
            match character {
                '\\' => self.at += 1,
                '\n' => return,
                character if character == quote => return,
                _ => {}
            }
        }
    }

    /// Skips a text between backticks, from its start or from the end of an interpolation in it.
    fn text_on_lines(&mut self) {
        self.at += 1;
        while let Some(character) = self.peek(0) {
            self.at += 1;
            match (character, self.peek(0)) {
                ('`', _) => return,
                ('$', Some('{')) => {
                    self.at += 1;
                    self.open.push(Open::Interpolation);
                    return;
                }
                _ => {}
            }
        }
    }
}

fn is_colon<'a>(mut rest: impl Iterator<Item = &'a char>) -> bool {
    rest.find(|it| !it.is_whitespace()) == Some(&':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the innermost statement around the first `@`.
    fn around(text: &str) -> String {
        let text: Vec<char> = text.chars().collect();
        let at = text.iter().position(|it| *it == '@').unwrap();
        let region = Statements::of(&text).innermost(at).unwrap();
        region.of(&text).trim().to_owned()
    }

    #[test]
    fn statements_end_where_a_reader_expects() {
        for (text, expected) in [
            ("a; b @; c", "b @;"),
            ("a; @", "@"),
            ("if a { b; c @ } d;", "c @"),
            ("if a { b; c } @ d; e", "@ d;"),
            ("// why\nif a { b } else { c } @ d; e", "@ d;"),
            (
                "let x = if a { b } else { c } @ d; e",
                "let x = if a { b } else { c } @ d;",
            ),
            ("a = (1 + @; b = ) 2;", "a = (1 + @;"),
            ("a = #{ b: 1; c: @ }; d;", "a = #{ b: 1; c: @ };"),
            ("a = #{ b: 1; c = @; d;", "c = @;"),
            ("a = \";\" + ';' + `;${ \"}\" ; `}`}`; b @;", "b @;"),
            ("a // ; \" \n @ b; /* ; /* */ ; */ c", "a // ; \" \n @ b;"),
            ("a = #\" \"; \"# @; b", "a = #\" \"; \"# @;"),
            ("a = \"open\nb; @ c", "@ c"),
            ("a } b; @ c", "@ c"),
        ] {
            assert_eq!(around(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_into_statements(text in "[ a;{}()#`$\"'/*\\\\\n\u{e9}]{0,40}") {
            let text: Vec<char> = text.chars().collect();
            let statements = Statements::of(&text);
            for at in 0..text.len() {
                let inner = statements.innermost(at).unwrap();
                let outer = statements.outermost(at).unwrap();
                prop_assert!(outer.contains(inner));
                let mut blank = text.clone();
                inner.blank(&mut blank);
                prop_assert_eq!(blank.len(), text.len());
            }
        }
    }
}
