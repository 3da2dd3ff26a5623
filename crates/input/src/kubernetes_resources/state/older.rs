//! Files of versions 1 to 3, which have one ledger: one row has an object with all its segments and their contents, and the row `head`
//! has everything that was learned late.

use std::{collections::HashMap, sync::Arc};

use super::{
    rows::{StateError, Tables, rows},
    tables::Held,
};
use crate::kubernetes_resources::object::BilledObject;
use meterline_ledger::{Checkpoint, Group, GroupKey, Record};

/// The tables that only these versions have.
const TABLES: [&str; 3] = ["objects", "rejected", "rejected_contents"];

/// Whether the file has one of these versions.
pub(super) fn is_there(tables: Tables<'_>) -> Result<bool, StateError> {
    if !tables.is_first() {
        return Ok(false);
    }
    let count: i64 = tables
        .prepare("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'objects'")?
        .query_row([], |row| row.get(0))?;
    Ok(count > 0)
}

/// Drops the tables of these versions, before everything is rewritten.
pub(super) fn remove(tables: Tables<'_>) -> Result<(), StateError> {
    if !tables.is_first() {
        return Ok(());
    }
    for table in TABLES {
        tables.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    Ok(())
}

/// Reads everything that it contains.
pub(super) fn read(
    tables: Tables<'_>,
    checkpoint: Checkpoint<BilledObject>,
) -> Result<Held, StateError> {
    let records: Vec<(Arc<str>, Record<BilledObject>)> =
        rows(tables, "SELECT uid, record, sum FROM objects")?;
    Ok(Held {
        checkpoint,
        records,
        rejected: rejected(tables)?,
    })
}

fn rejected(tables: Tables<'_>) -> Result<Vec<(GroupKey, Group<BilledObject>)>, StateError> {
    let contents = rows(tables, "SELECT key, content, sum FROM rejected_contents")?;
    let mut contents: HashMap<_, BilledObject> = contents.into_iter().collect();
    let groups: Vec<(Arc<str>, Group<Option<BilledObject>>)> =
        rows(tables, "SELECT key, pieces, sum FROM rejected")?;
    let whole = groups.into_iter().map(|(key, mut group)| {
        let content = group.content.take().or_else(|| contents.remove(&key));
        let named = content.zip(key.parse().ok());
        let (content, name) =
            named.ok_or_else(|| StateError::Damaged(format!("`{key}` lacks its content")))?;
        Ok((name, group.with(content)))
    });
    whole.collect()
}
