//! What statements may change, without following them.

use meterline_core::foreseen::Kind;
use rhai::{AST, ASTFlags, ASTNode, Dynamic, Expr, FnCallExpr, FnPtr, ImmutableString, Stmt};

use crate::{
    functions::{self, Purity},
    paths::{self, MAKE_PATH, Step},
};

/// What statements may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A variable.
    Whole(ImmutableString),
    /// A field of a variable.
    Field(ImmutableString, ImmutableString),
    /// All variables.
    Everything,
}

/// The possible effects of statements.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) targets: Vec<Target>,
    /// Whether they may end the script.
    pub(super) returns: bool,
    /// Whether their values may vary.
    pub(super) varies: bool,
}

impl Reach {
    pub(super) fn of_statements<'a>(statements: impl Iterator<Item = &'a Stmt>) -> Self {
        let mut reach = Self::default();
        for statement in statements {
            statement.walk(&mut Vec::new(), &mut |path| {
                if let Some(node) = path.last() {
                    reach.node(node);
                }
                true
            });
        }
        reach
    }

    /// Returns the possible effects of the function values of a script, whenever they are called.
    /// `content` is whether the message varies.
    pub(super) fn of_functions(ast: &AST, content: bool) -> Self {
        let mut reach = Self::default();
        paths::functions(ast, false).walk(&mut |path| {
            if let Some(node) = path.last() {
                reach.node(node);
                reach.varies |= match node {
                    ASTNode::Stmt(Stmt::FnCall(call, _))
                    | ASTNode::Expr(Expr::FnCall(call, _) | Expr::MethodCall(call, _)) => {
                        varies(&call.name, content) || call.name == "meta"
                    }
                    ASTNode::Expr(Expr::DynamicConstant(value, _)) => names(value, content),
                    ASTNode::Expr(Expr::ThisPtr(_)) => content,
                    _ => false,
                };
            }
            true
        });
        reach
    }

    pub(super) fn changes_anything(&self) -> bool {
        !self.targets.is_empty()
    }

    fn node(&mut self, node: &ASTNode<'_>) {
        match node {
            ASTNode::Stmt(Stmt::Assignment(assignment)) => {
                let (base, steps) = paths::steps(&assignment.1.lhs);
                if let Expr::Variable(variable, ..) = base {
                    let name = variable.1.clone();
                    self.targets.push(match steps.first() {
                        Some(Step::Key(key)) => Target::Field(name, (*key).into()),
                        _ => Target::Whole(name),
                    });
                }
            }
            ASTNode::Stmt(Stmt::Return(_, flags, _)) => {
                self.returns |= !flags.intersects(ASTFlags::BREAK);
            }
            // `walk` of the interpreter does not visit the value of this one.
            ASTNode::Stmt(Stmt::BreakLoop(Some(_), ..)) => self.targets.push(Target::Everything),
            ASTNode::Stmt(Stmt::FnCall(call, _)) | ASTNode::Expr(Expr::FnCall(call, _)) => {
                self.called(call);
            }
            ASTNode::Expr(chain @ (Expr::Dot(..) | Expr::Index(..))) => {
                let (base, steps) = paths::steps(chain);
                let changes = |step: &Step<'_>| matches!(step, Step::Call(call) if changes(call));
                if let Expr::Variable(variable, ..) = base
                    && steps.iter().any(changes)
                {
                    self.targets.push(Target::Whole(variable.1.clone()));
                }
            }
            _ => {}
        }
    }

    fn called(&mut self, call: &FnCallExpr) {
        if changes(call)
            && let Some(Expr::Variable(variable, ..)) = call.args.first()
        {
            self.targets.push(Target::Whole(variable.1.clone()));
        }
    }
}

/// Whether a call may change what it is called on.
pub(super) fn changes(call: &FnCallExpr) -> bool {
    let is_plain = call.is_operator_call() || call.name == MAKE_PATH;
    !is_plain && functions::changes_its_argument(&call.name)
}

/// Whether the result of a function may vary, even with constant arguments.
pub(super) fn varies(name: &str, content: bool) -> bool {
    match (name, functions::purity(name)) {
        ("event_id" | "error" | "Fn", _) | (_, Some(Purity::World)) => true,
        (_, Some(Purity::Content(_))) => content,
        _ => false,
    }
}

/// Whether a value contains a named function whose result may vary.
pub(super) fn names(value: &Dynamic, content: bool) -> bool {
    if let Some(function) = value.read_lock::<FnPtr>() {
        let name = function.fn_name();
        return varies(name, content) || name == "meta";
    }
    if let Ok(items) = value.as_array_ref() {
        return items.iter().any(|it| names(it, content));
    }
    if let Ok(fields) = value.as_map_ref() {
        return fields.values().any(|it| names(it, content));
    }
    false
}

/// Whether a value contains a function.
pub(super) fn has_function(value: &Dynamic) -> bool {
    if value.is_fnptr() {
        return true;
    }
    if let Ok(items) = value.as_array_ref() {
        return items.iter().any(has_function);
    }
    value
        .as_map_ref()
        .is_ok_and(|fields| fields.values().any(has_function))
}

/// Returns the kind of a constant.
pub(super) fn kind(value: &Dynamic) -> Kind {
    if value.is_unit() {
        Kind::Null
    } else if value.is_bool() {
        Kind::Bool
    } else if value.is_int() || value.is_float() {
        Kind::Number
    } else if let Ok(text) = value.as_immutable_string_ref() {
        Kind::Text(Some(text.as_str().into()))
    } else if value.is_array() {
        Kind::Array
    } else if value.is_map() {
        Kind::Object
    } else if value.is_fnptr() {
        Kind::Function
    } else {
        Kind::Unknown
    }
}
