//! Text without visible characters.

/// Trims spaces and control characters from both ends; `None` if no visible character is left.
pub(crate) fn trimmed(text: &str) -> Option<&str> {
    let trimmed = text.trim_matches(|it: char| it.is_whitespace() || it.is_control());
    (!trimmed.chars().all(is_invisible)).then_some(trimmed)
}

/// Whether a character is invisible. Only spaces and control characters are trimmed, because other
/// invisible characters can be part of a visible one, such as an emoji.
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
    fn invisible_text_is_none() {
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
    fn visible_text_loses_only_spaces_and_controls_at_its_ends() {
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
