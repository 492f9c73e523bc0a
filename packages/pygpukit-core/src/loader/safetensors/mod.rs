//! The safetensors format: a JSON header, then the tensors' bytes without gaps.
//!
//! The `safetensors` crate parses and validates; where it refuses a file, [`diagnose`] looks at the
//! header once more to say which tensor is at fault.

mod diagnose;
mod entries;
mod sharded;

use std::path::Path;
use std::sync::Arc;

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Metadata as Header, TensorInfo};
use serde::de::IgnoredAny;

use super::error::LoadError;
use super::file::{LoadOptions, WeightFile};
use super::map::TensorMap;
use super::metadata::{Metadata, MetadataValue};
use super::stored_type::StoredType;
use super::view::TensorView;
use diagnose::diagnose;
use entries::Entries;
pub(super) use sharded::open_index;

/// The bytes of the header's length, at the start of the file.
const LENGTH_BYTES: usize = 8;
/// The longest header that the format allows.
const HEADER_LIMIT: u64 = 100_000_000;
/// The header's key that isn't a tensor.
const METADATA_KEY: &str = "__metadata__";

/// Opens one `.safetensors` file.
pub(super) fn open_file(path: &Path, options: LoadOptions) -> Result<TensorMap, LoadError> {
    let file = Arc::new(WeightFile::open(path, options)?);
    let text = header_text(&file)?;
    let names = Entries::<IgnoredAny>::parse(path, text)?;
    let (_, header) =
        SafeTensors::read_metadata(file.bytes()).map_err(|error| diagnose(&file, text, &error))?;

    let data_start = LENGTH_BYTES + text.len();
    let mut tensors = Vec::with_capacity(names.0.len());
    for (name, info) in in_file_order(&header, &names) {
        let dtype = StoredType::from_safetensors(info.dtype).ok_or_else(|| {
            let dtype = info.dtype.to_string();
            LoadError::UnknownType { path: path.into(), tensor: name.into(), dtype }
        })?;
        let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
        tensors.push(TensorView::new(name, dtype, info.shape.clone(), Arc::clone(&file), range));
    }
    Ok(TensorMap::new(path, vec![file], tensors, metadata(&header)))
}

/// The header's JSON, once its stated length has been checked.
fn header_text(file: &WeightFile) -> Result<&str, LoadError> {
    let (path, found) = (file.path(), file.bytes().len() as u64);
    let truncated = |expected| LoadError::Truncated {
        path: path.into(),
        what: "the header".into(),
        expected,
        found,
    };
    let Some((&length, rest)) = file.bytes().split_first_chunk::<LENGTH_BYTES>() else {
        return Err(truncated(LENGTH_BYTES as u64));
    };
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        let limit = HEADER_LIMIT;
        return Err(LoadError::HeaderTooLarge { path: path.into(), found: length, limit });
    }
    let header = rest.get(..length as usize).ok_or_else(|| truncated(length + 8))?;
    std::str::from_utf8(header).map_err(|error| LoadError::BadHeader {
        path: path.into(),
        reason: format!("not UTF-8 from byte {} on", LENGTH_BYTES + error.valid_up_to()),
    })
}

/// The tensors by where their bytes start; those that have none stand in the header's order.
fn in_file_order<'a>(
    header: &'a Header,
    names: &'a Entries<IgnoredAny>,
) -> Vec<(&'a str, &'a TensorInfo)> {
    let mut tensors: Vec<_> =
        names.0.iter().filter_map(|(name, _)| Some((name.as_str(), header.info(name)?))).collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    tensors
}

/// The free-form strings of the header, sorted by key: the format gives them no order.
fn metadata(header: &Header) -> Metadata {
    let mut metadata: Metadata = header
        .metadata()
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), MetadataValue::String(value.clone())))
        .collect();
    metadata.sort_unstable_keys();
    metadata
}
