//! What of a ledger survives a crash.

use std::collections::BTreeMap;

use super::Books;
use crate::{Accounting, Changes, Group, GroupKey, Interval, Ledger};

/// What was written, and survives.
#[derive(Default)]
pub(super) struct Disk {
    head: Option<String>,
    records: BTreeMap<String, String>,
    rejected: BTreeMap<GroupKey, Group<()>>,
    contents: BTreeMap<GroupKey, String>,
}

impl Disk {
    pub(super) fn write(&mut self, changes: &Changes<String>) {
        self.head = Some(serde_json::to_string(&changes.head).unwrap());
        for (uid, record) in &changes.records {
            match record {
                Some(record) => {
                    let record = serde_json::to_string(record).unwrap();
                    self.records.insert(uid.to_string(), record);
                }
                None => {
                    self.records.remove(uid.as_ref());
                }
            }
        }
        for (key, change) in &changes.rejected {
            let Some(change) = change else {
                self.rejected.remove(key);
                self.contents.remove(key);
                continue;
            };
            let group = change.group.clone();
            if change.is_new {
                self.contents.insert(key.clone(), group.content.clone());
            }
            assert_eq!(self.contents[key], group.content, "written once");
            self.rejected.insert(key.clone(), group.with(()));
        }
    }

    pub(super) fn read(&self, interval: Interval, accounting: Accounting) -> Books {
        let Some(head) = &self.head else {
            return Ledger::new(interval, accounting, 0);
        };
        let head = serde_json::from_str(head).unwrap();
        let records = self
            .records
            .iter()
            .map(|(uid, record)| (uid.as_str().into(), serde_json::from_str(record).unwrap()));
        let rejected = self.rejected.iter().map(|(key, group)| {
            let group = group.clone().with(self.contents[key].clone());
            (key.clone(), group)
        });
        Ledger::restore(interval, accounting, head, records, rejected)
    }
}
