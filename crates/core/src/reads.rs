//! Which parts of a JSON value are read.
//!
//! What a pipeline reads of its messages is known before it runs. An input that keeps objects keeps only
//! that, and a script gets only that. Neither can observe a difference from the whole value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is read of a value.
///
/// What is read *by name* is needed unchanged. What is read in addition, because everything is read or
/// because of a key prefix, is optional: an input may leave out some of it if there is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// All of it.
    All,
    /// Parts of an object or an array; all of any other value.
    Parts(Parts),
}

/// The parts of a value. Without parts nothing is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// Fields by key.
    pub keys: BTreeMap<String, Reads>,
    /// Fields by key prefix; each such field is read as a whole. An empty prefix matches every
    /// field.
    pub prefixes: BTreeSet<String>,
    /// The prefixes whose fields are all needed, as if each were read by name.
    pub needed: BTreeSet<String>,
    /// What is read of each item of an array.
    pub items: Option<Box<Reads>>,
}

/// A step from a value to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// The field of this key.
    Key(&'a str),
    /// Any item of an array.
    Item,
}

impl Default for Reads {
    /// Nothing.
    fn default() -> Self {
        Self::Parts(Parts::default())
    }
}

impl Reads {
    /// Everything below each of these paths. A path is its keys joined by dots; `*` is any item of an
    /// array; in a key `~0` is a `~`, `~1` a dot, `~2` a `*` and `~3` a `^`. A path that ends in `^` matches
    /// all keys that start with the last one; with `^^` all of these are needed. A path that ends in `~`
    /// reads whether there is such a value, and nothing of it. An empty path is the value itself.
    ///
    /// ```
    /// use meterline_core::{Reads, Step};
    ///
    /// let mut reads = Reads::default();
    /// reads.add(&[Step::Key("spec"), Step::Key("containers"), Step::Item, Step::Key("resources")]);
    /// reads.add_prefix(&[Step::Key("metadata"), Step::Key("labels")], "example.com/");
    /// let paths = ["spec.containers.*.resources", "metadata.labels.example~1com/^"];
    /// assert_eq!(Reads::of(&paths), reads);
    /// assert_eq!(reads.to_string(), "metadata.labels.example~1com/^, spec.containers.*.resources");
    /// ```
    #[must_use]
    pub fn of(paths: &[&str]) -> Self {
        let mut reads = Self::default();
        for path in paths {
            if path.is_empty() {
                return Self::All;
            }
            let (path, below) = match path.strip_suffix('~') {
                Some(path) => (path, Self::default()),
                None => (*path, Self::All),
            };
            let marks = ["^^", "^", ""];
            let mark = marks.into_iter().find(|it| path.ends_with(it));
            let mark = mark.unwrap_or_default();
            let path = path.strip_suffix(mark).unwrap_or(path);
            let keys: Vec<_> = path.split('.').map(|key| (key, unescaped(key))).collect();
            let steps: Vec<_> = keys
                .iter()
                .map(|(written, key)| match *written {
                    "*" => Step::Item,
                    _ => Step::Key(key.as_str()),
                })
                .collect();
            match (mark, steps.split_last()) {
                ("^^", Some((Step::Key(last), above))) => reads.add_needed_prefix(above, last),
                ("^", Some((Step::Key(last), above))) => reads.add_prefix(above, last),
                _ => reads.add_all(&steps, &below),
            }
        }
        reads
    }

    /// Adds everything below `path`.
    pub fn add(&mut self, path: &[Step<'_>]) {
        self.add_all(path, &Self::All);
    }

    /// Adds the fields below `path` whose keys start with `prefix`.
    pub fn add_prefix(&mut self, path: &[Step<'_>], prefix: &str) {
        let prefixes = BTreeSet::from([prefix.to_owned()]);
        self.add_all(
            path,
            &Self::Parts(Parts {
                prefixes,
                ..Parts::default()
            }),
        );
    }

    /// Adds the fields below `path` whose keys start with `prefix`; all of them are needed.
    pub fn add_needed_prefix(&mut self, path: &[Step<'_>], prefix: &str) {
        let prefixes = BTreeSet::from([prefix.to_owned()]);
        self.add_all(
            path,
            &Self::Parts(Parts {
                needed: prefixes.clone(),
                prefixes,
                ..Parts::default()
            }),
        );
    }

    /// Adds `more` of what is below `path`. If everything of a value is read, what is read of it by name is
    /// still recorded.
    pub fn add_all(&mut self, path: &[Step<'_>], more: &Self) {
        if !path.is_empty() {
            return self.add_below(path, more);
        }
        match (self.is_nothing() || more.is_nothing(), &*self, more) {
            (_, Self::Parts(_), Self::Parts(_)) => self.add_below(&[], more),
            (false, Self::Parts(_), Self::All) => self.add_prefix(&[], ""),
            (false, Self::All, Self::Parts(_)) => {
                *self = more.clone();
                self.add_prefix(&[], "");
            }
            _ => *self = Self::All,
        }
    }

    fn add_below(&mut self, path: &[Step<'_>], more: &Self) {
        let Self::Parts(parts) = self else {
            return;
        };
        match (path.split_first(), more) {
            (Some((Step::Key(key), rest)), _) => {
                let part = parts.keys.entry((*key).to_owned()).or_default();
                part.add_part(rest, more);
            }
            (Some((Step::Item, rest)), _) => {
                parts.items.get_or_insert_default().add_part(rest, more);
            }
            (None, Self::All) => *self = Self::All,
            (None, Self::Parts(more)) => {
                parts.prefixes.extend(more.prefixes.iter().cloned());
                parts.needed.extend(more.needed.iter().cloned());
                for (key, more) in &more.keys {
                    let part = parts.keys.entry(key.clone()).or_default();
                    part.add_part(&[], more);
                }
                if let Some(more) = &more.items {
                    parts.items.get_or_insert_default().add_part(&[], more);
                }
            }
        }
    }

    /// A part that is read as a whole is read by name.
    fn add_part(&mut self, path: &[Step<'_>], more: &Self) {
        let whole = more.is_all().then_some(&Self::All);
        self.add_below(path, whole.unwrap_or(more));
    }

    /// Adds what `other` reads.
    pub fn join(&mut self, other: &Self) {
        self.add_all(&[], other);
    }

    /// Whether nothing is read.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Parts(parts) if *parts == Parts::default())
    }

    /// Whether everything is read.
    #[must_use]
    pub fn is_all(&self) -> bool {
        match self {
            Self::All => true,
            Self::Parts(parts) => parts.prefixes.contains(""),
        }
    }

    /// Marks all fields that are read by prefix as needed.
    pub fn need_prefixes(&mut self) {
        if let Self::Parts(parts) = self {
            let prefixes = parts.prefixes.iter().filter(|it| !it.is_empty());
            parts.needed.extend(prefixes.cloned());
            parts.keys.values_mut().for_each(Self::need_prefixes);
            if let Some(items) = &mut parts.items {
                items.need_prefixes();
            }
        }
    }

    /// What is read by name, and needed unchanged.
    #[must_use]
    pub fn named(&self) -> Self {
        fn part(reads: &Reads) -> Reads {
            match reads {
                Reads::All => Reads::All,
                Reads::Parts(parts) => Reads::Parts(Parts {
                    keys: parts
                        .keys
                        .iter()
                        .map(|(key, reads)| (key.clone(), part(reads)))
                        .collect(),
                    prefixes: parts.needed.clone(),
                    needed: parts.needed.clone(),
                    items: parts.items.as_ref().map(|it| Box::new(part(it))),
                }),
            }
        }
        match self {
            Self::All => Self::default(),
            Self::Parts(_) => part(self),
        }
    }

    /// What is read of a field; `None` for one that is not read.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Self> {
        match self {
            Self::All => Some(&Self::All),
            Self::Parts(parts) if parts.prefixes.iter().any(|it| key.starts_with(it)) => {
                Some(&Self::All)
            }
            Self::Parts(parts) => parts.keys.get(key),
        }
    }

    /// What is read of each item of an array: `All` if the array is read as a whole, or if a property such as
    /// its length is read. Fields whose keys are numbers or `*` are not such properties. `None` if nothing is
    /// read.
    #[must_use]
    pub fn item(&self) -> Option<&Self> {
        let is_item = |key: &String| key == "*" || key.bytes().all(|it| it.is_ascii_digit());
        match self {
            Self::Parts(Parts {
                keys,
                prefixes,
                items: Some(items),
                ..
            }) if prefixes.is_empty() && keys.keys().all(is_item) => Some(items),
            _ => (!self.is_nothing()).then_some(&Self::All),
        }
    }

    /// Whether everything that `other` reads is read.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if self.is_all() {
            return true;
        }
        let mut both = self.clone();
        both.join(other);
        both == *self
    }

    /// The paths, as [`Reads::of`] takes them.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.write("", &mut paths);
        paths
    }

    fn write(&self, path: &str, paths: &mut Vec<String>) {
        let below = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        match self {
            Self::All => paths.push(path.to_owned()),
            Self::Parts(_) if self.is_nothing() && !path.is_empty() => {
                paths.push(format!("{path}~"));
            }
            Self::Parts(parts) => {
                let Parts {
                    keys,
                    prefixes,
                    needed,
                    items,
                } = parts;
                for (key, reads) in keys {
                    reads.write(&below(&escaped(key)), paths);
                }
                for prefix in prefixes {
                    let mark = if needed.contains(prefix) { "^^" } else { "^" };
                    paths.push(below(&format!("{}{mark}", escaped(prefix))));
                }
                if let Some(items) = items {
                    items.write(&below("*"), paths);
                }
            }
        }
    }
}

fn escaped(key: &str) -> String {
    let mut text = key.replace('~', "~0");
    for (from, to) in [('.', "~1"), ('*', "~2"), ('^', "~3")] {
        text = text.replace(from, to);
    }
    text
}

fn unescaped(key: &str) -> String {
    let mut text = key.to_owned();
    for (from, to) in [("~3", "^"), ("~2", "*"), ("~1", "."), ("~0", "~")] {
        text = text.replace(from, to);
    }
    text
}

/// Serialises as the list of its paths.
impl Serialize for Reads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.paths().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let paths = Vec::<String>::deserialize(deserializer)?;
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        Ok(Self::of(&paths))
    }
}

/// The paths as [`Reads::of`] takes them, separated by commas.
impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("everything");
        }
        let paths = self.paths();
        if paths.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&paths.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_and_nothing_are_recognised() {
        assert_eq!(Reads::default().to_string(), "nothing");
        assert_eq!(Reads::All.to_string(), "everything");
        assert!(Reads::of(&[]).is_nothing());
    }

    #[test]
    fn a_join_reads_what_either_reads() {
        let mut reads = Reads::of(&["a.b", "list.*.x"]);
        reads.join(&Reads::of(&["a.c^", "list.*.y", "d"]));
        assert_eq!(reads.to_string(), "a.b, a.c^, d, list.*.x, list.*.y");
        reads.join(&Reads::of(&["a"]));
        assert_eq!(reads.to_string(), "a, d, list.*.x, list.*.y");
        reads.join(&Reads::All);
        assert!(reads.is_all());
    }

    #[test]
    fn a_part_of_a_field_is_found_by_key_and_by_prefix() {
        let reads = Reads::of(&["a.b", "a.pre~1fix/^"]);
        let a = reads.field("a").unwrap();
        assert!(a.field("b").unwrap().is_all());
        assert!(a.field("pre.fix/x").unwrap().is_all());
        assert_eq!(a.field("c"), None);
        assert_eq!(reads.field("b"), None);
    }

    #[test]
    fn an_array_is_read_as_a_whole_if_a_property_is_read() {
        assert_eq!(Reads::of(&["*.x"]).item(), Some(&Reads::of(&["x"])));
        assert_eq!(Reads::of(&["*.x", "0.x"]).item(), Some(&Reads::of(&["x"])));
        assert_eq!(Reads::default().item(), None);
        assert!(Reads::of(&["*.x", "len"]).item().unwrap().is_all());
        assert!(Reads::of(&["len"]).item().unwrap().is_all());
    }

    #[test]
    fn paths_survive_a_round_trip() {
        let mut reads = Reads::of(&["a.b", "a.pre~1fix/^", "list.*.x", "list2.*~"]);
        assert_eq!(reads.to_string(), "a.b, a.pre~1fix/^, list.*.x, list2.*~");
        reads.add(&[Step::Key("*"), Step::Key("x^"), Step::Key("~1")]);
        reads.add_needed_prefix(&[Step::Key("a")], "y^");
        let mut all = reads.clone();
        all.add(&[]);
        for reads in [reads, all, Reads::All, Reads::default()] {
            let text = serde_json::to_string(&reads).unwrap();
            assert_eq!(
                serde_json::from_str::<Reads>(&text).unwrap(),
                reads,
                "{text}"
            );
        }
    }

    #[test]
    fn reading_everything_keeps_what_is_read_by_name() {
        let mut reads = Reads::of(&["a.b", "a.pre^", "a.much^^", "c.*.d", "e~"]);
        let named = Reads::of(&["a.b", "a.much^^", "c.*.d", "e~"]);
        assert_eq!(reads.named(), named);
        reads.join(&Reads::All);
        assert!(reads.is_all());
        assert_eq!(reads.named(), named);
        let mut other = Reads::All;
        other.join(&Reads::of(&["a.b", "a.much^^", "c.*.d", "e~"]));
        assert!(other.is_all());
        assert_eq!(other.named(), named);
        let mut part = Reads::default();
        part.add_all(&[Step::Key("x")], &other);
        assert_eq!(part, Reads::of(&["x"]));
        assert!(Reads::All.named().is_nothing());
        reads.need_prefixes();
        assert!(reads.named().covers(&Reads::of(&["a.pre^^"])) && !reads.named().is_all());
        let less = Reads::of(&["a.b"]);
        assert!(reads.covers(&less) && reads.covers(&Reads::All) && Reads::All.covers(&reads));
        assert!(!less.covers(&reads) && !less.covers(&Reads::All));
    }

    #[test]
    fn more_paths_cover_fewer() {
        let reads = Reads::of(&["a", "b.x^", "c.*.d"]);
        for covered in [&[][..], &["a.b.c"], &["b.x^", "c.*.d"]] {
            assert!(reads.covers(&Reads::of(covered)), "{covered:?}");
        }
        for other in [&[""][..], &["b"], &["b.y"], &["c.*.e"], &["d"]] {
            assert!(!reads.covers(&Reads::of(other)), "{other:?}");
        }
        assert!(Reads::All.covers(&Reads::All));
    }
}
