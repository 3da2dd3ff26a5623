//! Bounds how much of an answer of the API server is read into memory.
//!
//! etcd accepts objects of up to a megabyte and a half. A proxy in front of the server may be broken, so no
//! answer is read beyond a bound: a watch is cut off within a line that is too long, a list within a page.

use std::{
    collections::hash_map::DefaultHasher,
    error::Error,
    hash::{Hash, Hasher},
};

use thiserror::Error as ThisError;

/// The most bytes of one line of a watch, and of one page of a list.
pub(crate) const MOST_BYTES: usize = 16 * 1_024 * 1_024;
/// How many objects a page has at most, where their size allows it.
pub(crate) const LARGEST_PAGE: u32 = 500;
/// The most pages of one list. A working server never makes pages of fewer than ten objects necessary, and no
/// cluster has a million objects.
const MOST_PAGES: u32 = 100_000;

/// Why reading an answer stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ThisError)]
pub(crate) enum TooMuch {
    #[error(
        "one line of the watch is longer than 16 MiB, more than any object may have; look for a proxy \
         in front of the API server that answers in its place"
    )]
    Line,
    #[error(
        "one object alone is longer than 16 MiB, more than the API server may keep; look for a proxy \
         in front of the API server that answers in its place, or leave the object out with \
         `label_selector`"
    )]
    Page,
    #[error(
        "the list does not end: the same page is offered again, or there are more than 100,000; look \
         for a proxy in front of the API server that answers in its place"
    )]
    Pages,
}

impl TooMuch {
    /// Returns why an answer was cut off, if that is why a request failed.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(*found);
            }
            // An I/O error shows the source of the error that it carries, and not that error itself.
            let carried = error.downcast_ref::<std::io::Error>();
            let carried = carried.and_then(std::io::Error::get_ref);
            cause = match carried {
                Some(carried) => Some(carried),
                None => error.source(),
            };
        }
        None
    }
}

/// What was read of an answer.
#[derive(Debug)]
pub(crate) enum Read {
    /// The bytes of the line that is being received.
    Line(usize),
    /// All bytes.
    Page(usize),
}

impl Read {
    /// Whether no line was received in part only.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Line(0))
    }

    /// Counts more bytes.
    ///
    /// # Errors
    /// When there are more than the bound allows.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), TooMuch> {
        match self {
            Self::Page(read) => {
                *read = read.saturating_add(bytes.len());
                (*read <= MOST_BYTES).then_some(()).ok_or(TooMuch::Page)
            }
            Self::Line(read) => {
                let whole = read.saturating_add(bytes.len());
                // Lines within one chunk are no longer than the chunk, which is in memory already.
                let is_newline = |byte: &u8| *byte == b'\n';
                let first = (whole > MOST_BYTES).then(|| bytes.iter().position(is_newline));
                if let Some(first) = first
                    && first.is_none_or(|first| read.saturating_add(first) > MOST_BYTES)
                {
                    return Err(TooMuch::Line);
                }
                *read = match bytes.iter().rposition(is_newline) {
                    Some(last) => bytes.len().saturating_sub(last.saturating_add(1)),
                    None => whole,
                };
                Ok(())
            }
        }
    }
}

/// The pages of the list that is being received.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Pages {
    count: u32,
    /// The hash of the `continue` token of the last page.
    last: Option<u64>,
}

impl Pages {
    /// Counts the request of a page with this query. The first page of a list has no `continue`.
    ///
    /// # Errors
    /// When the list does not end.
    pub(crate) fn requested(&mut self, query: &str) -> Result<(), TooMuch> {
        let token = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("continue="));
        let Some(token) = token.filter(|it| !it.is_empty()) else {
            *self = Self::default();
            return Ok(());
        };
        let mut hash = DefaultHasher::new();
        token.hash(&mut hash);
        let token = Some(hash.finish());
        self.count = self.count.saturating_add(1);
        if self.last == token || self.count >= MOST_PAGES {
            return Err(TooMuch::Pages);
        }
        self.last = token;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_is_cut_off_at_sixteen_mebibytes() {
        let mut read = Read::Page(0);
        for _ in 0..16 {
            read.add(&vec![b'\n'; 1 << 20]).unwrap();
        }
        assert_eq!(read.add(b"x"), Err(TooMuch::Page));
    }

    #[test]
    fn a_watch_may_be_of_any_length_and_its_lines_may_not() {
        let mut read = Read::Line(0);
        let mut line = vec![b'x'; 1 << 20];
        line.push(b'\n');
        for _ in 0..100 {
            read.add(&line).unwrap();
        }
        line.pop();
        for _ in 0..16 {
            read.add(&line).unwrap();
        }
        // The first line ends too late; the second is counted from 0.
        let mut again = Read::Line(MOST_BYTES);
        assert_eq!(again.add(b"x\n"), Err(TooMuch::Line));
        assert_eq!(again.add(b"\nx"), Ok(()));
        assert_eq!(read.add(b"x"), Err(TooMuch::Line));
    }

    #[test]
    fn the_same_page_again_or_pages_without_end_are_refused() {
        let mut pages = Pages::default();
        assert_eq!(pages.requested("limit=500"), Ok(()));
        assert_eq!(pages.requested("limit=500&continue=a"), Ok(()));
        assert_eq!(pages.requested("limit=500&continue=b"), Ok(()));
        assert_eq!(pages.requested("limit=500&continue=b"), Err(TooMuch::Pages));
        assert_eq!(pages.requested("limit=500"), Ok(()));
        assert_eq!(pages.requested("limit=500&continue=b"), Ok(()));
        let refused = (0..).find(|page| pages.requested(&format!("continue={page}")).is_err());
        assert_eq!(refused, Some(MOST_PAGES - 2));
    }

    #[test]
    fn the_reason_of_a_cut_is_found_among_the_causes_of_an_error() {
        let io = std::io::Error::other(kube::Error::Service(TooMuch::Line.into()));
        let error = kube::Error::ReadEvents(io);
        assert_eq!(TooMuch::of(&error), Some(TooMuch::Line));
        let error = kube::Error::Service(Box::new(TooMuch::Page));
        assert_eq!(TooMuch::of(&error), Some(TooMuch::Page));
        assert_eq!(TooMuch::of(&std::io::Error::other("x")), None);
    }

    proptest! {
        /// Wherever a line is cut into chunks, what counts is how long it is.
        #[test]
        fn lines_are_counted_across_chunks(
            lengths in prop::collection::vec(0_usize..50, 1..20),
            cut in 1_usize..60,
        ) {
            let mut text = Vec::new();
            for length in &lengths {
                text.extend(std::iter::repeat_n(b'x', *length));
                text.push(b'\n');
            }
            text.extend(std::iter::repeat_n(b'x', 7));
            let mut read = Read::Line(0);
            for chunk in text.chunks(cut) {
                read.add(chunk).unwrap();
            }
            prop_assert!(matches!(read, Read::Line(7)), "{read:?}");
            prop_assert!(!read.is_whole());
            read.add(b"\n").unwrap();
            prop_assert!(read.is_whole());
        }
    }
}
