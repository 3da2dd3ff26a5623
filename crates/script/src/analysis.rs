//! Static analysis of a script: what it reads, what its result depends on, and its errors.

use std::collections::HashSet;

use meterline_core::Reads;
use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, Position, Stmt};

use crate::{
    ScriptError, device_reads,
    error::Origin,
    functions::{self, Purity, Type},
    lookups::{self, Variables},
    paths::{self, BODY, MAKE_PATH},
    reads::{self, DATA_ANNOTATIONS, Read},
    relation::Relation,
    reuse::{self, Reuse},
};

/// The result of analysing a script.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// The parts of `this` that the script may read.
    pub(crate) this: Reads,
    /// The parts of the content that the script may read, including those that the functions it calls
    /// read.
    pub(crate) reads: Reads,
    /// Whether the script calls anything but operators.
    pub(crate) calls: bool,
    /// Whether the variable `meta` occurs.
    pub(crate) uses_meta_variable: bool,
    /// Whether the result depends only on the message.
    pub(crate) is_pure: bool,
    /// How the result can be reused, if it can.
    pub(crate) reuse: Option<Reuse>,
    /// What works but is likely a mistake.
    pub(crate) lints: Vec<ScriptError>,
    /// The tables that the script looks up by name, with the places.
    pub(crate) tables: Vec<ScriptError>,
    /// Assignments to `root` and `meta`, which an expression must not have.
    pub(crate) assignments: Vec<ScriptError>,
}

impl Analysis {
    /// Whether the result is the same for every message.
    pub(crate) fn is_constant(&self) -> bool {
        self.this.is_nothing() && !self.uses_meta_variable && !self.calls
    }
}

/// Analyses a compiled script, which lacks the statements in `blanked`.
///
/// # Errors
/// Every error that can be found without running the script.
pub(crate) fn analyse<'a>(
    ast: &'a AST,
    origin: &'a Origin,
    blanked: &'a str,
) -> Result<Analysis, Vec<ScriptError>> {
    let Read {
        this: mut reads,
        labels,
    } = reads::of_this(ast);
    let mut this = reads.clone();
    reads.join(&labels);
    if let Reads::Parts(parts) = &mut this {
        // Functions return these.
        for relation in Relation::ALL {
            parts.keys.remove(relation.key());
        }
    }
    let mut reader = Reader {
        origin,
        blanked: words(blanked),
        captured: ast.iter_functions().flat_map(|it| it.params).collect(),
        in_body: false,
        variables: Variables::of(ast),
        reads: reuse::Reads::default(),
        errors: Vec::new(),
        analysis: Analysis {
            is_pure: true,
            reads,
            this,
            ..Analysis::default()
        },
    };
    for function in ast.iter_functions() {
        if function.name != BODY && !function.name.starts_with("anon$") {
            let help = Some("remove the `}` that closes no brace of the script");
            let error = origin.error(Position::NONE, "there is one `}` too many", help);
            return Err(vec![error]);
        }
    }
    for in_body in [true, false] {
        reader.in_body = in_body;
        paths::functions(ast, in_body).walk(&mut |path| {
            reader.node(path);
            true
        });
    }
    if reader.errors.is_empty() {
        let is_pure = reader.analysis.is_pure && !reader.analysis.uses_meta_variable;
        reader.analysis.reuse = is_pure.then(|| reader.reads.reuse()).flatten();
        Ok(reader.analysis)
    } else {
        reader
            .errors
            .sort_by_key(|error| (error.line, error.column));
        Err(reader.errors)
    }
}

/// The function that reads a table.
const LOOKUP: &str = "lookup";

struct Reader<'a> {
    origin: &'a Origin,
    /// The words of the missing statements, which may declare variables and functions.
    blanked: HashSet<&'a str>,
    /// Variables that function values capture; the interpreter turns them into parameters.
    captured: HashSet<&'a str>,
    /// Whether the current node is in the script itself and not in a function value.
    in_body: bool,
    variables: Variables,
    reads: reuse::Reads,
    errors: Vec<ScriptError>,
    analysis: Analysis,
}

impl Reader<'_> {
    fn node(&mut self, path: &[ASTNode<'_>]) {
        let Some((node, ancestors)) = path.split_last() else {
            return;
        };
        match node {
            ASTNode::Stmt(statement) => {
                if self.in_body && ancestors.is_empty() {
                    self.reads.top_level(statement);
                }
                self.statement(statement);
            }
            ASTNode::Expr(expression) => {
                if let Expr::MethodCall(call, position) = expression {
                    self.call(
                        call,
                        *position,
                        Some(paths::receiver(ancestors, expression)),
                    );
                } else {
                    self.expression(expression);
                }
            }
            _ => {}
        }
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Assignment(assignment) => {
                let target = &assignment.1.lhs;
                let (base, keys) = paths::chain(target);
                match base {
                    Expr::ThisPtr(position) if self.in_body => self.errors.push(self.origin.error(
                        *position,
                        "`this` is read-only",
                        Some("assign to `root`; `root = this` starts from a copy"),
                    )),
                    Expr::Variable(variable, _, position) if variable.0.is_none() => {
                        self.reads.root_assignments += usize::from(variable.1 == "root");
                        if matches!(variable.1.as_str(), "root" | "meta") {
                            self.analysis.assignments.push(self.origin.error(
                                *position,
                                "an expression cannot assign",
                                Some("use a `mapping` processor to change a message"),
                            ));
                        }
                        if variable.1 == "root" && keys == ["id"] {
                            self.lint_id(&assignment.1.rhs);
                        }
                    }
                    _ => {}
                }
            }
            Stmt::FnCall(call, position) => self.call(call, *position, None),
            // `walk` of the interpreter does not visit this one.
            Stmt::BreakLoop(Some(value), ..) => {
                value.walk(&mut Vec::new(), &mut |path| {
                    self.node(path);
                    true
                });
            }
            Stmt::Import(_, position) | Stmt::Export(_, position) => self.errors.push(
                self.origin
                    .error(*position, "a mapping cannot import or export", None),
            ),
            _ => {}
        }
    }

    fn expression(&mut self, expression: &Expr) {
        match expression {
            Expr::Variable(variable, _, position) if variable.0.is_none() => {
                match variable.1.as_str() {
                    "root" => {}
                    "meta" => self.analysis.uses_meta_variable = true,
                    name if self.blanked.contains(name) => {}
                    name if !self.in_body && self.captured.contains(name) => {}
                    name => self.errors.push(self.origin.error(
                        *position,
                        format!("there is no variable `{name}`"),
                        Some("the message is `this`, the result is `root`; declare others with `let`"),
                    )),
                }
            }
            Expr::FnCall(call, position) => self.call(call, *position, None),
            Expr::Map(map, _) => {
                for (key, value) in &map.0 {
                    if key.name == "id" {
                        self.lint_id(value);
                    }
                }
            }
            Expr::DynamicConstant(value, position) => self.constant(value, *position),
            _ => {}
        }
    }

    /// Handles a function value that is created from a name: `Fn("now")`.
    fn constant(&mut self, value: &Dynamic, position: Position) {
        if let Some(function) = value.read_lock::<FnPtr>()
            && !function.is_anonymous()
        {
            self.reads.named(function.fn_name());
            self.named(function.fn_name(), position);
        }
    }

    /// Handles a call. `receiver` is `None` for a plain call, and `Some(None)` for a method call whose
    /// receiver is not an expression of its own.
    fn call(&mut self, call: &FnCallExpr, position: Position, receiver: Option<Option<&Expr>>) {
        if call.is_operator_call() || call.name == MAKE_PATH {
            return;
        }
        self.analysis.calls = true;
        self.arguments(call, position, receiver);
        match (call.name.as_str(), call.args.first()) {
            ("Fn", Some(Expr::StringConstant(name, position))) => {
                self.reads.named(name);
                self.named(name, *position);
            }
            ("Fn", _) => {
                // It may be any function.
                self.analysis.is_pure = false;
                self.analysis.reads.join(&Reads::All);
            }
            (name, _) => {
                self.reads.called(call);
                match (name, call.args.as_slice()) {
                    ("json", [Expr::StringConstant(path, _)]) => {
                        reads::add_path(&mut self.analysis.reads, path);
                    }
                    ("subject", [Expr::StringConstant(source, _), ..]) => {
                        let reads = functions::subject_reads(source);
                        self.analysis.reads.join(&reads);
                    }
                    ("pod_gpu_type", arguments) => {
                        let owner = match arguments.first() {
                            Some(Expr::StringConstant(owner, _)) => Some(owner.as_str()),
                            Some(_) => None,
                            None => Some("pods"),
                        };
                        self.analysis.reads.join(&functions::gpu_type_reads(owner));
                    }
                    (LOOKUP, arguments) => self.lookup(arguments, position),
                    // What it reads depends on where it is called.
                    (DATA_ANNOTATIONS, [Expr::StringConstant(..)]) => {}
                    _ => self.analysis.reads.join(&functions::reads(name)),
                }
                self.called(name, position);
            }
        }
    }

    /// Handles a function value that is created from a name.
    fn named(&mut self, name: &str, position: Position) {
        self.analysis.reads.join(&functions::reads(name));
        if name == LOOKUP {
            let error = "`lookup` cannot be a function value";
            let help = Some("call it directly, with the name of the table as a text");
            self.errors.push(self.origin.error(position, error, help));
        }
        self.called(name, position);
    }

    /// Handles a call of `lookup`.
    fn lookup(&mut self, arguments: &[Expr], position: Position) {
        // Another number of arguments is an error of its own.
        let [table, key] = arguments else { return };
        let Expr::StringConstant(name, at) = table else {
            let error = "the name of the table has to be a text";
            let help = Some("write `lookup(\"the-table\", key)`");
            self.errors.push(self.origin.error(position, error, help));
            return;
        };
        let Some(places) = self.variables.places(key).filter(|_| self.in_body) else {
            let error = "the key of `lookup` has to be known before the script runs, because the value is \
                         looked up when the object is observed";
            let help = Some(
                "use a field of the object or of `namespace()` or `node()`, such as \
                 `this.metadata.namespace`, a text, or a choice of them with `??`",
            );
            let place = key.start_position();
            self.errors.push(self.origin.error(place, error, help));
            return;
        };
        for place in places {
            lookups::add(&mut self.analysis.reads, name, &place);
        }
        let table = self.origin.error(*at, name.to_string(), None);
        self.analysis.tables.push(table);
    }

    /// Checks the number of arguments, and the types of literal arguments.
    fn arguments(
        &mut self,
        call: &FnCallExpr,
        position: Position,
        receiver: Option<Option<&Expr>>,
    ) {
        let arguments: Vec<Option<&Expr>> = receiver
            .into_iter()
            .chain(call.args.iter().map(Some))
            .collect();
        let types: Vec<_> = arguments.iter().map(|it| it.and_then(literal)).collect();
        if let Some(mismatch) = functions::mismatch(&call.name, &types, receiver.is_some()) {
            let blamed = mismatch.argument.and_then(|at| *arguments.get(at)?);
            let position = blamed.map_or(position, Expr::start_position);
            let error = self
                .origin
                .error(position, mismatch.message, Some(&mismatch.help));
            self.errors.push(error);
        }
        for (at, argument) in arguments.iter().enumerate() {
            if let Some(Expr::StringConstant(text, position)) = argument
                && let Some(reason) = functions::wrong_word(&call.name, at, arguments.len(), text)
            {
                self.errors.push(self.origin.error(*position, reason, None));
            }
        }
        if functions::known_devices::names_resources(&call.name) {
            for argument in arguments.iter().flatten() {
                if let Expr::StringConstant(resource, _) = argument
                    && resource.contains('/')
                {
                    self.analysis.reads.join(&device_reads::names(resource));
                }
            }
        }
        if let Some(at) = functions::known_devices::place(&call.name, arguments.len()) {
            let argument = arguments.get(at).copied().flatten();
            self.table(&call.name, argument, position);
        }
    }

    /// Handles an argument that adds resources to the table of accelerators. What is read follows from it, so it has
    /// to be known before the script runs.
    fn table(&mut self, name: &str, argument: Option<&Expr>, position: Position) {
        let position = argument.map_or(position, Expr::start_position);
        let error = match argument.and_then(|it| it.get_literal_value(None)) {
            Some(table) => match functions::known_devices::reads(name, &table) {
                Ok(reads) => return self.analysis.reads.join(&reads),
                Err(reason) => self.origin.error(position, reason, None),
            },
            None => {
                let message = format!("the table of `{name}` is not constant");
                let help = "write the object itself, without variables, in the call";
                self.origin.error(position, message, Some(help))
            }
        };
        self.errors.push(error);
    }

    fn called(&mut self, name: &str, position: Position) {
        if let Some(purity) = functions::purity(name) {
            self.analysis.is_pure &= purity != Purity::World;
        } else if !functions::is_known(name)
            && !name.starts_with("anon$")
            && !self.blanked.contains(name)
        {
            let help = functions::nearest(name).map(|nearest| format!("is it `{nearest}`?"));
            self.errors.push(ScriptError {
                help,
                ..self
                    .origin
                    .error(position, format!("there is no function `{name}`"), None)
            });
        }
    }

    fn lint_id(&mut self, value: &Expr) {
        if let Expr::FnCall(call, position) = value
            && call.name == "uuid_v4"
        {
            self.analysis.lints.push(self.origin.error(
                *position,
                "`uuid_v4()` returns a new id each time, so an event that is sent again is billed \
                 twice",
                Some("use `event_id()`, which is the same for the same usage"),
            ));
        }
    }
}

fn words(text: &str) -> HashSet<&str> {
    text.split(|it: char| !it.is_alphanumeric() && it != '_')
        .collect()
}

/// Returns the type of a literal.
fn literal(expression: &Expr) -> Option<Type> {
    Some(match expression {
        Expr::Unit(_) => Type::Missing,
        Expr::BoolConstant(..) => Type::Bool,
        Expr::IntegerConstant(..) => Type::Integer,
        Expr::FloatConstant(..) => Type::Decimal,
        Expr::CharConstant(..) => Type::Character,
        Expr::StringConstant(..) | Expr::InterpolatedString(..) => Type::Text,
        Expr::Array(..) => Type::Array,
        Expr::Map(..) => Type::Object,
        Expr::DynamicConstant(value, _) if value.is_array() => Type::Array,
        Expr::DynamicConstant(value, _) if value.is_map() => Type::Object,
        Expr::DynamicConstant(value, _) if value.is_fnptr() => Type::Function,
        _ => return None,
    })
}
