//! Why a weight file was refused, or why a view of one can't be made.

use std::io;
use std::path::PathBuf;

use crate::dtype::DType;

/// A failure of the loader. Every message names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is nothing at that path.
    #[error("{path}: no such file or folder")]
    MissingFile {
        /// The path asked for.
        path: PathBuf,
    },
    /// The operating system couldn't open, read or map the file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path is a folder where a file was expected.
    #[error("{path}: is a folder, expected a weight file")]
    IsFolder {
        /// The path asked for.
        path: PathBuf,
    },
    /// A folder holds no weight file.
    #[error("{folder}: no weights in this folder; expected {expected}")]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The file names looked for.
        expected: &'static str,
    },
    /// A folder holds several files, any of which might be meant.
    #[error("{folder}: several weight files, give the path of one: {}", .files.join(", "))]
    Ambiguous {
        /// The folder.
        folder: PathBuf,
        /// The candidates' names, sorted.
        files: Vec<String>,
    },
    /// The file is a Git LFS pointer in place of the weights.
    #[error("{path}: this is a Git LFS pointer, not the weights; run `git lfs pull`")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The file's first bytes are those of no known weight format.
    #[error("{path}: neither a safetensors nor a GGUF file (it starts with {start})")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The first bytes, escaped.
        start: String,
    },
    /// The file ends before what its header describes.
    #[error("{path}: truncated: {what} ends at byte {expected}, the file has {found} bytes")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What doesn't fit: the header, or a tensor by name.
        what: String,
        /// Bytes the file would have to have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The header length is beyond what the format allows.
    #[error("{path}: the header is {found} bytes long, the limit is {limit}")]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// The length that the file states.
        found: u64,
        /// The greatest length accepted.
        limit: u64,
    },
    /// The header can't be parsed.
    #[error("{path}: bad header: {reason}")]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Two tensors, or two metadata entries, have the same name.
    #[error("{path}: {name:?} appears twice in the header")]
    DuplicateName {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A tensor's type isn't one of the format's.
    #[error("{path}: tensor {tensor:?} has the unknown type {dtype}")]
    UnknownType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type as the file gives it.
        dtype: String,
    },
    /// A tensor's elements or bytes can't be counted in 64 bits.
    #[error("{path}: tensor {tensor:?}: the size of shape {shape:?} overflows")]
    ShapeOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor's shape doesn't suit its type: rows that aren't whole blocks, half a byte.
    #[error("{path}: tensor {tensor:?}: shape {shape:?} isn't possible for {dtype}: {reason}")]
    BadShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// What the type asks for.
        reason: String,
    },
    /// A tensor's byte range isn't as long as its shape and type make it.
    #[error(
        "{path}: tensor {tensor:?}: {dtype} of shape {shape:?} takes {expected} bytes, its offsets span {found}"
    )]
    SizeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes by shape and type.
        expected: u64,
        /// Bytes by its offsets.
        found: u64,
    },
    /// A tensor's bytes end before they start.
    #[error("{path}: tensor {tensor:?}: its offsets [{start}, {end}] run backwards")]
    ReversedOffsets {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first offset.
        start: u64,
        /// The second, smaller one.
        end: u64,
    },
    /// A tensor starts within the one before it.
    #[error(
        "{path}: tensor {tensor:?} overlaps {other:?}: it starts at data offset {start}, the other ends at {end}"
    )]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The tensor that starts later.
        tensor: String,
        /// The tensor before it.
        other: String,
        /// Where `tensor` starts.
        start: u64,
        /// Where `other` ends.
        end: u64,
    },
    /// Bytes before a tensor belong to none.
    #[error(
        "{path}: a hole before tensor {tensor:?}: data offsets {expected} to {found} belong to no tensor"
    )]
    Hole {
        /// The file.
        path: PathBuf,
        /// The tensor after the hole.
        tensor: String,
        /// Where it should start.
        expected: u64,
        /// Where it starts.
        found: u64,
    },
    /// A tensor's offset isn't a multiple of the file's alignment.
    #[error("{path}: tensor {tensor:?}: data offset {offset} isn't a multiple of {alignment}")]
    Misaligned {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Bytes after the last tensor belong to none.
    #[error("{path}: {} trailing bytes: the last tensor ends at byte {expected}, the file at {found}", .found - .expected)]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Where the file should end.
        expected: u64,
        /// Where it ends.
        found: u64,
    },
    /// A GGUF file of a version, byte order or kind that isn't supported.
    #[error("{path}: unsupported GGUF file: {reason}")]
    UnsupportedGguf {
        /// The file.
        path: PathBuf,
        /// What is unsupported, and what to do.
        reason: String,
    },
    /// An `*.index.json` that can't be parsed, or that names files outside its folder.
    #[error("{path}: bad index: {reason}")]
    BadIndex {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Files that an index names aren't there, or other parts of a split GGUF file.
    #[error("{index}: missing shards: {}", .missing.join(", "))]
    MissingShards {
        /// The index, or the part that was opened.
        index: PathBuf,
        /// Every missing file's name, sorted.
        missing: Vec<String>,
    },
    /// Tensors aren't in the shards that an index says hold them.
    #[error("{index}: tensors missing from their shards: {}", .tensors.join(", "))]
    MissingTensors {
        /// The index.
        index: PathBuf,
        /// Each as `name (shard)`, sorted.
        tensors: Vec<String>,
    },
    /// The map holds no tensor of that name.
    #[error("{path}: no tensor named {name:?}{}", did_you_mean(.similar))]
    UnknownTensor {
        /// The file, or the index or folder of several.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// Names that are close to it, closest first.
        similar: Vec<String>,
    },
    /// The tensor's type is known by name only: its elements can't be read.
    #[error("{path}: tensor {tensor:?}: elements of type {dtype} can't be read by this version")]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: &'static str,
    },
    /// There is no conversion between two types.
    #[error(
        "{path}: tensor {tensor:?}: no conversion from {from} to {to}; \
         floating-point and quantised types convert to float64, float32, float16 and bfloat16"
    )]
    InvalidCast {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        from: DType,
        /// The type asked for.
        to: DType,
    },
    /// A slice, transposition, permutation or reshape that doesn't suit the tensor.
    #[error("{path}: tensor {tensor:?} of shape {shape:?}: {reason}")]
    InvalidView {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What was asked and what is possible.
        reason: String,
    },
}

fn did_you_mean(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(", ")),
    }
}
