//! What can be known of a script before it runs: what it reads, what it depends on, what is wrong.

use std::collections::HashSet;

use meterline_core::Reads;
use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, Position, Stmt};

use crate::{
    ScriptError,
    error::Origin,
    functions::{self, Purity, Type},
    paths::{self, BODY, MAKE_PATH},
    reads,
    reuse::{self, Reuse},
};

/// The outcome of reading a script.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// The parts of `this` that can be read.
    pub(crate) this: Reads,
    /// The parts of the content that can be read, also beside `this`: by the functions that are called.
    pub(crate) reads: Reads,
    /// Whether anything but an operator is called.
    pub(crate) calls: bool,
    /// Whether the variable `meta` occurs.
    pub(crate) uses_meta_variable: bool,
    /// Whether the result depends on the message alone.
    pub(crate) is_pure: bool,
    /// How the result can serve again, if it can.
    pub(crate) reuse: Option<Reuse>,
    /// What works but is likely not meant.
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

/// Reads a compiled script, of which the statements in `blanked` are left out.
///
/// # Errors
/// Every fault that shows without running it.
pub(crate) fn analyse<'a>(
    ast: &'a AST,
    origin: &'a Origin,
    blanked: &'a str,
) -> Result<Analysis, Vec<ScriptError>> {
    let this = reads::of_this(ast);
    let mut reader = Reader {
        origin,
        blanked: words(blanked),
        captured: ast.iter_functions().flat_map(|it| it.params).collect(),
        in_body: false,
        reads: reuse::Reads::default(),
        errors: Vec::new(),
        analysis: Analysis {
            is_pure: true,
            reads: this.clone(),
            this,
            ..Analysis::default()
        },
    };
    for function in ast.iter_functions() {
        if function.name != BODY && !function.name.starts_with("anon$") {
            let help = Some("the script defines a function by closing a brace it did not open");
            let error = origin.error(Position::NONE, "there is a `}` too many", help);
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
    /// What the statements that are left out may declare.
    blanked: HashSet<&'a str>,
    /// Variables that function values have from outside: to the interpreter they are parameters.
    captured: HashSet<&'a str>,
    /// Whether this is the script itself and not a function value in it.
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
            // The interpreter's own walk does not look into this one.
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

    /// A function value made from a name: `Fn("now")`.
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

    /// A call, of a method of `receiver` if there is one; what the receiver is may not show.
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
                // Any function at all may be behind it.
                self.analysis.is_pure = false;
                self.analysis.reads.join(&Reads::All);
            }
            (name, _) => {
                self.reads.called(call);
                match (name, call.args.as_slice()) {
                    ("json", [Expr::StringConstant(path, _)]) => {
                        reads::add_path(&mut self.analysis.reads, path);
                    }
                    _ => self.analysis.reads.join(&functions::reads(name)),
                }
                self.called(name, position);
            }
        }
    }

    /// Checks arguments in number and, where the text shows it, type.
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
        if let Some(misfit) = functions::misfit(&call.name, &types, receiver.is_some()) {
            let blamed = misfit.argument.and_then(|at| *arguments.get(at)?);
            let position = blamed.map_or(position, Expr::start_position);
            let error = self
                .origin
                .error(position, misfit.message, Some(&misfit.help));
            self.errors.push(error);
        }
        for (at, argument) in arguments.iter().enumerate() {
            if let Some(Expr::StringConstant(text, position)) = argument
                && let Some(reason) = functions::wrong_word(&call.name, at, arguments.len(), text)
            {
                self.errors.push(self.origin.error(*position, reason, None));
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
                "`uuid_v4()` gives a new id each time, so an event that is sent again is billed \
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

/// The type of a value that is written out.
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
