//! A compiled script of any kind and one run of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use meterline_core::{Message, foreseen::Foreseen};
use rhai::{AST, CallFnOptions, Dynamic, Scope};

use crate::{
    Engine, RunError, ScriptError,
    analysis::{self, Analysis},
    context::{Context, Deadline},
    engine::EventId,
    error::{self, Origin},
    foresee, materialise, paths,
    syntax::{self, BODY, Parsed},
};

pub(crate) struct Script {
    engine: Engine,
    ast: AST,
    pub(crate) analysis: Analysis,
    pub(crate) origin: Origin,
}

impl Script {
    /// Compiles `source`, which starts at `line` and `column` of the text that was given.
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

    /// What a mapping makes of the messages that `before` is known of.
    pub(crate) fn foresee(&self, before: &Foreseen, text: Option<u64>) -> Foreseen {
        foresee::foresee(&self.ast, &self.origin, before, text)
    }

    /// How ids are made.
    pub(crate) fn event_id(&self) -> EventId {
        self.engine.0.event_id
    }

    /// Runs the script with `this` bound to the content of `message`, which is left as it was.
    pub(crate) fn run(
        &self,
        message: &mut Message,
        scope: &mut Scope<'_>,
    ) -> Result<Dynamic, RunError> {
        // Functions find the message through the call, which can only own it.
        let own = std::mem::replace(message, Message::raw(""));
        let context = Context::new(own, self.engine.0.event_id);
        let outcome = self.run_in(context.clone(), scope);
        *message = context.into_message();
        outcome
    }

    fn run_in(&self, context: Context, scope: &mut Scope<'_>) -> Result<Dynamic, RunError> {
        let inner = &self.engine.0;
        let mut this = materialise::this(context.message(), &self.analysis.wanted)
            .map_err(RunError::nowhere)?
            .into_read_only();
        let options = CallFnOptions::new()
            .eval_ast(false)
            .bind_this_ptr(&mut this)
            .with_tag(context);
        let _deadline = Deadline::start(inner.limits.time);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            inner
                .rhai
                .call_fn_with_options::<Dynamic>(options, scope, &self.ast, BODY, ())
        }));
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error::from_run(&error, &self.origin)),
            Err(panic) => Err(RunError::nowhere(format!(
                "the script broke the interpreter: {}",
                panic_text(panic.as_ref())
            ))),
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
