//! What a component declares, and the context in which a configuration is checked.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use meterline_core::{BufferPlan, InputPlan, OutputPlan, ProcessorPlan, Reads, foreseen::Foreseen};
use serde::de::DeserializeOwned;

use crate::{
    diagnostic::{Diagnostic, Place},
    interpolate::Interpolated,
    node::Node,
    post::Post,
};

/// A component's configuration as it is written. Derive `Deserialize` with `deny_unknown_fields`.
pub trait Configure: DeserializeOwned {
    /// What it becomes: `dyn InputPlan`, `dyn ProcessorPlan` or `dyn OutputPlan`.
    type Plan: ?Sized + 'static;

    /// Checks and compiles everything that can be without touching the world. Faults are told to
    /// `cx`; `None` when the component cannot go on.
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<Self::Plan>>;
}

type PlanFn<P> = fn(&Node, &mut PlanContext<'_>) -> Option<Box<P>>;

/// The declaration of a component.
pub struct Spec<P: ?Sized + 'static> {
    /// Its name in a configuration.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Whole components in YAML, each of which lints.
    pub examples: &'static [&'static str],
    pub(crate) keeps: Option<&'static str>,
    pub(crate) plan: PlanFn<P>,
}

/// The declaration of an input.
pub type InputSpec = Spec<dyn InputPlan>;
/// The declaration of a buffer.
pub type BufferSpec = Spec<dyn BufferPlan>;
/// The declaration of a processor.
pub type ProcessorSpec = Spec<dyn ProcessorPlan>;
/// The declaration of an output.
pub type OutputSpec = Spec<dyn OutputPlan>;

impl<P: ?Sized + 'static> Spec<P> {
    /// Declares a component whose configuration is `C`.
    #[must_use]
    pub const fn new<C: Configure<Plan = P>>(
        name: &'static str,
        summary: &'static str,
        examples: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            summary,
            examples,
            keeps: None,
            plan: |node, cx| cx.configure::<C>(node),
        }
    }

    /// Declares that an input or a buffer keeps messages until they are delivered, and where, such as
    /// "in memory". One that does must not be behind another: what the buffer takes counts as
    /// delivered for the input.
    #[must_use]
    pub const fn keeps(mut self, place: &'static str) -> Self {
        self.keeps = Some(place);
        self
    }
}

/// Every component there is, and what a blank `input:` or `output:` stands for (YAML of one
/// component).
///
/// A component is its configuration, what it becomes, and a line in a list:
///
/// ```
/// use async_trait::async_trait;
/// use meterline_config::{
///     Configure, PlanContext, InputSpec, Located, OutputSpec, Registry, Source, Spec, load,
/// };
/// use meterline_core::{BuildContext, BuildError, Input, InputPlan, OutputNode, OutputPlan};
/// use serde::Deserialize;
///
/// /// `echo: { text: … }`
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     text: Located<String>,
/// }
///
/// impl Configure for Config {
///     type Plan = dyn InputPlan;
///
///     fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
///         if self.text.is_empty() {
///             cx.error_at(&self.text, "the text is empty");
///         }
///         Some(Box::new(Echo))
///     }
/// }
///
/// struct Echo;
///
/// #[async_trait]
/// impl InputPlan for Echo {
///     async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
///         let reason = "this example has no voice".to_owned();
///         Err(BuildError { component: cx.label.clone(), reason })
///     }
/// }
///
/// const INPUTS: &[InputSpec] =
///     &[Spec::new::<Config>("echo", "Says a text.", &["echo: { text: hello }"])];
/// # #[derive(Deserialize)]
/// # struct Nowhere {}
/// # impl Configure for Nowhere {
/// #     type Plan = dyn OutputPlan;
/// #     fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
/// #         Some(Box::new(Self {}))
/// #     }
/// # }
/// # #[async_trait]
/// # impl OutputPlan for Nowhere {
/// #     async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
/// #         let reason = "this example has no place".to_owned();
/// #         Err(BuildError { component: cx.label.clone(), reason })
/// #     }
/// # }
/// # const OUTPUTS: &[OutputSpec] = &[Spec::new::<Nowhere>("nowhere", "Takes all.", &[])];
///
/// let registry = Registry {
///     inputs: INPUTS,
///     buffers: &[],
///     processors: &[],
///     outputs: OUTPUTS,
///     default_input: "echo: { text: hello }",
///     default_output: "nowhere: {}",
/// };
/// let check = |text: &str| {
///     let source = Source { name: "c.yaml".to_owned(), text: text.to_owned(), dir: None };
///     load(&source, &[], &|_: &str| None, &registry).map(drop)
/// };
/// assert!(check("input:\n  echo: { text: hello }\n").is_ok());
/// let faults = check("input:\n  echo: { text: '' }\n").unwrap_err();
/// assert_eq!(faults[0].to_string(), "c.yaml:2:17: input.echo.text: the text is empty");
/// ```
#[derive(Clone, Copy)]
pub struct Registry {
    /// The inputs.
    pub inputs: &'static [InputSpec],
    /// The buffers.
    pub buffers: &'static [BufferSpec],
    /// The processors.
    pub processors: &'static [ProcessorSpec],
    /// The outputs.
    pub outputs: &'static [OutputSpec],
    /// The input that a blank `input:` stands for.
    pub default_input: &'static str,
    /// The output that a blank `output:` stands for.
    pub default_output: &'static str,
}

/// A text that was read: the file, a default, an override.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) interpolated: Interpolated,
    /// Whether places in it mean something to a person.
    pub(crate) has_places: bool,
    pub(crate) dir: Option<PathBuf>,
}

/// Everything that can be found by its number.
pub(crate) struct Index<'a> {
    pub(crate) nodes: HashMap<u64, (&'a Node, String)>,
    /// Resources by kind and label.
    pub(crate) resources: HashMap<(&'static str, &'a str), &'a Node>,
}

/// Where a component is being checked, and what was found wrong so far.
pub struct PlanContext<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) texts: &'a [Text],
    pub(crate) index: &'a Index<'a>,
    pub(crate) found: Vec<Diagnostic>,
    /// The component at hand: its node, and its label if it has one.
    pub(crate) current: Option<(&'a Node, Option<String>)>,
    /// Labels that were used, with the place of each.
    pub(crate) labels: HashMap<String, Place>,
    /// Resources whose insides are being checked, against a resource that contains itself.
    pub(crate) resolving: Vec<(&'static str, &'a str)>,
    /// Resources that something referred to, by their nodes.
    pub(crate) used: HashSet<u64>,
    /// How many components there are, resources counted wherever they are used, and how deep the one
    /// at hand is nested.
    pub(crate) components: usize,
    pub(crate) depth: usize,
    /// What is known of the messages that come to the component at hand.
    pub(crate) foreseen: Foreseen,
    /// What is read of the content that the input gives messages, as far as components were looked
    /// at.
    pub(crate) reads: Reads,
    /// Whether the input keeps objects as long as they live.
    pub(crate) keeps_objects: bool,
    /// Whether the component at hand said what it reads.
    pub(crate) declared: bool,
    /// The outputs that post events, as far as they were looked at.
    pub(crate) posts: Vec<Post>,
    /// How many outputs were looked at that hold no others.
    pub(crate) leaves: usize,
    /// An input that keeps messages itself: its type, its place in the configuration and where it
    /// keeps them.
    pub(crate) keeper: Option<(&'static str, String, &'static str)>,
}

impl<'a> PlanContext<'a> {
    /// The context before any component was looked at.
    pub(crate) fn new(registry: &'a Registry, texts: &'a [Text], index: &'a Index<'a>) -> Self {
        Self {
            registry,
            texts,
            index,
            found: Vec::new(),
            current: None,
            labels: HashMap::new(),
            resolving: Vec::new(),
            used: HashSet::new(),
            components: 0,
            depth: 0,
            foreseen: Foreseen::default(),
            reads: Reads::default(),
            keeps_objects: false,
            declared: false,
            posts: Vec::new(),
            leaves: 0,
            keeper: None,
        }
    }
}
