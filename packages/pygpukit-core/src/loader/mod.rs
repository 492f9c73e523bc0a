//! Weight files: safetensors and GGUF as a map of tensors that lie in the file.
//!
//! Opening a checkpoint maps its files and reads their headers, nothing else: its size doesn't
//! matter. A [`TensorView`] reads when it is asked for bytes, converting on the way.

mod error;
mod file;
mod gguf;
mod layout;
mod locate;
mod map;
mod metadata;
mod safetensors;
pub mod source;
mod stored_type;
mod transpose;
mod view;

use std::path::Path;

pub use error::LoadError;
pub use file::LoadOptions;
use locate::Format;
pub use map::TensorMap;
pub use metadata::{Metadata, MetadataArray, MetadataValue, StringArray};
pub use source::ByteSource;
pub use view::TensorView;

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are used as they lie in memory");

/// The tensors of a safetensors checkpoint.
///
/// `path` is a `.safetensors` file, the `*.index.json` of a sharded checkpoint, or a folder. In a
/// folder, `model.safetensors.index.json` comes before `model.safetensors`, and that before the only
/// file of another name. With an index, only what it names is loaded.
///
/// # Errors
/// [`LoadError`]: whatever is missing, malformed or ambiguous.
pub fn load_safetensors(
    path: impl AsRef<Path>,
    options: LoadOptions,
) -> Result<TensorMap, LoadError> {
    let path = path.as_ref();
    if path.is_dir() {
        let found = locate::find_safetensors(path)?.ok_or_else(|| LoadError::NoWeights {
            folder: path.into(),
            expected: "model.safetensors or model.safetensors.index.json",
        })?;
        return open_safetensors(&found, options);
    }
    open_safetensors(path, options)
}

/// The tensors of a GGUF file (version 2 or 3, little-endian), with its typed metadata.
///
/// Shapes are row-major: the reverse of ggml's dimensions.
///
/// # Errors
/// [`LoadError`]: whatever is missing, malformed or unsupported.
pub fn load_gguf(path: impl AsRef<Path>, options: LoadOptions) -> Result<TensorMap, LoadError> {
    gguf::open_file(path.as_ref(), options)
}

/// The tensors at `path`, whatever the format: a safetensors or GGUF file (told apart by their first
/// bytes), an `*.index.json`, or a folder that holds one of them (safetensors first).
///
/// # Errors
/// [`LoadError`]: whatever is missing, malformed or ambiguous.
pub fn load_tensors(path: impl AsRef<Path>, options: LoadOptions) -> Result<TensorMap, LoadError> {
    let path = path.as_ref();
    if path.is_dir() {
        if let Some(found) = locate::find_safetensors(path)? {
            return open_safetensors(&found, options);
        }
        let found = locate::find_gguf(path)?.ok_or_else(|| LoadError::NoWeights {
            folder: path.into(),
            expected: "*.safetensors, *.safetensors.index.json or *.gguf",
        })?;
        return gguf::open_file(&found, options);
    }
    match locate::format_of(path)? {
        Format::Safetensors => open_safetensors(path, options),
        Format::Gguf => gguf::open_file(path, options),
    }
}

fn open_safetensors(path: &Path, options: LoadOptions) -> Result<TensorMap, LoadError> {
    if locate::is_index(path) {
        safetensors::open_index(path, options)
    } else {
        safetensors::open_file(path, options)
    }
}
