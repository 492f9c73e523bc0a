//! A cursor over a GGUF header that never trusts a length.

use std::path::Path;

use super::super::error::LoadError;

/// Reads forward through the bytes of a file.
pub(super) struct Reader<'a> {
    path: &'a Path,
    file: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, file: &'a [u8]) -> Reader<'a> {
        Reader { path, file, position: 0 }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The next `len` bytes; `what` names them in the error.
    pub(super) fn bytes(&mut self, what: &str, len: usize) -> Result<&'a [u8], LoadError> {
        let rest = &self.file[self.position..];
        let bytes = rest.get(..len).ok_or_else(|| LoadError::Truncated {
            path: self.path.into(),
            what: what.into(),
            expected: (self.position as u64).saturating_add(len as u64),
            found: self.file.len() as u64,
        })?;
        self.position += len;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], LoadError> {
        let bytes = self.bytes(what, N)?;
        Ok(*bytes.first_chunk().expect("as many bytes as asked for"))
    }

    /// A length: 64 bits, then that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str, LoadError> {
        let len = u64::from_le_bytes(self.array(what)?);
        // A length that doesn't fit in memory's can't fit in the file either.
        let bytes = self.bytes(what, usize::try_from(len).unwrap_or(usize::MAX))?;
        std::str::from_utf8(bytes).map_err(|error| LoadError::BadHeader {
            path: self.path.into(),
            reason: format!(
                "{what} isn't UTF-8 at byte {}",
                self.position - bytes.len() + error.valid_up_to()
            ),
        })
    }

    /// A number of items, each at least `min_bytes` long, that must have room in the rest of the file.
    pub(super) fn count(&mut self, what: &str, min_bytes: usize) -> Result<usize, LoadError> {
        let count = u64::from_le_bytes(self.array(what)?);
        let room = (self.file.len() - self.position) / min_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(LoadError::BadHeader {
                path: self.path.into(),
                reason: format!(
                    "{count} {what} announced, the rest of the file holds {room} at most"
                ),
            }),
        }
    }
}
