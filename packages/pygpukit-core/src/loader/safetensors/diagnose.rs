//! Which tensor of a refused header is at fault, and how.

use ::safetensors::SafeTensorError;
use ::safetensors::tensor::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::super::error::LoadError;
use super::super::file::WeightFile;
use super::LENGTH_BYTES;
use super::entries::Entries;

/// A tensor's entry in the header, its type not yet known to be one.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The first fault of a header that the `safetensors` crate refused with `refusal`.
pub(super) fn diagnose(file: &WeightFile, header: &str, refusal: &SafeTensorError) -> LoadError {
    find_fault(file, header).err().unwrap_or_else(|| LoadError::BadHeader {
        path: file.path().into(),
        reason: refusal.to_string(),
    })
}

fn find_fault(file: &WeightFile, header: &str) -> Result<(), LoadError> {
    let mut tensors = Vec::new();
    for (name, value) in Entries::<Value>::parse(file.path(), header)?.0 {
        let entry = Entry::deserialize(value).map_err(|error| LoadError::BadHeader {
            path: file.path().into(),
            reason: format!("tensor {name:?}: {error}"),
        })?;
        check_entry(file, &name, &entry)?;
        tensors.push((name, entry.data_offsets));
    }
    tensors.sort_by_key(|&(_, offsets)| offsets);
    check_layout(file, header, &tensors)
}

/// That a tensor's type exists and its offsets span what its shape takes.
fn check_entry(file: &WeightFile, name: &str, entry: &Entry) -> Result<(), LoadError> {
    let path = file.path();
    let Ok(dtype) = Dtype::deserialize(Value::from(entry.dtype.as_str())) else {
        return Err(LoadError::UnknownType {
            path: path.into(),
            tensor: name.into(),
            dtype: entry.dtype.clone(),
        });
    };
    let (start, end) = entry.data_offsets;
    if end < start {
        return Err(LoadError::ReversedOffsets {
            path: path.into(),
            tensor: name.into(),
            start,
            end,
        });
    }
    let bits = entry
        .shape
        .iter()
        .try_fold(dtype.bitsize(), |bits, &dimension| bits.checked_mul(dimension))
        .ok_or_else(|| LoadError::ShapeOverflow {
            path: path.into(),
            tensor: name.into(),
            shape: entry.shape.clone(),
        })? as u64;
    if !bits.is_multiple_of(8) || end - start != bits / 8 {
        return Err(LoadError::SizeMismatch {
            path: path.into(),
            tensor: name.into(),
            dtype: entry.dtype.clone(),
            shape: entry.shape.clone(),
            expected: bits.div_ceil(8),
            found: end - start,
        });
    }
    Ok(())
}

/// That the tensors, sorted by offset, fill the rest of the file: no hole, no overlap, no remainder.
fn check_layout(
    file: &WeightFile,
    header: &str,
    tensors: &[(String, (u64, u64))],
) -> Result<(), LoadError> {
    let path = file.path();
    let (mut position, mut previous) = (0, "");
    for (name, (start, end)) in tensors {
        if *start > position {
            return Err(LoadError::Hole {
                path: path.into(),
                tensor: name.clone(),
                expected: position,
                found: *start,
            });
        }
        if *start < position {
            return Err(LoadError::Overlap {
                path: path.into(),
                tensor: name.clone(),
                other: previous.into(),
                start: *start,
                end: position,
            });
        }
        (position, previous) = (*end, name);
    }
    let expected = position.saturating_add((LENGTH_BYTES + header.len()) as u64);
    let found = file.bytes().len() as u64;
    if expected > found {
        let what = format!("tensor {previous:?}");
        return Err(LoadError::Truncated { path: path.into(), what, expected, found });
    }
    if expected < found {
        return Err(LoadError::TrailingBytes { path: path.into(), expected, found });
    }
    Ok(())
}
