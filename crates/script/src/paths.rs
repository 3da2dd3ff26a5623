//! Property chains in a script: how to read them, and how to create missing parts.

use std::collections::HashSet;

use rhai::{AST, ASTFlags, ASTNode, Dynamic, Expr, FnCallExpr, Position, Stmt};

/// The name of the function that wraps a script, because `this` exists only in functions.
pub(crate) const BODY: &str = "__script";

/// The native function that creates `root.a` for `root.a.b = …`.
pub(crate) const MAKE_PATH: &str = "__make_path";

/// Returns the base of `base.a["b"].c` and its literal keys, up to the first other step, such as a
/// method call or a computed index. The expression reads all of what the keys lead to.
pub(crate) fn chain(expression: &Expr) -> (&Expr, Vec<&str>) {
    let (base, steps) = steps(expression);
    let keys = steps.into_iter().map_while(|step| match step {
        Step::Key(key) => Some(key),
        _ => None,
    });
    (base, keys.collect())
}

/// A step of a chain.
pub(crate) enum Step<'a> {
    /// `.key` or `["key"]`
    Key(&'a str),
    /// `[expression]`
    Index(&'a Expr),
    /// `.method(…)`
    Call(&'a FnCallExpr),
    /// Anything else.
    Other,
}

/// Returns the base of a chain and all of its steps.
pub(crate) fn steps(expression: &Expr) -> (&Expr, Vec<Step<'_>>) {
    let mut steps = Vec::new();
    let (mut pair, mut flags, mut is_index) = match expression {
        Expr::Dot(pair, flags, _) => (pair, *flags, false),
        Expr::Index(pair, flags, _) => (pair, *flags, true),
        other => return (other, steps),
    };
    let base = &pair.lhs;
    loop {
        // Unless the chain ends here, the right side is a pair of this step and the rest.
        let (step, rest) = match &pair.rhs {
            rest @ (Expr::Dot(next, ..) | Expr::Index(next, ..))
                if !flags.intersects(ASTFlags::BREAK) =>
            {
                (&next.lhs, Some(rest))
            }
            last => (last, None),
        };
        steps.push(match step {
            Expr::Property(property, _) if !is_index => Step::Key(property.2.as_str()),
            Expr::StringConstant(key, _) if is_index => Step::Key(key.as_str()),
            Expr::MethodCall(call, _) if !is_index => Step::Call(call),
            index if is_index => Step::Index(index),
            _ => Step::Other,
        });
        (pair, flags, is_index) = match rest {
            Some(Expr::Dot(pair, flags, _)) => (pair, *flags, false),
            Some(Expr::Index(pair, flags, _)) => (pair, *flags, true),
            _ => return (base, steps),
        };
    }
}

/// Returns the receiver of a method call at the start of a chain: `x` for `x.f()`, and `None` for the
/// `f` of `a[x].f()`. `ancestors` are those of the call, the outermost first.
pub(crate) fn receiver<'a>(ancestors: &[ASTNode<'a>], call: &Expr) -> Option<&'a Expr> {
    fn pair<'a>(node: &ASTNode<'a>) -> Option<(&'a Expr, &'a Expr)> {
        match node {
            ASTNode::Expr(Expr::Dot(pair, ..) | Expr::Index(pair, ..)) => {
                Some((&pair.lhs, &pair.rhs))
            }
            _ => None,
        }
    }
    // The call is the right side itself, or the left side of the pair on the right side.
    let (mut child, mut left) = (call, ancestors);
    loop {
        let (parent, rest) = left.split_last()?;
        let (lhs, rhs) = pair(parent)?;
        if std::ptr::eq(rhs, child) {
            let ASTNode::Expr(chain) = parent else {
                return None;
            };
            // Deeper in the chain the left side is a step and not a value.
            let is_start = rest
                .last()
                .and_then(pair)
                .is_none_or(|(_, rhs)| !std::ptr::eq(rhs, *chain));
            return is_start.then_some(lhs);
        }
        let ASTNode::Expr(chain) = parent else {
            return None;
        };
        if !std::ptr::eq(lhs, child) {
            return None;
        }
        (child, left) = (*chain, rest);
    }
}

/// Returns the script itself, or the function values in it.
pub(crate) fn functions(ast: &AST, body: bool) -> AST {
    let mut functions = ast.clone();
    functions.retain_functions(|_, _, name, _| (name == BODY) == body);
    functions
}

/// Returns the statements `root.__make_path([…]);` to insert before assignments to nested fields of
/// `root`, so that `root.a.b = 1` works without `root.a`, with their positions.
///
/// There are none where no statement can be inserted: in a function value, and in an arm of a `switch`
/// without braces.
pub(crate) fn preparations(ast: &AST, source: &str) -> Vec<(Position, String)> {
    let mut found = Vec::new();
    functions(ast, true).walk(&mut |path| {
        if let Some(ASTNode::Stmt(Stmt::Assignment(assignment))) = path.last()
            && !assignment.0.is_op_assignment()
            && let (Expr::Variable(base, _, position), keys) = chain(&assignment.1.lhs)
            && base.0.is_none()
            && base.1 == "root"
            && let Some((_, through)) = keys.split_last()
            && !through.is_empty()
        {
            let keys: Vec<_> = through.iter().map(|key| format!("{key:?}")).collect();
            let statement = format!("root.{MAKE_PATH}([{}]);", keys.join(","));
            found.push((*position, statement));
        }
        true
    });
    if !found.is_empty() {
        let starts = statement_starts(source);
        found.retain(|(position, _)| starts.contains(&place(*position)));
        found.sort_by_key(|(position, _)| place(*position));
        found.dedup();
    }
    found
}

fn place(position: Position) -> (usize, usize) {
    (
        position.line().unwrap_or(0),
        position.position().unwrap_or(0),
    )
}

/// Returns lines and columns, from 1, of the first characters after a brace, a semicolon or the start.
fn statement_starts(source: &str) -> HashSet<(usize, usize)> {
    let mut starts = HashSet::new();
    let mut before = ';';
    let mut skipping = Skip::Nothing;
    for (line, text) in source.split('\n').enumerate() {
        let mut characters = text.chars().enumerate().peekable();
        if skipping == Skip::Line {
            skipping = Skip::Nothing;
        }
        while let Some((column, character)) = characters.next() {
            let next = characters.peek().map(|(_, next)| *next);
            match (&skipping, character) {
                (Skip::Line, _) => break,
                (Skip::Block, '*') if next == Some('/') => {
                    characters.next();
                    skipping = Skip::Nothing;
                }
                (Skip::Block, _) => {}
                (Skip::Text(quote), _) if *quote == character => skipping = Skip::Nothing,
                (Skip::Text(quote), '\\') if *quote != '`' => {
                    characters.next();
                }
                (Skip::Text(_), _) => {}
                (Skip::Nothing, '/') if next == Some('/') => skipping = Skip::Line,
                (Skip::Nothing, '/') if next == Some('*') => skipping = Skip::Block,
                (Skip::Nothing, character) if character.is_whitespace() => {}
                (Skip::Nothing, character) => {
                    if matches!(before, ';' | '{' | '}') {
                        starts.insert((line + 1, column + 1));
                    }
                    before = character;
                    if matches!(character, '"' | '`' | '\'') {
                        skipping = Skip::Text(character);
                    }
                }
            }
        }
    }
    starts
}

#[derive(PartialEq)]
enum Skip {
    Nothing,
    Line,
    Block,
    Text(char),
}

/// Creates a map for every missing field on the path. For a field that is not a map the assignment will
/// fail.
pub(crate) fn make_path(root: &mut Dynamic, path: rhai::Array) {
    let Some(key) = path.first().and_then(|key| {
        key.as_immutable_string_ref()
            .ok()
            .map(|key| key.to_string())
    }) else {
        return;
    };
    let rest = path.get(1..).unwrap_or_default().to_vec();
    if let Ok(mut map) = root.as_map_mut() {
        let field = map.entry(key.into()).or_insert(Dynamic::UNIT);
        if field.is_unit() {
            *field = Dynamic::from_map(rhai::Map::new());
        }
        make_path(field, rest);
    }
}
