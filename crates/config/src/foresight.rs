//! What is known of messages as they come through the components, and what is wrong with it.
//!
//! Components are checked in the order in which messages come through them. Each says what it makes
//! of what comes, so that an output knows what it would get.

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

/// Whether a message can come to two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It cannot.
    Never,
    /// It depends on the message in a way that does not show.
    Perhaps,
    /// There are messages that do.
    Surely,
}

impl PlanContext<'_> {
    /// What is known of the messages that come to the component at hand.
    #[must_use]
    pub fn foreseen(&self) -> &Foreseen {
        &self.foreseen
    }

    /// Notes what is known of the messages that leave the component at hand.
    pub fn foresee(&mut self, after: Foreseen) {
        self.foreseen = after;
    }

    /// Checks what exceptional messages go through, of which nothing is known, and which may have the
    /// content that the input gave them; the others go on as they came.
    pub fn aside<T>(&mut self, check: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::take(&mut self.foreseen);
        let checked = check(self);
        let aside = std::mem::replace(&mut self.foreseen, before);
        let goes_on = aside.content.whole.kind != Kind::Deleted;
        self.foreseen.is_original |= aside.is_original && goes_on;
        checked
    }

    /// Declares what the component at hand reads of the content of messages. What the input gave
    /// them is kept only as far as something reads it; a component that declares nothing and holds
    /// no others reads everything. To be called before [`PlanContext::foresee`].
    ///
    /// Of a message that failed, parts that are named are there for whoever comes later, such as a
    /// dead letter; to read everything of it is to read what the others had kept.
    pub fn reads(&mut self, reads: &Reads) {
        self.declared = true;
        if !self.foreseen.is_original && !reads.is_nothing() {
            // What was made of the fields may go anywhere from here, also into a subject.
            self.reads.need_prefixes();
        }
        if !reads.is_all() {
            self.reads.join(reads);
        } else if self.foreseen.is_original {
            self.reads.join(reads);
            self.read_everything();
        }
    }

    /// Plans the component at hand, which reads everything unless it holds other components or says
    /// what it reads.
    pub(crate) fn reading<T>(&mut self, plan: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.declared = false;
        let is_original = self.foreseen.is_original;
        let planned = plan(self);
        if planned.is_none() {
            // What one with a fault reads is not known, nor what it makes of a message.
            self.foreseen.is_original = false;
        } else if is_original && !self.declared {
            self.read_everything();
        }
        // The component around this one holds another.
        self.declared = true;
        planned
    }

    fn read_everything(&mut self) {
        self.reads.join(&Reads::All);
        if self.keeps_objects {
            let node = self.current.as_ref().map(|(node, _)| *node);
            let message = "this reads everything of each object, so everything is kept in memory and \
                           in the state, about ten kilobytes a pod, secrets in its environment \
                           variables included, and each change of it starts another event; read \
                           the fields that are needed, as in `root = #{ name: this.metadata.name }`";
            self.report(node, None, Severity::Warning, message.to_owned());
        }
    }

    /// Notes that the output at hand posts events to a URL, written at `url`, for an account; tells
    /// what is wrong with them.
    pub fn posts_events(&mut self, url: &Located<String>, to: &str, account: &str) {
        self.leaves += 1;
        let Fact { kind, spot, .. } = &self.foreseen.content.whole;
        if let Some(what) = kind.no_object() {
            let remedy = match kind {
                Kind::Array => "each message is one event: `root = #{ … }`",
                _ => "write `root = #{ … }`",
            };
            let message = format!("this gives {what}, and an event is an object; {remedy}");
            self.report_spot(*spot, Severity::Error, message);
        }
        if self.foreseen.is_usage && self.foreseen.is_original {
            let message = "whole objects come here as the input reads them, with the values of \
                           environment variables in them, and no events: nothing makes events of \
                           them on the way, such as a `mapping`";
            let node = self.current.as_ref().map(|(node, _)| *node);
            self.report(node, None, Severity::Warning, message.to_owned());
        }
        self.check_id(Severity::Error);
        if let Kind::EventId(event_type) = self.foreseen.content.field("id").kind {
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
                source,
            });
        }
    }

    /// Checks nested outputs, all of them, whatever is wrong with one. `overlap` says of two of them,
    /// by their positions, whether a message can come to both.
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
                let shadowed = before
                    .filter(|(overlap, it)| *overlap != Overlap::Never && it.shadows(post))
                    .max_by_key(|(overlap, it)| {
                        (*overlap == Overlap::Surely, it.account == post.account)
                    });
                if let Some((overlap, other)) = shadowed {
                    self.report_shadow(post, other, overlap);
                }
            }
            each.push(posts);
        }
        self.posts = outside;
        self.posts.extend(each.into_iter().flatten());
        plans
    }

    fn report_shadow(&mut self, post: &Post, other: &Post, overlap: Overlap) {
        let Post {
            event_type, path, ..
        } = other;
        let id = match &**event_type {
            "" => "event_id()".to_owned(),
            event_type => format!("event_id({event_type:?})"),
        };
        let (severity, gets) = match overlap {
            Overlap::Surely if post.account == other.account => (Severity::Error, "get"),
            Overlap::Surely => (Severity::Warning, "get"),
            _ => (Severity::Warning, "may get"),
        };
        let repeat = if post.account == other.account {
            "the server takes the second event for a repeat"
        } else {
            "if both tokens are for one account, the server takes the second event for a repeat"
        };
        let message = format!(
            "this output and `{path}` {gets} the same message and post it to one URL with one id, \
             `{id}`: {repeat}; give the events of each a type of their own, as in \
             `event_id(\"another-type\")`"
        );
        self.report_located(&post.url, None, severity, message);
    }

    /// Tells of an output that posts no events by itself, if what it gets looks like some.
    pub(crate) fn check_other_output(&mut self) {
        self.leaves += 1;
        let is_event = self.foreseen.content.fields.contains_key("specversion");
        self.check_id(if is_event {
            Severity::Error
        } else {
            Severity::Warning
        });
    }

    /// Tells of an id that is the same for all usage of an object.
    fn check_id(&mut self, severity: Severity) {
        let Some(id) = self.foreseen.content.fields.get("id") else {
            return;
        };
        if !self.foreseen.is_usage || id.varies || matches!(id.kind, Kind::Null | Kind::Deleted) {
            return;
        }
        let spot = id.spot;
        let message = "this `id` is the same for all usage of an object, so every event but the \
                       first is taken for a repeat and not billed; use `event_id(\"the-type\")`, \
                       which is another for each piece of usage and the same when it is sent again";
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
