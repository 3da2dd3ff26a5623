//! How a test makes the recording ingest API misbehave.

use std::time::Duration;

/// What happens to one request. The constructors create it, and the other methods refine it:
///
/// ```
/// # use meterline_testkit::ingest::Behaviour;
/// let busy = Behaviour::status(429).header("retry-after", "1");
/// let lost = Behaviour::accept_then_drop();
/// ```
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub(super) reply: Reply,
    pub(super) wait: Wait,
}

#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Handle the request as the real API does.
    Judge,
    /// Answer; of the valid events the first `take` are kept.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
        take: usize,
    },
    /// Close or reset the connection without an answer; of the valid events the first `take` are
    /// kept.
    Drop { take: usize, reset: bool },
    /// Reset the connection without reading the body.
    Reset,
}

#[derive(Debug, Clone)]
pub(super) enum Wait {
    No,
    For(Duration),
    UntilReleased,
}

impl Behaviour {
    /// As the real API: validates the request, keeps its events and answers 204.
    #[must_use]
    pub fn normal() -> Self {
        Self::of(Reply::Judge)
    }

    /// Answers `status` and keeps nothing.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::accept_first_then(0, status)
    }

    /// Answers with a redirect to `location` and keeps nothing.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::status(307).header("location", location)
    }

    /// Keeps every event, and nevertheless answers `status`.
    #[must_use]
    pub fn accept_then(status: u16) -> Self {
        Self::accept_first_then(usize::MAX, status)
    }

    /// Keeps the first `take` events, then answers `status`.
    #[must_use]
    pub fn accept_first_then(take: usize, status: u16) -> Self {
        Self::of(Reply::Answer {
            status,
            headers: Vec::new(),
            body: String::new(),
            take,
        })
    }

    /// Keeps every event, then closes the connection without an answer.
    #[must_use]
    pub fn accept_then_drop() -> Self {
        Self::of(Reply::Drop {
            take: usize::MAX,
            reset: false,
        })
    }

    /// Keeps every event, then resets the connection without an answer.
    #[must_use]
    pub fn accept_then_reset() -> Self {
        Self::of(Reply::Drop {
            take: usize::MAX,
            reset: true,
        })
    }

    /// Reads the body, keeps nothing and closes the connection without an answer.
    #[must_use]
    pub fn drop_connection() -> Self {
        Self::of(Reply::Drop {
            take: 0,
            reset: false,
        })
    }

    /// Resets the connection without having read the body.
    #[must_use]
    pub fn reset() -> Self {
        Self::of(Reply::Reset)
    }

    /// Adds a header to the answer. With a `content-length` that is more than its body, the answer is
    /// cut off: the connection is closed after the body.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Reply::Answer { headers, .. } = &mut self.reply {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets the body of the answer.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        if let Reply::Answer { body, .. } = &mut self.reply {
            text.clone_into(body);
        }
        self
    }

    /// Waits before the answer, after the events were kept.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.wait = Wait::For(delay);
        self
    }

    /// Waits before the answer, after the events were kept, until
    /// [`RecordingIngest::release`](super::RecordingIngest::release) is called.
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.wait = Wait::UntilReleased;
        self
    }

    fn of(reply: Reply) -> Self {
        Self {
            reply,
            wait: Wait::No,
        }
    }
}
