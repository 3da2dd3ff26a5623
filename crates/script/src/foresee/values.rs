//! Derives what is known about the value of an expression.

use meterline_core::foreseen::{Fact, Kind, Shape};
use rhai::{Dynamic, Expr, FnCallExpr, Position};

use super::{Walk, reach};
use crate::{
    functions::{self, Type},
    paths::{self, MAKE_PATH, Step},
};

/// Converts the fact about a value to the one about a field or item. A deleted one is absent.
pub(super) fn item(fact: Fact) -> Fact {
    match fact.kind {
        Kind::Deleted => Fact {
            kind: Kind::Null,
            ..fact
        },
        _ => fact,
    }
}

/// Returns what is known about the result of `+`.
pub(super) fn sum(one: Shape, other: Shape) -> Shape {
    let varies = one.whole.varies || other.whole.varies;
    let kind = match (&one.whole.kind, &other.whole.kind) {
        (Kind::Object, Kind::Object) => return one.merge(other),
        (Kind::Number, Kind::Number) => Kind::Number,
        (Kind::Array, Kind::Array) => Kind::Array,
        (Kind::Text(_) | Kind::EventId(..), _) | (_, Kind::Text(_) | Kind::EventId(..)) => {
            Kind::Text(None)
        }
        _ => Kind::Unknown,
    };
    Shape::new(kind, varies)
}

impl Walk<'_> {
    pub(super) fn value(&mut self, expression: &Expr) -> Shape {
        let fixed = |kind| Shape::new(kind, false);
        match expression {
            Expr::DynamicConstant(value, position) => self.constant(value, *position),
            Expr::BoolConstant(..) => fixed(Kind::Bool),
            Expr::IntegerConstant(..) | Expr::FloatConstant(..) => fixed(Kind::Number),
            Expr::CharConstant(..) => fixed(Kind::Text(None)),
            Expr::StringConstant(text, _) => fixed(Kind::Text(Some(text.as_str().into()))),
            Expr::Unit(_) => fixed(Kind::Null),
            Expr::InterpolatedString(parts, _) => {
                let varies = self.any_varies(parts.iter());
                Shape::new(Kind::Text(None), varies)
            }
            Expr::Array(items, _) => {
                let varies = self.any_varies(items.iter());
                Shape::new(Kind::Array, varies)
            }
            Expr::Map(fields, _) => {
                let mut shape = Shape::empty();
                for (key, value) in &fields.0 {
                    let mut fact = self.value(value).whole;
                    fact.spot = self.spot(value.start_position());
                    shape.set(&key.name, item(fact));
                }
                shape
            }
            Expr::Variable(variable, ..) => self.variable(&variable.1),
            Expr::ThisPtr(_) => self.before.content.clone(),
            Expr::Stmt(block) => self.block(block.iter()),
            Expr::FnCall(call, _) | Expr::MethodCall(call, _) => self.call(call, None),
            Expr::Dot(..) | Expr::Index(..) => self.chain(expression),
            Expr::And(operands, _) | Expr::Or(operands, _) => {
                let varies = self.any_varies(operands.iter());
                Shape::new(Kind::Bool, varies)
            }
            Expr::Coalesce(operands, _) => {
                let values: Vec<_> = operands.iter().map(|it| self.value(it)).collect();
                values.into_iter().reduce(or).unwrap_or(fixed(Kind::Null))
            }
            _ => Shape::new(Kind::Unknown, true),
        }
    }

    fn any_varies<'e>(&mut self, expressions: impl Iterator<Item = &'e Expr>) -> bool {
        let mut varies = false;
        for expression in expressions {
            varies |= self.value(expression).whole.varies;
        }
        varies
    }

    fn constant(&mut self, value: &Dynamic, position: Position) -> Shape {
        let content = self.before.content.whole.varies;
        let fact = |value: &Dynamic| {
            let calls = self.functions.varies && reach::has_function(value);
            Fact {
                kind: reach::kind(value),
                varies: calls || reach::names(value, content),
                spot: self.spot(position),
            }
        };
        let Ok(fields) = value.as_map_ref() else {
            let fact = fact(value);
            return Shape::new(fact.kind, fact.varies);
        };
        let mut shape = Shape::empty();
        for (key, value) in fields.iter() {
            shape.set(key, fact(value));
        }
        shape
    }

    /// Whether the steps of an assignment's target vary.
    pub(super) fn steps_vary(&mut self, steps: &[Step<'_>]) -> bool {
        let mut varies = false;
        for step in steps {
            varies |= match step {
                Step::Key(_) => false,
                Step::Index(index) => self.value(index).whole.varies,
                Step::Call(call) => self.call(call, None).whole.varies,
                Step::Other => true,
            };
        }
        varies
    }

    fn chain(&mut self, expression: &Expr) -> Shape {
        let (base, steps) = paths::steps(expression);
        let name = match base {
            Expr::Variable(variable, ..) => Some(&variable.1),
            _ => None,
        };
        if name.is_some_and(|it| it == "meta") && self.state.variable("meta").is_none() {
            let varies = match steps.as_slice() {
                [Step::Key(key)] => self.metadata(key),
                _ => true,
            };
            return Shape::new(Kind::Unknown, varies);
        }
        let mut value = self.value(base);
        // Whether any intermediate value varies, because a method may store it in the variable.
        let mut varies = value.whole.varies;
        let mut changes = false;
        for step in &steps {
            value = match step {
                Step::Key(key) => {
                    let fact = value.field(key);
                    Shape::new(fact.kind, fact.varies)
                }
                Step::Index(index) => {
                    let index = self.value(index).whole.varies;
                    Shape::new(Kind::Unknown, value.whole.varies || index)
                }
                Step::Call(call) => {
                    changes |= reach::changes(call);
                    let given = self.arguments(call, Some(value));
                    varies |= given.iter().any(|it| it.whole.varies);
                    self.result(call, given)
                }
                Step::Other => Shape::new(Kind::Unknown, true),
            };
            varies |= value.whole.varies;
        }
        if changes && let Some(name) = name {
            self.changed(name, varies);
        }
        value
    }

    /// Notes that a function may have changed a variable.
    fn changed(&mut self, name: &str, varies: bool) {
        let mut shape = self.variable(name);
        shape.blur(varies || self.control);
        // A method with a function as an argument can change the type of its receiver.
        if shape.whole.kind != Kind::Object {
            shape.whole.kind = Kind::Unknown;
        }
        self.set(name, shape);
    }

    /// Whether metadata vary.
    fn metadata(&self, key: &str) -> bool {
        // Other metadata, such as the lengths of the window and the usage, can be equal for all windows.
        matches!(key, "schedule_time" | "window_time") || self.state.metadata
    }

    /// Interprets a call outside of a chain.
    pub(super) fn call(&mut self, call: &FnCallExpr, receiver: Option<Shape>) -> Shape {
        let arguments = self.arguments(call, receiver);
        if reach::changes(call)
            && let Some(Expr::Variable(variable, ..)) = call.args.first()
        {
            let varies = arguments.iter().any(|it| it.whole.varies);
            self.changed(&variable.1, varies);
        }
        self.result(call, arguments)
    }

    fn arguments(&mut self, call: &FnCallExpr, receiver: Option<Shape>) -> Vec<Shape> {
        let mut arguments: Vec<Shape> = receiver.into_iter().collect();
        for argument in &call.args {
            let value = self.value(argument);
            arguments.push(value);
        }
        arguments
    }

    /// Whether the result of a call varies with these arguments.
    fn varies(&self, call: &FnCallExpr, arguments: &[Shape]) -> bool {
        let name = call.name.as_str();
        let content = self.before.content.whole.varies;
        arguments.iter().any(|it| it.whole.varies)
            || match (name, call.args.first()) {
                ("Fn", Some(Expr::StringConstant(name, _))) => {
                    reach::varies(name, content) || name == "meta"
                }
                ("meta", Some(Expr::StringConstant(key, _))) => self.metadata(key),
                ("meta", _) => true,
                (name, _) if call.is_operator_call() || name == MAKE_PATH => false,
                (name, _) => !functions::is_known(name) || reach::varies(name, content),
            }
    }

    /// Returns what is known about the result of a call.
    fn result(&mut self, call: &FnCallExpr, arguments: Vec<Shape>) -> Shape {
        let name = call.name.as_str();
        let varies = self.varies(call, &arguments);
        let kinds: Vec<Kind> = arguments.iter().map(|it| it.whole.kind.clone()).collect();
        let arguments = arguments.into_iter();
        let kind = match (name, kinds.as_slice()) {
            ("event_id", []) => Kind::EventId("".into(), None),
            ("event_id", [Kind::Text(Some(event_type))]) => Kind::EventId(event_type.clone(), None),
            ("event_id", [Kind::Text(Some(event_type)), Kind::Text(Some(key))]) => {
                Kind::EventId(event_type.clone(), Some(key.clone()))
            }
            ("deleted", _) => Kind::Deleted,
            ("json", []) => return self.before.content.clone(),
            ("+", [_, _]) => return arguments.reduce(sum).unwrap_or_else(Shape::empty),
            ("or", [_, _]) => return arguments.reduce(or).unwrap_or_else(Shape::empty),
            ("assign", [first, ..]) if *first != Kind::Array => {
                let mut merged = arguments.reduce(Shape::merge).unwrap_or_else(Shape::empty);
                merged.whole.kind = Kind::Object;
                return merged;
            }
            ("-" | "*" | "/" | "%" | "**", [Kind::Number, Kind::Number]) => Kind::Number,
            ("==" | "!=" | "<" | "<=" | ">" | ">=" | "!" | "in", _) => Kind::Bool,
            (name, _) => match functions::result(name) {
                Some(Type::Text) => Kind::Text(None),
                Some(Type::Integer | Type::Decimal) => Kind::Number,
                Some(Type::Bool) => Kind::Bool,
                Some(Type::Array) => Kind::Array,
                Some(Type::Object) => Kind::Object,
                _ => Kind::Unknown,
            },
        };
        Shape::new(kind, varies)
    }
}

/// Returns what is known about `value ?? default`.
fn or(value: Shape, default: Shape) -> Shape {
    match value.whole.kind {
        Kind::Unknown => value.join(default),
        Kind::Null => {
            let mut default = default;
            default.depends(value.whole.varies);
            default
        }
        _ => value,
    }
}
