//! Standard output whose reader may close it.
//!
//! `println!` panics when the reader has closed the pipe, as in `meterline lint a.yaml | head -1`. Here
//! a closed pipe discards the rest of the output, and the exit code stays the same.

use std::io::{self, ErrorKind, StdoutLock, Write};

/// Standard output; writes to a closed pipe succeed and are discarded.
///
/// # Errors
/// Any other error of the write, such as a full disk.
pub(crate) struct Stdout(StdoutLock<'static>);

/// See [`Stdout`].
pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_closed(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(self.0.flush(), ())
    }
}

fn unless_closed<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(instead),
        other => other,
    }
}
