//! The script engine: the functions that scripts may call, and their limits.

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

/// The stack size, in bytes, of a thread that runs scripts. Within [`Limits`] a value can be nested ten
/// thousand levels deep, and the interpreter visits and drops it recursively. The default of two
/// megabytes is not always enough.
pub const STACK_SIZE: usize = 16 << 20;

/// The limits of one run of a script. A run that exceeds one fails, and its message is flagged.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Steps of the interpreter.
    pub operations: u64,
    /// CPU time of the thread. A run that exceeds it is repeated, because the first one may suffer from
    /// cold caches; it fails after three times in a row.
    pub time: Duration,
    /// Bytes of a string.
    pub string: usize,
    /// Elements of an array, including nested ones.
    pub array: usize,
    /// Fields of an object, including nested ones.
    pub map: usize,
    /// Nesting of function calls.
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
    /// Returns an engine that runs scripts within `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let rhai = engine(&limits);
        Self(Arc::new(Inner { rhai, limits }))
    }

    /// Returns the documentation of Meterline's own functions, in the order of the reference.
    #[must_use]
    pub fn functions(&self) -> &'static [FunctionDoc] {
        functions::docs()
    }
}

/// Creates the interpreter. None of its functions does I/O or waits.
fn engine(limits: &Limits) -> rhai::Engine {
    let mut engine = rhai::Engine::new_raw();
    // One module instead of nine, because every call searches all modules.
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
    // Without the index each call hashes the whole library.
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
        // The fast operators bypass ours, and their integer division drops the remainder.
        .set_fast_operators(false);
    engine.on_progress(|operations| {
        let is_time_to_check = operations % 64 == 0;
        (is_time_to_check && cpu::is_exceeded()).then_some(Dynamic::UNIT)
    });
    functions::register(&mut engine);
    engine
}
