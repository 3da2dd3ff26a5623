//! Scripts in the fields of a configuration: compiles them, and reports what is wrong with them.

use meterline_config::{Diagnostic, Located, Place, PlanContext, Severity};

use crate::{Engine, Expression, Mapping, ScriptError, Template};

impl Engine {
    /// Compiles the mapping in a field. Returns `None` after reporting its errors to `cx`.
    pub fn plan_mapping(
        &self,
        source: &Located<String>,
        cx: &mut PlanContext<'_>,
    ) -> Option<Mapping> {
        or_report(self.compile_mapping(&source.value), source, cx)
    }

    /// Compiles the expression in a field. Returns `None` after reporting its errors to `cx`.
    pub fn plan_expression(
        &self,
        source: &Located<String>,
        cx: &mut PlanContext<'_>,
    ) -> Option<Expression> {
        or_report(self.compile_expression(&source.value), source, cx)
    }

    /// Compiles the template in a field. Returns `None` after reporting its errors to `cx`.
    pub fn plan_template(
        &self,
        source: &Located<String>,
        cx: &mut PlanContext<'_>,
    ) -> Option<Template> {
        or_report(self.compile_template(&source.value), source, cx)
    }
}

impl Mapping {
    /// Reports as warnings what works in the mapping of a field but is likely a mistake.
    pub fn report_lints(&self, source: &Located<String>, cx: &mut PlanContext<'_>) {
        for lint in self.lints() {
            cx.warning_in(source, lint.line, lint.column, lint.text());
        }
    }
}

/// Returns what was compiled, or reports every error with its place in the configuration and its
/// remedy.
fn or_report<T>(
    compiled: Result<T, Vec<ScriptError>>,
    source: &Located<String>,
    cx: &mut PlanContext<'_>,
) -> Option<T> {
    match compiled {
        Ok(compiled) => Some(compiled),
        Err(errors) => {
            for error in errors {
                cx.error_in(source, error.line, error.column, error.text());
            }
            None
        }
    }
}

impl ScriptError {
    /// The error as a diagnostic of a script that is in no configuration. `file` names its source.
    #[must_use]
    pub fn diagnostic(&self, file: &str) -> Diagnostic {
        Diagnostic {
            file: file.to_owned(),
            place: Some(Place {
                line: self.line,
                column: self.column,
            }),
            path: String::new(),
            severity: Severity::Error,
            message: self.text(),
        }
    }
}
