//! Checks the arguments of calls against the signatures of functions.

use std::{collections::HashMap, sync::LazyLock};

use super::{docs, known};

/// The type of a literal in a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Missing,
    Bool,
    Integer,
    Decimal,
    Character,
    Text,
    Array,
    Object,
    Function,
}

impl Type {
    /// The name in messages.
    fn words(self) -> &'static str {
        match self {
            Self::Missing => "a missing value",
            Self::Bool => "true or false",
            Self::Integer => "an integer",
            Self::Decimal => "a decimal number",
            Self::Character => "a character",
            Self::Text => "text",
            Self::Array => "an array",
            Self::Object => "an object",
            Self::Function => "a function",
        }
    }
}

/// What a parameter accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepts {
    Anything,
    /// A range, for which there is no literal.
    Range,
    /// A number, or text that holds one.
    Number,
    /// The name of a unit of time.
    Unit,
    /// Where a subject comes from.
    Source,
    /// Whose annotations become data.
    Owner,
    Exactly(Type),
}

impl Accepts {
    /// Returns the type for the name of a parameter.
    fn of(parameter: &str) -> Self {
        match parameter {
            "text" | "name" | "key" | "path" | "prefix" | "suffix" | "separator" | "old"
            | "new" | "type" | "namespace" | "algorithm" | "resource" | "patterns" => {
                Self::Exactly(Type::Text)
            }
            "unit" => Self::Unit,
            "source" => Self::Source,
            "owner" => Self::Owner,
            "integer" | "position" | "start" | "count" => Self::Exactly(Type::Integer),
            "number" | "seconds" | "factor" | "divisor" => Self::Number,
            "character" => Self::Exactly(Type::Character),
            "array" => Self::Exactly(Type::Array),
            "object" => Self::Exactly(Type::Object),
            "function" => Self::Exactly(Type::Function),
            "range" => Self::Range,
            function if function.starts_with('|') => Self::Exactly(Type::Function),
            _ => Self::Anything,
        }
    }

    fn accepts(self, given: Type) -> bool {
        match self {
            Self::Anything => true,
            Self::Range => false,
            Self::Number => matches!(given, Type::Integer | Type::Decimal | Type::Text),
            Self::Unit | Self::Source | Self::Owner => given == Type::Text,
            Self::Exactly(wanted) => wanted == given,
        }
    }
}

/// One way to call a function.
#[derive(Debug, PartialEq, Eq)]
struct Form {
    parameters: Vec<Accepts>,
    /// Whether any number of arguments may follow.
    is_open: bool,
}

impl Form {
    fn takes_count(&self, count: usize) -> bool {
        count == self.parameters.len() || (self.is_open && count > self.parameters.len())
    }

    /// Parses a signature. A receiver counts as the first argument.
    fn parse(signature: &str) -> Option<Self> {
        let (head, arguments) = signature.split_once('(')?;
        let receiver = head.rsplit_once('.').map(|(receiver, _)| receiver);
        let receiver = receiver.map(Accepts::of);
        let mut parameters: Vec<_> = receiver.into_iter().collect();
        let mut is_open = false;
        for parameter in split(arguments.strip_suffix(')')?, true) {
            match parameter {
                "…" => is_open = true,
                "other" | "another" => parameters.extend(receiver),
                parameter => parameters.push(Accepts::of(parameter)),
            }
        }
        Some(Self {
            parameters,
            is_open,
        })
    }
}

/// Splits at commas outside of parentheses and, in a list of parameters, outside of the bars of a
/// function. (In a list of signatures a bar separates two result types.)
fn split(list: &str, among_parameters: bool) -> Vec<&str> {
    let (mut depth, mut in_bars, mut from) = (0_usize, false, 0);
    let mut parts = Vec::new();
    for (at, character) in list.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' => in_bars = among_parameters && !in_bars,
            ',' if depth == 0 && !in_bars => {
                parts.push(list.get(from..at).unwrap_or_default().trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(list.get(from..).unwrap_or_default().trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// The signatures of each function, as text and parsed.
static FORMS: LazyLock<HashMap<&'static str, Vec<(&'static str, Form)>>> = LazyLock::new(|| {
    let own = docs().iter().map(|doc| (doc.name, doc.signature));
    let rhai = known::rhai_names().filter_map(|name| Some((name, known::rhai(name)?)));
    let mut forms: HashMap<_, Vec<_>> = HashMap::new();
    for (name, signatures) in own.chain(rhai) {
        for signature in split(signatures, false) {
            let call = signature.split(" -> ").next().unwrap_or(signature);
            if let Some(form) = Form::parse(call) {
                forms.entry(name).or_default().push((signature, form));
            }
        }
    }
    forms
});

/// Returns the result type of a function, if it is the same for all forms.
pub(crate) fn result(name: &str) -> Option<Type> {
    let mut results = FORMS.get(name)?.iter().map(|(signature, _)| {
        Some(match signature.split_once(" -> ")?.1 {
            "text" => Type::Text,
            "integer" => Type::Integer,
            "number" => Type::Decimal,
            "bool" => Type::Bool,
            "array" => Type::Array,
            "object" => Type::Object,
            _ => return None,
        })
    });
    let first = results.next()??;
    results.all(|it| it == Some(first)).then_some(first)
}

/// An error in the arguments of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The index of the wrong argument, if it is a single one.
    pub(crate) argument: Option<usize>,
    pub(crate) message: String,
    pub(crate) help: String,
}

/// Checks whether a form of the function `name` accepts these arguments, including the receiver. An
/// argument of an unknown type is `None`.
pub(crate) fn mismatch(
    name: &str,
    arguments: &[Option<Type>],
    is_method: bool,
) -> Option<Mismatch> {
    let forms = FORMS.get(name)?;
    let count = arguments.len();
    let of_this_count: Vec<_> = forms
        .iter()
        .map(|(_, form)| form)
        .filter(|form| form.takes_count(count))
        .collect();
    let help = || {
        let written: Vec<_> = forms.iter().map(|(text, _)| format!("`{text}`")).collect();
        match written.split_last() {
            Some((last, [])) => format!("it is {last}"),
            Some((last, others)) => format!("it is {} or {last}", others.join(", ")),
            None => String::new(),
        }
    };
    if of_this_count.is_empty() {
        let s = if count == 1 { "" } else { "s" };
        let counted = if is_method {
            " (including the value before the dot)"
        } else {
            ""
        };
        return Some(Mismatch {
            argument: None,
            message: format!("`{name}` does not take {count} argument{s}{counted}"),
            help: help(),
        });
    }
    let takes = |form: &Form, at: usize, given: Type| {
        form.parameters.get(at).is_none_or(|it| it.accepts(given))
    };
    arguments.iter().enumerate().find_map(|(at, given)| {
        let given = (*given)?;
        let is_taken = of_this_count.iter().any(|form| takes(form, at, given));
        (!is_taken).then(|| Mismatch {
            argument: Some(at),
            message: format!("`{name}` does not take {} here", given.words()),
            help: help(),
        })
    })
}

/// Checks a text as the argument with index `at` of `count`, if the function accepts only some words
/// there. Returns the error.
pub(crate) fn wrong_word(name: &str, at: usize, count: usize, text: &str) -> Option<String> {
    let forms = FORMS.get(name)?.iter().map(|(_, form)| form);
    let mut forms = forms.filter(|form| form.takes_count(count));
    forms.find_map(|form| match form.parameters.get(at)? {
        Accepts::Unit => super::unit(text).err(),
        Accepts::Source => super::wrong_source(text),
        Accepts::Owner => super::wrong_owner(text),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use meterline_core::Message;
    use rhai::{AST, CallFnOptions, Dynamic, EvalAltResult, Scope};

    use super::*;
    use crate::{Engine, Limits, context::Context};

    /// A literal of each type, and a range.
    const LITERALS: &[(&str, Option<Type>)] = &[
        ("\"a\"", Some(Type::Text)),
        ("2", Some(Type::Integer)),
        ("[1, 2]", Some(Type::Array)),
        ("Fn(\"string\")", Some(Type::Function)),
        ("#{ a: 1 }", Some(Type::Object)),
        ("0..1", None),
        ("1.5", Some(Type::Decimal)),
        ("'c'", Some(Type::Character)),
        ("true", Some(Type::Bool)),
        ("()", Some(Type::Missing)),
    ];

    /// Calls functions without the checks.
    struct Caller {
        engine: Engine,
        asts: HashMap<(&'static str, usize), AST>,
    }

    impl Caller {
        fn new() -> Self {
            Self {
                engine: Engine::new(Limits::default()),
                asts: HashMap::new(),
            }
        }

        fn call(&mut self, name: &'static str, literals: &[&str]) -> Result<(), EvalAltResult> {
            let rhai = &self.engine.0.rhai;
            let values: Vec<Dynamic> = literals
                .iter()
                .map(|literal| rhai.eval_expression(literal).unwrap())
                .collect();
            let ast = self.asts.entry((name, values.len())).or_insert_with(|| {
                let names: Vec<_> = (0..values.len()).map(|at| format!("v{at}")).collect();
                let all = names.join(", ");
                let is_plain = name.starts_with("is_def") || name == "type_of";
                let call = match names.split_first() {
                    Some((first, rest)) if !is_plain => {
                        format!("{first}.{name}({})", rest.join(", "))
                    }
                    _ => format!("{name}({all})"),
                };
                rhai.compile(format!("fn f({all}) {{ {call} }}")).unwrap()
            });
            let context = Context::new(Message::raw("{}"));
            let options = CallFnOptions::new().eval_ast(false).with_tag(context);
            rhai.call_fn_with_options::<Dynamic>(options, &mut Scope::new(), ast, "f", values)
                .map(drop)
                .map_err(|error| match *error {
                    EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => *inner,
                    other => other,
                })
        }

        /// Whether the interpreter finds a function of this name for these arguments.
        fn finds(&mut self, name: &'static str, literals: &[&str]) -> bool {
            match self.call(name, literals) {
                Err(EvalAltResult::ErrorFunctionNotFound(wanted, _)) => {
                    !wanted.starts_with(&format!("{name} ("))
                }
                _ => true,
            }
        }
    }

    /// Returns a value for each parameter of a form: `number` or `anything` where several types match.
    fn literals(form: &Form, number: &'static str, anything: &'static str) -> Vec<&'static str> {
        let literal = |accepts: &Accepts| match accepts {
            Accepts::Anything => anything,
            Accepts::Number => number,
            accepts => LITERALS
                .iter()
                .find(|(_, given)| {
                    given.map_or(*accepts == Accepts::Range, |it| accepts.accepts(it))
                })
                .map_or(anything, |(text, _)| text),
        };
        form.parameters.iter().map(literal).collect()
    }

    /// Part of the language, and not functions.
    const LANGUAGE: &[&str] = &["Fn", "call", "curry", "is_shared"];

    #[test]
    fn every_documented_form_can_be_called() {
        let mut caller = Caller::new();
        let mut wrong = Vec::new();
        for (name, forms) in FORMS.iter().filter(|(name, _)| !LANGUAGE.contains(name)) {
            for (signature, form) in forms {
                let is_one = ["1.5", "2"].iter().any(|number| {
                    ["\"a\"", "2"]
                        .iter()
                        .any(|anything| caller.finds(name, &literals(form, number, anything)))
                });
                if !is_one {
                    wrong.push(signature);
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn only_calls_that_fail_are_refused() {
        let mut caller = Caller::new();
        let mut wrong = Vec::new();
        for (name, forms) in FORMS.iter().filter(|(name, _)| !LANGUAGE.contains(name)) {
            let function = Accepts::Exactly(Type::Function);
            // Some functions of Rhai also accept the name of a function, which the check does not know.
            let takes_function = forms
                .iter()
                .any(|(_, it)| it.parameters.contains(&function));
            let mut check = |chosen: &[&(&str, Option<Type>)]| {
                let types: Vec<_> = chosen.iter().map(|(_, given)| *given).collect();
                let arguments: Vec<_> = chosen.iter().map(|(text, _)| *text).collect();
                let is_by_name =
                    takes_function && types.iter().skip(1).any(|it| *it == Some(Type::Text));
                if !is_by_name
                    && mismatch(name, &types, false).is_some()
                    && caller.call(name, &arguments).is_ok()
                {
                    wrong.push(format!("{name} {arguments:?}"));
                }
            };
            check(&[]);
            for a in LITERALS {
                check(&[a]);
                for b in LITERALS {
                    check(&[a, b]);
                }
            }
            // The types that functions with three arguments accept.
            let few = LITERALS.get(..4).unwrap();
            for (a, b) in few.iter().flat_map(|a| few.iter().map(move |b| (a, b))) {
                few.iter().for_each(|c| check(&[a, b, c]));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn signatures_are_parsed() {
        let form = |text| Form::parse(text).unwrap();
        assert_eq!(form("now()").parameters, []);
        assert_eq!(
            form("array.sort(|a, b| …)").parameters,
            [
                Accepts::Exactly(Type::Array),
                Accepts::Exactly(Type::Function)
            ]
        );
        assert!(form("text.format(value, …)").is_open);
        assert_eq!(split("meta(key) -> text | (), f(a, b)", false).len(), 2);
    }

    #[test]
    fn a_result_type_is_known_if_all_forms_share_it() {
        assert_eq!(result("event_id"), Some(Type::Text));
        assert_eq!(result("filter"), None);
        assert_eq!(result("meta"), None);
        assert_eq!(result("push"), None);
    }

    #[test]
    fn a_wrong_word_is_reported_with_the_valid_ones() {
        let wrong = |at, text| wrong_word("pod_metrics", at, 2, text);
        assert_eq!(wrong(1, "hour"), None);
        assert_eq!(
            wrong(1, "day").unwrap(),
            "`day` is not a unit; use second, minute or hour"
        );
        assert_eq!(wrong(0, "day"), None);
        assert!(wrong_word("pod_metrics", 1, 3, "day").is_some());
        assert_eq!(wrong_word("pod_metrics", 1, 4, "day"), None);
    }

    #[test]
    fn a_mismatch_names_the_argument_and_the_signature() {
        let text = Some(Type::Text);
        assert_eq!(mismatch("event_id", &[text], false), None);
        assert_eq!(mismatch("format", &[text, None, None, None], true), None);
        let wrong = mismatch("event_id", &[text, text, text], false).unwrap();
        assert_eq!(wrong.message, "`event_id` does not take 3 arguments");
        assert_eq!(
            wrong.help,
            "it is `event_id() -> text`, `event_id(type) -> text` or `event_id(type, key) -> text`"
        );
        let wrong = mismatch("parse_duration", &[Some(Type::Bool)], true).unwrap();
        assert_eq!(wrong.argument, Some(0));
        assert_eq!(
            wrong.message,
            "`parse_duration` does not take true or false here"
        );
    }
}
