//! A persisted state that is built from changes, as a state file is.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Accounting, Changes, Checkpoint, Content, Group, GroupKey, Interval, Ledger, Record,
    RecordChange, Uid, UnixSeconds,
};

type Segments<C> = BTreeMap<UnixSeconds, (Option<UnixSeconds>, C)>;

/// Rows as JSON, except what is compared by value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Disk<C> {
    checkpoint: Option<String>,
    lives: BTreeMap<Uid, (String, Segments<C>)>,
    late: BTreeMap<(Uid, UnixSeconds), String>,
    batches: BTreeMap<u64, String>,
    rejected: BTreeMap<GroupKey, Group<()>>,
    contents: BTreeMap<GroupKey, C>,
}

impl<C> Default for Disk<C> {
    fn default() -> Self {
        Self {
            checkpoint: None,
            lives: BTreeMap::new(),
            late: BTreeMap::new(),
            batches: BTreeMap::new(),
            rejected: BTreeMap::new(),
            contents: BTreeMap::new(),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn put<K: Clone + Ord>(
    rows: &mut BTreeMap<K, String>,
    changes: &BTreeMap<K, Option<impl Serialize>>,
) {
    for (key, change) in changes {
        match change {
            Some(value) => rows.insert(key.clone(), json(value)),
            None => rows.remove(key),
        };
    }
}

impl<C: Content + Serialize + DeserializeOwned> Disk<C> {
    /// The complete state of a ledger.
    pub(super) fn of(ledger: &mut Ledger<C>) -> Self {
        let mut disk = Self::default();
        disk.write(&ledger.take_everything());
        disk
    }

    pub(super) fn write(&mut self, changes: &Changes<C>) {
        self.checkpoint = Some(json(&changes.checkpoint));
        for (uid, change) in &changes.records {
            match change {
                Some(change) => self.write_record(uid, change),
                None => drop(self.lives.remove(uid)),
            }
        }
        put(&mut self.late, &changes.late);
        put(&mut self.batches, &changes.batches);
        for (key, change) in &changes.rejected {
            let Some(change) = change else {
                self.rejected.remove(key);
                self.contents.remove(key);
                continue;
            };
            let mut group = change.group.clone();
            // A restored ledger tries every group again, whenever it is due.
            group.next_try = None;
            group.failures = 0;
            if change.is_new {
                self.contents.insert(key.clone(), group.content.clone());
            }
            assert!(
                self.contents[key] == group.content,
                "a content is written once"
            );
            self.rejected.insert(key.clone(), group.with(()));
        }
    }

    fn write_record(&mut self, uid: &Uid, change: &RecordChange<C>) {
        let (life, segments) = self.lives.entry(uid.clone()).or_default();
        *life = json(&change.life);
        match change.starts {
            Some((first, last)) => segments.retain(|start, _| (first..=last).contains(start)),
            None => segments.clear(),
        }
        for segment in &change.segments {
            let end = segment.end.unwrap_or(UnixSeconds::MAX);
            let content = segment
                .content
                .clone()
                .unwrap_or_else(|| segments[&segment.start].1.clone());
            segments.retain(|start, _| *start < segment.after || *start >= end);
            segments.insert(segment.start, (segment.end, content));
        }
    }

    /// The ledger that is restored from it, if anything was written.
    pub(super) fn read(&self, interval: Interval, accounting: Accounting) -> Option<Ledger<C>> {
        let checkpoint: Checkpoint<C> = serde_json::from_str(self.checkpoint.as_ref()?).unwrap();
        let late = self
            .late
            .iter()
            .map(|(key, span)| (key.clone(), serde_json::from_str(span).unwrap()));
        let batches = self.batches.values();
        let checkpoint = checkpoint.with_late(
            late,
            batches.map(|batch| serde_json::from_str(batch).unwrap()),
        );
        let records = self.lives.iter().map(|(uid, (life, segments))| {
            let life: Record<C> = serde_json::from_str(life).unwrap();
            let segments = segments.iter();
            let segments = segments.map(|(start, (end, content))| (*start, *end, content.clone()));
            (uid.clone(), life.with_segments(segments))
        });
        let rejected = self.rejected.iter().map(|(key, group)| {
            let group = group.clone().with(self.contents[key].clone());
            (key.clone(), group)
        });
        let ledger = Ledger::restore(interval, accounting, checkpoint, records, rejected);
        Some(ledger)
    }
}
