//! Joins the lists of components, and names what ships with the program.

use meterline_config::Registry;
use meterline_script::{Engine, Limits};

/// The configurations that come with the program, by name.
pub(crate) const PRESETS: &[(&str, &str)] = &[(
    "kubernetes-pod-exec-time",
    include_str!("../../presets/kubernetes-pod-exec-time.yaml"),
)];

/// Every component there is. What a blank `input:` or `output:` stands for is taken from the
/// preset, so that the two cannot differ.
pub(crate) fn registry() -> Registry {
    Registry {
        inputs: meterline_input::SPECS,
        buffers: meterline_input::BUFFERS,
        processors: meterline_processors::SPECS,
        outputs: meterline_output::SPECS,
        default_input: section(PRESETS, "input"),
        default_output: section(PRESETS, "output"),
    }
}

/// The script engine as every mapping has it.
pub(crate) fn engine() -> Engine {
    Engine::new(Limits::default())
}

/// The configuration under a top-level key of the first preset, as YAML of its own.
fn section(presets: &'static [(&'static str, &'static str)], key: &str) -> &'static str {
    let text = presets.first().map_or("", |(_, text)| *text);
    let head = format!("{key}:\n");
    let Some(start) = text
        .find(&format!("\n{head}"))
        .map(|at| at + 1 + head.len())
        .or_else(|| text.starts_with(&head).then_some(head.len()))
    else {
        return "";
    };
    let rest = text.get(start..).unwrap_or_default();
    // The section ends where a line begins at the left margin again.
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.starts_with(|c: char| !c.is_whitespace() && c != '#') {
            break;
        }
        end += line.len();
    }
    rest.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_sections_of_the_preset() {
        let registry = registry();
        assert!(registry.default_input.trim_start().starts_with("schedule:"));
        assert!(registry.default_input.contains("SCRAPE_NAMESPACE"));
        assert!(!registry.default_input.contains("pipeline"));
        assert!(registry.default_output.contains("openmeter:"));
    }

    #[test]
    fn a_section_ends_at_the_next_key() {
        const TEXT: &[(&str, &str)] = &[("x", "a:\n  b: 1\n\n  # c\nd:\n  e: 2\n")];
        assert_eq!(section(TEXT, "a"), "  b: 1\n\n  # c\n");
        assert_eq!(section(TEXT, "d"), "  e: 2\n");
        assert_eq!(section(TEXT, "f"), "");
    }
}
