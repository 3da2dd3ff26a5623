//! Files of versions 1 to 3: one row has an object with all its segments and their contents, and the row `head`
//! has everything that was learned late.

use std::{collections::HashMap, sync::Arc};

use meterline_ledger::{Checkpoint, Group, GroupKey, Record};
use rusqlite::Connection;

use super::{
    rows::{StateError, rows},
    tables::Held,
};
use crate::kubernetes_resources::object::BilledObject;

/// The tables that only these versions have.
const TABLES: [&str; 3] = ["objects", "rejected", "rejected_contents"];

/// Whether the file has one of these versions.
pub(super) fn is_there(connection: &Connection) -> Result<bool, StateError> {
    let count: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'objects'",
        [],
        |row| row.get(0),
    )?;
    Ok(count > 0)
}

/// Drops the tables of these versions, before everything is rewritten.
pub(super) fn remove(connection: &Connection) -> Result<(), StateError> {
    for table in TABLES {
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    Ok(())
}

/// Reads everything that it contains.
pub(super) fn read(
    connection: &Connection,
    checkpoint: Checkpoint<BilledObject>,
) -> Result<Held, StateError> {
    let records: Vec<(Arc<str>, Record<BilledObject>)> =
        rows(connection, "SELECT uid, record, sum FROM objects")?;
    Ok(Held {
        checkpoint,
        records,
        rejected: rejected(connection)?,
    })
}

fn rejected(connection: &Connection) -> Result<Vec<(GroupKey, Group<BilledObject>)>, StateError> {
    let contents = rows(
        connection,
        "SELECT key, content, sum FROM rejected_contents",
    )?;
    let mut contents: HashMap<_, BilledObject> = contents.into_iter().collect();
    let groups: Vec<(Arc<str>, Group<Option<BilledObject>>)> =
        rows(connection, "SELECT key, pieces, sum FROM rejected")?;
    let whole = groups.into_iter().map(|(key, mut group)| {
        let content = group.content.take().or_else(|| contents.remove(&key));
        let named = content.zip(key.parse().ok());
        let (content, name) =
            named.ok_or_else(|| StateError::Damaged(format!("`{key}` lacks its content")))?;
        Ok((name, group.with(content)))
    });
    whole.collect()
}
