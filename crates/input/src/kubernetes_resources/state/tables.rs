//! The tables of the state file: one row for each lifetime, segment, late span, late window batch and group of
//! rejected pieces, and one for each content that these refer to.
//!
//! A change writes the rows that changed and no others. All rows of an object are in one table under one key, so
//! they lie on one page or two.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use meterline_ledger::{
    Changes, Checkpoint, Group, GroupKey, LateBatch, LateSpan, Record, RecordChange, SegmentChange,
    Uid, UnixSeconds,
};
use rusqlite::{Row, params, params_from_iter, types::Value};

use super::{
    contents::{Contents, Loaded},
    rows::{StateError, Tables, bytes, damaged, parse},
};
use crate::{kubernetes_resources::object::BilledObject, sqlite};

/// Creates the tables.
pub(super) const MIGRATION: &str =
    "CREATE TABLE contents (id INTEGER PRIMARY KEY, content BLOB NOT NULL, hash BLOB NOT NULL);
     CREATE TABLE parts (
         uid TEXT NOT NULL, part INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER,
         content INTEGER, record BLOB, sum INTEGER NOT NULL, PRIMARY KEY (uid, part, start)
     ) WITHOUT ROWID;
     CREATE TABLE window_batches (number INTEGER PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL);
     CREATE TABLE groups (
         key TEXT PRIMARY KEY, content INTEGER NOT NULL, record BLOB NOT NULL, sum INTEGER NOT NULL
     ) WITHOUT ROWID;";

/// The kinds of rows of the table `parts`.
const LIFE: i64 = 0;
const SEGMENT: i64 = 1;
const LATE: i64 = 2;

/// Objects that changed.
pub(super) type Records = BTreeMap<Uid, Option<RecordChange<BilledObject>>>;

/// A row of the table `parts`.
struct Part {
    uid: Arc<str>,
    part: i64,
    start: UnixSeconds,
    end: Option<UnixSeconds>,
    content: Option<i64>,
    record: Option<Vec<u8>>,
}

impl Part {
    fn sum(&self) -> i64 {
        let mut bytes = Vec::with_capacity(256);
        for number in [Some(self.part), Some(self.start), self.end, self.content] {
            bytes.push(u8::from(number.is_some()));
            bytes.extend(number.unwrap_or_default().to_le_bytes());
        }
        bytes.extend(self.record.as_deref().unwrap_or_default());
        sqlite::sum(&self.uid, &bytes)
    }

    fn read(row: &Row<'_>) -> Result<Self, StateError> {
        let uid: String = row.get(0).map_err(damaged)?;
        let part = Self {
            uid: uid.into(),
            part: row.get(1).map_err(damaged)?,
            start: row.get(2).map_err(damaged)?,
            end: row.get(3).map_err(damaged)?,
            content: row.get(4).map_err(damaged)?,
            record: row.get(5).map_err(damaged)?,
        };
        let sum: i64 = row.get(6).map_err(damaged)?;
        if part.sum() != sum {
            return Err(StateError::Damaged(format!(
                "a row of `{}` does not match its checksum",
                part.uid
            )));
        }
        Ok(part)
    }
}

/// What the tables contained.
pub(super) struct Held {
    pub(super) checkpoint: Checkpoint<BilledObject>,
    pub(super) records: Vec<(Uid, Record<BilledObject>)>,
    pub(super) rejected: Vec<(GroupKey, Group<BilledObject>)>,
}

/// Reads everything that the tables contain.
pub(super) fn read(
    tables: Tables<'_>,
    checkpoint: Checkpoint<BilledObject>,
) -> Result<(Held, Contents), StateError> {
    let mut contents = Loaded::read(tables)?;
    let mut records: Vec<(Uid, Record<BilledObject>, Vec<_>)> = Vec::new();
    let mut late = Vec::new();
    let mut statement = tables.prepare(
        "SELECT uid, part, start, end, content, record, sum FROM parts$ ORDER BY uid, part, start",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let part = Part::read(row)?;
        let content = part.content.map(|id| contents.get(id)).transpose()?;
        let record = part.record.as_deref().unwrap_or_default();
        let life = records.last_mut().filter(|(uid, ..)| *uid == part.uid);
        match (part.part, content, life) {
            (LIFE, None, None) => {
                let life = from_json(&part.uid, record)?;
                records.push((part.uid, life, Vec::new()));
            }
            (SEGMENT, Some(content), Some((_, _, segments))) => {
                segments.push((part.start, part.end, content));
            }
            (LATE, Some(content), _) => {
                let span: LateSpan<()> = from_json(&part.uid, record)?;
                late.push(((part.uid, part.start), span.with(content)));
            }
            _ => {
                let reason = format!(
                    "a row of `{}` refers to an object that has no row",
                    part.uid
                );
                return Err(StateError::Damaged(reason));
            }
        }
    }
    let window_batches = window_batches(tables, &mut contents)?;
    let held = Held {
        checkpoint: checkpoint.with_late(late, window_batches),
        records: records
            .into_iter()
            .map(|(uid, life, segments)| (uid, life.with_segments(segments)))
            .collect(),
        rejected: groups(tables, &mut contents)?,
    };
    Ok((held, contents.finish()))
}

fn window_batches(
    tables: Tables<'_>,
    contents: &mut Loaded,
) -> Result<Vec<LateBatch<BilledObject>>, StateError> {
    let mut statement =
        tables.prepare("SELECT number, record, sum FROM window_batches$ ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut window_batches = Vec::new();
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0).map_err(damaged)?;
        let record: Vec<u8> = row.get(1).map_err(damaged)?;
        let sum = row.get(2).map_err(damaged)?;
        let window_batch: LateBatch<i64> = parse(&format!("window_batch {number}"), &record, sum)?;
        window_batches.push(window_batch.try_map(|id| contents.get(id))?);
    }
    Ok(window_batches)
}

fn groups(
    tables: Tables<'_>,
    contents: &mut Loaded,
) -> Result<Vec<(GroupKey, Group<BilledObject>)>, StateError> {
    let mut statement = tables.prepare("SELECT key, content, record, sum FROM groups$")?;
    let mut rows = statement.query([])?;
    let mut groups = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0).map_err(damaged)?;
        let id: i64 = row.get(1).map_err(damaged)?;
        let record: Vec<u8> = row.get(2).map_err(damaged)?;
        let group: Group<()> = parse(&summed(&key, id), &record, row.get(3).map_err(damaged)?)?;
        let name = key
            .parse()
            .map_err(|()| StateError::Damaged(format!("`{key}` names no group")))?;
        groups.push((name, group.with(contents.get(id)?)));
    }
    Ok(groups)
}

/// Returns the key of a group's checksum.
fn summed(key: &str, content: i64) -> String {
    format!("{key} {content}")
}

fn from_json<T: serde::de::DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StateError::Damaged(format!("`{key}` cannot be parsed: {error}")))
}

/// Writes rows in one transaction.
pub(super) struct Writer<'a> {
    tables: Tables<'a>,
    contents: &'a mut Contents,
}

impl<'a> Writer<'a> {
    pub(super) fn new(tables: Tables<'a>, contents: &'a mut Contents) -> Self {
        Self { tables, contents }
    }

    /// Empties all tables.
    pub(super) fn clear(&mut self) -> Result<(), StateError> {
        *self.contents = Contents::default();
        self.tables.execute_batch(
            "DELETE FROM contents$; DELETE FROM parts$; DELETE FROM window_batches$; DELETE FROM groups$;",
        )?;
        Ok(())
    }

    pub(super) fn write(&mut self, changes: &Changes<BilledObject>) -> Result<(), StateError> {
        self.records(&changes.records)?;
        for ((uid, start), span) in &changes.late {
            self.late(uid, *start, span.as_ref())?;
        }
        for (number, window_batch) in &changes.batches {
            self.window_batch(*number, window_batch.as_ref())?;
        }
        for (key, change) in &changes.rejected {
            let group = change.as_ref().map(|it| (&it.group, it.is_new));
            self.group(&key.to_string(), group)?;
        }
        Ok(())
    }

    /// Writes the objects that changed.
    pub(super) fn records(&mut self, records: &Records) -> Result<(), StateError> {
        // Contents come first, so that they lie together in the file, and so do the rows after them: the rows are
        // changed again, most contents are not.
        let mut contents = VecDeque::new();
        for segment in records.values().flatten().flat_map(|it| &it.segments) {
            if let Some(content) = &segment.content {
                contents.push_back(self.contents.add(self.tables, content)?);
            }
        }
        for (uid, change) in records {
            match change {
                Some(change) => self.record(uid, change, &mut contents)?,
                None => self.delete_parts("uid = ?1 AND part <= 1", vec![text(uid)])?,
            }
        }
        Ok(())
    }

    /// `contents` starts with the ids of the contents of its segments.
    fn record(
        &mut self,
        uid: &Uid,
        change: &RecordChange<BilledObject>,
        contents: &mut VecDeque<i64>,
    ) -> Result<(), StateError> {
        self.put(&Part {
            uid: Arc::clone(uid),
            part: LIFE,
            start: 0,
            end: None,
            content: None,
            record: Some(bytes(&change.life)?),
        })?;
        for segment in &change.segments {
            let content = segment.content.as_ref().and_then(|_| contents.pop_front());
            self.segment(uid, segment, content)?;
        }
        let of = |rest: &str| format!("uid = ?1 AND part = {SEGMENT}{rest}");
        match change.starts {
            None => self.delete_parts(&of(""), vec![text(uid)]),
            Some((first, last)) => {
                self.delete_parts(&of(" AND start < ?2"), vec![text(uid), first.into()])?;
                self.delete_parts(&of(" AND start > ?2"), vec![text(uid), last.into()])
            }
        }
    }

    fn segment(
        &mut self,
        uid: &Uid,
        segment: &SegmentChange<BilledObject>,
        content: Option<i64>,
    ) -> Result<(), StateError> {
        let content = match content {
            Some(content) => content,
            None => {
                let id = self.content_of(uid, SEGMENT, segment.start)?;
                let id = id.ok_or_else(|| {
                    StateError::Unusable(format!("a segment of `{uid}` is not in it"))
                })?;
                self.contents.again(id);
                id
            }
        };
        self.put(&Part {
            uid: Arc::clone(uid),
            part: SEGMENT,
            start: segment.start,
            end: segment.end,
            content: Some(content),
            record: None,
        })?;
        let others =
            format!("uid = ?1 AND part = {SEGMENT} AND start >= ?2 AND start < ?3 AND start <> ?4");
        let (after, end) = (segment.after, segment.end.unwrap_or(UnixSeconds::MAX));
        self.delete_parts(
            &others,
            vec![text(uid), after.into(), end.into(), segment.start.into()],
        )
    }

    fn late(
        &mut self,
        uid: &Uid,
        start: UnixSeconds,
        span: Option<&LateSpan<BilledObject>>,
    ) -> Result<(), StateError> {
        let Some(span) = span else {
            let that = format!("uid = ?1 AND part = {LATE} AND start = ?2");
            return self.delete_parts(&that, vec![text(uid), start.into()]);
        };
        let content = self.contents.add(self.tables, &span.content)?;
        self.put(&Part {
            uid: Arc::clone(uid),
            part: LATE,
            start,
            end: None,
            content: Some(content),
            record: Some(bytes(&span.with(()))?),
        })
    }

    fn window_batch(
        &mut self,
        number: u64,
        window_batch: Option<&LateBatch<BilledObject>>,
    ) -> Result<(), StateError> {
        let number = i64::try_from(number)
            .map_err(|_| StateError::Unusable("too many late window batches".to_owned()))?;
        let row = window_batch.cloned().map(|window_batch| {
            let window_batch = window_batch.try_map(|it| self.contents.add(self.tables, &it))?;
            bytes(&window_batch)
        });
        let row = row.transpose()?;
        let mut delete = self
            .tables
            .prepare_cached("DELETE FROM window_batches$ WHERE number = ?1 RETURNING record")?;
        let mut gone = Vec::new();
        for record in delete.query_map([number], |row| row.get::<_, Vec<u8>>(0))? {
            let window_batch: LateBatch<i64> = from_json("a window_batch", &record?)?;
            window_batch.try_map(|id| {
                gone.push(id);
                Ok::<_, StateError>(())
            })?;
        }
        if let Some(row) = row {
            let sum = sqlite::sum(&format!("window_batch {number}"), &row);
            self.tables
                .prepare_cached(
                    "INSERT INTO window_batches$ (number, record, sum) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![number, row, sum])?;
        }
        gone.into_iter()
            .try_for_each(|id| self.contents.remove(self.tables, id))
    }

    /// `is_new` is whether the content of the group changed as well.
    fn group(
        &mut self,
        key: &str,
        group: Option<(&Group<BilledObject>, bool)>,
    ) -> Result<(), StateError> {
        let before = self
            .tables
            .prepare_cached("SELECT content FROM groups$ WHERE key = ?1")?
            .query_map([key], |row| row.get(0))?
            .next()
            .transpose()?;
        let Some((group, is_new)) = group else {
            self.tables
                .prepare_cached("DELETE FROM groups$ WHERE key = ?1")?
                .execute([key])?;
            return before.map_or(Ok(()), |id| self.contents.remove(self.tables, id));
        };
        let content = match before.filter(|_| !is_new) {
            Some(id) => {
                self.contents.again(id);
                id
            }
            None => self.contents.add(self.tables, &group.content)?,
        };
        let record = bytes(&group.clone().with(()))?;
        let sum = sqlite::sum(&summed(key, content), &record);
        self.tables
            .prepare_cached(
                "INSERT OR REPLACE INTO groups$ (key, content, record, sum) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![key, content, record, sum])?;
        before.map_or(Ok(()), |id| self.contents.remove(self.tables, id))
    }

    /// Writes a row, in place of the one with its key. The reference to its content is counted already.
    fn put(&mut self, part: &Part) -> Result<(), StateError> {
        let before = match part.content {
            Some(_) => self.content_of(&part.uid, part.part, part.start)?,
            None => None,
        };
        self.tables
            .prepare_cached(
                "INSERT OR REPLACE INTO parts$ (uid, part, start, end, content, record, sum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                part.uid.as_ref(),
                part.part,
                part.start,
                part.end,
                part.content,
                part.record,
                part.sum()
            ])?;
        before.map_or(Ok(()), |id| self.contents.remove(self.tables, id))
    }

    /// Returns the content that a row refers to, if the row exists.
    fn content_of(
        &self,
        uid: &Uid,
        part: i64,
        start: UnixSeconds,
    ) -> Result<Option<i64>, StateError> {
        let mut select = self.tables.prepare_cached(
            "SELECT content FROM parts$ WHERE uid = ?1 AND part = ?2 AND start = ?3",
        )?;
        let mut rows = select.query(params![uid.as_ref(), part, start])?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    fn delete_parts(&mut self, which: &str, keys: Vec<Value>) -> Result<(), StateError> {
        let contents: Vec<Option<i64>> = {
            let delete = format!("DELETE FROM parts$ WHERE {which} RETURNING content");
            let mut delete = self.tables.prepare_cached(&delete)?;
            let rows = delete.query_map(params_from_iter(keys), |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        contents
            .into_iter()
            .flatten()
            .try_for_each(|id| self.contents.remove(self.tables, id))
    }
}

fn text(uid: &Uid) -> Value {
    Value::Text(uid.as_ref().to_owned())
}
