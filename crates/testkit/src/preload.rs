//! Failures of the system inside the program: a disk that does not sync, a clock that is set, a name that
//! does not resolve. A small C library is preloaded into the program and reads files to learn what to do,
//! so that a test can change it while the program runs.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::process::MeterlineCommand;

const SOURCE: &str = include_str!("preload/faults.c");

/// The compiled library and the files that it reads. Dropping it removes them.
#[derive(Debug)]
pub struct Preload {
    folder: TempDir,
    clock: File,
}

impl Preload {
    /// Compiles the library. At first it does nothing.
    ///
    /// # Errors
    /// When there is no C compiler; the error shows its output.
    pub fn compile() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("meterline-preload-")
            .tempdir()?;
        let source = folder.path().join("faults.c");
        std::fs::write(&source, SOURCE)?;
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(folder.path().join("faults.so"))
            .arg(&source)
            .args(["-ldl", "-lpthread"])
            .output()
            .context("no C compiler: cc")?;
        if !compiled.status.success() {
            bail!("cc: {}", String::from_utf8_lossy(&compiled.stderr));
        }
        std::fs::write(folder.path().join("hosts"), "")?;
        let mut clock = File::create(folder.path().join("clock"))?;
        clock.write_all(&0_i64.to_ne_bytes())?;
        Ok(Self { folder, clock })
    }

    /// Preloads the library into a program that is about to be started.
    #[must_use]
    pub fn put_into(&self, command: MeterlineCommand) -> MeterlineCommand {
        command
            .env("LD_PRELOAD", self.path("faults.so"))
            .env("FAULT_CLOCK", self.path("clock"))
            .env("FAULT_SYNC", self.path("sync-fails"))
            .env("FAULT_HOSTS", self.path("hosts"))
    }

    /// From now on the wall clock of the programs is off by this many seconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_clock_off_by(&self, seconds: i64) -> anyhow::Result<()> {
        let mut clock = &self.clock;
        clock.seek(SeekFrom::Start(0))?;
        // One write of eight bytes: the program never sees half of it.
        clock.write_all(&seconds.saturating_mul(1_000_000_000).to_ne_bytes())?;
        Ok(())
    }

    /// Makes every sync of a file fail (EIO) from now on, which may lose what it should have written, or
    /// lets it succeed again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn fail_syncs(&self, fail: bool) -> anyhow::Result<()> {
        let switch = self.path("sync-fails");
        if fail {
            std::fs::write(switch, "")?;
        } else {
            std::fs::remove_file(switch)?;
        }
        Ok(())
    }

    /// From now on `name` resolves to `address`, or does not resolve.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn resolve(&self, name: &str, address: Option<&str>) -> anyhow::Result<()> {
        let line = format!("{name} {}\n", address.unwrap_or("-"));
        let new = self.path("hosts.new");
        std::fs::write(&new, line)?;
        // A reader sees the old file or the new one.
        std::fs::rename(new, self.path("hosts"))?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}
