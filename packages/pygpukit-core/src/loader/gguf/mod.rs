//! The GGUF format of llama.cpp: typed metadata, tensor descriptions, then aligned tensor data.
//!
//! Versions 2 and 3, little-endian, as ggml's `docs/gguf.md` describes them.

mod reader;
mod split;
mod value;

use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use indexmap::map::Entry;

use super::error::LoadError;
use super::file::{LoadOptions, WeightFile};
use super::map::TensorMap;
use super::metadata::{Metadata, MetadataValue};
use super::stored_type::StoredType;
use super::view::TensorView;
use reader::Reader;
use split::Part;

/// The first bytes of every GGUF file.
pub(super) const MAGIC: &[u8] = b"GGUF";
/// The alignment of tensor data where the metadata gives none.
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml's greatest number of dimensions.
const MAX_DIMENSIONS: u32 = 4;
/// The fewest bytes that a metadata entry can take: a key's length, a type, a one-byte value.
const MIN_ENTRY_BYTES: usize = 8 + 4 + 1;
/// The fewest bytes that a tensor's description can take: a name's length, the number of
/// dimensions, a type, an offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

/// A tensor's description in the header.
struct TensorInfo {
    dtype: StoredType,
    shape: Vec<usize>,
    nbytes: usize,
    /// Where its bytes start in the data section.
    offset: u64,
}

/// Opens a `.gguf` file; of a model that has been split, all the others as well.
pub(super) fn open_file(path: &Path, options: LoadOptions) -> Result<TensorMap, LoadError> {
    let map = open_one(path, options)?;
    match Part::of(map.metadata()) {
        Some(part) => split::open_parts(path, part, map, options),
        None => Ok(map),
    }
}

fn open_one(path: &Path, options: LoadOptions) -> Result<TensorMap, LoadError> {
    let file = Arc::new(WeightFile::open(path, options)?);
    let mut reader = Reader::new(path, file.bytes());
    check_version(&mut reader)?;
    let tensor_count = reader.count("tensors", MIN_TENSOR_BYTES)?;
    let entry_count = reader.count("metadata entries", MIN_ENTRY_BYTES)?;
    // Counts are bounded by the bytes that follow, taken one after the other.
    let metadata = read_metadata(&mut reader, entry_count)?;
    let infos = read_tensor_infos(&mut reader, tensor_count)?;
    let alignment = alignment(path, &metadata)?;
    let data_start = (reader.position() as u64).next_multiple_of(alignment);
    let tensors = place_tensors(&file, infos, data_start, alignment)?;
    Ok(TensorMap::new(path, vec![file], tensors, metadata))
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), LoadError> {
    let path = reader.path();
    let unsupported = |reason: String| LoadError::UnsupportedGguf { path: path.into(), reason };
    if reader.bytes("the magic number", MAGIC.len())? != MAGIC {
        return Err(LoadError::BadHeader { path: path.into(), reason: "not a GGUF file".into() });
    }
    match u32::from_le_bytes(reader.array("the version")?) {
        2 | 3 => Ok(()),
        1 => Err(unsupported("version 1; convert the model again with a current llama.cpp".into())),
        version if version.swap_bytes() <= 0xffff => {
            Err(unsupported("it is big-endian; convert it with gguf-convert-endian".into()))
        }
        version => Err(unsupported(format!("version {version}, versions 2 and 3 are known"))),
    }
}

fn read_metadata(reader: &mut Reader<'_>, count: usize) -> Result<Metadata, LoadError> {
    let mut metadata = Metadata::with_capacity(count);
    for _ in 0..count {
        let key = reader.string("a metadata key")?;
        let value = value::read(reader, key)?;
        if metadata.insert(key.into(), value).is_some() {
            return Err(LoadError::DuplicateName { path: reader.path().into(), name: key.into() });
        }
    }
    Ok(metadata)
}

fn alignment(path: &Path, metadata: &Metadata) -> Result<u64, LoadError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&MetadataValue::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment.into()),
        Some(found) => Err(LoadError::BadHeader {
            path: path.into(),
            reason: format!("general.alignment must be a uint32 power of two, found {found:?}"),
        }),
    }
}

fn read_tensor_infos<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<IndexMap<&'a str, TensorInfo>, LoadError> {
    let mut infos = IndexMap::with_capacity(count);
    for _ in 0..count {
        let name = reader.string("a tensor's name")?;
        let info = read_tensor_info(reader, name)?;
        match infos.entry(name) {
            Entry::Vacant(entry) => entry.insert(info),
            Entry::Occupied(_) => {
                let path = reader.path().into();
                return Err(LoadError::DuplicateName { path, name: name.into() });
            }
        };
    }
    Ok(infos)
}

fn read_tensor_info(reader: &mut Reader<'_>, name: &str) -> Result<TensorInfo, LoadError> {
    let path = reader.path();
    let dimensions = u32::from_le_bytes(reader.array("a tensor's number of dimensions")?);
    if dimensions > MAX_DIMENSIONS {
        return Err(LoadError::BadHeader {
            path: path.into(),
            reason: format!(
                "tensor {name:?} has {dimensions} dimensions, at most {MAX_DIMENSIONS}"
            ),
        });
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        shape.push(u64::from_le_bytes(reader.array("a tensor's dimension")?) as usize);
    }
    // ggml's first dimension varies fastest, a row-major shape's last.
    shape.reverse();
    let number = u32::from_le_bytes(reader.array("a tensor's type")?);
    let dtype = StoredType::from_ggml(number).ok_or_else(|| LoadError::UnknownType {
        path: path.into(),
        tensor: name.into(),
        dtype: format!("number {number}"),
    })?;
    let nbytes = tensor_bytes(path, name, dtype, &shape)?;
    let offset = u64::from_le_bytes(reader.array("a tensor's offset")?);
    Ok(TensorInfo { dtype, shape, nbytes, offset })
}

fn tensor_bytes(
    path: &Path,
    name: &str,
    dtype: StoredType,
    shape: &[usize],
) -> Result<usize, LoadError> {
    let row = shape.last().copied().unwrap_or(1);
    let block = dtype.block_elements();
    if !row.is_multiple_of(block) {
        return Err(LoadError::BadShape {
            path: path.into(),
            tensor: name.into(),
            dtype: dtype.name(),
            shape: shape.into(),
            reason: format!("rows must be whole blocks of {block} elements"),
        });
    }
    let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    elements.and_then(|elements| (elements / block).checked_mul(dtype.block_bytes())).ok_or_else(
        || LoadError::ShapeOverflow { path: path.into(), tensor: name.into(), shape: shape.into() },
    )
}

/// Views of the tensors in file order, once each is known to lie in the file and in no other.
fn place_tensors(
    file: &Arc<WeightFile>,
    infos: IndexMap<&str, TensorInfo>,
    data_start: u64,
    alignment: u64,
) -> Result<Vec<TensorView>, LoadError> {
    let path = file.path();
    let found = file.bytes().len() as u64;
    let mut infos: Vec<_> = infos.into_iter().collect();
    infos.sort_by_key(|(_, info)| (info.offset, info.nbytes));
    let (mut position, mut previous) = (0, "");
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let start = info.offset;
        if !start.is_multiple_of(alignment) {
            let (path, tensor) = (path.into(), name.into());
            return Err(LoadError::Misaligned { path, tensor, offset: start, alignment });
        }
        if start < position {
            return Err(LoadError::Overlap {
                path: path.into(),
                tensor: name.into(),
                other: previous.into(),
                start,
                end: position,
            });
        }
        let end = start.saturating_add(info.nbytes as u64);
        let expected = data_start.saturating_add(end);
        if expected > found {
            let what = format!("tensor {name:?}");
            return Err(LoadError::Truncated { path: path.into(), what, expected, found });
        }
        let range = (data_start + start) as usize..expected as usize;
        tensors.push(TensorView::new(name, info.dtype, info.shape, Arc::clone(file), range));
        (position, previous) = (end, name);
    }
    Ok(tensors)
}
