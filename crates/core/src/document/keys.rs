//! The keys that documents write as one byte.
//!
//! Most objects of one source have the same keys. The program hands in those that are frequent; a key that is
//! not among them is written as text. This affects the size of documents, and so which values are left out of one
//! that is too large. The numbers are never persisted, so keys can be added and removed.
//!
//! Documents are compared by their bytes, and bytes are copied from one document to another, so a key must be
//! written in the same way for as long as the process runs. Therefore a process has one dictionary, which is
//! fixed when it is installed, or when the first key is written.

use std::{array, sync::OnceLock};

use thiserror::Error;

/// How many keys have a number.
const MOST: usize = 256;

/// Keys that are frequent in the documents of a process. Each is written as one byte; beyond 256 keys, the rest
/// are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDictionary(&'static [&'static str]);

/// The process has another dictionary: it was installed before, or a key was written before any was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("documents of this process are written with other frequent keys already")]
pub struct DictionaryInUse;

impl KeyDictionary {
    /// A dictionary of these keys.
    #[must_use]
    pub const fn new(keys: &'static [&'static str]) -> Self {
        Self(keys)
    }

    /// Fixes this as the dictionary of the process. Fixing it again changes nothing.
    ///
    /// # Errors
    /// When the process has another one. Every process has one once it has written a key: without an
    /// installed one, an empty one.
    pub fn install(self) -> Result<(), DictionaryInUse> {
        IN_USE.install(self)
    }
}

/// The number of a key, if it is in the dictionary of the process.
pub(super) fn number(key: &str) -> Option<u8> {
    IN_USE.number(key)
}

/// The key with this number.
pub(super) fn name(number: Option<u8>) -> &'static str {
    IN_USE.name(number)
}

static IN_USE: Place = Place(OnceLock::new());

/// What is in use if nothing was installed before the first key was written.
#[cfg(not(test))]
const UNLESS_INSTALLED: KeyDictionary = KeyDictionary::new(&[]);
/// The tests of this crate install none, so that they have the same keys in any order.
#[cfg(test)]
const UNLESS_INSTALLED: KeyDictionary = KeyDictionary::new(&["name", "spec", "a", "metadata"]);

/// Where a dictionary is fixed.
struct Place(OnceLock<Table>);

/// A dictionary for both directions.
struct Table {
    dictionary: KeyDictionary,
    names: [&'static str; MOST],
    /// At the place of a key's hash, or the next free one after it, its number. Every key of every object is
    /// looked up, and most are found at the first place or at none; the hash of the standard library costs a
    /// quarter of the parsing of an object.
    places: [Option<u8>; PLACES],
}

/// Four times as many as keys, so that most places are free.
const PLACES: usize = MOST * 4;

/// The place at which the search for a key begins.
fn place_of(key: &str) -> usize {
    let bytes = key.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().map_or(0, usize::from);
    let length = bytes.len();
    let (middle, last) = (length / 2, length.saturating_sub(1));
    length
        .wrapping_mul(37)
        .wrapping_add(byte(0).wrapping_mul(101))
        .wrapping_add(byte(middle).wrapping_mul(13))
        .wrapping_add(byte(last).wrapping_mul(7))
        % PLACES
}

impl Table {
    fn of(dictionary: KeyDictionary) -> Self {
        let KeyDictionary(keys) = dictionary;
        let mut table = Self {
            dictionary,
            names: array::from_fn(|number| keys.get(number).copied().unwrap_or_default()),
            places: [None; PLACES],
        };
        for (key, number) in keys.iter().zip(0..=u8::MAX) {
            let free = table.search(key).find(|(_, number)| number.is_none());
            if let Some(place) = free.and_then(|(at, _)| table.places.get_mut(at)) {
                *place = Some(number);
            }
        }
        table
    }

    /// The places where a key can be, in order, each with the number there.
    fn search(&self, key: &str) -> impl Iterator<Item = (usize, Option<u8>)> {
        let first = place_of(key);
        let places = (first..PLACES).chain(0..first);
        places.map(|at| (at, self.places.get(at).copied().flatten()))
    }

    fn number(&self, key: &str) -> Option<u8> {
        self.search(key)
            .map_while(|(_, number)| number)
            .find(|number| self.names.get(usize::from(*number)) == Some(&key))
    }
}

impl Place {
    fn install(&self, dictionary: KeyDictionary) -> Result<(), DictionaryInUse> {
        let table = self.0.get_or_init(|| Table::of(dictionary));
        (table.dictionary == dictionary)
            .then_some(())
            .ok_or(DictionaryInUse)
    }

    fn number(&self, key: &str) -> Option<u8> {
        let table = self.0.get_or_init(|| Table::of(UNLESS_INSTALLED));
        table.number(key)
    }

    fn name(&self, number: Option<u8>) -> &'static str {
        // Whoever has a number got it from a table.
        let names = self.0.get().map(|table| &table.names);
        let name = names
            .zip(number)
            .and_then(|(names, number)| names.get(usize::from(number)));
        name.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use serde_json::json;

    use super::*;
    use crate::Document;

    const ONE: KeyDictionary = KeyDictionary::new(&["kind", "items"]);
    const OTHER: KeyDictionary = KeyDictionary::new(&["items", "kind"]);

    fn place() -> Place {
        Place(OnceLock::new())
    }

    #[test]
    fn every_key_has_a_number_of_its_own_up_to_the_last_that_a_byte_holds() {
        let keys: Vec<&str> = (0..300).map(|it| &*it.to_string().leak()).collect();
        let place = place();
        place.install(KeyDictionary::new(keys.leak())).unwrap();
        for number in 0..=u8::MAX {
            let key = number.to_string();
            assert_eq!(place.number(&key), Some(number));
            assert_eq!(place.name(Some(number)), key);
        }
        assert_eq!(place.number("256"), None);
        assert_eq!(place.number("no-such-key"), None);
    }

    #[test]
    fn a_dictionary_stays_once_it_is_installed() {
        let place = place();
        assert_eq!(place.install(ONE), Ok(()));
        assert_eq!(place.number("items"), Some(1));
        assert_eq!(place.install(OTHER), Err(DictionaryInUse));
        assert_eq!(place.install(ONE), Ok(()));
        assert_eq!(place.number("items"), Some(1));
    }

    #[test]
    fn the_first_key_fixes_what_no_one_installed() {
        let place = place();
        let before = place.number("items");
        assert_eq!(place.install(ONE), Err(DictionaryInUse));
        assert_eq!(place.number("items"), before);
        assert_eq!(place.install(UNLESS_INSTALLED), Ok(()));
    }

    #[test]
    fn threads_that_race_agree_on_one_dictionary() {
        for _ in 0..200 {
            let (place, start) = (place(), Barrier::new(4));
            let begin = |dictionary: Option<KeyDictionary>| {
                start.wait();
                let installed = dictionary.map(|it| place.install(it));
                (installed, place.number("items"), place.number("name"))
            };
            let seen = thread::scope(|scope| {
                let threads =
                    [Some(ONE), None, Some(OTHER), None].map(|it| scope.spawn(move || begin(it)));
                threads.map(|it| it.join().unwrap())
            });
            let [one, writer, other, _] = seen;
            let numbers = |(_, items, name)| (items, name);
            assert!(seen.iter().all(|it| numbers(*it) == numbers(writer)));
            assert!(matches!(
                (one.0, other.0, writer.1, writer.2),
                (Some(Ok(())), Some(Err(_)), Some(1), None)
                    | (Some(Err(_)), Some(Ok(())), Some(0), None)
                    | (Some(Err(_)), Some(Err(_)), None, Some(_))
            ));
        }
    }

    #[test]
    fn documents_stay_equal_when_a_dictionary_comes_too_late() {
        let value = json!({"kind": {"name": 1, "items": 2}});
        let before = Document::from(&value);
        assert_eq!(ONE.install(), Err(DictionaryInUse));
        let after = Document::from(&value);
        assert_eq!(before, after);
        assert_eq!(after.root().to_value(), value);
        assert_eq!(UNLESS_INSTALLED.install(), Ok(()));
    }
}
