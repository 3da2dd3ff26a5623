//! What can be known of a script before it runs: what it reads, what it depends on, what is wrong.

use rhai::{AST, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, Position, Stmt};

use crate::{
    ScriptError,
    error::Origin,
    functions::{self, Purity},
    materialise::Wanted,
    paths::{self, MAKE_PATH},
    reads,
    reuse::{self, Reuse},
    script::BODY,
};

/// The outcome of reading a script.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// The parts of `this` that can be read.
    pub(crate) wanted: Wanted,
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
        self.wanted.is_nothing() && !self.uses_meta_variable && !self.calls
    }
}

/// Reads a compiled script.
///
/// # Errors
/// Every fault that shows without running it.
pub(crate) fn analyse(ast: &AST, origin: &Origin) -> Result<Analysis, Vec<ScriptError>> {
    let mut reader = Reader {
        origin,
        in_body: false,
        reads: reuse::Reads::default(),
        errors: Vec::new(),
        analysis: Analysis {
            is_pure: true,
            wanted: reads::wanted(ast),
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
            ASTNode::Expr(expression) => self.expression(expression),
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
            Stmt::FnCall(call, position) => self.call(call, *position),
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
                    name => self.errors.push(self.origin.error(
                        *position,
                        format!("there is no variable `{name}`"),
                        Some("the message is `this`, the result is `root`; declare others with `let`"),
                    )),
                }
            }
            Expr::FnCall(call, position) | Expr::MethodCall(call, position) => {
                self.call(call, *position);
            }
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
            self.called(function.fn_name(), position);
        }
    }

    fn call(&mut self, call: &FnCallExpr, position: Position) {
        if call.is_operator_call() || call.name == MAKE_PATH {
            return;
        }
        self.analysis.calls = true;
        match (call.name.as_str(), call.args.first()) {
            ("Fn", Some(Expr::StringConstant(name, position))) => {
                self.reads.named(name);
                self.called(name, *position);
            }
            ("Fn", _) => {
                // Any function at all may be behind it.
                self.analysis.is_pure = false;
            }
            (name, _) => {
                if let ("pod_metrics", Some(Expr::StringConstant(unit, position))) =
                    (name, call.args.get(1))
                    && let Err(reason) = functions::unit(unit)
                {
                    self.errors.push(self.origin.error(*position, reason, None));
                }
                self.reads.called(call);
                self.called(name, position);
            }
        }
    }

    fn called(&mut self, name: &str, position: Position) {
        if let Some(purity) = functions::purity(name) {
            self.analysis.is_pure &= purity != Purity::World;
        } else if !functions::is_known(name) && !name.starts_with("anon$") {
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
