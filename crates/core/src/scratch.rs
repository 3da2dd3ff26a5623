//! Buffers that serve again.
//!
//! A document or a text is kept for as long as its pod lives, and its size is known only when it is
//! written. Growing the kept allocation itself and shrinking it at the end leaves a hole behind each of
//! them that nothing fits into: a third of the memory of ten thousand pods. So it is written into a
//! buffer of the thread, and what is kept is allocated once, in its size.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// How many buffers a thread keeps; documents are made of documents, two or three deep.
const MOST: usize = 4;
/// A buffer that grew beyond this is not kept.
const LARGEST: usize = 64 * 1024;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, which goes back to the thread that drops it.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<u8>);

impl Default for Scratch {
    fn default() -> Self {
        let free = FREE.try_with(|free| free.borrow_mut().pop());
        Self(free.ok().flatten().unwrap_or_default())
    }
}

impl Scratch {
    /// One that has room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut scratch = Self::default();
        scratch.0.reserve(bytes);
        scratch
    }

    /// What was written, in an allocation of its size.
    pub(crate) fn to_box(&self) -> Box<[u8]> {
        self.0.as_slice().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > LARGEST {
            return;
        }
        buffer.clear();
        // While the thread ends there is none to keep it.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MOST {
                free.push(buffer);
            }
        });
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_serves_again_and_is_empty_then() {
        let mut first = Scratch::with_capacity(100);
        first.extend_from_slice(b"text");
        let place = first.as_ptr();
        assert_eq!(*first.to_box(), *b"text");
        drop(first);
        let again = Scratch::default();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        // One that is in use is not handed out a second time.
        assert_ne!(Scratch::with_capacity(100).as_ptr(), place);
    }

    #[test]
    fn a_large_buffer_is_not_kept() {
        drop(Scratch::with_capacity(LARGEST + 1));
        assert!(Scratch::default().capacity() <= LARGEST);
    }
}
