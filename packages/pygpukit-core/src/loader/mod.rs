//! Weight files: safetensors and GGUF as a map of tensors that lie in the file.

pub mod source;

pub use source::ByteSource;
