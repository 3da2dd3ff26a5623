//! Derives what is known about messages after a mapping, by abstract interpretation of the script.
//!
//! Each statement is interpreted with what is known about values instead of the values. Both branches of
//! a condition are followed and joined. Nothing is known about what a loop or a function value may have
//! changed.

mod reach;
mod values;

use std::collections::HashSet;

use meterline_core::foreseen::{Fact, Foreseen, Kind, Shape, Spot};
use rhai::{
    AST, ASTFlags, ASTNode, Expr, FlowControl, ImmutableString, Position, Stmt,
    SwitchCasesCollection,
};

use crate::{
    error::Origin,
    paths::{self, Step},
};

use reach::{Reach, Target};

/// The most branches to follow. Nothing is known about the result of a script with more.
const MAX_BRANCHES: usize = 2000;

/// Derives what is known about messages after the script from what is known before it. `text` is the
/// number of the script's text.
pub(crate) fn foresee(
    ast: &AST,
    origin: &Origin,
    before: &Foreseen,
    text: Option<u64>,
) -> Foreseen {
    if before.content.whole.kind == Kind::Deleted {
        return before.clone();
    }
    let mut walk = Walk {
        before,
        origin,
        text,
        functions: Reach::of_functions(ast, before.content.whole.varies),
        state: State {
            variables: Vec::new(),
            root: None,
            is_untouched: true,
            metadata: before.metadata,
            is_over: false,
        },
        returned: None,
        control: false,
        shared: HashSet::new(),
        ways: 0,
    };
    paths::functions(ast, true).walk(&mut |path| {
        if let [ASTNode::Stmt(statement)] = path {
            walk.statement(statement);
        }
        true
    });
    walk.outcome()
}

/// What is known at a point in a script.
#[derive(Clone)]
struct State {
    variables: Vec<(ImmutableString, Shape)>,
    /// What is known about `root`, if anything was assigned.
    root: Option<Shape>,
    /// Whether `root` may be unassigned.
    is_untouched: bool,
    /// Whether metadata may vary.
    metadata: bool,
    /// Whether this point is unreachable.
    is_over: bool,
}

impl State {
    fn join(self, other: Self) -> Self {
        if self.is_over {
            return other;
        }
        if other.is_over {
            return self;
        }
        let variables = self.variables.into_iter().zip(other.variables);
        Self {
            variables: variables
                .map(|((name, one), (_, other))| (name, one.join(other)))
                .collect(),
            root: match (self.root, other.root) {
                (Some(one), Some(other)) => Some(one.join(other)),
                (one, other) => one.or(other),
            },
            is_untouched: self.is_untouched || other.is_untouched,
            metadata: self.metadata || other.metadata,
            is_over: false,
        }
    }

    /// Returns the value of `root` in an expression.
    fn root(&self) -> Shape {
        match (&self.root, self.is_untouched) {
            (None, _) => Shape::empty(),
            (Some(root), true) => root.clone().join(Shape::empty()),
            (Some(root), false) => root.clone(),
        }
    }

    fn variable(&mut self, name: &str) -> Option<&mut Shape> {
        let mut variables = self.variables.iter_mut().rev();
        variables
            .find(|(known, _)| known == name)
            .map(|(_, shape)| shape)
    }
}

struct Walk<'a> {
    before: &'a Foreseen,
    origin: &'a Origin,
    text: Option<u64>,
    /// What the function values in the script may change.
    functions: Reach,
    state: State,
    /// What is known at the early ends of the script.
    returned: Option<State>,
    /// Whether the current statement depends on a condition that varies.
    control: bool,
    /// Variables that a function value may change at any time.
    shared: HashSet<ImmutableString>,
    ways: usize,
}

impl Walk<'_> {
    fn outcome(mut self) -> Foreseen {
        if self.ways > MAX_BRANCHES {
            return Foreseen {
                is_usage: self.before.is_usage,
                is_original: self.before.is_original,
                is_recovered: self.before.is_recovered,
                is_part: self.before.is_part,
                ..Foreseen::default()
            };
        }
        let mut state = self.state;
        if let Some(returned) = self.returned.take() {
            state = returned.join(state);
        }
        let before = &self.before.content;
        let is_original = self.before.is_original && state.is_untouched && !state.is_over;
        let content = match state.root {
            // Every branch ends in an error.
            None if state.is_over => Shape::new(Kind::Deleted, false),
            None => before.clone(),
            Some(root) if state.is_untouched => before.clone().join(root),
            Some(root) => root,
        };
        Foreseen {
            content,
            metadata: state.metadata,
            is_usage: self.before.is_usage,
            is_original,
            is_recovered: self.before.is_recovered,
            is_part: self.before.is_part,
        }
    }

    fn spot(&self, position: Position) -> Option<Spot> {
        let (line, column) = self.origin.place(position)?;
        Some(Spot {
            text: self.text,
            line,
            column,
        })
    }

    /// Interprets the statements, and returns the value of the last one.
    fn block<'s>(&mut self, statements: impl IntoIterator<Item = &'s Stmt>) -> Shape {
        let depth = self.state.variables.len();
        let mut value = Shape::new(Kind::Null, false);
        for statement in statements {
            value = self.statement(statement);
        }
        self.state.variables.truncate(depth);
        value
    }

    fn statement(&mut self, statement: &Stmt) -> Shape {
        if self.state.is_over || self.ways > MAX_BRANCHES {
            return Shape::new(Kind::Deleted, false);
        }
        let nothing = Shape::new(Kind::Null, false);
        match statement {
            Stmt::Expr(expression) => return self.value(expression),
            Stmt::FnCall(call, _) => return self.call(call, None),
            Stmt::Block(block) => return self.block(block.iter()),
            Stmt::If(flow, _) => return self.condition(flow),
            Stmt::Switch(switch, _) => return self.switch(&switch.0, &switch.1),
            Stmt::Var(declared, ..) => {
                let value = self.value(&declared.1);
                self.state.variables.push((declared.0.name.clone(), value));
            }
            Stmt::Assignment(assignment) => {
                let pair = &assignment.1;
                self.assign(&pair.lhs, &pair.rhs, assignment.0.is_op_assignment());
            }
            Stmt::While(flow, _) | Stmt::Do(flow, ..) => return self.repeat(flow),
            Stmt::For(parts, _) => return self.repeat(&parts.2),
            Stmt::TryCatch(flow, _) => self.attempt(flow),
            Stmt::Return(value, flags, _) => {
                if let Some(value) = value {
                    self.value(value);
                }
                if !flags.intersects(ASTFlags::BREAK) {
                    self.returns();
                }
                self.state.is_over = true;
                return Shape::new(Kind::Deleted, false);
            }
            Stmt::Share(names) if self.functions.changes_anything() => {
                for (name, _) in names.iter() {
                    self.unknown(&Target::Whole(name.name.clone()));
                    self.shared.insert(name.name.clone());
                }
            }
            // Loops are not followed.
            Stmt::BreakLoop(..) => {}
            _ => {}
        }
        nothing
    }

    fn condition(&mut self, flow: &FlowControl) -> Shape {
        let varies = self.value(&flow.expr).whole.varies;
        let ways = [&flow.body, &flow.branch];
        self.either(varies, ways, |walk, block| walk.block(block.iter()))
    }

    fn switch(&mut self, subject: &Expr, cases: &SwitchCasesCollection) -> Shape {
        let mut varies = self.value(subject).whole.varies;
        for case in &cases.expressions {
            varies |= self.value(&case.lhs).whole.varies;
        }
        let ways = cases.expressions.iter().map(|case| Some(&case.rhs));
        let none = cases.def_case.is_none().then_some(None);
        self.either(varies, ways.chain(none), |walk, way| match way {
            Some(expression) => walk.value(expression),
            None => Shape::new(Kind::Null, false),
        })
    }

    fn attempt(&mut self, flow: &FlowControl) {
        // An error may occur anywhere in the body.
        let reach = Reach::of_statements(flow.body.iter());
        self.either(true, [true, false], |walk, fails| {
            if fails {
                walk.unknown_after(&reach);
                walk.block(flow.branch.iter())
            } else {
                walk.block(flow.body.iter())
            }
        });
    }

    /// Notes that the script may end here.
    fn returns(&mut self) {
        let state = self.state.clone();
        self.returned = Some(match self.returned.take() {
            Some(before) => before.join(state),
            None => state,
        });
    }

    /// Interprets several alternative branches and joins them. `varies` is whether the choice depends
    /// on something that varies.
    fn either<W>(
        &mut self,
        varies: bool,
        ways: impl IntoIterator<Item = W>,
        mut go: impl FnMut(&mut Self, W) -> Shape,
    ) -> Shape {
        let control = self.control;
        self.control |= varies;
        let start = self.state.clone();
        let mut joined: Option<(State, Shape)> = None;
        let mut one_ends = false;
        for way in ways {
            self.ways += 1;
            if self.ways > MAX_BRANCHES {
                break;
            }
            self.state = start.clone();
            let value = go(self, way);
            one_ends |= self.state.is_over;
            let state = self.state.clone();
            joined = Some(match joined {
                Some((before, known)) => (before.join(state), known.join(value)),
                None => (state, value),
            });
        }
        let depends = self.control;
        // Whether the following statements run then depends on it, too.
        self.control = control || (varies && one_ends);
        let (state, mut value) = joined.unwrap_or((start, Shape::new(Kind::Null, false)));
        self.state = state;
        value.depends(depends);
        value
    }

    fn repeat(&mut self, flow: &FlowControl) -> Shape {
        self.value(&flow.expr);
        let reach = Reach::of_statements(flow.body.iter());
        self.unknown_after(&reach);
        if reach.returns {
            self.returns();
        }
        Shape::new(Kind::Unknown, true)
    }

    /// Discards what is known about variables that statements which are not followed may change.
    fn unknown_after(&mut self, reach: &Reach) {
        reach.targets.iter().for_each(|target| self.unknown(target));
    }

    fn unknown(&mut self, target: &Target) {
        let anything = || Shape::new(Kind::Unknown, true);
        match target {
            Target::Whole(name) => self.set(name, anything()),
            Target::Field(name, key) => {
                let mut shape = self.variable(name);
                shape.set(key, Fact::new(Kind::Unknown, true));
                self.set(name, shape);
            }
            Target::Everything => {
                self.state.metadata = true;
                self.set("root", anything());
                for (_, shape) in &mut self.state.variables {
                    *shape = anything();
                }
            }
        }
    }

    /// Returns what is known about a variable.
    fn variable(&mut self, name: &str) -> Shape {
        if let Some(shape) = self.state.variable(name) {
            return shape.clone();
        }
        match name {
            "root" => self.state.root(),
            _ => Shape::new(Kind::Unknown, true),
        }
    }

    fn set(&mut self, name: &str, shape: Shape) {
        let shape = if self.shared.contains(name) {
            Shape::new(Kind::Unknown, true)
        } else {
            shape
        };
        if let Some(known) = self.state.variable(name) {
            *known = shape;
        } else if name == "root" {
            self.state.root = Some(shape);
            self.state.is_untouched = false;
        } else if name == "meta" {
            self.state.metadata = true;
        }
    }

    fn assign(&mut self, target: &Expr, value: &Expr, is_combined: bool) {
        let mut new = self.value(value);
        new.depends(self.control);
        let spot = self.spot(value.start_position());
        new.whole.spot = spot;
        let (Expr::Variable(variable, ..), steps) = paths::steps(target) else {
            return;
        };
        let name = &variable.1;
        if name == "meta" && self.state.variable(name).is_none() {
            self.state.metadata |= new.whole.varies || steps.is_empty();
            return;
        }
        let mut shape = self.variable(name);
        match steps.as_slice() {
            [] if is_combined => shape = values::sum(shape, new),
            [] => shape = new,
            [Step::Key(key)] => {
                let mut fact = new.whole;
                if is_combined {
                    let old = shape.field(key);
                    fact = Fact {
                        kind: Kind::Unknown,
                        varies: fact.varies || old.varies,
                        spot: fact.spot,
                    };
                }
                shape.set(key, values::item(fact));
            }
            [Step::Key(key), rest @ ..] => {
                let old = shape.field(key);
                let varies = old.varies || new.whole.varies || self.steps_vary(rest);
                let kind = Kind::Unknown;
                let spot = spot.or(old.spot);
                shape.set(key, Fact { kind, varies, spot });
            }
            steps => {
                let varies = self.steps_vary(steps);
                shape.blur(new.whole.varies || varies);
            }
        }
        shape.whole.spot = shape.whole.spot.or(spot);
        self.set(name, shape);
    }
}

#[cfg(test)]
mod tests;
