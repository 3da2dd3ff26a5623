//! Encoding of documents as JSON text.

use std::io;

use super::{Node, Scalar};

impl Node<'_> {
    /// Appends the compact JSON text of this value, equal to what `serde_json` writes.
    ///
    /// # Errors
    /// An error of `serde_json`; no value causes one.
    pub fn write_json(self, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match self.scalar_but_text() {
            Some(Scalar::Null) => to.extend_from_slice(b"null"),
            Some(Scalar::Bool(value)) => {
                to.extend_from_slice(if value { b"true" } else { b"false" });
            }
            Some(Scalar::Integer(number)) => serde_json::to_writer(to, &number)?,
            Some(Scalar::Unsigned(number)) => serde_json::to_writer(to, &number)?,
            Some(Scalar::Float(number)) => serde_json::to_writer(to, &number)?,
            Some(Scalar::Number(_)) => to.extend_from_slice(self.body()),
            Some(Scalar::Text(_)) => text(self.body(), to)?,
            None if self.is_array() => {
                to.push(b'[');
                for (index, item) in self.items().enumerate() {
                    if index > 0 {
                        to.push(b',');
                    }
                    item.write_json(to)?;
                }
                to.push(b']');
            }
            None => {
                to.push(b'{');
                let mut fields = self.entries();
                let mut is_first = true;
                while let Some((key, value)) = fields.next_node() {
                    if !is_first {
                        to.push(b',');
                    }
                    is_first = false;
                    text(key.body(), to)?;
                    to.push(b':');
                    value.write_json(to)?;
                }
                to.push(b'}');
            }
        }
        Ok(())
    }
}

/// Writes a string. Most have nothing to escape, and one check of all bytes is faster than a check of
/// each.
pub(crate) fn text(bytes: &[u8], to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let needs_care = |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
    if bytes.iter().fold(false, |any, byte| any | needs_care(byte)) {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| serde_json::Error::io(io::Error::other(error)))?;
        return serde_json::to_writer(to, text);
    }
    to.push(b'"');
    to.extend_from_slice(bytes);
    to.push(b'"');
    Ok(())
}

/// The length of what [`text`] writes.
pub(crate) fn text_size(text: &str) -> usize {
    let size = |byte: u8| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
        0x00..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(size).sum::<usize>() + 2
}
