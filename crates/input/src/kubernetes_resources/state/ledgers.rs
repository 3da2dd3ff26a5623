//! The ledgers of a file. The tables of the first have plain names, those of each other ledger end in its number.

use rusqlite::Connection;

use super::{
    pending,
    rows::{StateError, Tables, value},
    tables,
};
use crate::kubernetes_resources::ledger_name::LedgerName;

/// Creates the table of everything that is in no other table.
const LEDGER: &str = "CREATE TABLE ledger (key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;";
/// The names of the tables of one ledger.
pub(super) const TABLES: [&str; 6] = [
    "ledger",
    "contents",
    "parts",
    "window_batches",
    "groups",
    "pending",
];

/// A ledger for which a file has tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) number: u32,
    /// `None` if nothing was written to it yet.
    pub(super) name: Option<LedgerName>,
}

/// Which ledger of a file each input of a process has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assigned {
    /// The number of each, in the order of the names that were asked for.
    pub(super) numbers: Vec<u32>,
    /// Ledgers that are continued under another name: the name before, and the name now.
    pub(super) renamed: Vec<(LedgerName, LedgerName)>,
    /// The ledgers that none of the inputs has.
    pub(super) others: Vec<LedgerName>,
}

/// Returns the ledgers of a file.
pub(super) fn find(connection: &Connection) -> Result<Vec<Found>, StateError> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'ledger*' ORDER BY name",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut found = Vec::new();
    for name in names {
        let name = name?;
        let number = match name.strip_prefix("ledger") {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('_').and_then(|it| it.parse().ok()),
            None => None,
        };
        let Some(number) = number else {
            continue;
        };
        let tables = Tables::new(connection, number);
        let subject: Option<String> = value(tables, "subject")?;
        let label: Option<Option<String>> = value(tables, "label")?;
        let label = label.flatten().map(Into::into);
        found.push(Found {
            number,
            name: subject.map(|subject| LedgerName::new(&subject, label)),
        });
    }
    found.sort_by_key(|it| it.number);
    Ok(found)
}

/// Returns which ledger of a file each of these names has.
///
/// A ledger that has no label was written by an input without one, or by a version of this program that did not
/// record it. It is continued by the first input of its type if none has exactly its name. The only ledger of a type
/// is continued by the only input of that type, whatever the labels are.
pub(super) fn assign(found: &[Found], names: &[LedgerName]) -> Assigned {
    let mut assigned = Assigned::default();
    let mut taken: Vec<Option<u32>> = names
        .iter()
        .map(|name| {
            let same = found.iter().find(|it| it.name.as_ref() == Some(name));
            same.map(|it| it.number)
        })
        .collect();
    for (index, name) in names.iter().enumerate() {
        let is_free = |it: &&Found, taken: &[Option<u32>]| !taken.contains(&Some(it.number));
        if taken.get(index).is_none_or(Option::is_some) {
            continue;
        }
        let of_type = |it: &&Found| {
            it.name
                .as_ref()
                .is_some_and(|it| it.subject == name.subject)
        };
        let is_only = names.iter().filter(|it| it.subject == name.subject).count() == 1
            && found.iter().filter(of_type).count() == 1;
        let continued = found.iter().filter(of_type).find(|it| {
            let has_label = it.name.as_ref().is_some_and(|it| it.label.is_some());
            is_free(it, &taken) && (is_only || !has_label)
        });
        let before = continued.and_then(|it| it.name.clone());
        let unused = found
            .iter()
            .find(|it| it.name.is_none() && is_free(it, &taken));
        let number = continued.or(unused).map_or_else(
            || {
                let used = found
                    .iter()
                    .map(|it| Some(it.number))
                    .chain(taken.iter().copied());
                used.flatten()
                    .max()
                    .map_or(0, |last| last.saturating_add(1))
            },
            |it| it.number,
        );
        if let Some(place) = taken.get_mut(index) {
            *place = Some(number);
        }
        if let Some(before) = before {
            assigned.renamed.push((before, name.clone()));
        }
    }
    let others = found.iter().filter(|it| !taken.contains(&Some(it.number)));
    assigned.others = others.filter_map(|it| it.name.clone()).collect();
    assigned.numbers = taken.into_iter().flatten().collect();
    assigned
}

/// Creates the tables of a ledger that does not have them. Those of the first ledger are part of every file.
pub(super) fn create(connection: &Connection, number: u32) -> Result<(), StateError> {
    if number == 0 {
        return Ok(());
    }
    let mut create = [LEDGER, tables::MIGRATION, pending::MIGRATION].concat();
    for name in TABLES {
        create = create.replace(
            &format!("CREATE TABLE {name} "),
            &format!("CREATE TABLE IF NOT EXISTS {name}_{number} "),
        );
    }
    Ok(connection.execute_batch(&format!("BEGIN IMMEDIATE; {create} COMMIT"))?)
}

/// Empties the tables of a ledger.
pub(super) fn empty(tables: Tables<'_>) -> Result<(), StateError> {
    for name in TABLES {
        tables.execute_batch(&format!("DELETE FROM {name}$"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LedgerName {
        let (subject, label) = text.split_once(' ').unwrap_or((text, ""));
        let label = Some(label).filter(|it| !it.is_empty());
        LedgerName::new(subject, label.map(Into::into))
    }

    /// The numbers, the names that are continued under another one, and the names that are left.
    fn assigned(found: &[&str], names: &[&str]) -> (Vec<u32>, Vec<String>, Vec<String>) {
        let found: Vec<_> = found
            .iter()
            .zip(0..)
            .map(|(text, number)| Found {
                number,
                name: Some(name(text)).filter(|it| !it.subject.is_empty()),
            })
            .collect();
        let names: Vec<_> = names.iter().map(|it| name(it)).collect();
        let assigned = assign(&found, &names);
        let renamed = assigned
            .renamed
            .iter()
            .map(|(before, now)| format!("{before} → {now}"));
        let others = assigned.others.iter().map(ToString::to_string);
        (assigned.numbers, renamed.collect(), others.collect())
    }

    #[test]
    fn each_name_has_its_ledger_and_new_ones_get_unused_tables() {
        let none = Vec::<String>::new();
        let plain = |numbers: &[u32]| (numbers.to_vec(), none.clone(), none.clone());
        assert_eq!(assigned(&[""], &["pod"]), plain(&[0]));
        assert_eq!(
            assigned(&[""], &["node", "pod", "pod a"]),
            plain(&[0, 1, 2])
        );
        assert_eq!(assigned(&["pod"], &["node", "pod"]), plain(&[1, 0]));
        assert_eq!(
            assigned(&["pod", "node", "pod a"], &["pod a", "node", "pod"]),
            plain(&[2, 1, 0])
        );
        assert_eq!(assigned(&["", "node"], &["pod", "node"]), plain(&[0, 1]));
    }

    #[test]
    fn a_ledger_that_no_input_names_stays() {
        let (numbers, renamed, others) = assigned(&["pod", "node", "pod a"], &["pod a"]);
        assert_eq!((numbers, renamed.len()), (vec![2], 0));
        assert_eq!(others, ["pod", "node"]);
        assert_eq!(assigned(&["pod a", "pod b"], &["pod c"]).0, [2]);
    }

    #[test]
    fn a_ledger_without_a_label_is_continued_once_and_the_only_one_of_a_type_always() {
        let renamed = |found: &[&str], names: &[&str]| {
            let (numbers, renamed, _) = assigned(found, names);
            (numbers, renamed.join(", "))
        };
        assert_eq!(
            renamed(&["pod"], &["pod a"]),
            (vec![0], "pod → pod a".to_owned())
        );
        assert_eq!(
            renamed(&["pod a"], &["pod"]),
            (vec![0], "pod a → pod".to_owned())
        );
        assert_eq!(
            renamed(&["pod a"], &["pod b"]),
            (vec![0], "pod a → pod b".to_owned())
        );
        assert_eq!(
            renamed(&["pod"], &["pod a", "pod b"]),
            (vec![0, 1], "pod → pod a".to_owned())
        );
        // Another input has exactly its name.
        assert_eq!(
            renamed(&["pod"], &["pod a", "pod"]),
            (vec![1, 0], String::new())
        );
        // It is not clear which one `b` would continue.
        assert_eq!(
            renamed(&["pod a"], &["pod b", "pod c"]),
            (vec![1, 2], String::new())
        );
    }
}
