//! The loader on files made here: well-formed, malformed, and random ones.

mod files;
mod gguf;
mod properties;
mod safetensors;
mod sharded;
mod views;
