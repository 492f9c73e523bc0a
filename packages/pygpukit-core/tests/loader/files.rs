//! Weight files byte by byte, so that they can be wrong in any way.

use std::fs;
use std::path::{Path, PathBuf};

use pygpukit_core::loader::{self, LoadError, LoadOptions, TensorMap};

/// Mapped, the default.
pub(crate) const MMAP: LoadOptions = LoadOptions { mmap: true };

/// A folder that is removed with its files when the test ends.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// A safetensors file of that header and data.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A safetensors file of uint8 tensors of those names and contents.
pub(crate) fn byte_tensors(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, content) in tensors {
        let (start, end) = (data.len(), data.len() + content.len());
        entries.push(format!(
            r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
            content.len()
        ));
        data.extend_from_slice(content);
    }
    safetensors(&format!("{{{}}}", entries.join(",")), &data)
}

/// What loading a file of that content gives, whatever its format.
pub(crate) fn load(content: impl AsRef<[u8]>) -> Result<TensorMap, LoadError> {
    let folder = Folder::new();
    loader::load_tensors(folder.write("file.safetensors", content), MMAP)
}

/// A GGUF file in the making.
pub(crate) struct Gguf {
    pub(crate) version: u32,
    /// Metadata entries, encoded.
    pub(crate) entries: Vec<Vec<u8>>,
    /// Tensor descriptions, encoded.
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) alignment: usize,
    pub(crate) data: Vec<u8>,
}

impl Gguf {
    pub(crate) fn new() -> Gguf {
        let (entries, tensors) = (Vec::new(), Vec::new());
        Gguf { version: 3, entries, tensors, alignment: 32, data: Vec::new() }
    }

    /// With a metadata entry of type `tag`, whose value is already encoded.
    pub(crate) fn entry(mut self, key: &str, tag: u32, value: impl AsRef<[u8]>) -> Gguf {
        self.entries.push([&string(key)[..], &tag.to_le_bytes(), value.as_ref()].concat());
        self
    }

    /// With a tensor of ggml's dimensions (the first varies fastest) and type number.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> Gguf {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        self.tensors.push(
            [
                &string(name)[..],
                &(dims.len() as u32).to_le_bytes(),
                &dims_bytes,
                &dtype.to_le_bytes(),
                &offset.to_le_bytes(),
            ]
            .concat(),
        );
        self
    }

    pub(crate) fn data(mut self, data: impl Into<Vec<u8>>) -> Gguf {
        self.data = data.into();
        self
    }

    /// The header, without padding and data.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.entries.len() as u64).to_le_bytes());
        file.extend(self.entries.concat());
        file.extend(self.tensors.concat());
        file
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend(&self.data);
        file
    }
}

/// A GGUF string: its length and its bytes.
pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Asserts that the message of `error` says every one of `texts`.
#[track_caller]
pub(crate) fn assert_message(error: &LoadError, texts: &[&str]) {
    let message = error.to_string();
    for text in texts {
        assert!(message.contains(text), "{text:?} isn't in {message:?}");
    }
}
