//! A script that returns a value.

use meterline_core::{Document, Message, Reads};
use rhai::{Dynamic, Scope};

use crate::{Engine, RunError, ScriptError, convert, error::type_name, script::Script};

/// A compiled expression.
pub struct Expression {
    script: Script,
    /// The value, if it is the same for every message.
    constant: Option<Dynamic>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression").finish_non_exhaustive()
    }
}

impl Engine {
    /// Compiles an expression, such as the `check` of a `switch`.
    ///
    /// # Errors
    /// Every error that can be found without a message.
    pub fn compile_expression(&self, source: &str) -> Result<Expression, Vec<ScriptError>> {
        Expression::compile(self, source)
    }
}

impl Expression {
    fn compile(engine: &Engine, source: &str) -> Result<Self, Vec<ScriptError>> {
        Self::compile_at(engine, source, (1, 1))
    }

    /// Compiles an expression that starts at this line and column of a larger text.
    pub(crate) fn compile_at(
        engine: &Engine,
        source: &str,
        place: (usize, usize),
    ) -> Result<Self, Vec<ScriptError>> {
        if source.trim().is_empty() {
            return Err(vec![ScriptError {
                line: place.0,
                column: place.1,
                message: "an expression is missing".into(),
                help: None,
            }]);
        }
        let script = Script::compile(engine, source, place)?;
        if !script.analysis.assignments.is_empty() {
            return Err(script.analysis.assignments);
        }
        // A constant that fails is evaluated for each message, which then gets the error.
        let constant = script
            .analysis
            .is_constant()
            .then(|| {
                let outcome = script.run(&mut Message::raw("null"), |_| Scope::new());
                outcome.ok().map(|done| done.value)
            })
            .flatten();
        Ok(Self { script, constant })
    }

    fn run(&self, message: &Message) -> Result<Dynamic, RunError> {
        match &self.constant {
            Some(value) => Ok(value.clone()),
            None => Ok(self
                .script
                .run(&mut message.clone(), |_| Scope::new())?
                .value),
        }
    }

    /// Evaluates the expression for `message`.
    ///
    /// # Errors
    /// When the script fails, or its value is not JSON.
    pub fn evaluate(&self, message: &Message) -> Result<Document, RunError> {
        let value = self.run(message)?;
        convert::to_document(&value).map_err(RunError::nowhere)
    }

    /// Evaluates the expression to text: text stays as it is, anything else becomes JSON.
    ///
    /// # Errors
    /// As [`Expression::evaluate`].
    pub fn text(&self, message: &Message) -> Result<String, RunError> {
        let value = self.run(message)?;
        convert::to_plain_text(&value).map_err(RunError::nowhere)
    }

    /// Evaluates an expression that must be true or false.
    ///
    /// # Errors
    /// When the script fails or returns anything else.
    pub fn check(&self, message: &Message) -> Result<bool, RunError> {
        let value = self.run(message)?;
        value.as_bool().map_err(|got| {
            RunError::nowhere(format!(
                "a check must return true or false, but this returns {}",
                type_name(got)
            ))
        })
    }

    /// Returns the value of a check that is the same for every message.
    #[must_use]
    pub fn fixed(&self) -> Option<bool> {
        self.constant.as_ref()?.as_bool().ok()
    }

    /// Returns what the expression reads of the content.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.script.analysis.reads
    }

    /// The tables that the expression looks up by name: the message of each is the name.
    pub(crate) fn tables(&self) -> &[ScriptError] {
        &self.script.analysis.tables
    }

    /// Whether the value depends only on the message.
    #[must_use]
    pub fn is_pure(&self) -> bool {
        self.script.analysis.is_pure
    }
}
