//! `sqlite`: keeps messages in a file that survives crashes.
//!
//! The buffer acknowledges a message once it is on the disk, and deletes it once it is delivered. When the
//! disk is full, the buffer refuses messages and drops none. It stores the bytes of each message with its
//! metadata and its identity, so that a message that is yielded again has the same id.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use meterline_config::{BufferSpec, Configure, Located, PlanContext, Spec};
use meterline_core::{
    Batch, BatchLimit, BufferPlan, BuildContext, BuildError, Identity, Input, Message, Part,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use tracing::error;

use super::{Store, buffered};
use crate::sqlite;

/// The component.
pub(super) const SPEC: BufferSpec = Spec::new::<Config>(
    "sqlite",
    "Keeps messages in a file until they are delivered; they survive crashes.",
    &["sqlite:\n  path: /var/lib/meterline/buffer.sqlite\n  limit: 1000000000\n"],
)
.keeps("in its file");

/// Existing steps never change; new steps are appended.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, messages BLOB NOT NULL,
         sum INTEGER NOT NULL);
     CREATE TABLE quarantine (number INTEGER PRIMARY KEY, messages BLOB, reason TEXT NOT NULL);",
];

/// Configuration of `sqlite`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file, for this buffer alone. The buffer creates it if it does not exist.
    path: Located<String>,
    /// The maximum number of bytes of messages to keep; the input waits while the buffer is full.
    #[serde(default = "default_limit")]
    limit: u64,
}

const fn default_limit() -> u64 {
    1_000_000_000
}

impl Configure for Config {
    type Plan = dyn BufferPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn BufferPlan>> {
        if self.path.value.trim().is_empty() {
            cx.error_at(&self.path, "the path of a file is needed");
            return None;
        }
        Some(Box::new(self))
    }
}

#[async_trait]
impl BufferPlan for Config {
    async fn build(
        self: Box<Self>,
        input: Box<dyn Input>,
        cx: &BuildContext,
    ) -> Result<Box<dyn Input>, BuildError> {
        let path = PathBuf::from(&self.path.value);
        #[expect(
            clippy::disallowed_methods,
            reason = "a damaged file is moved aside under the time of day"
        )]
        let now = chrono::Utc::now().timestamp();
        let store = File::open(path, now).map_err(|reason| BuildError {
            component: Arc::clone(&cx.label),
            reason: format!("the buffer {}: {reason}", self.path.value),
        })?;
        Ok(buffered(Box::new(store), self.limit, input, cx))
    }
}

/// A message as it is stored.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(with = "text_or_bytes")]
    content: Vec<u8>,
    metadata: Vec<(String, String)>,
    identity: Option<KeptIdentity>,
    /// Which part of a message it is: numbers and counts, the innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    part: Vec<(usize, usize)>,
    /// The most messages and bytes of a batch that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch_limit: Option<(usize, usize)>,
}

#[derive(Serialize, Deserialize)]
struct KeptIdentity {
    about: String,
    uid: String,
    start: i64,
    #[serde(default)]
    end: i64,
    cluster: Option<String>,
}

impl Kept {
    fn of(message: &Message) -> Result<Self, String> {
        Ok(Self {
            content: message.bytes().map_err(|error| error.to_string())?.to_vec(),
            metadata: message
                .metadata
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_string()))
                .collect(),
            identity: message.identity().map(|identity| KeptIdentity {
                about: identity.about.text().into_owned(),
                uid: identity.uid.to_string(),
                start: identity.start,
                end: identity.end,
                cluster: identity.cluster.as_deref().map(str::to_owned),
            }),
            part: std::iter::successors(message.part(), |part| part.of.as_ref())
                .map(|part| (part.number, part.count))
                .collect(),
            batch_limit: message.batch_limit().map(|it| (it.count, it.byte_size)),
        })
    }

    fn message(self) -> Message {
        let parts = self.part.into_iter().rev();
        let part = parts.fold(None, |of, (number, count)| {
            Some(Arc::new(Part { number, count, of }))
        });
        let mut message = Message::raw(self.content).with_part(part);
        for (key, value) in self.metadata {
            message.metadata.set(key, value);
        }
        if let Some((count, byte_size)) = self.batch_limit {
            message.limit_batch(&Arc::new(BatchLimit { count, byte_size }));
        }
        match self.identity {
            None => message,
            Some(identity) => message.with_identity(Identity {
                about: identity.about.as_str().into(),
                uid: identity.uid.into(),
                start: identity.start,
                end: identity.end.max(identity.start),
                cluster: identity.cluster.map(Into::into),
            }),
        }
    }
}

/// Stores text as a JSON string, and other bytes as an array of numbers. Nearly all content is text.
mod text_or_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either<T, B> {
        Text(T),
        Bytes(B),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Either::<_, &[u8]>::Text(text).serialize(to),
            Err(_) => Either::<&str, _>::Bytes(bytes).serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Either::<String, Vec<u8>>::deserialize(from)? {
            Either::Text(text) => text.into_bytes(),
            Either::Bytes(bytes) => bytes,
        })
    }
}

/// The number of a batch, with the batch or the reason why it is damaged.
type Loaded = (u64, Result<Batch, String>);

pub(super) struct File {
    path: PathBuf,
    /// `None` after an error, because the state of such a connection is not trusted.
    connection: Option<Connection>,
    /// The numbers of the batches that have to be handed out again.
    again: BTreeSet<u64>,
    /// The number of the last batch that was handed out for the first time.
    handed_out: u64,
    bytes: u64,
    quarantined: u64,
}

impl File {
    pub(super) fn open(path: PathBuf, now: i64) -> Result<Self, String> {
        let mut file = Self {
            path,
            connection: None,
            again: BTreeSet::new(),
            handed_out: 0,
            bytes: 0,
            quarantined: 0,
        };
        match file.connect() {
            Ok(()) => Ok(file),
            Err(sqlite::Error::Damaged(reason)) => {
                file.connection = None;
                let aside = sqlite::move_aside(&file.path, "damaged", now).map_err(reason_of)?;
                error!(
                    path = %file.path.display(),
                    "the buffer was damaged: {reason}. It was moved to {}; the messages in it are not delivered",
                    aside.display()
                );
                file.connect().map_err(reason_of)?;
                Ok(file)
            }
            Err(error) => Err(reason_of(error)),
        }
    }

    fn connect(&mut self) -> Result<(), sqlite::Error> {
        let connection = sqlite::open(&self.path, MIGRATIONS)?;
        let bytes: i64 = connection.query_row(
            "SELECT COALESCE(SUM(LENGTH(messages)), 0) FROM batches",
            [],
            |row| row.get(0),
        )?;
        self.bytes = u64::try_from(bytes).unwrap_or(0);
        self.connection = Some(connection);
        Ok(())
    }

    /// Calls `run` with the connection. After an error, the next call opens the file again.
    fn on<T>(
        &mut self,
        run: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, String> {
        if self.connection.is_none() {
            self.connect().map_err(reason_of)?;
        }
        let Some(connection) = &mut self.connection else {
            return Err("it is not open".to_owned());
        };
        run(connection).map_err(|error| {
            self.connection = None;
            reason_of(error.into())
        })
    }

    /// Returns the first batch whose number is greater than `after`.
    fn load(&mut self, after: u64) -> Result<Option<Loaded>, String> {
        let row = self.on(|connection| {
            connection
                .query_row(
                    "SELECT number, messages, sum FROM batches WHERE number > ?1 ORDER BY number LIMIT 1",
                    [i64::try_from(after).unwrap_or(i64::MAX)],
                    |row| {
                        let number: i64 = row.get(0)?;
                        let messages = row.get::<_, Vec<u8>>(1);
                        let sum = row.get::<_, i64>(2);
                        Ok((number, messages, sum))
                    },
                )
                .optional()
        })?;
        Ok(row.map(|(number, messages, sum)| {
            let key = number.to_string();
            let batch = match (messages, sum) {
                (Ok(messages), Ok(sum)) if sqlite::sum(&key, &messages) == sum => {
                    serde_json::from_slice::<Vec<Kept>>(&messages)
                        .map(|kept| kept.into_iter().map(Kept::message).collect())
                        .map_err(|error| error.to_string())
                }
                _ => Err("its checksum does not match".to_owned()),
            };
            (u64::try_from(number).unwrap_or(0), batch)
        }))
    }

    fn quarantine(&mut self, number: u64, reason: &str) -> Result<(), String> {
        error!(
            number,
            "a batch in the buffer is damaged; it is set aside and not billed: {reason}"
        );
        self.quarantined = self.quarantined.saturating_add(1);
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        let size = self.on(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR REPLACE INTO quarantine (number, messages, reason)
                 SELECT number, messages, ?2 FROM batches WHERE number = ?1",
                params![number, reason],
            )?;
            let size = delete(&transaction, number)?;
            transaction.commit()?;
            Ok(size)
        })?;
        self.bytes = self.bytes.saturating_sub(size);
        Ok(())
    }
}

/// Deletes a batch and returns its size in bytes.
fn delete(connection: &Connection, number: i64) -> Result<u64, rusqlite::Error> {
    let size: Option<i64> = connection
        .query_row(
            "DELETE FROM batches WHERE number = ?1 RETURNING LENGTH(messages)",
            [number],
            |row| row.get(0),
        )
        .optional()?;
    Ok(size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0))
}

impl Store for File {
    fn push(&mut self, batch: Batch) -> Result<(), String> {
        let kept = batch.iter().map(Kept::of).collect::<Result<Vec<_>, _>>()?;
        let messages = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
        self.on(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO batches (messages, sum) VALUES (?1, 0)",
                [&messages],
            )?;
            // The number is part of the checksum, so that no row can pass for another.
            let number = transaction.last_insert_rowid();
            transaction.execute(
                "UPDATE batches SET sum = ?2 WHERE number = ?1",
                params![number, sqlite::sum(&number.to_string(), &messages)],
            )?;
            transaction.commit()
        })?;
        self.bytes = self.bytes.saturating_add(messages.len() as u64);
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(u64, Batch)>, String> {
        while let Some(number) = self.again.first().copied() {
            let loaded = self.load(number.saturating_sub(1))?;
            self.again.remove(&number);
            match loaded {
                Some((found, Ok(batch))) if found == number => return Ok(Some((number, batch))),
                Some((found, Err(reason))) if found == number => {
                    self.quarantine(number, &reason)?
                }
                _ => {}
            }
        }
        while let Some((number, loaded)) = self.load(self.handed_out)? {
            self.handed_out = number;
            match loaded {
                Ok(batch) => return Ok(Some((number, batch))),
                Err(reason) => self.quarantine(number, &reason)?,
            }
        }
        Ok(None)
    }

    fn done(&mut self, number: u64) -> Result<(), String> {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        let size = self.on(|connection| delete(connection, number))?;
        self.bytes = self.bytes.saturating_sub(size);
        Ok(())
    }

    fn again(&mut self, number: u64) {
        self.again.insert(number);
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn batches(&mut self) -> usize {
        let count = self.on(|connection| {
            connection.query_row("SELECT COUNT(*) FROM batches", [], |row| {
                row.get::<_, i64>(0)
            })
        });
        count
            .ok()
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    }

    fn survives(&self) -> bool {
        true
    }

    fn quarantined(&mut self) -> u64 {
        std::mem::take(&mut self.quarantined)
    }
}

fn reason_of(error: sqlite::Error) -> String {
    match error {
        sqlite::Error::InUse => {
            "another process uses it; each buffer needs its own file".to_owned()
        }
        sqlite::Error::Damaged(reason) => format!("it is damaged: {reason}"),
        sqlite::Error::Unusable(reason) => reason,
    }
}
