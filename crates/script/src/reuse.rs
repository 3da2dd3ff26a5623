//! Reuses the results of mappings.
//!
//! Most mappings end in one `root = #{…}` in which only `event_id(…)` and `meta("schedule_time")` differ
//! from one window to the next. If the analysis shows that nothing else depends on the window, the
//! encoded result is stored with its document, and later only these fields are filled in. All other
//! mappings are evaluated each time.

use std::sync::{Arc, Mutex, PoisonError};

use meterline_core::{
    Content, Document, Message, event_id,
    template::{Forms, JsonTemplate, RenderedJson},
};
use rhai::{Expr, FnCallExpr, Stmt};

use crate::paths;

/// The result of a script, stored with its document.
#[derive(Debug)]
pub(crate) struct Memo {
    origin: Arc<Origin>,
    /// The result.
    template: Arc<JsonTemplate>,
}

/// What a result depends on besides its document.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    /// The mapping.
    owner: u64,
    /// The metadata that the mapping reads outside the gaps.
    metadata: Box<[Option<Arc<str>>]>,
}

/// How the result of a script is reused.
#[derive(Debug)]
pub(crate) struct Reuse {
    gaps: Vec<(String, Filler)>,
    /// The metadata that the script reads outside the gaps.
    reads: Vec<String>,
    forms: Forms,
    /// The newest one, which the messages of a window share.
    origin: Mutex<Option<Arc<Origin>>>,
}

/// The value of a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filler {
    /// `event_id(type)` or `event_id(type, key)`.
    EventId(String, Option<String>),
    /// `meta(key)`.
    Meta(String),
}

impl Filler {
    fn of(call: &FnCallExpr) -> Option<Self> {
        let text = |argument: &Expr| match argument {
            Expr::StringConstant(text, _) => Some(text.to_string()),
            _ => None,
        };
        match (call.name.as_str(), call.args.as_slice()) {
            ("event_id", []) => Some(Self::EventId(String::new(), None)),
            ("event_id", [kind]) => Some(Self::EventId(text(kind)?, None)),
            ("event_id", [kind, key]) => Some(Self::EventId(text(kind)?, Some(text(key)?))),
            ("meta", [key]) => Some(Self::Meta(text(key)?)),
            _ => None,
        }
    }

    fn fill(&self, message: &Message) -> Option<Arc<str>> {
        match self {
            Self::EventId(event_type, key) => {
                let identity = message.identity()?;
                let (cluster, uid) = (identity.cluster.as_deref(), &identity.uid);
                let id = match key {
                    None => event_id(cluster, event_type, uid, identity.start),
                    Some(key) => {
                        meterline_core::part_id(cluster, event_type, key, uid, identity.start)
                    }
                };
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                Some((&*id.hyphenated().encode_lower(&mut text)).into())
            }
            Self::Meta(key) => message.metadata.get(key).cloned(),
        }
    }
}

impl Reuse {
    /// Returns the stored result of the document of `message`, with the gaps filled for this message.
    pub(crate) fn recall(&self, owner: u64, message: &Message) -> Option<RenderedJson> {
        let Content::Document(document) = message.content() else {
            return None;
        };
        let memo = document.recall::<Memo>()?;
        let is_same = memo.origin.owner == owner
            && self
                .reads
                .iter()
                .map(|key| message.metadata.get(key))
                .eq(memo.origin.metadata.iter().map(Option::as_ref));
        if !is_same {
            return None;
        }
        let values = self.gaps.iter().map(|(_, filler)| filler.fill(message));
        let values = values.collect::<Option<_>>()?;
        Some(RenderedJson::new(Arc::clone(&memo.template), values))
    }

    /// Stores `result`, which the script returned for `document` and `message`, and returns it as
    /// rendered JSON. A result that cannot be reused is returned unchanged.
    pub(crate) fn remember(
        &self,
        owner: u64,
        document: &Document,
        message: &Message,
        result: Document,
    ) -> Content {
        // Without an identity the id depends on the content.
        if message.identity().is_none() {
            return Content::Document(result);
        }
        let root = result.root();
        let gaps: Vec<_> = self.gaps.iter().map(|(key, _)| key.as_str()).collect();
        let Some(template) = JsonTemplate::new(root, &gaps, &self.forms) else {
            return Content::Document(result);
        };
        let template = Arc::new(template);
        // The values that the script returned.
        let text = |gap: &&str| root.get(gap)?.as_str();
        let values = gaps.iter().filter_map(text).map(Arc::from).collect();
        let filled = RenderedJson::new(Arc::clone(&template), values);
        document.remember(Memo {
            origin: self.origin(owner, message),
            template,
        });
        Content::Rendered(filled.with_document(result))
    }

    fn origin(&self, owner: u64, message: &Message) -> Arc<Origin> {
        let metadata = self.reads.iter().map(|key| message.metadata.get(key));
        let origin = Origin {
            owner,
            metadata: metadata.map(Option::<&Arc<str>>::cloned).collect(),
        };
        let mut newest = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some(known) if **known == origin => Arc::clone(known),
            _ => Arc::clone(newest.insert(Arc::new(origin))),
        }
    }
}

/// What a script reads besides the content, collected during the analysis.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// All calls of `event_id` and `meta` with literal arguments.
    calls: Vec<Filler>,
    /// Whether the script reads something that the analysis cannot see.
    hidden: bool,
    pub(crate) root_assignments: usize,
    /// The gaps of the last statement, if it is `root = #{…}`.
    gaps: Option<Vec<(String, Filler)>>,
}

impl Reads {
    /// Handles a statement of the script itself, in order.
    pub(crate) fn top_level(&mut self, statement: &Stmt) {
        self.gaps = match statement {
            Stmt::Assignment(assignment) if !assignment.0.is_op_assignment() => {
                match (paths::chain(&assignment.1.lhs), &assignment.1.rhs) {
                    ((Expr::Variable(variable, ..), keys), Expr::Map(map, _))
                        if variable.1 == "root" && keys.is_empty() =>
                    {
                        Some(gaps(&map.0))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
    }

    /// Handles a call anywhere in the script.
    pub(crate) fn called(&mut self, call: &FnCallExpr) {
        if is_of_the_message(&call.name) {
            match Filler::of(call) {
                Some(filler) => self.calls.push(filler),
                None => self.hidden = true,
            }
        }
    }

    /// Handles a function value, which may be called from anywhere.
    pub(crate) fn named(&mut self, name: &str) {
        self.hidden |= is_of_the_message(name);
    }

    /// Returns how the result of this script is reused, if it can be.
    pub(crate) fn reuse(self) -> Option<Reuse> {
        let gaps = self
            .gaps
            .filter(|_| !self.hidden && self.root_assignments == 1)?;
        let mut others = self.calls;
        for (_, filler) in &gaps {
            let at = others.iter().position(|other| other == filler)?;
            others.swap_remove(at);
        }
        let reads = others.into_iter().map(|filler| match filler {
            Filler::Meta(key) => Some(key),
            // An id outside the gaps.
            Filler::EventId(..) => None,
        });
        let mut reads: Vec<_> = reads.collect::<Option<_>>()?;
        reads.sort();
        reads.dedup();
        Some(Reuse {
            gaps,
            reads,
            forms: Forms::default(),
            origin: Mutex::default(),
        })
    }
}

/// Whether a function reads something of the message besides its content.
fn is_of_the_message(name: &str) -> bool {
    matches!(name, "event_id" | "meta" | "error")
}

fn gaps(fields: &[(rhai::Ident, Expr)]) -> Vec<(String, Filler)> {
    fields
        .iter()
        .filter_map(|(key, value)| match value {
            Expr::FnCall(call, _) => Some((key.name.to_string(), Filler::of(call)?)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
