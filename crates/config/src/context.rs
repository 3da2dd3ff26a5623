//! The declaration of a component, and the context in which a configuration is checked.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use meterline_core::{
    BufferPlan, Extensions, InputPlan, OutputPlan, ProcessorPlan, Reads, foreseen::Foreseen,
};
use serde::de::DeserializeOwned;

use crate::{
    diagnostic::{Diagnostic, Place},
    interpolate::Interpolated,
    node::Node,
    post::Post,
    replaced::Replaced,
};

/// The fields of a component in a configuration. Derive `Deserialize` with `deny_unknown_fields`.
pub trait Configure: DeserializeOwned {
    /// The plan: `dyn InputPlan`, `dyn ProcessorPlan` or `dyn OutputPlan`.
    type Plan: ?Sized + 'static;

    /// Checks and compiles everything that needs no I/O except reading files. Reports errors to `cx`;
    /// returns `None` when there can be no plan.
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<Self::Plan>>;
}

type PlanFn<P> = fn(&Node, &mut PlanContext<'_>) -> Option<Box<P>>;

/// The declaration of a component.
pub struct Spec<P: ?Sized + 'static> {
    /// The name in a configuration.
    pub name: &'static str,
    /// What the component does, in one sentence.
    pub summary: &'static str,
    /// Examples of the whole component in YAML. Each passes lint.
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
    /// "in memory". Such an input must not feed such a buffer, because messages in the buffer would
    /// count as delivered for the input.
    #[must_use]
    pub const fn keeps(mut self, place: &'static str) -> Self {
        self.keeps = Some(place);
        self
    }
}

/// All components, and the defaults for a blank `input:` or `output:` (YAML of one component).
///
/// A component consists of its configuration, its plan, and a line in a list:
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
///         let reason = "this example does not run".to_owned();
///         Err(BuildError { component: cx.label.clone(), reason })
///     }
/// }
///
/// const INPUTS: &[InputSpec] =
///     &[Spec::new::<Config>("echo", "Emits a text.", &["echo: { text: hello }"])];
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
/// #         let reason = "this example does not run".to_owned();
/// #         Err(BuildError { component: cx.label.clone(), reason })
/// #     }
/// # }
/// # const OUTPUTS: &[OutputSpec] = &[Spec::new::<Nowhere>("nowhere", "Drops everything.", &[])];
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
/// let errors = check("input:\n  echo: { text: '' }\n").unwrap_err();
/// assert_eq!(errors[0].to_string(), "c.yaml:2:17: input.echo.text: the text is empty");
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
    /// The default for a blank `input:`.
    pub default_input: &'static str,
    /// The default for a blank `output:`.
    pub default_output: &'static str,
}

/// A source text: the file, a default or an override.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) interpolated: Interpolated,
    /// Whether the user can locate places in it.
    pub(crate) has_places: bool,
    pub(crate) dir: Option<PathBuf>,
}

/// Lookup tables over the tree.
pub(crate) struct Index<'a> {
    /// Nodes and their paths by number.
    pub(crate) nodes: HashMap<u64, (&'a Node, String)>,
    /// Resources by kind and label.
    pub(crate) resources: HashMap<(&'static str, &'a str), &'a Node>,
}

/// The state of checking a configuration: the current component, and the errors and warnings so far.
pub struct PlanContext<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) texts: &'a [Text],
    pub(crate) index: &'a Index<'a>,
    pub(crate) found: Vec<Diagnostic>,
    /// The current component: its node, and its label if it has one.
    pub(crate) current: Option<(&'a Node, Option<String>)>,
    /// The labels so far, with the place of each.
    pub(crate) labels: HashMap<String, Place>,
    /// The resources that are being checked, to detect a resource that contains itself.
    pub(crate) resolving: Vec<(&'static str, &'a str)>,
    /// The nodes of resources that something refers to.
    pub(crate) used: HashSet<u64>,
    /// The number of components so far, counting a resource each time it is used.
    pub(crate) components: usize,
    /// The nesting depth of the current component.
    pub(crate) depth: usize,
    /// What is known about the messages that reach the current component.
    pub(crate) foreseen: Foreseen,
    /// The paths of the tables that mappings look values up in, by name.
    pub(crate) tables: BTreeMap<String, PathBuf>,
    /// What the components so far read of the content that the input gives messages.
    pub(crate) reads: Reads,
    /// Whether the input keeps objects for as long as they exist.
    pub(crate) keeps_objects: bool,
    /// The inputs whose own processors replaced the content of their messages.
    pub(crate) replaced: Replaced,
    /// Whether the current component has declared what it reads.
    pub(crate) declared: bool,
    /// The outputs so far that post events.
    pub(crate) posts: Vec<Post>,
    /// The number of outputs so far that contain no other outputs.
    pub(crate) leaves: usize,
    /// An input that keeps messages itself: its type, its path and where it keeps them.
    pub(crate) keeper: Option<(&'static str, String, &'static str)>,
    /// The nodes of the inputs so far.
    pub(crate) inputs: HashSet<u64>,
    /// What components of one process share.
    pub(crate) shared: Extensions,
}

impl<'a> PlanContext<'a> {
    /// Returns the context before any component is checked.
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
            tables: BTreeMap::new(),
            reads: Reads::default(),
            keeps_objects: false,
            replaced: Replaced::default(),
            declared: false,
            posts: Vec::new(),
            leaves: 0,
            keeper: None,
            inputs: HashSet::new(),
            shared: Extensions::default(),
        }
    }

    /// Returns the value of this type that all components of the process share.
    pub fn shared<T: Default + Any + Send + Sync>(&mut self) -> Arc<T> {
        if let Some(value) = self.shared.get::<T>() {
            return value;
        }
        self.shared = std::mem::take(&mut self.shared).with(T::default());
        self.shared.get().unwrap_or_default()
    }

    /// Forgets what components so far are part of one process, before a component that is part of none is
    /// checked.
    pub(crate) fn leave_process(&mut self) {
        self.foreseen = Foreseen::default();
        self.keeps_objects = false;
        self.replaced = Replaced::default();
        self.inputs.clear();
        self.shared = Extensions::default();
    }
}
