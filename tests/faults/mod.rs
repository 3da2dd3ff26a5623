//! Failures of the parts around the program, each caused on the real part and each ended with the audit.

mod answers;
mod api_server;
mod clock;
mod disk;
mod dns;
mod lag;
mod lease;
mod namespaces;
mod pages;
mod poison;
mod sink;
mod sleep;
mod state;
mod stop;
mod streams;

use std::path::Path;

/// Whether a folder has a file whose name contains this.
pub(crate) fn has_file(folder: &Path, part: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().contains(part)
    })
}
