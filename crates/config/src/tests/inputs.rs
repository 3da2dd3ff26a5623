//! Several inputs of one process: what is read of each, and what is reported.

use std::cell::RefCell;

use meterline_core::{Reads, foreseen::Foreseen};

use super::*;

thread_local! {
    /// The names of the inputs that were planned since the last clear, each with what it was told is read of it.
    static READ: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

/// An input of this name; one of `usage` keeps objects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    name: String,
    #[serde(default)]
    usage: bool,
}

impl Configure for Source {
    type Plan = dyn InputPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        if self.usage {
            cx.foresee(Foreseen::usage());
        }
        Some(Box::new(self))
    }
}

#[async_trait]
impl InputPlan for Source {
    fn take_reads(&mut self, reads: &Reads) {
        let read = (self.name.clone(), reads.to_string());
        READ.with_borrow_mut(|all| all.push(read));
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        InputPlan::build(Box::new(Plan), cx).await
    }
}

struct All(Vec<Box<dyn InputPlan>>);

#[async_trait]
impl InputPlan for All {
    fn take_reads(&mut self, reads: &Reads) {
        self.0.iter_mut().for_each(|it| it.take_reads(reads));
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        InputPlan::build(Box::new(Plan), cx).await
    }
}

#[derive(Debug, Deserialize)]
struct Several(Vec<Child>);

impl Configure for Several {
    type Plan = dyn InputPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        let inputs = cx.inputs(&self.0).into_iter();
        Some(Box::new(All(inputs.collect::<Option<_>>()?)))
    }
}

/// Reads these paths; `replace` also replaces the content.
#[derive(Debug, Deserialize)]
struct Read(Vec<String>);
#[derive(Debug, Deserialize)]
struct Replace(Vec<String>);

fn read(paths: &[String], cx: &mut PlanContext<'_>) {
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    cx.reads(&Reads::of(&paths));
}

impl Configure for Read {
    type Plan = dyn ProcessorPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        read(&self.0, cx);
        Some(Box::new(Plan))
    }
}

impl Configure for Replace {
    type Plan = dyn ProcessorPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        read(&self.0, cx);
        cx.foresee(Foreseen {
            is_original: false,
            ..cx.foreseen().clone()
        });
        Some(Box::new(Plan))
    }
}

/// Runs processors on messages that failed.
#[derive(Debug, Deserialize)]
struct Aside(Vec<Child>);

impl Configure for Aside {
    type Plan = dyn ProcessorPlan;
    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        cx.aside(|cx| cx.processors(&self.0))?;
        Some(Box::new(Plan))
    }
}

/// Reads everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sink {}

impl Configure for Sink {
    type Plan = dyn OutputPlan;
    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        Some(Box::new(Plan))
    }
}

const INPUTS: &[InputSpec] = &[
    Spec::new::<Source>("source", "Test.", &[]),
    Spec::new::<Several>("several", "Test.", &[]),
];
const PROCESSORS: &[ProcessorSpec] = &[
    Spec::new::<Read>("read", "Test.", &[]),
    Spec::new::<Replace>("replace", "Test.", &[]),
    Spec::new::<Aside>("aside", "Test.", &[]),
];
const OUTPUTS: &[OutputSpec] = &[Spec::new::<Sink>("sink", "Test.", &[])];
const REGISTRY: Registry = Registry {
    inputs: INPUTS,
    buffers: &[],
    processors: PROCESSORS,
    outputs: OUTPUTS,
    default_input: "",
    default_output: "sink: {}",
};

/// What is read of each input, in the order of their names, and what is reported.
fn planned(input: &str, pipeline: &str) -> (Vec<(String, String)>, Vec<String>) {
    let source = super::Source {
        name: "c".to_owned(),
        text: format!("input: {input}\npipeline: {{processors: {pipeline}}}\n"),
        dir: None,
    };
    READ.with_borrow_mut(Vec::clear);
    let found = match load(&source, &[], &|_: &str| None, &REGISTRY) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors,
    };
    let mut all = READ.take();
    all.sort();
    (all, found.iter().map(ToString::to_string).collect())
}

/// Processors beside an input, and processors of the pipeline.
const OWN: [&str; 6] = [
    "[]",
    "[read: [a.b]]",
    "[replace: [a, labels.x^]]",
    "[{replace: [a]}, {aside: []}]",
    "[{replace: [a]}, {aside: [{replace: [b, c.y^]}]}, {read: [d.z^]}]",
    "[{read: ['']}, {replace: [e]}]",
];
const BEHIND: [&str; 8] = [
    "[]",
    "[read: [f, g.p^]]",
    "[read: ['']]",
    "[replace: [h]]",
    "[{aside: []}, {read: [i]}]",
    "[{aside: [{read: ['']}]}]",
    "[{aside: [{replace: [j]}]}, {replace: [k]}, {aside: []}]",
    "[{replace: [l]}, {read: [m.q^]}]",
];

/// Whatever its neighbours do: otherwise a state file would have too little for it, or be of another configuration.
#[test]
fn what_is_read_of_an_input_beside_others_is_what_is_read_of_it_alone() {
    let source = |name: usize, own: &str| {
        format!("{{source: {{name: s{name}, usage: true}}, processors: {own}}}")
    };
    let mut cases = 0;
    for behind in BEHIND {
        let alone = OWN.map(|own| planned(&source(0, own), behind).0.remove(0).1);
        for (one, own) in OWN.iter().enumerate() {
            for (other, beside) in OWN.iter().enumerate() {
                let (a, b) = (source(1, own), source(2, beside));
                let expected = [("s1", &alone[one]), ("s2", &alone[other])];
                let expected = expected.map(|(name, read)| (name.to_owned(), read.clone()));
                // Side by side, and one of them in an inner list with a processor behind.
                let (read, found) = planned(&format!("{{several: [{a}, {b}]}}"), behind);
                assert_eq!(read, expected, "{own} beside {beside}, before {behind}");
                let inner = format!("{{several: [{{several: [{a}]}}, {b}]}}");
                assert_eq!(planned(&inner, behind).0, expected, "{inner} {behind}");
                let warned = |own| planned(&source(0, own), behind).1;
                let is_warned = [own, beside].iter().any(|it| !warned(it).is_empty());
                assert_eq!(!found.is_empty(), is_warned, "{a} {b} {behind}: {found:?}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, OWN.len() * OWN.len() * BEHIND.len());
}

#[test]
fn an_input_that_keeps_nothing_does_not_let_another_keep_everything() {
    let lines = "{source: {name: lines}}";
    let pods = "{source: {name: pods, usage: true}, processors: [{replace: [a]}]}";
    let (read, found) = planned(&format!("{{several: [{lines}, {pods}]}}"), "[read: [b]]");
    let expected = [("lines", "everything"), ("pods", "a, b")];
    let expected = expected.map(|(name, read)| (name.to_owned(), read.to_owned()));
    assert_eq!((read, found), (expected.to_vec(), Vec::new()));
}

#[test]
fn an_input_that_is_used_twice_is_refused() {
    let source = super::Source {
        name: "c".to_owned(),
        text: "input: {several: [{resource: a}, {resource: a}]}\ninput_resources: [{label: a, source: {name: x}}, {label: b, several: [{resource: a}]}]\n".to_owned(),
        dir: None,
    };
    let found = load(&source, &[], &|_: &str| None, &REGISTRY)
        .err()
        .unwrap();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(found.join("\n"), @r"
    c:1:34: input.several.1: the input `a` is used already, and each message of it would arrive twice; remove this, or write another input with its own label
    c:2:50: warning: input_resources.1: nothing uses this input; refer to it with `resource: b` or remove it
    ");
}
