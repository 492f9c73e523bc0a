//! What a model loads its weights with.

/// Weight files as maps of tensors.
pub mod tensor_loader {
    pub use crate::loader::{
        ByteSource, LoadError, LoadOptions, TensorMap, TensorView, load_gguf, load_safetensors,
        load_tensors,
    };
}
