//! The registry: joins the component lists of the crates, and holds the presets.
//!
//! The command, the tests and the benchmarks take the components of a configuration from here.
//!
//! ```
//! use meterline_components::{PRESETS, registry};
//! use meterline_config::{Source, load};
//!
//! for preset in PRESETS {
//!     let source = Source { name: preset.name.to_owned(), text: preset.text.to_owned(), dir: None };
//!     assert!(load(&source, &[], &|_: &str| None, &registry()?).is_ok());
//! }
//! # Ok::<(), meterline_core::DictionaryInUse>(())
//! ```

/// The settings of leader election, which the command passes to inputs as an extension of the build context.
pub use meterline_input::LeaderElection;
/// Requests to OpenMeter's API, with the URL, the token and the HTTP client of the output `openmeter`.
pub use meterline_output::{Api, ApiBody, ApiError, ApiResponse, ApiSettings, ApiVersion};

use meterline_config::Registry;
use meterline_core::DictionaryInUse;

/// A configuration that is part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name that `--preset` takes.
    pub name: &'static str,
    /// The YAML.
    pub text: &'static str,
}

/// Every preset. A blank `input:` or `output:` stands for the section of the first one.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "kubernetes-pod-exec-time",
        text: include_str!("../../../presets/kubernetes-pod-exec-time.yaml"),
    },
    Preset {
        name: "kubernetes-pod-device-time",
        text: include_str!("../../../presets/kubernetes-pod-device-time.yaml"),
    },
    Preset {
        name: "kubernetes-node-time",
        text: include_str!("../../../presets/kubernetes-node-time.yaml"),
    },
    Preset {
        name: "kubernetes-loadbalancer-time",
        text: include_str!("../../../presets/kubernetes-loadbalancer-time.yaml"),
    },
    Preset {
        name: "kubernetes-volume-time",
        text: include_str!("../../../presets/kubernetes-volume-time.yaml"),
    },
    Preset {
        name: "kubernetes-snapshot-time",
        text: include_str!("../../../presets/kubernetes-snapshot-time.yaml"),
    },
    Preset {
        name: "kubernetes-all",
        text: include_str!("../../../presets/kubernetes-all.yaml"),
    },
];

/// Every component. The defaults for a blank `input:` or `output:` are sections of the first
/// preset, so that the two cannot differ.
///
/// This also installs the frequent keys of what the inputs yield, so call it before the first document is made.
///
/// # Errors
/// When documents of this process are written with other frequent keys already.
pub fn registry() -> Result<Registry, DictionaryInUse> {
    meterline_input::KEYS.install()?;
    let preset = PRESETS.first().map_or("", |preset| preset.text);
    Ok(Registry {
        inputs: meterline_input::SPECS,
        buffers: meterline_input::BUFFERS,
        processors: meterline_processors::SPECS,
        outputs: meterline_output::SPECS,
        default_input: section(preset, "input"),
        default_output: section(preset, "output"),
    })
}

/// The value of a top-level key of a configuration, as separate YAML; empty when it has no such key.
fn section(text: &'static str, key: &str) -> &'static str {
    let head = format!("{key}:\n");
    let Some(start) = text
        .find(&format!("\n{head}"))
        .map(|at| at + 1 + head.len())
        .or_else(|| text.starts_with(&head).then_some(head.len()))
    else {
        return "";
    };
    let rest = text.get(start..).unwrap_or_default();
    // The section ends at the next line that is not indented, comments aside.
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
    use meterline_config::{Severity, Source, load};
    use meterline_core::{Document, KeyDictionary};

    use super::*;

    mod all;
    mod device_time;

    #[test]
    fn the_registry_installs_the_frequent_keys_once() {
        const OTHER: KeyDictionary = KeyDictionary::new(&["a"]);
        registry().unwrap();
        let sizes = || {
            let sizes = ["containerStatuses", "containerstatuses"].map(|key| {
                let text = format!("{{\"{key}\":1}}");
                Document::from_json(text.as_bytes()).unwrap().size()
            });
            let [frequent, other] = sizes;
            assert_eq!(frequent + "containerStatuses".len() - 1, other);
            sizes
        };
        let before = sizes();
        assert_eq!(OTHER.install(), Err(DictionaryInUse));
        registry().unwrap();
        assert_eq!(sizes(), before);
    }

    #[test]
    fn the_defaults_are_the_sections_of_the_preset() {
        let registry = registry().unwrap();
        assert!(registry.default_input.trim_start().starts_with("schedule:"));
        assert!(registry.default_input.contains("SCRAPE_NAMESPACE"));
        assert!(!registry.default_input.contains("pipeline"));
        assert!(registry.default_output.contains("openmeter:"));
    }

    /// Every error of a configuration.
    fn errors(text: &str) -> String {
        let source = Source {
            name: "c.yaml".to_owned(),
            text: text.to_owned(),
            dir: None,
        };
        let found = load(&source, &[], &|_: &str| None, &registry().unwrap()).err();
        let lines = found
            .iter()
            .flatten()
            .filter(|it| it.severity == Severity::Error);
        lines
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Every field that holds a script or a template, each with an error that has a remedy.
    #[test]
    fn errors_of_scripts_come_with_their_place_and_their_remedy() {
        let mut shown = String::new();
        for text in [
            "pipeline:\n  processors:\n    - mapping: |\n        root.a = 1;\n        root.b = null\n",
            "pipeline:\n  processors:\n    - log: {message: 'a ${! null }'}\n",
            "pipeline:\n  processors:\n    - log:\n        fields_mapping: |\n          root = null\n",
            "pipeline:\n  processors:\n    - switch:\n        - check: this.a == null\n          processors: []\n",
            "input:\n  generate:\n    mapping: root = null\n",
            "output:\n  switch:\n    cases:\n      - check: this.a == null\n        output: {drop: {}}\n",
            "output:\n  http_client:\n    url: http://x/${! null }\n    headers:\n      x-a: ${! null }\n",
        ] {
            shown += &format!("{}\n", errors(text));
        }
        insta::assert_snapshot!(shown, @r"
        c.yaml:5:18: pipeline.processors.0.mapping: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:3:29: pipeline.processors.0.log.message: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:5:18: pipeline.processors.0.log.fields_mapping: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:4:28: pipeline.processors.0.switch.0.check: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:3:21: input.generate.mapping: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:4:26: output.switch.cases.0.check: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:3:23: output.http_client.url: 'null' is a reserved keyword; null and a missing value are both written `()`
        c.yaml:5:16: output.http_client.headers.x-a: 'null' is a reserved keyword; null and a missing value are both written `()`
        ");
    }

    #[test]
    fn a_section_ends_at_the_next_key() {
        const TEXT: &str = "a:\n  b: 1\n\n  # c\nd:\n  e: 2\n";
        assert_eq!(section(TEXT, "a"), "  b: 1\n\n  # c\n");
        assert_eq!(section(TEXT, "d"), "  e: 2\n");
        assert_eq!(section(TEXT, "f"), "");
    }
}
