//! Analyses which parts of `this` a script reads.
//!
//! The calls `namespace()`, `node()` and `owner()` stand for a field of `this`, which has their name.
//!
//! Variables that alias a part of `this` are tracked: after
//! `let annotations = this.metadata?.annotations ?? #{}` only the keys and prefixes that the script reads
//! of `annotations` are read.
//!
//! The fields that `select_prefix` selects are needed unchanged, unless they only go, as a whole, into
//! the `data` of the result. There they are labels, and an input with too many of them may omit some.

use std::collections::BTreeMap;

use meterline_core::{Reads, Step};
use rhai::{AST, ASTFlags, ASTNode, Expr, FnCallExpr, Position, Stmt};

use crate::{functions, paths, relation::Relation};

/// The function that reads only the fields with a prefix.
const SELECT_PREFIX: &str = "select_prefix";

/// The function whose result are labels.
pub(crate) const DATA_ANNOTATIONS: &str = "data_annotations";

/// What a script reads.
pub(crate) struct Read {
    /// The parts of `this`, and of the objects that calls return.
    pub(crate) this: Reads,
    /// What the calls of `data_annotations` read.
    pub(crate) labels: Reads,
}

/// Returns the parts of `this` that the script may read.
pub(crate) fn of_this(ast: &AST) -> Read {
    let mut reader = Reader::default();
    for in_body in [true, false] {
        reader.in_body = in_body;
        each_node(ast, in_body, &mut |path| reader.declaration(path));
    }
    reader.in_body = true;
    each_node(ast, true, &mut |path| reader.use_of_alias(path));
    for in_body in [true, false] {
        reader.in_body = in_body;
        each_node(ast, in_body, &mut |path| reader.use_of_this(path));
    }
    for alias in reader.aliases.into_values().flatten() {
        let reads = if alias.relation.is_some() {
            &mut reader.related
        } else {
            &mut reader.reads
        };
        reads.add_all(&alias.path(), &alias.reads);
    }
    // Everything of an object is nothing of others.
    reader.reads.join(&reader.related);
    Read {
        this: reader.reads,
        labels: reader.labels,
    }
}

/// Calls `look` for each node of the script itself, or of the function values in it. The last element of
/// the path is the node, the others are its ancestors.
fn each_node(ast: &AST, in_body: bool, look: &mut dyn FnMut(&[ASTNode<'_>])) {
    fn visit(path: &[ASTNode<'_>], look: &mut dyn FnMut(&[ASTNode<'_>])) {
        look(path);
        // `walk` of the interpreter does not visit this one.
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
struct Reader {
    in_body: bool,
    reads: Reads,
    /// What of `reads` is of other objects.
    related: Reads,
    /// What `data_annotations` reads.
    labels: Reads,
    /// Whether the script reads its own result.
    uses_root: bool,
    /// Variables that alias a part of `this`; `None` for those that may be something else.
    aliases: BTreeMap<String, Option<Alias>>,
}

/// A variable that aliases a part of `this`.
struct Alias {
    /// The object that it is of, if it is not `this`.
    relation: Option<Relation>,
    /// The path of the part: keys, and `None` for an item of an array.
    path: Vec<Option<String>>,
    /// The place of `this` in the declaration.
    place: Position,
    /// What the script reads of the part.
    reads: Reads,
}

impl Alias {
    fn path(&self) -> Vec<Step<'_>> {
        let steps = self.path.iter();
        steps
            .map(|key| key.as_deref().map_or(Step::Item, Step::Key))
            .collect()
    }
}

impl Reader {
    /// What is read of `this`, or of another object.
    fn reads_of(&mut self, relation: Option<Relation>) -> &mut Reads {
        match relation {
            None => &mut self.reads,
            Some(_) => &mut self.related,
        }
    }

    /// Finds the aliases among the declarations.
    fn declaration(&mut self, path: &[ASTNode<'_>]) {
        let Some(ASTNode::Stmt(statement)) = path.last() else {
            self.uses_root |= is_use_of_root(path);
            return;
        };
        match statement {
            Stmt::Var(declared, ..) => {
                let alias = alias(&declared.1).filter(|_| self.in_body);
                // A variable that is declared twice may be either.
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
                let is_label = !self.uses_root && is_data(path);
                if let Some(Some(alias)) = self.aliases.get_mut(variable.1.as_str()) {
                    let chain = chain_from(path).unwrap_or(expression);
                    add(&mut alias.reads, None, chain, is_label);
                }
            }
            Some(ASTNode::Stmt(Stmt::Assignment(assignment))) => {
                if let (Expr::Variable(variable, ..), _) = paths::chain(&assignment.1.lhs)
                    && let Some(alias) = self.aliases.get_mut(variable.1.as_str())
                {
                    // From here on the variable may be something else.
                    if let Some(alias) = alias {
                        let reads = if alias.relation.is_some() {
                            &mut self.related
                        } else {
                            &mut self.reads
                        };
                        reads.add(&alias.path());
                    }
                }
            }
            _ => {}
        }
    }

    fn use_of_this(&mut self, path: &[ASTNode<'_>]) {
        let expression = match path.last() {
            Some(ASTNode::Expr(expression)) => expression,
            // A script that consists of the call.
            Some(ASTNode::Stmt(Stmt::FnCall(call, _))) => {
                if let Some(relation) = relation(call) {
                    self.related.add(&[Step::Key(relation.key())]);
                }
                return;
            }
            _ => return,
        };
        if let Some(owner) = owner_of_labels(expression) {
            let is_label = self.in_body && !self.uses_root && is_data(path);
            let reads = functions::data_annotations_reads(owner, is_label);
            return self.labels.join(&reads);
        }
        let Some((base, place)) = base(expression) else {
            return;
        };
        let mut aliases = self.aliases.values().flatten();
        if !self.in_body || !aliases.any(|alias| alias.place == place) {
            let is_label = self.in_body && !self.uses_root && is_data(path);
            let chain = chain_from(path).unwrap_or(expression);
            add(self.reads_of(base), base, chain, is_label);
        }
    }
}

/// Adds what `json(path)` reads. A number or `*` in the path is an item of an array or a field of an
/// object.
pub(crate) fn add_path(reads: &mut Reads, path: &str) {
    let keys: Vec<_> = path
        .split('.')
        .filter(|_| !path.is_empty())
        .map(|key| key.replace("~1", ".").replace("~0", "~"))
        .collect();
    let mut paths: Vec<Vec<Step<'_>>> = vec![Vec::new()];
    for key in &keys {
        let is_item = key == "*" || key.parse::<usize>().is_ok();
        // Each such step doubles the paths. Beyond a few, everything below is read.
        if is_item && paths.len() > 8 {
            break;
        }
        let as_item = paths.iter().filter(|_| is_item).map(|path| {
            let mut path = path.clone();
            path.push(Step::Item);
            path
        });
        let as_item: Vec<_> = as_item.collect();
        paths.iter_mut().for_each(|path| path.push(Step::Key(key)));
        paths.extend(as_item);
    }
    for path in paths {
        reads.add(&path);
    }
}

/// Returns the chain that starts with the last node of `path`, if there is one.
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

/// Whether the chain that starts with the last node of `path` becomes the `data` of the result.
fn is_data(path: &[ASTNode<'_>]) -> bool {
    let [.., above, ASTNode::Expr(chain), _] = path else {
        return false;
    };
    let target = |statement: &Stmt| match statement {
        Stmt::Assignment(assignment) if !assignment.0.is_op_assignment() => {
            let (base, steps) = paths::steps(&assignment.1.lhs);
            let keys = steps.into_iter().map(|step| match step {
                paths::Step::Key(key) => Some(key.to_owned()),
                _ => None,
            });
            let is_root = matches!(base, Expr::Variable(it, ..) if it.1 == "root");
            is_root.then(|| keys.collect::<Option<Vec<_>>>()).flatten()
        }
        _ => None,
    };
    match above {
        ASTNode::Stmt(statement) => target(statement).is_some_and(|keys| keys == ["data"]),
        ASTNode::Expr(Expr::Map(map, _)) => {
            let is_root = matches!(
                path,
                [.., ASTNode::Stmt(statement), _, _, _]
                    if target(statement).is_some_and(|keys| keys.is_empty())
            );
            let mut data = map.0.iter().filter(|(key, _)| key.name == "data");
            is_root && data.any(|(_, value)| std::ptr::eq(value, *chain))
        }
        _ => false,
    }
}

/// Whether the last node of `path` is the variable `root`, and not the target of an assignment.
fn is_use_of_root(path: &[ASTNode<'_>]) -> bool {
    let Some((ASTNode::Expr(node @ Expr::Variable(variable, ..)), above)) = path.split_last()
    else {
        return false;
    };
    let is_target = |above: &ASTNode<'_>| match above {
        ASTNode::Stmt(Stmt::Assignment(assignment)) => {
            std::ptr::eq(paths::chain(&assignment.1.lhs).0, *node)
        }
        _ => false,
    };
    variable.1 == "root" && !above.iter().any(is_target)
}

/// The relation that a call returns.
fn relation(call: &FnCallExpr) -> Option<Relation> {
    Relation::of_function(&call.name).filter(|_| call.args.is_empty())
}

/// The argument of a call of `data_annotations`.
fn owner_of_labels(expression: &Expr) -> Option<&str> {
    let (Expr::FnCall(call, _) | Expr::MethodCall(call, _)) = expression else {
        return None;
    };
    match call.args.as_slice() {
        [Expr::StringConstant(owner, _)] if call.name == DATA_ANNOTATIONS => Some(owner),
        _ => None,
    }
}

/// Returns the field of `this` that an expression stands for, `None` for all of it, and the place of the expression.
fn base(expression: &Expr) -> Option<(Option<Relation>, Position)> {
    match expression {
        Expr::ThisPtr(place) => Some((None, *place)),
        Expr::FnCall(call, place) => relation(call).map(|it| (Some(it), *place)),
        _ => None,
    }
}

/// Adds what a chain reads of its base. `is_label` is whether it only becomes the `data` of the result.
fn add(reads: &mut Reads, base: Option<Relation>, chain: &Expr, is_label: bool) {
    let (steps, end) = path(chain);
    let base = base.map(|it| Step::Key(it.key()));
    let path: Vec<_> = base.into_iter().chain(steps).collect();
    match end {
        End::Prefix(prefix) if is_label => reads.add_prefix(&path, prefix),
        End::Prefix(prefix) => reads.add_needed_prefix(&path, prefix),
        End::Chain | End::Other => reads.add(&path),
    }
}

/// Returns the part of `this` that a declared value aliases: a chain of literal steps, with or without
/// a default of `#{}`.
fn alias(value: &Expr) -> Option<Alias> {
    let value = match value {
        Expr::Coalesce(sides, _) => match sides.as_slice() {
            [value, default] if is_empty_map(default) => value,
            _ => return None,
        },
        value => value,
    };
    let (relation, place) = base(paths::chain(value).0)?;
    let (steps, End::Chain) = path(value) else {
        return None;
    };
    let first = relation.map(|it| Step::Key(it.key()));
    let path: Vec<_> = first.into_iter().chain(steps).collect();
    let owned = |step: Step<'_>| match step {
        Step::Key(key) => Some(key.to_owned()),
        Step::Item => None,
    };
    (!path.is_empty()).then(|| Alias {
        relation,
        path: path.into_iter().map(owned).collect(),
        place,
        reads: Reads::default(),
    })
}

fn is_empty_map(expression: &Expr) -> bool {
    match expression {
        Expr::Map(map, _) => map.0.is_empty(),
        Expr::DynamicConstant(value, _) => value.as_map_ref().is_ok_and(|map| map.is_empty()),
        _ => false,
    }
}

/// What follows the literal steps of a chain.
enum End<'a> {
    /// Nothing.
    Chain,
    /// `select_prefix("prefix")`.
    Prefix(&'a str),
    /// Anything else, which needs the whole value.
    Other,
}

/// Returns the literal steps of a chain, and what follows them.
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
