//! Tracks what is known about messages as they pass through the components, and reports what is wrong
//! with them.
//!
//! Components are checked in the order in which messages pass through them. Each declares what it reads
//! of a message and what it turns it into, so that an output knows what it will receive.

use meterline_core::{
    OutputPlan, Reads,
    foreseen::{Fact, Foreseen, Kind, Spot},
};

use crate::{
    context::PlanContext,
    diagnostic::{Place, Severity},
    fields::{Child, Located},
    post::Post,
};

/// Whether two outputs can receive the same message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// They cannot.
    Never,
    /// It depends on the message in a way that cannot be analysed.
    Perhaps,
    /// Both receive some messages.
    Surely,
}

impl PlanContext<'_> {
    /// What is known about the messages that reach the current component.
    #[must_use]
    pub fn foreseen(&self) -> &Foreseen {
        &self.foreseen
    }

    /// Sets what is known about the messages that leave the current component.
    pub fn foresee(&mut self, after: Foreseen) {
        self.foreseen = after;
    }

    /// Checks components that only exceptional messages pass through. Nothing is known about those
    /// messages, except that they may have the content that the input gave them. All other messages
    /// stay as they are.
    pub fn aside<T>(&mut self, check: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::take(&mut self.foreseen);
        let checked = check(self);
        let aside = std::mem::replace(&mut self.foreseen, before);
        let goes_on = aside.content.whole.kind != Kind::Deleted;
        self.foreseen.is_original |= aside.is_original && goes_on;
        self.foreseen.is_recovered |= aside.is_recovered && aside.is_original && goes_on;
        checked
    }

    /// Declares what the current component reads of the content of messages. The input keeps only the
    /// parts that some component reads. A component that declares nothing and holds no other components
    /// reads everything. Call this before [`PlanContext::foresee`].
    ///
    /// For messages whose original content may be gone, such as those that failed, named parts are kept
    /// for components that come later, such as a dead-letter output. Reading everything of them adds
    /// nothing: it is what the other components kept.
    pub fn reads(&mut self, reads: &Reads) {
        self.declared = true;
        let Foreseen {
            is_original,
            is_recovered,
            ..
        } = self.foreseen;
        add(&mut self.reads, reads, is_original);
        let of_replaced = is_original && is_recovered;
        self.replaced.each(|all| add(all, reads, of_replaced));
        if reads.is_all() && is_original {
            self.read_everything();
        }
    }

    /// Plans the current component, which reads everything unless it holds other components or declares
    /// what it reads.
    pub(crate) fn reading<T>(&mut self, plan: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.declared = false;
        let is_original = self.foreseen.is_original;
        let planned = plan(self);
        if planned.is_none() {
            // Neither what a component with an error reads nor what it emits is known.
            self.foreseen.is_original = false;
        } else if is_original && !self.declared {
            self.read_everything();
        }
        // The surrounding component holds this one.
        self.declared = true;
        planned
    }

    fn read_everything(&mut self) {
        self.reads.join(&Reads::All);
        let of_replaced = self.foreseen.is_recovered;
        if of_replaced {
            self.replaced.each(|all| all.join(&Reads::All));
        }
        if self.keeps_objects || (of_replaced && self.replaced.keeps_objects) {
            let node = self.current.as_ref().map(|(node, _)| *node);
            let message = "this reads whole objects, so whole objects are kept in memory and in the \
                           state: about ten kilobytes per pod, including secrets in environment \
                           variables, and every change of an object starts another event; read only \
                           the fields that you need, as in `root = #{ name: this.metadata.name }`";
            self.report(node, None, Severity::Warning, message.to_owned());
        }
    }

    /// Declares that the current output posts events to a URL, written at `url`, for an account.
    /// Reports what is wrong with the events.
    pub fn posts_events(&mut self, url: &Located<String>, to: &str, account: &str) {
        self.leaves += 1;
        let Fact { kind, spot, .. } = &self.foreseen.content.whole;
        if let Some(what) = kind.no_object() {
            let remedy = match kind {
                Kind::Array => {
                    "each message is one event: `root = #{ … }`, or `unarchive: { format: json_array }` \
                     behind this mapping for one event for each item"
                }
                _ => "write `root = #{ … }`",
            };
            let message = format!("this returns {what}, but an event is an object; {remedy}");
            self.report_spot(*spot, Severity::Error, message);
        }
        if self.foreseen.is_usage && self.foreseen.is_original {
            let message = "this output receives whole objects, including the values of environment \
                           variables, instead of events; add a `mapping` that turns objects into \
                           events";
            let node = self.current.as_ref().map(|(node, _)| *node);
            self.report(node, None, Severity::Warning, message.to_owned());
        }
        self.check_id(Severity::Error);
        if let Kind::EventId(event_type, key) = self.foreseen.content.field("id").kind {
            let source = match self.foreseen.content.field("source").kind {
                Kind::Text(text) => text,
                _ => None,
            };
            let path = self.current.as_ref().map(|(node, _)| self.path_of(node));
            self.posts.push(Post {
                path: path.unwrap_or_default(),
                url: url.clone(),
                to: to.to_owned(),
                account: account.to_owned(),
                event_type,
                key,
                source,
            });
        }
    }

    /// Checks all nested outputs, even when one has errors. `overlap` is whether two of them, by
    /// their positions, can receive the same message.
    pub fn outputs(
        &mut self,
        children: &[Child],
        overlap: impl Fn(usize, usize) -> Overlap,
    ) -> Vec<Option<Box<dyn OutputPlan>>> {
        let outside = std::mem::take(&mut self.posts);
        let mut each: Vec<Vec<Post>> = Vec::with_capacity(children.len());
        let mut plans = Vec::with_capacity(children.len());
        for (index, child) in children.iter().enumerate() {
            plans.push(self.output(*child));
            let posts = std::mem::take(&mut self.posts);
            for post in &posts {
                let before = each.iter().enumerate().flat_map(|(before, posts)| {
                    let overlap = overlap(before, index);
                    posts.iter().map(move |it| (overlap, it))
                });
                let duplicated = before
                    .filter(|(overlap, it)| *overlap != Overlap::Never && it.duplicates(post))
                    .max_by_key(|(overlap, it)| {
                        (*overlap == Overlap::Surely, it.account == post.account)
                    });
                if let Some((overlap, other)) = duplicated {
                    self.report_duplicate(post, other, overlap);
                }
            }
            each.push(posts);
        }
        self.posts = outside;
        self.posts.extend(each.into_iter().flatten());
        plans
    }

    fn report_duplicate(&mut self, post: &Post, other: &Post, overlap: Overlap) {
        let (path, id) = (&other.path, other.id());
        let (severity, receive) = match overlap {
            Overlap::Surely if post.account == other.account => (Severity::Error, "receive"),
            Overlap::Surely => (Severity::Warning, "receive"),
            _ => (Severity::Warning, "may receive"),
        };
        let consequence = if post.account == other.account {
            "the server drops the second event as a duplicate"
        } else {
            "if both tokens belong to one account, the server drops the second event as a duplicate"
        };
        let message = format!(
            "this output and `{path}` {receive} the same message and post it to the same URL with \
             the same id, `{id}`: {consequence}; use a different event type for one of them, as in \
             `event_id(\"another-type\")`"
        );
        self.report_located(&post.url, None, severity, message);
    }

    /// Checks the messages of an output that is not declared to post events, in case they look like
    /// events.
    pub(crate) fn check_other_output(&mut self) {
        self.leaves += 1;
        let is_event = self.foreseen.content.fields.contains_key("specversion");
        self.check_id(if is_event {
            Severity::Error
        } else {
            Severity::Warning
        });
    }

    /// Reports an id that is the same for all usage of an object.
    fn check_id(&mut self, severity: Severity) {
        let Some(id) = self.foreseen.content.fields.get("id") else {
            return;
        };
        let spot = id.spot;
        if self.foreseen.is_usage && self.foreseen.is_part && matches!(id.kind, Kind::EventId(..)) {
            let message = "the messages that `unarchive` makes of one message get the same `id` here, so \
                           all but the first are dropped as duplicates and not billed; give \
                           `event_id` a key that differs between them, such as a field: \
                           `event_id(\"the-type\", this.kind)`";
            self.report_spot(spot, Severity::Warning, message.to_owned());
            return;
        }
        if !self.foreseen.is_usage || id.varies || matches!(id.kind, Kind::Null | Kind::Deleted) {
            return;
        }
        let message = "this `id` is the same for all usage of an object, so every event after the \
                       first is dropped as a duplicate and not billed; use `event_id(\"the-type\")`, \
                       which differs for each usage interval and stays the same when an event is \
                       sent again";
        self.report_spot(spot, severity, message.to_owned());
    }

    fn report_spot(&mut self, spot: Option<Spot>, severity: Severity, message: String) {
        let node = spot
            .and_then(|spot| self.index.nodes.get(&spot.text?))
            .map(|(node, _)| *node);
        match (node, spot) {
            (Some(node), Some(Spot { line, column, .. })) => {
                self.report(Some(node), Some(Place { line, column }), severity, message);
            }
            _ => {
                let node = self.current.as_ref().map(|(node, _)| *node);
                self.report(node, None, severity, message);
            }
        }
    }
}

/// Adds what a component reads of messages, which may have their original content or only if they failed.
fn add(all: &mut Reads, reads: &Reads, is_original: bool) {
    if !is_original && !reads.is_nothing() {
        // The values of the fields may end up anywhere from here on, including the subject.
        all.need_prefixes();
    }
    if is_original || !reads.is_all() {
        all.join(reads);
    }
}
