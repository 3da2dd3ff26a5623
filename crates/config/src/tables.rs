//! The section `tables`: files that mappings look values up in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{context::PlanContext, fields::Located};

/// A file of the section `tables`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableFile {
    /// The path of a CSV, JSON or YAML file, relative to the working directory or else to the configuration file.
    path: Located<String>,
}

/// Resolves a path that a configuration names: relative to the working directory if there is such a file, or else to the
/// directory of the configuration file.
#[must_use]
pub fn file(path: &str, dir: Option<&Path>) -> PathBuf {
    let path = Path::new(path);
    match dir {
        Some(dir) if path.is_relative() && !path.exists() => {
            dir.join(path.strip_prefix("./").unwrap_or(path))
        }
        _ => path.to_owned(),
    }
}

impl PlanContext<'_> {
    /// The paths of the tables of the configuration, by name.
    #[must_use]
    pub fn tables(&self) -> &BTreeMap<String, PathBuf> {
        &self.tables
    }

    /// Takes the section.
    pub(crate) fn take_tables(&mut self, files: BTreeMap<String, TableFile>) {
        for (name, file) in files {
            if file.path.value.trim().is_empty() {
                let error =
                    format!("the table `{name}` has no path; name a .csv, .json or .yaml file");
                self.error_at(&file.path, error);
            }
            let path = self::file(&file.path.value, self.file_dir());
            self.tables.insert(name, path);
        }
    }
}
