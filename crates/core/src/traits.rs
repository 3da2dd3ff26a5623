//! What inputs, processors and outputs promise, and who calls them when.
//!
//! A component is a *plan* first: its configuration, checked and compiled without touching the
//! world. `build` turns the plan into the thing itself and may open files and make clients, but
//! must not spawn; only the runtime spawns.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use thiserror::Error;

use crate::{Ack, Batch, Drops, Extensions, Health, Message, Metrics, Reads, Rejected};

/// What a component is given when it is built.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// The component's label, or its place in the configuration.
    pub label: Arc<str>,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it says that it is ready.
    pub health: Health,
    /// What only some components understand, such as how replicas elect the one that bills.
    pub extensions: Extensions,
    /// Where an input that keeps rejected usage can be asked for it.
    pub rejected: Rejected,
    /// How the processors of an input are run; `None` where nothing runs any.
    pub processing: Option<Processing>,
}

/// The processors of one thread, in the order in which messages come through them.
pub type Chain = Vec<Box<dyn Processor>>;

/// How the processors that an input has of its own are run: as all others are, on threads of their
/// own, with panics caught. The runtime does it; a configuration only says which.
#[derive(Debug, Clone, Copy)]
pub struct Processing {
    /// How many threads there are, each of which needs a chain.
    pub threads: usize,
    /// Puts the processors behind an input.
    pub behind: PutBehind,
}

/// Makes an input that yields what another one yields, processed by chains that are all alike, one
/// for each thread.
pub type PutBehind = fn(Box<dyn Input>, Vec<Chain>, &BuildContext) -> Box<dyn Input>;

impl BuildContext {
    /// The same context under another label.
    #[must_use]
    pub fn labelled(&self, label: impl Into<Arc<str>>) -> Self {
        Self {
            label: label.into(),
            ..self.clone()
        }
    }
}

/// A component could not be brought up from its plan. Retrying will not help; the reason names the
/// remedy.
#[derive(Debug, Clone, Error)]
#[error("{component}: {reason}")]
pub struct BuildError {
    /// The component, by label or type.
    pub component: Arc<str>,
    /// What is wrong and what to do about it.
    pub reason: String,
}

/// Reading failed. Inputs retry by themselves what may pass; this is for what cannot.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct InputError(pub String);

/// A checked input that has not been built.
#[async_trait]
pub trait InputPlan: Send {
    /// Asks the input to make the windows of a schedule itself. An input that knows what happened
    /// when answers `true` and from then on yields one batch a window, with the window's metadata;
    /// any other answers `false` and the schedule reads it once at the end of each window.
    fn take_schedule(&mut self, interval: Duration) -> bool {
        let _ = interval;
        false
    }

    /// Says what is read of the content of its messages as long as that is what the input gave them.
    /// An input that keeps messages for long keeps nothing else.
    fn take_reads(&mut self, reads: &Reads) {
        let _ = reads;
    }

    /// Brings the input up. Must not wait for the world: an API server that is away is the
    /// business of `read`.
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError>;
}

/// A source of batches.
///
/// An order of calls holds: [`read`](Self::read) any number of times; then, when the process is to
/// stop, [`stop`](Self::stop), and `read` until `None` if that asked for it;
/// [`close`](Self::close) once no acknowledgement is held any more; and [`left`](Self::left).
///
/// No method has a default, for an input around another one has to hand on every call: a stop that
/// does not arrive leaves what waits inside neither delivered nor counted.
///
/// ```
/// use meterline_core::{Ack, Batch, Input, InputError, Undelivered, Message, Settlement};
///
/// /// Has one message, which nobody else has.
/// #[derive(Default)]
/// struct Once {
///     yielded: Option<Settlement>,
///     stopped: bool,
///     lost: usize,
/// }
///
/// #[async_trait::async_trait]
/// impl Input for Once {
///     async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
///         if self.stopped || self.yielded.is_some() {
///             return Ok(None);
///         }
///         let (ack, settlement) = Ack::new();
///         self.yielded = Some(settlement);
///         Ok(Some((vec![Message::raw("a")], ack)))
///     }
///
///     fn stop(&mut self) -> bool {
///         self.stopped = true;
///         // What was not yielded yet can be made by the next process as well.
///         false
///     }
///
///     async fn close(&mut self) {
///         if let Some(settlement) = &mut self.yielded {
///             self.lost = usize::from(!settlement.outcome().await.is_settled());
///         }
///     }
///
///     fn left(&self) -> Undelivered {
///         Undelivered { lost: self.lost, persisted: 0 }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut input = Once::default();
/// let (_, ack) = input.read().await.unwrap().unwrap();
/// assert!(!input.stop());
/// drop(ack); // The time for a stop is over before it is delivered.
/// input.close().await;
/// assert_eq!(input.left().lost, 1);
/// # }
/// ```
#[async_trait]
pub trait Input: Send {
    /// The next batch and the duty to acknowledge it; `None` when there will be no more. Called
    /// again as soon as there is room for another batch, before earlier ones are acknowledged.
    /// After `None` everything is flushed and settled, and the input is asked again: what was not
    /// delivered may have to come again.
    /// Cancel-safe: a cancelled call loses nothing that a later call or the outcome "lost" would
    /// not bring back.
    ///
    /// # Errors
    /// When the input can never yield again; the pipeline then stops with this error.
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError>;

    /// Called once, when the process is to stop: from now on nothing is taken in from outside.
    /// `true` asks to be read on until `None`, for what only this process has: a batch that was not
    /// delivered, or one that is still under way inside. No such call waits for the outside.
    fn stop(&mut self) -> bool;

    /// Called once, after the last outcome is known and before the process ends. An input that
    /// holds acknowledgements of another one drops them before it closes that, which waits for them.
    async fn close(&mut self);

    /// How many batches it still holds, with those of the inputs inside. Asked after `close`; what is
    /// lost makes the process end with an error.
    fn left(&self) -> Undelivered;
}

/// Batches that an input holds at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Gone with the process, for nothing else has them.
    pub lost: usize,
    /// Kept for the next process.
    pub persisted: usize,
}

/// A checked buffer that has not been built.
#[async_trait]
pub trait BufferPlan: Send {
    /// Puts the buffer behind `input`. What comes out acknowledges to the buffer, and the buffer to
    /// the input.
    async fn build(
        self: Box<Self>,
        input: Box<dyn Input>,
        cx: &BuildContext,
    ) -> Result<Box<dyn Input>, BuildError>;
}

/// A checked processor. Built once for each pipeline thread.
pub trait ProcessorPlan: Send + Sync {
    /// A processor of its own for one thread.
    ///
    /// # Errors
    /// When it cannot be brought up.
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError>;
}

/// Changes, drops or flags messages. Synchronous: it computes and never waits.
pub trait Processor: Send {
    /// Processes a batch. A message that fails is flagged and goes on; a message left out of the
    /// result was dropped on purpose, and is noted in `drops` with the place that did it.
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch;
}

/// A checked output that has not been built.
#[async_trait]
pub trait OutputPlan: Send {
    /// Brings the output up. Must not wait for the world: a sink that is away is the business of
    /// `write`.
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError>;
}

/// How messages are gathered before they are written. With neither count nor period nor size,
/// batches are written as they come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Write once so many messages are there, and never more than that at once. 0: no such rule.
    pub count: usize,
    /// Write what is there once the oldest message has waited so long.
    pub period: Option<Duration>,
    /// Write once so many bytes are there, and never more than that at once unless a single
    /// message is larger. 0: no such rule.
    pub byte_size: usize,
}

/// The metadata that says why a message went to the next output of a fallback.
pub const FALLBACK_ERROR: &str = "fallback_error";

/// An output as a tree whose leaves write. The runtime walks it; components only describe it.
pub enum OutputNode {
    /// A leaf.
    Writer(WriterNode),
    /// Messages are handed to some of the children.
    Route {
        /// For logs and for what is dropped or rejected here.
        label: Arc<str>,
        /// Decides for each message.
        router: Box<dyn Router>,
        /// The children that the decision names by index.
        children: Vec<OutputNode>,
    },
    /// What a child can never deliver goes to the next, with the reason as the metadata
    /// [`FALLBACK_ERROR`].
    Fallback {
        /// From the first that is tried to the last; at least one.
        children: Vec<OutputNode>,
    },
    /// Messages are processed on their way to the child.
    Process {
        /// Run in this order.
        processors: Vec<Box<dyn Processor>>,
        /// Where they go.
        child: Box<OutputNode>,
    },
}

/// How an output tries again what may still arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause; each is twice the one before, half of it by chance.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How often to try again; `None`: for ever.
    pub most: Option<u32>,
    /// How long to go on; `None`: for ever.
    pub no_longer_than: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            most: None,
            no_longer_than: None,
        }
    }
}

/// Whether what failed for this reason is dropped.
pub type DropRule = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A leaf of the output tree.
pub struct WriterNode {
    /// For logs, metrics and health.
    pub label: Arc<str>,
    /// What writes.
    pub writer: Arc<dyn Writer>,
    /// How messages are gathered for it.
    pub batching: BatchPolicy,
    /// How many writes may be under way at once, at least 1.
    pub max_in_flight: usize,
    /// Whether a message that is still flagged as failed is written all the same. False for
    /// everything that bills.
    pub accepts_failed: bool,
    /// Whether it takes JSON objects and nothing else: an event is one, and an array would be taken for
    /// several. What is none is rejected.
    pub objects_only: bool,
    /// How it tries again.
    pub retry: RetryPolicy,
    /// What is dropped instead of tried again or rejected.
    pub drops: Option<DropRule>,
    /// What it means that it took a message.
    pub taken: Taken,
}

/// What it means for a message that an output took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is delivered, also where another output refused it before.
    Delivered,
    /// It is delivered, unless another output refused it before: a dead letter is no bill.
    Kept,
    /// It is gone, on purpose.
    Dropped,
}

impl OutputNode {
    /// Changes every leaf below this node.
    pub fn each_writer(&mut self, change: &mut dyn FnMut(&mut WriterNode)) {
        match self {
            Self::Writer(writer) => change(writer),
            Self::Route { children, .. } | Self::Fallback { children } => {
                for child in children {
                    child.each_writer(change);
                }
            }
            Self::Process { child, .. } => child.each_writer(change),
        }
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routing {
    /// To these children, by index. None at all means that it is dropped on purpose.
    To(Vec<usize>),
    /// Nowhere, for this reason.
    Reject(String),
}

/// Decides where messages go.
pub trait Router: Send + Sync {
    /// Decides for one message. Must be quick and must not change the message.
    fn route(&self, message: &Message) -> Routing;
}

/// Why a write did not succeed, named for what the runtime does about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// May pass, and is no message's doing, such as a connection that is refused: the same bytes are
    /// written again, for ever, with growing pauses.
    #[error("{reason}")]
    Retry {
        /// What happened.
        reason: String,
        /// The pause that the other side asked for.
        after: Option<Duration>,
    },
    /// May pass, or be a message's doing, such as a 500: written again like [`WriteError::Retry`]. Where others are taken meanwhile the batch is halved, and a
    /// message that fails alone again and again while others are taken is set aside.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
        /// The pause that the other side asked for, or the longer one that this calls for.
        after: Option<Duration>,
    },
    /// The other side refuses us as a whole: the data is kept, the output is not ready, and it is
    /// tried again slowly. Where others are taken meanwhile it is like [`WriteError::Failed`].
    #[error("{reason}")]
    Unauthorized {
        /// What happened and what to do about it.
        reason: String,
    },
    /// An answer that is not the API's, of a proxy perhaps, or of a server that is asked at the wrong
    /// address: neither a success nor a verdict. The data is kept, the output is not ready, and it is
    /// tried again slowly. Where others are taken meanwhile it is like [`WriteError::Failed`].
    #[error("{reason}")]
    Strange {
        /// What happened and what to do about it.
        reason: String,
    },
    /// Too large at once: halved, and the limit is remembered. A single message that is too large is
    /// rejected if a smaller one is taken.
    #[error("{reason}")]
    TooLarge {
        /// What happened.
        reason: String,
    },
    /// A message of this batch can never pass: bisected until it stands alone and is rejected, if
    /// anything was ever taken.
    #[error("{reason}")]
    Rejected {
        /// What the other side said.
        reason: String,
    },
    /// No request can be made of the first message of this batch, such as one whose URL cannot be
    /// evaluated: it is rejected alone. Nothing was sent, so the other side said nothing.
    #[error("{reason}")]
    Unsendable {
        /// What cannot be made, and why.
        reason: String,
    },
    /// A message of this batch is to be dropped, as the configuration says of such an answer:
    /// bisected until it stands alone and is dropped.
    #[error("{reason}")]
    Dropped {
        /// What the other side said.
        reason: String,
    },
}

/// Writes batches to the outside.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Writes all messages at once or none. Contents are raw bytes by now. Success means that the
    /// other side has taken responsibility. Must end within a time limit of its own.
    ///
    /// # Errors
    /// [`WriteError`] names what the runtime does next.
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError>;
}
