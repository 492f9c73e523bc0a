//! From the path that a user gives to the file that is meant.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::LoadError;
use super::file::{LoadOptions, WeightFile};
use super::gguf;

/// The index of a sharded checkpoint, where a folder has one.
const INDEX: &str = "model.safetensors.index.json";
/// The name of a checkpoint of one file.
const SINGLE: &str = "model.safetensors";
const INDEX_SUFFIX: &str = ".safetensors.index.json";
const SAFETENSORS_SUFFIX: &str = ".safetensors";
const GGUF_SUFFIX: &str = ".gguf";

/// What a file is.
pub(super) enum Format {
    /// A safetensors file, or the index of several.
    Safetensors,
    /// A GGUF file.
    Gguf,
}

/// What the file at `path` is: by its first bytes, by its name where it may be a damaged one.
pub(super) fn format_of(path: &Path) -> Result<Format, LoadError> {
    if is_index(path) {
        return Ok(Format::Safetensors);
    }
    let file = WeightFile::open(path, LoadOptions::default())?;
    let named = |suffix| path.to_string_lossy().ends_with(suffix);
    if file.bytes().starts_with(gguf::MAGIC) || named(GGUF_SUFFIX) {
        return Ok(Format::Gguf);
    }
    // After eight bytes of length comes the header, a JSON object.
    if file.bytes().get(8) == Some(&b'{') || named(SAFETENSORS_SUFFIX) {
        return Ok(Format::Safetensors);
    }
    let start = &file.bytes()[..file.bytes().len().min(8)];
    Err(LoadError::UnknownFormat {
        path: path.into(),
        start: format!("\"{}\"", start.escape_ascii()),
    })
}

/// Whether `path` is that of an index of shards.
pub(super) fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".index.json")
}

/// The safetensors file or index in `folder`, if there is one.
///
/// The standard names come first, the index before the file; then the only index, then the only file
/// of any name.
pub(super) fn find_safetensors(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    for name in [INDEX, SINGLE] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(Some(path));
        }
    }
    match only_file(folder, INDEX_SUFFIX)? {
        Some(index) => Ok(Some(index)),
        None => only_file(folder, SAFETENSORS_SUFFIX),
    }
}

/// The GGUF file in `folder`, if there is one.
pub(super) fn find_gguf(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    only_file(folder, GGUF_SUFFIX)
}

/// The file in `folder` whose name ends in `suffix`; several are an error.
fn only_file(folder: &Path, suffix: &str) -> Result<Option<PathBuf>, LoadError> {
    let io_error = |source| LoadError::Io { path: folder.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(suffix) && path.is_file() {
            files.push(name);
        }
    }
    files.sort();
    match files.as_slice() {
        [] => Ok(None),
        [file] => Ok(Some(folder.join(file))),
        _ => Err(LoadError::Ambiguous { folder: folder.into(), files }),
    }
}
