//! `switch`: each message to the outputs whose checks it passes.
//!
//! The first case whose check is true takes the message; with `continue` the following are looked
//! at as well. A check that cannot be evaluated rejects the message, and so does, unlike in Benthos,
//! a message that no case takes: events that vanish are revenue that vanishes. Set `strict_mode` to
//! false to have such messages dropped.

use std::sync::Arc;

use async_trait::async_trait;
use meterline_config::{Child, Configure, Cx, Located, OutputSpec, Spec};
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
    /// Looked at in order.
    cases: Located<Vec<CaseConfig>>,
    /// Whether a message that no case takes is rejected; else it is dropped.
    #[serde(default = "yes")]
    strict_mode: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseConfig {
    /// A Rhai expression that is true or false. None or blank: always true.
    #[serde(default)]
    check: Option<Located<String>>,
    /// Whether the following cases are looked at as well.
    #[serde(default, rename = "continue")]
    goes_on: bool,
    /// Where the message goes.
    output: Child,
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, cx: &mut Cx<'_>) -> Option<Box<dyn OutputPlan>> {
        if self.cases.is_empty() {
            cx.error_at(&self.cases, "at least one case is needed");
            return None;
        }
        let engine = Engine::new(Limits::default());
        let mut cases = Vec::with_capacity(self.cases.value.len());
        let mut outputs = Vec::with_capacity(self.cases.value.len());
        let mut whole = true;
        for case in self.cases.value {
            let check = case.check.filter(|it| !it.value.trim().is_empty());
            let check = check.and_then(|source| match engine.compile_expression(&source.value) {
                Ok(expression) => Some(expression),
                Err(errors) => {
                    whole = false;
                    for error in errors {
                        cx.error_in(&source, error.line, error.column, error.message);
                    }
                    None
                }
            });
            cases.push(Case {
                check,
                goes_on: case.goes_on,
            });
            outputs.push(cx.output(case.output));
        }
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
    fn the_first_case_takes_it_unless_it_goes_on() {
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
    fn what_no_case_takes_is_rejected_or_dropped() {
        let message = Message::value(&json!({"a": 2}));
        let cases = [("this.a == 1", false)];
        assert!(matches!(
            switch(&cases, true).route(&message),
            Routing::Reject(_)
        ));
        assert_eq!(switch(&cases, false).route(&message), Routing::To(vec![]));
    }

    #[test]
    fn a_check_that_fails_rejects() {
        let switch = switch(&[("this.a.b.c == 1", false)], false);
        assert!(matches!(
            switch.route(&Message::value(&json!({}))),
            Routing::Reject(_)
        ));
    }
}
