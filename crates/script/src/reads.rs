//! Which parts of `this` a script reads, as far as its text tells.
//!
//! A variable that stands for a part of `this` is followed: after
//! `let annotations = this.metadata?.annotations ?? #{}` only the keys and prefixes that are read of
//! `annotations` are wanted, however many others there are.

use std::collections::BTreeMap;

use rhai::{AST, ASTFlags, ASTNode, Expr, Position, Stmt};

use crate::{
    materialise::{Step, Wanted},
    paths,
};

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
        reads.wanted.add_all(&alias.path(), &alias.wanted);
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
    /// Which part: keys, and none for an item of an array.
    path: Vec<Option<String>>,
    /// Where `this` is written in its declaration.
    place: Position,
    /// What of it is read.
    wanted: Wanted,
}

impl Alias {
    fn path(&self) -> Vec<Step<'_>> {
        let steps = self.path.iter();
        steps
            .map(|key| key.as_deref().map_or(Step::Item, Step::Key))
            .collect()
    }
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
                        self.wanted.add(&alias.path());
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
    let (path, end) = path(chain);
    match end {
        End::Prefix(prefix) => wanted.add_prefix(&path, prefix),
        End::Chain | End::Other => wanted.add(&path),
    }
}

/// The part of `this` that a declared value is: a chain of known steps, also with a default of `#{}`.
fn alias(value: &Expr) -> Option<Alias> {
    let value = match value {
        Expr::Coalesce(sides, _) => match sides.as_slice() {
            [value, default] if is_empty_map(default) => value,
            _ => return None,
        },
        value => value,
    };
    let (Expr::ThisPtr(place), _) = paths::chain(value) else {
        return None;
    };
    let (path, End::Chain) = path(value) else {
        return None;
    };
    let owned = |step: Step<'_>| match step {
        Step::Key(key) => Some(key.to_owned()),
        Step::Item => None,
    };
    (!path.is_empty()).then(|| Alias {
        path: path.into_iter().map(owned).collect(),
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

/// What stands behind the steps of a chain that the text shows.
enum End<'a> {
    /// Nothing.
    Chain,
    /// `select_prefix("prefix")`.
    Prefix(&'a str),
    /// Anything else, for which all of the value is needed.
    Other,
}

/// The steps of a chain, as far as the text shows them.
fn path(chain: &Expr) -> (Vec<Step<'_>>, End<'_>) {
    let (mut path, mut rest) = (Vec::new(), Some(chain));
    while let Some(chain) = rest {
        let (pair, flags, is_index) = match chain {
            Expr::Dot(pair, flags, _) => (pair, flags, false),
            Expr::Index(pair, flags, _) => (pair, flags, true),
            _ => break,
        };
        // Unless the chain ends here, the right side is a pair of this step and the rest.
        let step;
        (step, rest) = match &pair.rhs {
            behind @ (Expr::Dot(next, ..) | Expr::Index(next, ..))
                if !flags.intersects(ASTFlags::BREAK) =>
            {
                (&next.lhs, Some(behind))
            }
            last => (last, None),
        };
        path.push(match step {
            Expr::Property(property, _) if !is_index => Step::Key(property.2.as_str()),
            Expr::StringConstant(key, _) if is_index => Step::Key(key.as_str()),
            Expr::IntegerConstant(..) if is_index => Step::Item,
            Expr::MethodCall(call, _) if !is_index => {
                match (call.name.as_str(), call.args.as_slice()) {
                    ("index", [Expr::IntegerConstant(..)]) => Step::Item,
                    (SELECT_PREFIX, [Expr::StringConstant(prefix, _)]) => {
                        return (path, End::Prefix(prefix));
                    }
                    _ => return (path, End::Other),
                }
            }
            _ => return (path, End::Other),
        });
    }
    (path, End::Chain)
}
