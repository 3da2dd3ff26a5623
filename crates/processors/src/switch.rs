//! `switch`: processors for messages that pass a check.
//!
//! The first case whose check is true runs; with `fallthrough` the next one runs as well. If no check is
//! true, the message passes unchanged. A check that fails flags the message.

use std::sync::Arc;

use meterline_config::{Child, Configure, Located, PlanContext, ProcessorSpec, Spec};
use meterline_core::{
    Batch, BuildContext, BuildError, Drops, Processor, ProcessorPlan, Reads, foreseen::Foreseen,
};
use meterline_script::{Engine, Expression, Limits};
use serde::Deserialize;

use crate::chain::{self, Chain, ChainPlan};

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "switch",
    "Runs the processors of the first case whose check is true.",
    &[
        "switch:\n  - check: 'this.kind == \"a\"'\n    processors:\n      - mapping: 'root = deleted()'\n  - processors:\n      - noop: {}\n",
    ],
);

/// Configuration of `switch`: the cases.
#[derive(Debug, Deserialize)]
pub(crate) struct Config(Vec<CaseConfig>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseConfig {
    /// A Rhai expression that returns true or false. Default: true.
    #[serde(default)]
    check: Option<Located<String>>,
    /// The processors that run when it is true.
    #[serde(default)]
    processors: Vec<Child>,
    /// Whether the next case runs as well, regardless of its check.
    #[serde(default)]
    fallthrough: bool,
}

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        cx.reads(&Reads::default());
        let engine = Engine::new(Limits::default());
        let before = cx.foreseen().clone();
        // What is known about the messages after all cases so far, and about those that fall through.
        let mut after: Option<Foreseen> = None;
        let mut falling: Option<Foreseen> = None;
        let mut takes_all = false;
        let cases: Vec<_> = self
            .0
            .into_iter()
            .map(|case| {
                let check = match case.check.filter(|it| !it.value.trim().is_empty()) {
                    None => Some(None),
                    Some(source) => engine.plan_expression(&source, cx).map(|expression| {
                        cx.reads(expression.reads());
                        Some(Arc::new(expression))
                    }),
                };
                takes_all |= matches!(check, Some(None));
                let start = match falling.take() {
                    Some(falling) => before.clone().join(falling),
                    None => before.clone(),
                };
                cx.foresee(start);
                let processors = cx.processors(&case.processors);
                let known = cx.foreseen().clone();
                if case.fallthrough {
                    falling = Some(known);
                } else {
                    after = Some(join(after.take(), known));
                }
                Some(CasePlan {
                    check: check?,
                    processors: processors?,
                    fallthrough: case.fallthrough,
                })
            })
            .collect();
        if !takes_all {
            after = Some(join(after, before.clone()));
        }
        if let Some(falling) = falling {
            after = Some(join(after, falling));
        }
        cx.foresee(after.unwrap_or(before));
        Some(Box::new(Plan {
            cases: cases.into_iter().collect::<Option<_>>()?,
            path: cx.path(),
        }))
    }
}

fn join(one: Option<Foreseen>, other: Foreseen) -> Foreseen {
    match one {
        Some(one) => one.join(other),
        None => other,
    }
}

struct CasePlan {
    check: Option<Arc<Expression>>,
    processors: ChainPlan,
    fallthrough: bool,
}

struct Plan {
    cases: Vec<CasePlan>,
    path: Arc<str>,
}

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        let cases = self
            .cases
            .iter()
            .map(|case| {
                Ok(Case {
                    check: case.check.clone(),
                    processors: chain::build(&case.processors, cx)?,
                    fallthrough: case.fallthrough,
                })
            })
            .collect::<Result<_, BuildError>>()?;
        Ok(Box::new(Switch {
            cases,
            path: Arc::clone(&self.path),
        }))
    }
}

struct Case {
    check: Option<Arc<Expression>>,
    processors: Chain,
    fallthrough: bool,
}

struct Switch {
    cases: Vec<Case>,
    path: Arc<str>,
}

impl Processor for Switch {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        let mut passed = Batch::with_capacity(batch.len());
        for mut message in batch {
            let mut chosen = None;
            for (index, case) in self.cases.iter().enumerate() {
                match case
                    .check
                    .as_ref()
                    .map_or(Ok(true), |it| it.check(&message))
                {
                    Ok(true) => {
                        chosen = Some(index);
                        break;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        message.fail(Arc::clone(&self.path), format!("check {index}: {error}"));
                        break;
                    }
                }
            }
            let mut going = vec![message];
            for case in self.cases.iter_mut().skip(chosen.unwrap_or(usize::MAX)) {
                going = case.processors.process(going, drops);
                if !case.fallthrough {
                    break;
                }
            }
            passed.extend(going);
        }
        passed
    }
}
