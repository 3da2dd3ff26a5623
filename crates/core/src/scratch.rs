//! Reusable buffers.
//!
//! A document or a text is kept for as long as its pod exists, and its size is known only after it is
//! written. Growing the allocation and shrinking it at the end would leave an unusable gap after each of
//! them: a third of the memory of ten thousand pods. So it is written into a thread-local buffer, and then
//! copied into an allocation of the exact size.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// How many buffers a thread keeps. Documents are made from documents, two or three levels deep.
const MOST: usize = 4;
/// A buffer that grew beyond this is not kept.
const LARGEST: usize = 64 * 1024;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer. The thread that drops it keeps it for reuse.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<u8>);

impl Default for Scratch {
    fn default() -> Self {
        let free = FREE.try_with(|free| free.borrow_mut().pop());
        Self(free.ok().flatten().unwrap_or_default())
    }
}

impl Scratch {
    /// A buffer with this capacity in bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut scratch = Self::default();
        scratch.0.reserve(bytes);
        scratch
    }

    /// Copies the content into an allocation of the exact size.
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
        // The thread-local list no longer exists while the thread ends.
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
    fn a_reused_buffer_is_empty() {
        let mut first = Scratch::with_capacity(100);
        first.extend_from_slice(b"text");
        let place = first.as_ptr();
        assert_eq!(*first.to_box(), *b"text");
        drop(first);
        let again = Scratch::default();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        // A buffer that is in use is not reused.
        assert_ne!(Scratch::with_capacity(100).as_ptr(), place);
    }

    #[test]
    fn a_large_buffer_is_not_kept() {
        drop(Scratch::with_capacity(LARGEST + 1));
        assert!(Scratch::default().capacity() <= LARGEST);
    }
}
