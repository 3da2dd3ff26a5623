//! The table of contents: each content is stored once, and is deleted with the last row that refers to it.
//!
//! A content is looked up by its hash. The hashes are in memory, some fifty bytes for each content: an index in
//! the file would cost a page for each content that is added. Tenants choose contents, so the hash is
//! cryptographic: it is infeasible to make two contents with the same one. It also detects damage.

use std::collections::HashMap;

use rusqlite::params;
use sha2::{Digest, Sha256};

use super::rows::{StateError, Tables, bytes, damaged};
use crate::kubernetes_resources::object::BilledObject;

/// The first bytes of the SHA-256 of a content as it is written.
type Hash = [u8; 16];

fn hash(content: &[u8]) -> Hash {
    let hash = Sha256::digest(content);
    hash.first_chunk().copied().unwrap_or_default()
}

/// What the table contains.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    ids: HashMap<Hash, i64>,
    /// The number of references to a content, if it is more than one.
    shared: HashMap<i64, u32>,
    /// The last id that was assigned.
    last: i64,
}

impl Contents {
    /// Adds a content, or a reference to one that is stored. Returns its id.
    pub(super) fn add(
        &mut self,
        tables: Tables<'_>,
        content: &BilledObject,
    ) -> Result<i64, StateError> {
        let content = bytes(content)?;
        let hash = hash(&content);
        if let Some(id) = self.ids.get(&hash).copied() {
            self.again(id);
            return Ok(id);
        }
        // Rows with growing ids lie next to each other, and so cost few pages.
        let id = self.last.saturating_add(1);
        tables
            .prepare_cached("INSERT INTO contents$ (id, content, hash) VALUES (?1, ?2, ?3)")?
            .execute(params![id, content, hash])?;
        self.last = id;
        self.ids.insert(hash, id);
        Ok(id)
    }

    /// Adds a reference to a content.
    pub(super) fn again(&mut self, id: i64) {
        let count = self.shared.entry(id).or_insert(1);
        *count = count.saturating_add(1);
    }

    /// Removes a reference to a content, and with the last one the content.
    pub(super) fn remove(&mut self, tables: Tables<'_>, id: i64) -> Result<(), StateError> {
        if let Some(count) = self.shared.get_mut(&id) {
            *count = count.saturating_sub(1);
            if *count <= 1 {
                self.shared.remove(&id);
            }
            return Ok(());
        }
        let mut delete =
            tables.prepare_cached("DELETE FROM contents$ WHERE id = ?1 RETURNING hash")?;
        for hash in delete.query_map([id], |row| row.get::<_, Hash>(0))? {
            self.ids.remove(&hash?);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Contents {
    /// Whether both have the same contents and references.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.ids, &self.shared) == (&other.ids, &other.shared)
    }
}

/// The contents of a file that is being read.
#[derive(Default)]
pub(super) struct Loaded {
    contents: HashMap<i64, BilledObject>,
    ids: HashMap<Hash, i64>,
    counts: HashMap<i64, u32>,
}

impl Loaded {
    pub(super) fn read(tables: Tables<'_>) -> Result<Self, StateError> {
        let mut loaded = Self::default();
        let mut statement = tables.prepare("SELECT id, content, hash FROM contents$")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0).map_err(damaged)?;
            let content: Vec<u8> = row.get(1).map_err(damaged)?;
            let known: Hash = row.get(2).map_err(damaged)?;
            if hash(&content) != known {
                return Err(StateError::Damaged(format!(
                    "content {id} does not match its checksum"
                )));
            }
            let content = serde_json::from_slice(&content).map_err(|error| {
                StateError::Damaged(format!("content {id} cannot be parsed: {error}"))
            })?;
            loaded.contents.insert(id, content);
            loaded.ids.insert(known, id);
        }
        Ok(loaded)
    }

    /// Returns the content that a row refers to.
    pub(super) fn get(&mut self, id: i64) -> Result<BilledObject, StateError> {
        let content = self.contents.get(&id).cloned();
        let count = self.counts.entry(id).or_default();
        *count = count.saturating_add(1);
        content.ok_or_else(|| StateError::Damaged(format!("it lacks content {id}")))
    }

    pub(super) fn finish(mut self) -> Contents {
        self.counts.retain(|_, count| *count > 1);
        Contents {
            last: self.contents.keys().copied().max().unwrap_or_default(),
            ids: self.ids,
            shared: self.counts,
        }
    }
}
