//! What can never be delivered: counted, logged with its reason, and settled.

use std::sync::{Mutex, PoisonError};

use meterline_core::{Ack, FALLBACK_ERROR, IntCounter, Message, Metrics, Outcome};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};
use tracing::error;

use crate::sink::Delivery;

/// So many lines a second are logged; the rest is counted and summed up.
const LINES_A_SECOND: u64 = 10;

/// The path of messages that are refused.
pub(crate) struct Rejections {
    counter: IntCounter,
    second: Mutex<Second>,
    /// The output that takes what another refused, if there is one.
    next: Option<mpsc::Sender<Delivery>>,
}

struct Second {
    began: Instant,
    lines: u64,
    silent: u64,
}

impl Rejections {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            counter: metrics.counter(
                "output_rejected",
                "Messages that can never be delivered and were set aside.",
                &[],
            ),
            second: Mutex::new(Second {
                began: Instant::now(),
                lines: 0,
                silent: 0,
            }),
            next: None,
        }
    }

    /// The same path, but to another output.
    pub(crate) fn to(metrics: &Metrics, next: mpsc::Sender<Delivery>) -> Self {
        Self {
            next: Some(next),
            ..Self::new(metrics)
        }
    }

    /// Sets one message aside for `reason`. Waits until there is room where it goes.
    pub(crate) async fn reject(&self, mut message: Message, ack: Ack, reason: &str) {
        self.counter.inc();
        if let Some(silent) = self.may_log() {
            let component = message.failure().map_or("output", |it| &it.component);
            let about = message.about();
            match self.next {
                None => error!(about, component, "rejected, and not billed: {reason}"),
                Some(_) => error!(about, component, "goes to the fallback: {reason}"),
            }
            if silent > 0 {
                error!(messages = silent, "more messages were rejected");
            }
        }
        let Some(next) = &self.next else {
            ack.resolve(Outcome::Rejected(reason.to_owned()));
            return;
        };
        message.clear_failure();
        message.metadata.set(FALLBACK_ERROR, reason);
        // Where nobody takes it any more the ack is dropped: it comes again.
        let _ = next.send(Delivery { message, ack }).await;
    }

    /// Whether a line may be logged now; with it the number of those that were not.
    fn may_log(&self) -> Option<u64> {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.began.elapsed() >= Duration::from_secs(1) {
            second.began = Instant::now();
            second.lines = 0;
        }
        second.lines = second.lines.saturating_add(1);
        if second.lines > LINES_A_SECOND {
            second.silent = second.silent.saturating_add(1);
            return None;
        }
        Some(std::mem::take(&mut second.silent))
    }
}
