//! Which tables a script looks up, and by which keys.
//!
//! An input that observes objects adds to each object the values that the script looks up, as they were when the object
//! ran. So what the key of a call can be is known before the script runs: a field, a text, or a choice of them.

use std::collections::HashMap;

use meterline_core::{Node, Reads, Step};
use rhai::{AST, ASTNode, Expr, FnCallExpr, Stmt};

use crate::{paths, relation::Relation};

/// The key of the values of tables in the content of a message. Below it are the tables, and below each the places of
/// keys ([`key_at`]) with the value of each key.
pub const LOOKUP: &str = "lookup()";

/// The start of the name of a table that is a path.
pub const TABLE: &str = "table:";

/// The start of a place that is the key itself.
const TEXT: char = '=';

/// How deep variables that are declared by variables are followed.
const MOST_DEPTH: usize = 16;

/// Returns the key at a place that a script takes it from: the text of a field of the object, or the key itself.
#[must_use]
pub fn key_at<'a>(object: Node<'a>, place: &'a str) -> Option<&'a str> {
    if let Some(text) = place.strip_prefix(TEXT) {
        return Some(text);
    }
    let mut node = object;
    for key in place.split('.') {
        node = if key.contains('~') {
            node.get(&key.replace("~1", ".").replace("~0", "~"))?
        } else {
            node.get(key)?
        };
    }
    node.as_str()
}

/// The place of a field.
pub(crate) fn place(keys: &[&str]) -> String {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| key.replace('~', "~0").replace('.', "~1"))
        .collect();
    keys.join(".")
}

/// Adds the value of the key at a place.
pub(crate) fn add(reads: &mut Reads, table: &str, place: &str) {
    reads.add(&[Step::Key(LOOKUP), Step::Key(table), Step::Key(place)]);
}

/// The variables of a script that have one value.
#[derive(Default)]
pub(crate) struct Variables(HashMap<String, Option<Expr>>);

impl Variables {
    /// Of a script.
    pub(crate) fn of(ast: &AST) -> Self {
        let mut variables = Self::default();
        for in_body in [true, false] {
            paths::functions(ast, in_body).walk(&mut |path| {
                if let Some(ASTNode::Stmt(statement)) = path.last() {
                    variables.statement(statement, in_body);
                }
                true
            });
        }
        variables
    }

    fn statement(&mut self, statement: &Stmt, in_body: bool) {
        match statement {
            Stmt::Var(declared, ..) => {
                let value = in_body.then(|| declared.1.clone());
                // A variable that is declared twice may be either.
                self.0
                    .entry(declared.0.name.to_string())
                    .and_modify(|known| *known = None)
                    .or_insert(value);
            }
            Stmt::For(parts, _) => {
                for name in std::iter::once(&parts.0).chain(&parts.1) {
                    self.0.insert(name.name.to_string(), None);
                }
            }
            Stmt::Assignment(assignment) => {
                if let (Expr::Variable(variable, ..), _) = paths::chain(&assignment.1.lhs) {
                    self.0.insert(variable.1.to_string(), None);
                }
            }
            _ => {}
        }
    }

    /// The places that a key is taken from; `None` if it may be another text.
    pub(crate) fn places(&self, key: &Expr) -> Option<Vec<String>> {
        let fields = self.values(key, 0)?;
        let place = |value: Value| match value {
            Value::Text(text) => format!("{TEXT}{text}"),
            Value::Field(keys) => place(&keys.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        Some(fields.into_iter().map(place).collect())
    }

    /// The values that an expression may have.
    fn values(&self, expression: &Expr, depth: usize) -> Option<Vec<Value>> {
        if depth > MOST_DEPTH {
            return None;
        }
        match expression {
            Expr::Unit(_) => Some(Vec::new()),
            Expr::Map(map, _) if map.0.is_empty() => Some(Vec::new()),
            Expr::DynamicConstant(value, _) if value.as_map_ref().is_ok_and(|it| it.is_empty()) => {
                Some(Vec::new())
            }
            Expr::StringConstant(text, _) => Some(vec![Value::Text(text.to_string())]),
            Expr::ThisPtr(_) => Some(vec![Value::Field(Vec::new())]),
            Expr::Variable(variable, ..) => {
                let value = self.0.get(variable.1.as_str())?.as_ref()?;
                self.values(value, depth + 1)
            }
            Expr::Coalesce(sides, _) => {
                let sides = sides.iter().map(|it| self.values(it, depth + 1));
                Some(sides.collect::<Option<Vec<_>>>()?.concat())
            }
            Expr::FnCall(call, _) => self.called(call, depth),
            Expr::Dot(..) | Expr::Index(..) => {
                let (base, steps) = paths::steps(expression);
                let mut keys = Vec::new();
                for (at, step) in steps.iter().enumerate() {
                    match step {
                        paths::Step::Key(key) => keys.push((*key).to_owned()),
                        // The key is trimmed in any case.
                        paths::Step::Call(call)
                            if is_trimming(call)
                                && call.args.is_empty()
                                && at + 1 == steps.len() => {}
                        _ => return None,
                    }
                }
                let below = |base| match base {
                    Value::Field(mut path) => {
                        path.extend(keys.iter().cloned());
                        Some(Value::Field(path))
                    }
                    text @ Value::Text(_) => keys.is_empty().then_some(text),
                };
                self.values(base, depth + 1)?
                    .into_iter()
                    .map(below)
                    .collect()
            }
            _ => None,
        }
    }

    fn called(&self, call: &FnCallExpr, depth: usize) -> Option<Vec<Value>> {
        match call.args.as_slice() {
            [] => {
                let relation = Relation::of_function(&call.name)?;
                Some(vec![Value::Field(vec![relation.key().to_owned()])])
            }
            [text] if is_trimming(call) => self.values(text, depth + 1),
            _ => None,
        }
    }
}

/// What an expression may be.
#[derive(Clone)]
enum Value {
    Text(String),
    /// A field of the content of the message.
    Field(Vec<String>),
}

fn is_trimming(call: &FnCallExpr) -> bool {
    matches!(call.name.as_str(), "nonblank" | "trim")
}

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use serde_json::json;

    use super::*;
    use crate::{Engine, Limits};

    /// What a script looks up, or its first error.
    fn lookups(script: &str) -> String {
        match Engine::new(Limits::default()).compile_mapping(script) {
            Ok(mapping) => {
                let paths = mapping.reads().paths();
                let prefix = format!("{LOOKUP}.");
                let found = paths.iter().filter_map(|it| it.strip_prefix(&prefix));
                found.collect::<Vec<_>>().join(" ")
            }
            Err(errors) => errors[0].text(),
        }
    }

    #[test]
    fn keys_are_fields_texts_or_a_choice_of_them() {
        for (key, places) in [
            ("this.metadata.namespace", "t.metadata~1namespace"),
            ("this.metadata.namespace.trim()", "t.metadata~1namespace"),
            (
                r#"namespace()?.labels?["a.b/c"]"#,
                "t.namespace()~1labels~1a~01b/c",
            ),
            (
                r#"node().name ?? this.spec.nodeName.nonblank() ?? "none""#,
                "t.=none t.node()~1name t.spec~1nodeName",
            ),
            ("ns", "t.metadata~1namespace"),
            ("labels.team", "t.namespace()~1labels~1team"),
            (r#""all""#, "t.=all"),
        ] {
            let script = format!(
                "let ns = this.metadata.namespace; let labels = namespace()?.labels ?? #{{}};
                 root.x = lookup(\"t\", {key})"
            );
            assert_eq!(lookups(&script), places, "{key}");
        }
    }

    #[test]
    fn a_key_that_is_made_by_the_script_is_refused() {
        for script in [
            r#"root = lookup("t", this.a + "x")"#,
            r#"root = lookup("t", `${this.a}`)"#,
            r#"let a = this.a; a = "x"; root = lookup("t", a)"#,
            r#"root = ["a"].map_each(|it| lookup("t", it))"#,
            r#"root = lookup("t", this.items[0].name.to_upper())"#,
        ] {
            let error = lookups(script);
            assert!(error.contains("field of the object"), "{script}: {error}");
        }
        assert!(lookups(r#"root = lookup(this.table, "a")"#).contains("name of the table"));
        assert!(lookups(r#"root = ["t"].map_each(Fn("lookup"))"#).contains("directly"));
    }

    #[test]
    fn the_key_of_a_place_is_found_in_an_object() {
        let object = Document::from(&json!({"a": {"b.c/d~e": "x", "n": 1}}));
        let of = |keys: &[&str]| key_at(object.root(), &place(keys)).map(str::to_owned);
        assert_eq!(of(&["a", "b.c/d~e"]).as_deref(), Some("x"));
        assert_eq!((of(&["a", "n"]), of(&["z"])), (None, None));
        assert_eq!(key_at(object.root(), "=a.b"), Some("a.b"));
    }
}
