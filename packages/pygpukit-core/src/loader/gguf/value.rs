//! GGUF's typed metadata values.

use super::super::error::LoadError;
use super::super::metadata::{MetadataArray, MetadataValue, StringArray};
use super::reader::Reader;

/// Arrays within arrays deeper than this are refused: nothing writes them, and each takes a stack
/// frame to read.
const MAX_DEPTH: usize = 8;

/// The numbers of `enum gguf_type`.
mod tag {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// Reads the type and the value of the entry called `key`.
pub(super) fn read(reader: &mut Reader<'_>, key: &str) -> Result<MetadataValue, LoadError> {
    let tag = u32::from_le_bytes(reader.array(key)?);
    Ok(match tag {
        tag::U8 => MetadataValue::U8(u8::from_le_bytes(reader.array(key)?)),
        tag::I8 => MetadataValue::I8(i8::from_le_bytes(reader.array(key)?)),
        tag::U16 => MetadataValue::U16(u16::from_le_bytes(reader.array(key)?)),
        tag::I16 => MetadataValue::I16(i16::from_le_bytes(reader.array(key)?)),
        tag::U32 => MetadataValue::U32(u32::from_le_bytes(reader.array(key)?)),
        tag::I32 => MetadataValue::I32(i32::from_le_bytes(reader.array(key)?)),
        tag::U64 => MetadataValue::U64(u64::from_le_bytes(reader.array(key)?)),
        tag::I64 => MetadataValue::I64(i64::from_le_bytes(reader.array(key)?)),
        tag::F32 => MetadataValue::F32(f32::from_le_bytes(reader.array(key)?)),
        tag::F64 => MetadataValue::F64(f64::from_le_bytes(reader.array(key)?)),
        tag::BOOL => MetadataValue::Bool(reader.array(key)? != [0]),
        tag::STRING => MetadataValue::String(reader.string(key)?.into()),
        tag::ARRAY => MetadataValue::Array(read_array(reader, key, MAX_DEPTH)?),
        _ => return Err(unknown_tag(reader, key, tag)),
    })
}

fn read_array(
    reader: &mut Reader<'_>,
    key: &str,
    depth: usize,
) -> Result<MetadataArray, LoadError> {
    let tag = u32::from_le_bytes(reader.array(key)?);
    Ok(match tag {
        tag::U8 => MetadataArray::U8(read_numbers(reader, key, u8::from_le_bytes)?),
        tag::I8 => MetadataArray::I8(read_numbers(reader, key, i8::from_le_bytes)?),
        tag::U16 => MetadataArray::U16(read_numbers(reader, key, u16::from_le_bytes)?),
        tag::I16 => MetadataArray::I16(read_numbers(reader, key, i16::from_le_bytes)?),
        tag::U32 => MetadataArray::U32(read_numbers(reader, key, u32::from_le_bytes)?),
        tag::I32 => MetadataArray::I32(read_numbers(reader, key, i32::from_le_bytes)?),
        tag::U64 => MetadataArray::U64(read_numbers(reader, key, u64::from_le_bytes)?),
        tag::I64 => MetadataArray::I64(read_numbers(reader, key, i64::from_le_bytes)?),
        tag::F32 => MetadataArray::F32(read_numbers(reader, key, f32::from_le_bytes)?),
        tag::F64 => MetadataArray::F64(read_numbers(reader, key, f64::from_le_bytes)?),
        tag::BOOL => MetadataArray::Bool(read_numbers(reader, key, |[byte]| byte != 0)?),
        tag::STRING => MetadataArray::String(read_strings(reader, key)?),
        tag::ARRAY => MetadataArray::Array(read_arrays(reader, key, depth)?),
        _ => return Err(unknown_tag(reader, key, tag)),
    })
}

fn read_numbers<T, const N: usize>(
    reader: &mut Reader<'_>,
    key: &str,
    decode: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, LoadError> {
    let count = reader.count(key, N)?;
    let bytes = reader.bytes(key, count * N)?;
    Ok(bytes.as_chunks().0.iter().map(|&bytes| decode(bytes)).collect())
}

fn read_strings(reader: &mut Reader<'_>, key: &str) -> Result<StringArray, LoadError> {
    let count = reader.count(key, size_of::<u64>())?;
    let mut strings = StringArray::with_capacity(count);
    for _ in 0..count {
        strings.push(reader.string(key)?);
    }
    Ok(strings)
}

fn read_arrays(
    reader: &mut Reader<'_>,
    key: &str,
    depth: usize,
) -> Result<Vec<MetadataArray>, LoadError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(LoadError::BadHeader {
            path: reader.path().into(),
            reason: format!("metadata {key:?}: arrays nested deeper than {MAX_DEPTH}"),
        });
    };
    // An array takes at least its elements' type and their number.
    let count = reader.count(key, size_of::<u32>() + size_of::<u64>())?;
    (0..count).map(|_| read_array(reader, key, depth)).collect()
}

fn unknown_tag(reader: &Reader<'_>, key: &str, tag: u32) -> LoadError {
    LoadError::BadHeader {
        path: reader.path().into(),
        reason: format!("metadata {key:?}: unknown value type {tag}"),
    }
}
