//! Standard output and standard error, which may be gone.
//!
//! `println!` panics when the reader has gone, as in `meterline lint a.yaml | head -1`. Whoever closed
//! standard output has seen enough, and the exit code stays what it is.

use std::io::{self, ErrorKind, StdoutLock, Write};

/// Standard output; what a reader that has gone would have got is left out.
///
/// # Errors
/// Of any other kind, such as a full disk: whoever wanted the output has to know.
pub(crate) struct Stdout(StdoutLock<'static>);

/// See [`Stdout`].
pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_gone(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_gone(self.0.flush(), ())
    }
}

fn unless_gone<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(instead),
        other => other,
    }
}
