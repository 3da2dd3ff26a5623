//! The script engine: what scripts may use and how much of it.

use std::{sync::Arc, time::Duration};

use rhai::{
    Dynamic, Module,
    module_resolvers::DummyModuleResolver,
    packages::{
        ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage,
        BasicMapPackage, BasicMathPackage, BasicStringPackage, LogicPackage, MoreStringPackage,
        Package,
    },
};

use crate::{
    cpu,
    functions::{self, FunctionDoc},
};

/// The stack, in bytes, of a thread that runs scripts. Within [`Limits`] a value can be nested ten
/// thousand levels deep, and the interpreter goes through it, and drops it, level by level; two
/// megabytes, as threads have, were not always enough for that.
pub const STACK_SIZE: usize = 16 << 20;

/// How much one run of a script may use. A run that wants more fails; the message is flagged.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Steps of the interpreter.
    pub operations: u64,
    /// CPU time of the thread. A run that passes it is tried again, as a first run pays for cold
    /// caches; passed three times in a row, it is a failure.
    pub time: Duration,
    /// Bytes in a string.
    pub string: usize,
    /// Elements in an array, nested ones counted.
    pub array: usize,
    /// Fields in an object, nested ones counted.
    pub map: usize,
    /// Function calls inside function calls.
    pub calls: usize,
    /// Nesting of an expression in the source.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations: 1_000_000,
            time: Duration::from_millis(250),
            string: 2 << 20,
            array: 10_000,
            map: 10_000,
            calls: 24,
            depth: 48,
        }
    }
}

pub(crate) struct Inner {
    pub(crate) rhai: rhai::Engine,
    pub(crate) limits: Limits,
}

/// Compiles scripts. Cloning shares everything.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine whose scripts stay within `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let rhai = engine(&limits);
        Self(Arc::new(Inner { rhai, limits }))
    }

    /// The functions of Meterline's own, in the order of the reference.
    #[must_use]
    pub fn functions(&self) -> &'static [FunctionDoc] {
        functions::docs()
    }
}

/// The interpreter with nothing in it that reaches outside or waits.
fn engine(limits: &Limits) -> rhai::Engine {
    let mut engine = rhai::Engine::new_raw();
    // One module instead of nine: every call looks through all of them.
    let mut library = Module::new();
    ArithmeticPackage::init(&mut library);
    LogicPackage::init(&mut library);
    BasicMathPackage::init(&mut library);
    BasicStringPackage::init(&mut library);
    MoreStringPackage::init(&mut library);
    BasicIteratorPackage::init(&mut library);
    BasicArrayPackage::init(&mut library);
    BasicMapPackage::init(&mut library);
    BasicFnPackage::init(&mut library);
    // Otherwise each call hashes the whole library anew.
    library.register_lazy_functions();
    library.build_index();
    engine.register_global_module(library.into());
    engine.set_module_resolver(DummyModuleResolver::new());
    for symbol in ["eval", "import", "export", "print", "debug"] {
        engine.disable_symbol(symbol);
    }
    engine
        .set_max_operations(limits.operations)
        .set_max_string_size(limits.string)
        .set_max_array_size(limits.array)
        .set_max_map_size(limits.map)
        .set_max_call_levels(limits.calls)
        .set_max_expr_depths(limits.depth, limits.depth)
        .set_max_modules(0)
        .set_max_functions(256)
        .set_max_variables(256)
        // The fast ones are Rhai's own, which divide with a remainder.
        .set_fast_operators(false);
    engine.on_progress(|operations| {
        let is_time_to_look = operations % 64 == 0;
        (is_time_to_look && cpu::is_used_up()).then_some(Dynamic::UNIT)
    });
    functions::register(&mut engine);
    engine
}
