//! How the process ends. Documented in the README and in `--help`.

use std::{io::Write, process::ExitCode};

use crate::logging;

/// The exit codes, after `sysexits.h` where it has one. Besides these, `clap` ends with 2 where the
/// command line is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All went well.
    Success = 0,
    /// A configuration has faults or is not there, or a mapping that was tried failed.
    Faults = 1,
    /// The pipeline stopped by an error that no retry can mend.
    Failed = 70,
    /// Told to stop, but not everything was delivered within `shutdown_timeout`.
    Undelivered = 75,
    /// Told to stop a second time, and stopped at once.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The end by a configuration that is not there, or by something else that was said wrongly; tells
    /// the reason.
    pub(crate) fn by_fault(reason: &anyhow::Error) -> Self {
        let _ = writeln!(logging::Stderr::default(), "meterline: {reason:#}");
        Self::Faults
    }
}
