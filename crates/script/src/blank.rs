//! Text that people see nothing of.

/// The text without spaces and control characters at its ends; `None` if nothing that can be seen is
/// left of it.
pub(crate) fn trimmed(text: &str) -> Option<&str> {
    let trimmed = text.trim_matches(|it: char| it.is_whitespace() || it.is_control());
    (!trimmed.chars().all(is_invisible)).then_some(trimmed)
}

/// Whether a character shows nothing. Inside a text and at its ends invisible characters stay, as
/// they can be part of how a visible one is written.
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            // Unicode's Default_Ignorable_Code_Point, and the braille pattern without dots.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_nothing_is_nothing() {
        for text in [
            "",
            " ",
            "   ",
            "\t\r\n",
            "\u{0}",
            "\u{1f}\u{7f}",
            "\u{a0}",
            "\u{3000}",
            "\u{200b}",
            "\u{feff} \u{2060}",
            "\u{202e}",
            "\u{ad}",
            "\u{2800}",
            "\u{3164}",
            "\u{e0001}",
        ] {
            assert_eq!(trimmed(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_shows_something_loses_only_spaces_at_its_ends() {
        for (text, expected) in [
            ("customer", "customer"),
            (" customer 1\n", "customer 1"),
            ("\u{0}customer\u{1}", "customer"),
            ("a\u{0}b", "a\u{0}b"),
            ("\u{202e}a", "\u{202e}a"),
            ("❤\u{fe0f} ", "❤\u{fe0f}"),
            ("👩\u{200d}🚀", "👩\u{200d}🚀"),
        ] {
            assert_eq!(trimmed(text), Some(expected), "{text:?}");
        }
    }
}
