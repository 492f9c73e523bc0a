//! A JSON object as a list, so that the order is kept and a repeated key is noticed.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::error::LoadError;
use super::METADATA_KEY;

/// The entries of a JSON object, in order.
pub(super) struct Entries<T>(pub(super) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Entries<T> {
    /// The tensors of a header; `__metadata__` is left out.
    ///
    /// # Errors
    /// [`LoadError::BadHeader`], [`LoadError::DuplicateName`].
    pub(super) fn parse(path: &Path, header: &'de str) -> Result<Self, LoadError> {
        let mut entries: Self = serde_json::from_str(header).map_err(|error| {
            LoadError::BadHeader { path: path.into(), reason: format!("invalid JSON: {error}") }
        })?;
        if let Some(name) = entries.repeated() {
            return Err(LoadError::DuplicateName { path: path.into(), name: name.into() });
        }
        entries.0.retain(|(name, _)| name != METADATA_KEY);
        Ok(entries)
    }

    /// The first key that occurs a second time.
    pub(super) fn repeated(&self) -> Option<&str> {
        let mut seen = HashSet::with_capacity(self.0.len());
        self.0.iter().map(|(name, _)| name.as_str()).find(|name| !seen.insert(*name))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}
