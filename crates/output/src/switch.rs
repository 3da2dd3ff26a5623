//! `switch`: sends each message to the outputs whose checks it passes.
//!
//! The first case whose check is true takes the message. With `continue` the following cases are
//! checked as well. A check that cannot be evaluated rejects the message. Unlike in Benthos, a
//! message that no case takes is rejected as well, because a lost event is lost revenue. Set
//! `strict_mode` to false to have such messages dropped.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Child, Configure, Located, OutputSpec, Overlap, PlanContext, Spec};
use meterline_core::{BuildContext, BuildError, Message, OutputNode, OutputPlan, Router, Routing};
use meterline_script::{Engine, Expression, Limits};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "switch",
    "Sends each message to the outputs whose checks it passes.",
    &[
        "switch:\n  cases:\n    - check: 'this.type == \"a\"'\n      continue: true\n      output:\n        stdout: {}\n    - output:\n        drop: {}\n",
    ],
);

/// Configuration of `switch`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The cases, which are checked in order.
    cases: Located<Vec<CaseConfig>>,
    /// Whether a message that no case takes is rejected. Otherwise it is dropped.
    #[serde(default = "yes")]
    strict_mode: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseConfig {
    /// A Rhai expression that is true or false. A missing or blank one is always true.
    #[serde(default)]
    check: Option<Located<String>>,
    /// Whether the following cases are checked as well.
    #[serde(default, rename = "continue")]
    goes_on: bool,
    /// The output that the message goes to.
    output: Child,
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        if self.cases.is_empty() {
            cx.error_at(&self.cases, "at least one case is needed");
            return None;
        }
        let engine = Engine::new(Limits::default());
        let mut cases = Vec::with_capacity(self.cases.value.len());
        let mut children = Vec::with_capacity(self.cases.value.len());
        let mut reach = Vec::with_capacity(self.cases.value.len());
        let mut whole = true;
        for case in self.cases.value {
            let source = case.check.filter(|it| !it.value.trim().is_empty());
            let check = source.as_ref().and_then(|it| compile(&engine, it, cx));
            whole &= check.is_some() == source.is_some();
            reach.push(Reach {
                takes: Takes::of(source.as_ref(), check.as_ref()),
                goes_on: case.goes_on,
            });
            cases.push(Case {
                check,
                goes_on: case.goes_on,
            });
            children.push(case.output);
        }
        let outputs = cx.outputs(&children, |one, other| overlap(&reach, one, other));
        let outputs = outputs.into_iter().collect::<Option<_>>()?;
        whole.then_some(Box::new(Plan {
            router: Switch {
                cases,
                strict: self.strict_mode,
            },
            outputs,
        }) as Box<dyn OutputPlan>)
    }
}

fn compile(
    engine: &Engine,
    source: &Located<String>,
    cx: &mut PlanContext<'_>,
) -> Option<Expression> {
    let expression = engine.plan_expression(source, cx)?;
    cx.reads(expression.reads());
    Some(expression)
}

/// Which messages a case takes, as far as its check shows.
#[derive(Debug, PartialEq, Eq)]
enum Takes {
    All,
    None,
    /// Those that pass this check.
    Some(String),
}

impl Takes {
    fn of(source: Option<&Located<String>>, check: Option<&Expression>) -> Self {
        match (source, check.map(Expression::fixed)) {
            (None, _) | (_, Some(Some(true))) => Self::All,
            // If it does not compile, an error is reported already.
            (Some(_), None | Some(Some(false))) => Self::None,
            (Some(source), Some(None)) => Self::Some(source.value.trim().to_owned()),
        }
    }
}

struct Reach {
    takes: Takes,
    goes_on: bool,
}

/// Whether a message can reach both cases; `one` precedes `other`.
fn overlap(cases: &[Reach], one: usize, other: usize) -> Overlap {
    let between = cases.get(one + 1..other).unwrap_or_default();
    let (Some(first), Some(second)) = (cases.get(one), cases.get(other)) else {
        return Overlap::Never;
    };
    let ends = |case: &Reach| case.takes == Takes::All && !case.goes_on;
    if !first.goes_on || between.iter().any(ends) {
        return Overlap::Never;
    }
    match (&first.takes, &second.takes) {
        (Takes::None, _) | (_, Takes::None) => Overlap::Never,
        (Takes::All, _) | (_, Takes::All) => Overlap::Surely,
        (one, other) if one == other => Overlap::Surely,
        _ => Overlap::Perhaps,
    }
}

struct Plan {
    router: Switch,
    outputs: Vec<Box<dyn OutputPlan>>,
}

#[async_trait]
impl OutputPlan for Plan {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let mut children = Vec::with_capacity(self.outputs.len());
        for output in self.outputs {
            children.push(output.build(cx).await?);
        }
        Ok(OutputNode::Route {
            label: Arc::clone(&cx.label),
            router: Box::new(self.router),
            children,
        })
    }
}

struct Case {
    check: Option<Expression>,
    goes_on: bool,
}

struct Switch {
    cases: Vec<Case>,
    strict: bool,
}

impl Router for Switch {
    fn route(&self, message: &Message) -> Routing {
        let mut chosen = Vec::new();
        for (index, case) in self.cases.iter().enumerate() {
            match case.check.as_ref().map_or(Ok(true), |it| it.check(message)) {
                Ok(true) => {
                    chosen.push(index);
                    if !case.goes_on {
                        break;
                    }
                }
                Ok(false) => {}
                Err(error) => {
                    return Routing::Reject(format!("the check of case {index} failed: {error}"));
                }
            }
        }
        if chosen.is_empty() && self.strict {
            return Routing::Reject("no case of the switch takes this message".to_owned());
        }
        Routing::To(chosen)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn switch(cases: &[(&str, bool)], strict: bool) -> Switch {
        let engine = Engine::new(Limits::default());
        Switch {
            cases: cases
                .iter()
                .map(|(check, goes_on)| Case {
                    check: (!check.is_empty())
                        .then(|| engine.compile_expression(check).map_err(|_| ()).unwrap()),
                    goes_on: *goes_on,
                })
                .collect(),
            strict,
        }
    }

    #[test]
    fn the_first_matching_case_takes_a_message_unless_it_continues() {
        let switch = switch(
            &[("this.a == 1", true), ("this.a == 1", false), ("", false)],
            true,
        );
        assert_eq!(
            switch.route(&Message::value(&json!({"a": 1}))),
            Routing::To(vec![0, 1])
        );
        assert_eq!(
            switch.route(&Message::value(&json!({"a": 2}))),
            Routing::To(vec![2])
        );
    }

    #[test]
    fn two_cases_get_a_message_if_the_first_continues_and_no_case_between_ends_it() {
        let some = |check: &str| Takes::Some(check.to_owned());
        let reach =
            |cases: [(Takes, bool); 3]| cases.map(|(takes, goes_on)| Reach { takes, goes_on });
        let cases = reach([(some("a"), true), (Takes::All, false), (Takes::All, false)]);
        assert_eq!(overlap(&cases, 0, 1), Overlap::Surely);
        assert_eq!(overlap(&cases, 0, 2), Overlap::Never);
        assert_eq!(overlap(&cases, 1, 2), Overlap::Never);
        let cases = reach([(some("a"), true), (some("b"), true), (some("a"), false)]);
        assert_eq!(overlap(&cases, 0, 1), Overlap::Perhaps);
        assert_eq!(overlap(&cases, 0, 2), Overlap::Surely);
        let cases = reach([(Takes::All, true), (Takes::None, true), (some("a"), false)]);
        assert_eq!(overlap(&cases, 0, 1), Overlap::Never);
        assert_eq!(overlap(&cases, 0, 2), Overlap::Surely);
    }

    #[test]
    fn a_message_that_no_case_takes_is_rejected_or_dropped() {
        let message = Message::value(&json!({"a": 2}));
        let cases = [("this.a == 1", false)];
        assert!(matches!(
            switch(&cases, true).route(&message),
            Routing::Reject(_)
        ));
        assert_eq!(switch(&cases, false).route(&message), Routing::To(vec![]));
    }

    #[test]
    fn a_check_that_fails_rejects_the_message() {
        let switch = switch(&[("this.a.b.c == 1", false)], false);
        assert!(matches!(
            switch.route(&Message::value(&json!({}))),
            Routing::Reject(_)
        ));
    }
}
