//! A small disk that a test can fill.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

/// How often a full disk is filled again: the program may free some of it.
const REFILL: Duration = Duration::from_millis(5);

/// A disk in memory. It is unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

/// Keeps the disk full until this is dropped.
#[derive(Debug)]
pub struct Full {
    end: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
    filler: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk with this many bytes.
    ///
    /// # Errors
    /// When the process may not mount.
    pub fn mount(bytes: u64) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("meterline-disk-")
            .tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(folder.path())
            .output()
            .context("no command mount")?;
        if !mounted.status.success() {
            let reason = String::from_utf8_lossy(&mounted.stderr).into_owned();
            anyhow::bail!("a disk cannot be mounted: {reason}");
        }
        Ok(Self { folder })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it to the last byte, and again whenever the program frees some of it.
    ///
    /// # Errors
    /// When the file that fills it cannot be created.
    pub fn fill(&self) -> anyhow::Result<Full> {
        let filler = self.path().join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&filler)?;
        let end = Arc::new(AtomicBool::new(false));
        fill_up(&mut file);
        let ended = Arc::clone(&end);
        let task = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                fill_up(&mut file);
                std::thread::sleep(REFILL);
            }
        });
        Ok(Full {
            end,
            task: Some(task),
            filler,
        })
    }
}

fn fill_up(file: &mut std::fs::File) {
    for size in [65_536, 4_096, 1] {
        let bytes = vec![0_u8; size];
        loop {
            match file.write(&bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
        let _ = std::fs::remove_file(&self.filler);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounts lazily: a process that still has a file open keeps only that file.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .output();
    }
}
