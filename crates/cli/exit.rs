//! How the process ends. Documented in the README and in `--help`.

use std::process::ExitCode;

/// The exit codes, after `sysexits.h` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All went well.
    Success = 0,
    /// A configuration has faults, or a mapping that was tried failed.
    Faults = 1,
    /// The command line is wrong. `clap` ends with this by itself.
    Usage = 2,
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
