//! Static analysis of a script: what it reads, what its result depends on, and its errors.

use std::collections::HashSet;

use meterline_core::Reads;
use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, Position, Stmt};

use crate::{
    ScriptError,
    error::Origin,
    functions::{self, Purity, Type},
    paths::{self, BODY, MAKE_PATH},
    reads,
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
    let reads = reads::of_this(ast);
    let mut this = reads.clone();
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

struct Reader<'a> {
    origin: &'a Origin,
    /// The words of the missing statements, which may declare variables and functions.
    blanked: HashSet<&'a str>,
    /// Variables that function values capture; the interpreter turns them into parameters.
    captured: HashSet<&'a str>,
    /// Whether the current node is in the script itself and not in a function value.
    in_body: bool,
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
            self.analysis
                .reads
                .join(&functions::reads(function.fn_name()));
            self.called(function.fn_name(), position);
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
                self.analysis.reads.join(&functions::reads(name));
                self.called(name, *position);
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
                    ("subject", [Expr::StringConstant(source, _)]) => {
                        let reads = functions::subject_reads(source);
                        self.analysis.reads.join(&reads);
                    }
                    _ => self.analysis.reads.join(&functions::reads(name)),
                }
                self.called(name, position);
            }
        }
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
            if let ("devices", Some(argument)) = (call.name.as_str(), argument)
                && let Some(table) = argument.get_literal_value(None)
                && let Some(reason) = functions::wrong_table(&table)
            {
                let position = argument.start_position();
                self.errors.push(self.origin.error(position, reason, None));
            }
        }
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
