//! The exit codes, which the README and `--help` document.

use std::{io::Write, process::ExitCode};

use crate::logging;

/// The exit codes, which follow `sysexits.h` where it has one. In addition `clap` exits with 2 when
/// the command line is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The command succeeded.
    Success = 0,
    /// A configuration has errors or is missing, a mapping under test failed, or a server's meters are not
    /// those of the catalogue.
    Invalid = 1,
    /// The command line is wrong in a way that `clap` does not see.
    Usage = 2,
    /// The pipeline stopped because of an error that no retry can fix.
    Failed = 70,
    /// A signal stopped the pipeline, but not everything was delivered within `shutdown_timeout`.
    Undelivered = 75,
    /// A second signal stopped the process at once.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Prints why the configuration or another input of the user is unusable, and returns the exit
    /// code for that.
    pub(crate) fn invalid(reason: &anyhow::Error) -> Self {
        print(reason);
        Self::Invalid
    }

    /// Prints why the command line is wrong, and returns the exit code for that.
    pub(crate) fn usage(reason: &anyhow::Error) -> Self {
        print(reason);
        Self::Usage
    }
}

fn print(reason: &anyhow::Error) {
    let _ = writeln!(logging::Stderr::default(), "meterline: {reason:#}");
}
