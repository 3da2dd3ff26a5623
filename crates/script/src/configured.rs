//! Scripts in the fields of a configuration: compiles them, and reports what is wrong with them.

use meterline_config::{Diagnostic, Located, Place, PlanContext, Severity};

use crate::{
    Engine, Expression, Mapping, ScriptError, Template, lookups::TABLE, table::TableFormat,
};

impl Engine {
    /// Compiles the mapping in a field. Returns `None` after reporting its errors to `cx`.
    pub fn plan_mapping(
        &self,
        source: &Located<String>,
        cx: &mut PlanContext<'_>,
    ) -> Option<Mapping> {
        let mapping = or_report(self.compile_mapping(&source.value), source, cx)?;
        check_tables(mapping.tables(), source, cx).then_some(mapping)
    }

    /// Compiles the expression in a field. Returns `None` after reporting its errors to `cx`.
    pub fn plan_expression(
        &self,
        source: &Located<String>,
        cx: &mut PlanContext<'_>,
    ) -> Option<Expression> {
        let expression = or_report(self.compile_expression(&source.value), source, cx)?;
        check_tables(expression.tables(), source, cx).then_some(expression)
    }

    /// Compiles the template in a field. Returns `None` after reporting its errors to `cx`.
    pub fn plan_template(
        &self,
        source: &Located<String>,
        cx: &mut PlanContext<'_>,
    ) -> Option<Template> {
        let template = or_report(self.compile_template(&source.value), source, cx)?;
        let tables = template.expressions().flat_map(|it| it.tables());
        let tables: Vec<_> = tables.cloned().collect();
        check_tables(&tables, source, cx).then_some(template)
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

/// Checks that the tables that a script names exist in the configuration. Reports those that do not.
fn check_tables(
    tables: &[ScriptError],
    source: &Located<String>,
    cx: &mut PlanContext<'_>,
) -> bool {
    let mut is_right = true;
    for ScriptError {
        line,
        column,
        message: name,
        ..
    } in tables
    {
        let error = match (name.strip_prefix(TABLE), cx.tables().get(name)) {
            (Some(path), _) => TableFormat::of(path).err(),
            (None, Some(path)) => TableFormat::of(&path.to_string_lossy()).err(),
            (None, None) => {
                let known = cx.tables().keys().map(String::as_str);
                let remedy = match meterline_core::nearest(name, known) {
                    Some(known) => format!("is it `{known}`?"),
                    None => format!("add it: `tables: {{ {name}: {{ path: {name}.csv }} }}`"),
                };
                Some(format!("there is no table `{name}`; {remedy}"))
            }
        };
        if let Some(error) = error {
            is_right = false;
            cx.error_in(source, *line, *column, error);
        }
    }
    is_right
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
