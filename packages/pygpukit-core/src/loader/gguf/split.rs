//! Models in several files, as llama.cpp's gguf-split cuts them: `NAME-00001-of-00003.gguf` and so on.
//!
//! Every part says in its metadata which one it is; the first has all the rest of the metadata.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::error::LoadError;
use super::super::file::LoadOptions;
use super::super::map::TensorMap;
use super::super::metadata::{Metadata, MetadataValue};
use super::open_one;

/// Which part of a model a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// From 0 on.
    number: u64,
    count: u64,
}

impl Part {
    /// What the metadata of a file says, if it says that there are several.
    pub(super) fn of(metadata: &Metadata) -> Option<Part> {
        let get = |key| metadata.get(key).and_then(MetadataValue::as_u64);
        let part = Part { number: get("split.no").unwrap_or(0), count: get("split.count")? };
        (part.count > 1).then_some(part)
    }

    /// The end of the name of a file that is this part.
    fn suffix(self) -> String {
        format!("-{:05}-of-{:05}.gguf", self.number + 1, self.count)
    }
}

/// The tensors of all parts of the model of which `path`, opened already, is one.
pub(super) fn open_parts(
    path: &Path,
    part: Part,
    opened: TensorMap,
    options: LoadOptions,
) -> Result<TensorMap, LoadError> {
    let paths = part_paths(path, part)?;
    let expected = opened.metadata().get("split.tensors.count").and_then(MetadataValue::as_u64);
    let mut opened = Some(opened);
    let mut parts = Vec::with_capacity(paths.len());
    let mut owner = BTreeMap::new();
    for (number, path) in (0..).zip(&paths) {
        let map = match opened.take_if(|_| number == part.number) {
            Some(map) => map,
            None => open_one(path, options)?,
        };
        if Part::of(map.metadata()) != Some(Part { number, ..part }) {
            let reason = format!(
                "expected part {number} of {} by its name, found split.no {:?} and split.count {:?}",
                part.count,
                map.metadata().get("split.no"),
                map.metadata().get("split.count"),
            );
            return Err(LoadError::BadHeader { path: path.clone(), reason });
        }
        let file = path.display().to_string();
        for name in map.names() {
            if owner.insert(name.to_owned(), file.clone()).is_some() {
                return Err(LoadError::DuplicateName { path: path.clone(), name: name.into() });
            }
        }
        parts.push((file, map));
    }
    if let Some(expected) = expected.filter(|&expected| expected != owner.len() as u64) {
        let reason = format!("the parts have {} tensors, not {expected}", owner.len());
        return Err(LoadError::BadHeader { path: path.into(), reason });
    }
    Ok(TensorMap::merge(path, parts, &owner))
}

/// The paths of all parts, in their order, once all are there.
fn part_paths(path: &Path, part: Part) -> Result<Vec<PathBuf>, LoadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(prefix) = name.strip_suffix(&part.suffix()) else {
        return Err(LoadError::UnsupportedGguf {
            path: path.into(),
            reason: format!(
                "it is one of {} parts, and others are found by a name that ends with {:?}; give \
                 them the names that llama-gguf-split did, or join them with its --merge",
                part.count,
                part.suffix(),
            ),
        });
    };
    let names = (0..part.count).map(|number| prefix.to_owned() + &Part { number, ..part }.suffix());
    let paths: Vec<PathBuf> = names.map(|name| path.with_file_name(name)).collect();
    let missing: Vec<String> = paths
        .iter()
        .filter(|path| !path.exists())
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    if missing.is_empty() {
        Ok(paths)
    } else {
        Err(LoadError::MissingShards { index: path.into(), missing })
    }
}
