//! The state files of a process, and whose ledgers are in which.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use meterline_core::Reads;

use super::{
    file::{Saved, StateFile},
    rows::StateError,
    shared::SharedFile,
};
use crate::kubernetes_resources::ledger_name::LedgerName;

/// The state files of a process. Inputs with the same path share the file.
#[derive(Default)]
pub(crate) struct StateFiles(Mutex<Vec<Named>>);

/// A file that a configuration names.
struct Named {
    path: PathBuf,
    /// The ledgers in it, in the order of the configuration, each with the place of its input there.
    ledgers: Vec<(LedgerName, String)>,
    file: Option<SharedFile>,
}

impl StateFiles {
    fn files(&self) -> MutexGuard<'_, Vec<Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the input at `place` of the configuration keeps a ledger in the file at `path`.
    ///
    /// # Errors
    /// When another input keeps the same one; the error is its place.
    pub(crate) fn claim(&self, path: &Path, name: &LedgerName, place: &str) -> Result<(), String> {
        let mut files = self.files();
        let path = absolute(path);
        let index = files.iter().position(|it| it.path == path);
        let index = index.unwrap_or_else(|| {
            files.push(Named {
                path,
                ledgers: Vec::new(),
                file: None,
            });
            files.len().saturating_sub(1)
        });
        let Some(named) = files.get_mut(index) else {
            return Ok(());
        };
        if let Some((_, other)) = named.ledgers.iter().find(|(it, _)| it == name) {
            return Err(other.clone());
        }
        named.ledgers.push((name.clone(), place.to_owned()));
        Ok(())
    }

    /// Opens a ledger that was claimed. The first time, the file is opened for all ledgers that are kept in it.
    ///
    /// # Errors
    /// When the file cannot be used. Damage is no error.
    pub(crate) fn open(
        &self,
        path: &Path,
        name: &LedgerName,
        reads: &Reads,
        now: i64,
    ) -> Result<(StateFile, Option<Saved>, Option<String>), StateError> {
        let mut files = self.files();
        let absolute = absolute(path);
        let named = files.iter_mut().find(|it| it.path == absolute);
        let named = named.ok_or_else(|| StateError::Unusable("nothing named it".to_owned()))?;
        let file = match &named.file {
            Some(file) => file.clone(),
            None => {
                let names: Vec<_> = named.ledgers.iter().map(|(name, _)| name.clone()).collect();
                let file = SharedFile::open(path, &names, now)?;
                named.file.insert(file).clone()
            }
        };
        StateFile::of(&file, name, reads, now)
    }
}

/// Two ways to write one path are equal, as far as that shows without looking at the disk.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_kept_once_in_a_file() {
        let files = StateFiles::default();
        let name = |label: Option<&str>| LedgerName::new("pod", label.map(Into::into));
        let claim = |path: &str, label, place| files.claim(Path::new(path), &name(label), place);
        assert_eq!(claim("a/state", None, "input.0"), Ok(()));
        assert_eq!(claim("a/state", Some("x"), "input.1"), Ok(()));
        assert_eq!(claim("b/state", None, "input.2"), Ok(()));
        assert_eq!(
            claim("a/./state", None, "input.3"),
            Err("input.0".to_owned())
        );
        assert_eq!(
            claim("a//state", Some("x"), "input.4"),
            Err("input.1".to_owned())
        );
    }
}
