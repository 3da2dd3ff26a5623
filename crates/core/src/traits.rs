//! The contracts of inputs, processors and outputs, and who calls them when.
//!
//! A component is first a *plan*: its configuration, checked and compiled without I/O. `build` turns the
//! plan into the component. It may open files and create clients, but must not spawn tasks; only the runtime
//! spawns.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use thiserror::Error;

use crate::{Ack, Batch, Drops, Extensions, Health, Message, Metrics, Reads, Rejected};

/// What a component gets when it is built. The default shares nothing with other components.
#[derive(Debug, Clone, Default)]
pub struct BuildContext {
    /// The component's label, or its place in the configuration.
    pub label: Arc<str>,
    /// Its metrics.
    pub metrics: Metrics,
    /// Where it reports whether it is ready.
    pub health: Health,
    /// What only some components understand, such as how replicas elect the one that bills.
    pub extensions: Extensions,
    /// Where an input that keeps rejected usage registers its store.
    pub rejected: Rejected,
    /// How the processors of an input are run; `None` if nothing runs any.
    pub processing: Option<Processing>,
}

/// The processors of one thread, in the order in which messages pass through them.
pub type Chain = Vec<Box<dyn Processor>>;

/// Runs the processors of an input as all others: on separate threads, with panics caught. The runtime
/// implements it; the configuration only names the processors.
#[derive(Debug, Clone, Copy)]
pub struct Processing {
    /// How many threads there are. Each needs a chain.
    pub threads: usize,
    /// Wraps an input with the processors.
    pub behind: PutBehind,
}

/// Makes an input that yields what another one yields, processed by equal chains, one for each
/// thread.
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

/// A component could not be built from its plan. Retrying does not help; the reason names the remedy.
#[derive(Debug, Clone, Error)]
#[error("{component}: {reason}")]
pub struct BuildError {
    /// The component, by label or type.
    pub component: Arc<str>,
    /// What is wrong and what to do about it.
    pub reason: String,
}

/// Reading failed for good. Inputs retry temporary failures themselves.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct InputError(pub String);

/// A checked input that has not been built.
#[async_trait]
pub trait InputPlan: Send {
    /// Requests that the input makes the windows of a schedule itself. An input that knows the time of each event
    /// returns `true` and from then on yields one batch per window, with the window's metadata. Any other
    /// returns `false`, and the schedule reads it once at the end of each window.
    fn take_schedule(&mut self, interval: Duration) -> bool {
        let _ = interval;
        false
    }

    /// Sets what is read of the content of its messages before the content is replaced. An input that keeps
    /// messages keeps nothing else.
    fn take_reads(&mut self, reads: &Reads) {
        let _ = reads;
    }

    /// Builds the input. It must not wait for anything outside: an API server that is unavailable is handled
    /// by `read`.
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError>;
}

/// A source of batches.
///
/// The methods are called in this order: [`read`](Self::read) any number of times; then, when the process
/// stops, [`stop`](Self::stop), and `read` until `None` if `stop` returned `true`;
/// [`close`](Self::close) when no acknowledgement is held any more; and [`left`](Self::left).
///
/// No method has a default, because an input that wraps another one has to forward every call: if a stop
/// is not forwarded, what waits inside is neither delivered nor counted.
///
/// ```
/// use meterline_core::{Ack, Batch, Input, InputError, Undelivered, Message, Settlement};
///
/// /// Has one message, which is not stored anywhere else.
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
///         // The next process can make what was not yielded yet.
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
/// drop(ack); // The time limit of the stop passes before it is delivered.
/// input.close().await;
/// assert_eq!(input.left().lost, 1);
/// # }
/// ```
#[async_trait]
pub trait Input: Send {
    /// Returns the next batch with its acknowledgement; `None` when there are no more. It is called again as
    /// soon as another batch can be accepted, before earlier ones are acknowledged. After `None`
    /// everything is flushed and settled, and the input is read again, because a batch that was not delivered
    /// may have to be repeated.
    /// Cancel-safe: what a cancelled call would have returned, a later call returns.
    ///
    /// # Errors
    /// When the input can never yield again. The pipeline then stops with this error.
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError>;

    /// Called once, when the process is to stop: from then on the input takes in nothing from outside.
    /// `true` means that it has to be read until `None`, for batches that only this process has: those that were not
    /// delivered, or are still inside. These calls do not wait for anything outside.
    fn stop(&mut self) -> bool;

    /// Called once, after the last outcome is known and before the process ends. An input that holds
    /// acknowledgements of another one drops them before it closes the other one, which waits for them.
    async fn close(&mut self);

    /// Returns how many batches it still holds, including those of wrapped inputs. Called after `close`. Lost
    /// batches make the process end with an error.
    fn left(&self) -> Undelivered;
}

/// Batches that an input holds at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// Lost with the process, because they are not stored anywhere.
    pub lost: usize,
    /// Stored for the next process.
    pub persisted: usize,
}

/// A checked buffer that has not been built.
#[async_trait]
pub trait BufferPlan: Send {
    /// Wraps `input` with the buffer. Batches that are read from the buffer are acknowledged to the buffer,
    /// and the buffer acknowledges to the input.
    async fn build(
        self: Box<Self>,
        input: Box<dyn Input>,
        cx: &BuildContext,
    ) -> Result<Box<dyn Input>, BuildError>;
}

/// A checked processor. Built once for each pipeline thread.
pub trait ProcessorPlan: Send + Sync {
    /// Builds a processor for one thread.
    ///
    /// # Errors
    /// When it cannot be built.
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError>;
}

/// Changes, drops or flags messages. It is synchronous: it computes and never waits.
pub trait Processor: Send {
    /// Processes a batch. A message that fails is flagged and kept. A message that is not in the result was
    /// dropped on purpose, and is recorded in `drops` with the place that dropped it.
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch;
}

/// A checked output that has not been built.
#[async_trait]
pub trait OutputPlan: Send {
    /// Builds the output. It must not wait for anything outside: a sink that is unavailable is handled by
    /// `write`.
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError>;
}

/// How messages are batched before they are written. With neither count nor period nor size, batches are
/// written as they arrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Write when there are this many messages, and never more at once. 0: no such rule.
    pub count: usize,
    /// Write when the oldest message has waited this long.
    pub period: Option<Duration>,
    /// Write when there are this many bytes, and never more at once unless a single message is larger. 0: no
    /// such rule.
    pub byte_size: usize,
}

/// The metadata that holds why a message was passed to the next output of a fallback.
pub const FALLBACK_ERROR: &str = "fallback_error";

/// An output as a tree whose leaves write. Components describe it, and the runtime traverses it.
pub enum OutputNode {
    /// A leaf.
    Writer(WriterNode),
    /// Each message is passed to some of the children.
    Route {
        /// Its name in logs and in the fates of messages that are dropped or rejected here.
        label: Arc<str>,
        /// Decides for each message.
        router: Box<dyn Router>,
        /// The children that the decision names by index.
        children: Vec<OutputNode>,
    },
    /// A message that a child can never deliver is passed to the next, with the reason in the metadata
    /// [`FALLBACK_ERROR`].
    Fallback {
        /// In the order in which they are tried; at least one.
        children: Vec<OutputNode>,
    },
    /// Messages are processed before the child gets them.
    Process {
        /// Run in this order.
        processors: Vec<Box<dyn Processor>>,
        /// The child.
        child: Box<OutputNode>,
    },
}

/// How an output retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause. Each is twice the one before, with half of it random.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// The most retries; `None`: no limit.
    pub most: Option<u32>,
    /// The most time; `None`: no limit.
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

/// Whether messages that failed for this reason are dropped.
pub type DropRule = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A leaf of the output tree.
pub struct WriterNode {
    /// For logs, metrics and health.
    pub label: Arc<str>,
    /// What writes.
    pub writer: Arc<dyn Writer>,
    /// How messages are batched for it.
    pub batching: BatchPolicy,
    /// How many writes may be in flight at once, at least 1.
    pub max_in_flight: usize,
    /// Whether a message that is still flagged as failed is written anyway. False for every output that
    /// bills.
    pub accepts_failed: bool,
    /// Whether it accepts JSON objects only: an event is an object, and an array would be read as several.
    /// Anything else is rejected.
    pub objects_only: bool,
    /// How it retries.
    pub retry: RetryPolicy,
    /// Which failures drop a message instead of retrying or rejecting it.
    pub drops: Option<DropRule>,
    /// What it means that it accepted a message.
    pub taken: Taken,
}

/// What it means for a message that an output accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is delivered, even if another output rejected it before.
    Delivered,
    /// It is delivered, unless another output rejected it before: a dead letter is not billed.
    Kept,
    /// It is dropped on purpose.
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

/// Where a message is passed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routing {
    /// To these children, by index. An empty list drops it on purpose.
    To(Vec<usize>),
    /// To none: it is rejected for this reason.
    Reject(String),
}

/// Decides where messages are passed to.
pub trait Router: Send + Sync {
    /// Decides for one message. It must be fast.
    fn route(&self, message: &Message) -> Routing;
}

/// Why a write did not succeed. The variants are named after what the runtime does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// A temporary failure that no message caused, such as a refused connection: the same bytes are written
    /// again without limit, at growing intervals.
    #[error("{reason}")]
    Retry {
        /// What happened.
        reason: String,
        /// The pause that the server requested.
        after: Option<Duration>,
    },
    /// A failure that may be temporary or caused by a message, such as a 500: retried like
    /// [`WriteError::Retry`]. If others are accepted meanwhile, the batch is halved, and a message that fails
    /// alone repeatedly while others are accepted is rejected.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
        /// The pause that the server requested, or the longer one that this failure needs.
        after: Option<Duration>,
    },
    /// The server refuses this client, such as with a 401: the data is kept, the output is not ready, and it
    /// is retried slowly. If others are accepted meanwhile, it is like [`WriteError::Failed`].
    #[error("{reason}")]
    Unauthorized {
        /// What happened and what to do about it.
        reason: String,
    },
    /// A response that is not from the API, such as a proxy's or that of a wrong address: neither a success
    /// nor a rejection. The data is kept, the output is not ready, and it is retried slowly. If others are
    /// accepted meanwhile, it is like [`WriteError::Failed`].
    #[error("{reason}")]
    UnexpectedResponse {
        /// What happened and what to do about it.
        reason: String,
    },
    /// The batch is too large: it is halved, and the limit is kept. A single message that is too large
    /// is rejected if a smaller one is accepted.
    #[error("{reason}")]
    TooLarge {
        /// What happened.
        reason: String,
    },
    /// The server rejects a message of this batch: the batch is bisected until the message is alone and is
    /// rejected, provided that anything was ever accepted.
    #[error("{reason}")]
    Rejected {
        /// What the server answered.
        reason: String,
    },
    /// No request can be made from the first message of this batch, such as one whose URL cannot be
    /// evaluated: it is rejected alone. Nothing was sent, so there is no response.
    #[error("{reason}")]
    Unsendable {
        /// What cannot be made, and why.
        reason: String,
    },
    /// The configuration drops a message for this response: the batch is bisected until the message is alone
    /// and is dropped.
    #[error("{reason}")]
    Dropped {
        /// What the server answered.
        reason: String,
    },
}

/// Writes batches to a sink.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Writes all messages or none. Their contents are raw bytes. Success means that the sink has accepted
    /// responsibility for them. The call must end within its own time limit.
    ///
    /// # Errors
    /// [`WriteError`] names what the runtime does next.
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError>;
}
