//! A compiled script of any kind, and its runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use meterline_core::{Message, foreseen::Foreseen};
use rhai::{AST, CallFnOptions, Dynamic, EvalAltResult, Scope};

use crate::{
    Engine, RunError, ScriptError,
    analysis::{self, Analysis},
    context::Context,
    cpu,
    error::{self, Origin},
    foresee, materialise,
    notes::Note,
    paths::{self, BODY},
    prefix::Skipped,
    syntax::{self, Parsed},
};

/// How often a run is attempted that exceeds the limit of CPU time.
const ATTEMPTS: usize = 3;

/// The result of a run.
pub(crate) struct Done {
    /// The value of the last statement.
    pub(crate) value: Dynamic,
    /// The variables after the run.
    pub(crate) scope: Scope<'static>,
    /// What was omitted or truncated.
    pub(crate) notes: Vec<Note>,
}

/// Why a run stopped early.
enum Stopped {
    /// It exceeded the limit of CPU time.
    Timeout,
    Failed(RunError),
}

pub(crate) struct Script {
    engine: Engine,
    ast: AST,
    pub(crate) analysis: Analysis,
    pub(crate) origin: Origin,
}

impl Script {
    /// Compiles `source`, which starts at `line` and `column` of the surrounding text.
    pub(crate) fn compile(
        engine: &Engine,
        source: &str,
        (line, column): (usize, usize),
    ) -> Result<Self, Vec<ScriptError>> {
        let mut origin = Origin::new(source, line, column);
        let Parsed {
            ast,
            mut errors,
            blanked,
        } = syntax::parse(&engine.0.rhai, source, &origin);
        let Some(mut ast) = ast else {
            return Err(errors);
        };
        let analysis = match analysis::analyse(&ast, &origin, &blanked) {
            Ok(analysis) if errors.is_empty() => analysis,
            found => {
                errors.extend(found.err().unwrap_or_default());
                errors.sort_by_key(|error| (error.line, error.column));
                return Err(errors);
            }
        };
        let preparations = paths::preparations(&ast, &syntax::wrapped(source));
        if !preparations.is_empty() {
            let source = origin.insert(source, &preparations);
            let prepared = syntax::parse(&engine.0.rhai, &source, &origin);
            ast = prepared.ast.ok_or(prepared.errors)?;
        }
        Ok(Self {
            engine: engine.clone(),
            ast,
            analysis,
            origin,
        })
    }

    /// Derives what is known about messages after a mapping from what is known before it.
    pub(crate) fn foresee(&self, before: &Foreseen, text: Option<u64>) -> Foreseen {
        foresee::foresee(&self.ast, &self.origin, before, text)
    }

    /// Runs the script with `this` bound to the content of `message`, which stays unchanged, and with
    /// the variables of `scope`.
    pub(crate) fn run(
        &self,
        message: &mut Message,
        scope: impl Fn(&Message) -> Scope<'static>,
    ) -> Result<Done, RunError> {
        for _ in 0..ATTEMPTS {
            let mut scope = scope(message);
            // Native functions reach the message through the call, which has to own it.
            let own = std::mem::replace(message, Message::raw(""));
            let context = Context::new(own);
            let outcome = self.run_in(context.clone(), &mut scope);
            let notes;
            (*message, notes) = context.into_parts();
            match outcome {
                Ok(value) => {
                    return Ok(Done {
                        value,
                        scope,
                        notes,
                    });
                }
                Err(Stopped::Failed(error)) => return Err(error),
                Err(Stopped::Timeout) => {}
            }
        }
        Err(RunError::nowhere(format!(
            "the script used more than {} ms of CPU time, {ATTEMPTS} times in a row; reduce what it \
             reads and loops over",
            self.engine.0.limits.time.as_millis()
        )))
    }

    fn run_in(&self, context: Context, scope: &mut Scope<'_>) -> Result<Dynamic, Stopped> {
        let inner = &self.engine.0;
        let mut skipped = Skipped::new();
        let mut this = materialise::this(context.message(), &self.analysis.this, &mut skipped)
            .map_err(|reason| Stopped::Failed(RunError::nowhere(reason)))?
            .into_read_only();
        context.set_skipped(skipped);
        let options = CallFnOptions::new()
            .eval_ast(false)
            .bind_this_ptr(&mut this)
            .with_tag(context);
        let _limit = cpu::Limit::start(inner.limits.time);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            inner
                .rhai
                .call_fn_with_options::<Dynamic>(options, scope, &self.ast, BODY, ())
        }));
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.stopped(&error)),
            Err(panic) => Err(Stopped::Failed(RunError::nowhere(format!(
                "the interpreter panicked: {}",
                panic_text(panic.as_ref())
            )))),
        }
    }

    fn stopped(&self, error: &EvalAltResult) -> Stopped {
        match error.unwrap_inner() {
            // Only the limit of CPU time terminates a run.
            EvalAltResult::ErrorTerminated(..) => Stopped::Timeout,
            EvalAltResult::ErrorTooManyOperations(..) => {
                let limit = self.engine.0.limits.operations;
                let place = error::from_run(error, &self.origin).place();
                let reason = format!(
                    "the script ran more than {limit} operations; check for an endless loop"
                );
                Stopped::Failed(RunError::new(place.unwrap_or((0, 0)), reason))
            }
            _ => Stopped::Failed(error::from_run(error, &self.origin)),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}
