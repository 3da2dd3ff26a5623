//! Which parts of `this` a script reads, as far as its text tells.
//!
//! A variable that stands for a part of `this` is followed: after
//! `let annotations = this.metadata?.annotations ?? #{}` only the keys and prefixes that are read of
//! `annotations` are wanted, however many others there are.

use std::collections::BTreeMap;

use rhai::{AST, ASTFlags, ASTNode, Expr, Position, Stmt};

use crate::{materialise::Wanted, paths};

/// The function of which only the fields with a prefix are wanted.
const SELECT_PREFIX: &str = "select_prefix";

/// The parts of `this` that can be read.
pub(crate) fn wanted(ast: &AST) -> Wanted {
    let mut reads = Reads::default();
    for in_body in [true, false] {
        reads.in_body = in_body;
        each_node(ast, in_body, &mut |path| reads.declaration(path));
    }
    reads.in_body = true;
    each_node(ast, true, &mut |path| reads.use_of_alias(path));
    for in_body in [true, false] {
        reads.in_body = in_body;
        each_node(ast, in_body, &mut |path| reads.use_of_this(path));
    }
    for alias in reads.aliases.into_values().flatten() {
        let path: Vec<_> = alias.path.iter().map(String::as_str).collect();
        reads.wanted.add_all(&path, &alias.wanted);
    }
    reads.wanted
}

/// Calls `look` with each node of the script itself, or of the function values in it, behind the
/// nodes that it is in.
fn each_node(ast: &AST, in_body: bool, look: &mut dyn FnMut(&[ASTNode<'_>])) {
    fn visit(path: &[ASTNode<'_>], look: &mut dyn FnMut(&[ASTNode<'_>])) {
        look(path);
        // The interpreter's own walk does not look into this one.
        if let Some(ASTNode::Stmt(Stmt::BreakLoop(Some(value), ..))) = path.last() {
            value.walk(&mut Vec::new(), &mut |path| {
                visit(path, look);
                true
            });
        }
    }
    paths::functions(ast, in_body).walk(&mut |path| {
        visit(path, look);
        true
    });
}

#[derive(Default)]
struct Reads {
    in_body: bool,
    wanted: Wanted,
    /// Variables that stand for a part of `this`; none where that is not sure.
    aliases: BTreeMap<String, Option<Alias>>,
}

/// A variable that stands for a part of `this`.
struct Alias {
    /// Which part.
    path: Vec<String>,
    /// Where `this` is written in its declaration.
    place: Position,
    /// What of it is read.
    wanted: Wanted,
}

impl Reads {
    /// Finds the aliases among the declarations.
    fn declaration(&mut self, path: &[ASTNode<'_>]) {
        let Some(ASTNode::Stmt(statement)) = path.last() else {
            return;
        };
        match statement {
            Stmt::Var(declared, ..) => {
                let alias = alias(&declared.1).filter(|_| self.in_body);
                // What is declared twice can be either.
                self.aliases
                    .entry(declared.0.name.to_string())
                    .and_modify(|known| *known = None)
                    .or_insert(alias);
            }
            Stmt::For(parts, _) => {
                for name in std::iter::once(&parts.0).chain(&parts.1) {
                    self.aliases.insert(name.name.to_string(), None);
                }
            }
            Stmt::TryCatch(flow, _) => {
                if let Expr::Variable(variable, ..) = &flow.expr {
                    self.aliases.insert(variable.1.to_string(), None);
                }
            }
            _ => {}
        }
    }

    fn use_of_alias(&mut self, path: &[ASTNode<'_>]) {
        match path.last() {
            Some(ASTNode::Expr(expression @ Expr::Variable(variable, ..))) => {
                if let Some(Some(alias)) = self.aliases.get_mut(variable.1.as_str()) {
                    let chain = chain_from(path).unwrap_or(expression);
                    add(&mut alias.wanted, chain);
                }
            }
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                if let (Expr::Variable(variable, ..), _) = paths::chain(&assignment.1.lhs)
                    && let Some(alias) = self.aliases.get_mut(variable.1.as_str())
                {
                    // From here on it stands for something else.
                    if let Some(alias) = alias {
                        let path: Vec<_> = alias.path.iter().map(String::as_str).collect();
                        self.wanted.add(&path);
                    }
                }
            }
            _ => {}
        }
    }

    fn use_of_this(&mut self, path: &[ASTNode<'_>]) {
        let Some(ASTNode::Expr(expression @ Expr::ThisPtr(position))) = path.last() else {
            return;
        };
        let mut aliases = self.aliases.values().flatten();
        if !self.in_body || !aliases.any(|alias| alias.place == *position) {
            add(&mut self.wanted, chain_from(path).unwrap_or(expression));
        }
    }
}

/// The chain that starts with the last node of `path`, if one does.
fn chain_from<'a>(path: &[ASTNode<'a>]) -> Option<&'a Expr> {
    let (node, ancestors) = path.split_last()?;
    match (node, ancestors.last()?) {
        (
            ASTNode::Expr(start),
            ASTNode::Expr(chain @ (Expr::Dot(pair, ..) | Expr::Index(pair, ..))),
        ) if std::ptr::eq(&raw const pair.lhs, *start) => Some(chain),
        _ => None,
    }
}

/// Adds what a chain reads of its base.
fn add(wanted: &mut Wanted, chain: &Expr) {
    let (_, keys) = paths::chain(chain);
    match selected_prefix(chain, keys.len()) {
        Some(prefix) => wanted.add_prefix(&keys, prefix),
        None => wanted.add(&keys),
    }
}

/// The part of `this` that a declared value is: a chain of keys, also with a default of `#{}`.
fn alias(value: &Expr) -> Option<Alias> {
    let value = match value {
        Expr::Coalesce(sides, _) => match sides.as_slice() {
            [value, default] if is_empty_map(default) => value,
            _ => return None,
        },
        value => value,
    };
    let (Expr::ThisPtr(place), keys) = paths::chain(value) else {
        return None;
    };
    if keys.is_empty() || step(value, keys.len()).is_some() {
        return None;
    }
    Some(Alias {
        path: keys.into_iter().map(str::to_owned).collect(),
        place: *place,
        wanted: Wanted::default(),
    })
}

fn is_empty_map(expression: &Expr) -> bool {
    match expression {
        Expr::Map(map, _) => map.0.is_empty(),
        Expr::DynamicConstant(value, _) => value.as_map_ref().is_ok_and(|map| map.is_empty()),
        _ => false,
    }
}

/// The prefix, where the step behind the first `skip` ones is `select_prefix("prefix")`.
fn selected_prefix(chain: &Expr, skip: usize) -> Option<&str> {
    match step(chain, skip)? {
        Expr::MethodCall(call, _) if call.name == SELECT_PREFIX => match call.args.as_slice() {
            [Expr::StringConstant(prefix, _)] => Some(prefix),
            _ => None,
        },
        _ => None,
    }
}

/// The step of a chain behind its first `skip` ones; `None` at its end.
fn step(chain: &Expr, skip: usize) -> Option<&Expr> {
    let (Expr::Dot(pair, flags, _) | Expr::Index(pair, flags, _)) = chain else {
        return None;
    };
    // Unless the chain ends here, the right side is a pair of this step and the rest.
    match &pair.rhs {
        rest @ (Expr::Dot(next, ..) | Expr::Index(next, ..))
            if !flags.intersects(ASTFlags::BREAK) =>
        {
            match skip.checked_sub(1) {
                None => Some(&next.lhs),
                Some(skip) => step(rest, skip),
            }
        }
        last => (skip == 0).then_some(last),
    }
}
