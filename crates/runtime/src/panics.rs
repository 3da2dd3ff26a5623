//! Flags a message whose processing panicked.

use meterline_core::Message;
use tracing::error;

/// Returns a message whose processing panicked, flagged as failed.
pub(crate) fn panicked(mut message: Message, place: &str) -> Message {
    error!(
        about = %message.about(),
        "a processor panicked; this message is rejected. Please report it with the panic's text"
    );
    message.clear_failure();
    message.fail(place, "a processor panicked");
    message
}
