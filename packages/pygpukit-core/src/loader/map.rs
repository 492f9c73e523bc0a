//! The tensors of one or several weight files, by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;

use super::error::LoadError;
use super::file::WeightFile;
use super::metadata::Metadata;
use super::view::TensorView;

/// Names offered when one isn't found.
const SUGGESTIONS: usize = 3;
/// How alike (0 to 1) a name must be to be offered.
const SIMILAR: f64 = 0.6;

/// The tensors of a checkpoint, by name, in the order in which they lie in its files.
#[derive(Clone, Debug)]
pub struct TensorMap {
    path: PathBuf,
    files: Vec<Arc<WeightFile>>,
    tensors: IndexMap<Arc<str>, TensorView>,
    metadata: Metadata,
}

impl TensorMap {
    pub(crate) fn new(
        path: &Path,
        files: Vec<Arc<WeightFile>>,
        tensors: Vec<TensorView>,
        metadata: Metadata,
    ) -> TensorMap {
        let tensors = tensors.into_iter().map(|view| (view.name().into(), view)).collect();
        TensorMap { path: path.into(), files, tensors, metadata }
    }

    /// The path that was loaded: a file, or the index of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The tensor called `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&TensorView> {
        self.tensors.get(name)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`LoadError::UnknownTensor`], with the names closest to it.
    pub fn tensor(&self, name: &str) -> Result<&TensorView, LoadError> {
        self.get(name).ok_or_else(|| LoadError::UnknownTensor {
            path: self.path.clone(),
            name: name.into(),
            similar: self.similar_names(name),
        })
    }

    /// The tensors, in the order of the files.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &TensorView> {
        self.tensors.values()
    }

    /// The tensors' names, in the order of the files.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(|name| &**name)
    }

    /// What the files say about themselves; of several files, the first that has a key is heard.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The bytes of all tensors as stored.
    pub fn nbytes(&self) -> usize {
        self.iter().map(TensorView::nbytes).sum()
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path())
    }

    /// One map of several files' tensors; `owner` says which file's tensor of a name is meant, and
    /// leaves out those it doesn't know.
    pub(crate) fn merge(
        path: &Path,
        parts: Vec<(String, TensorMap)>,
        owner: &BTreeMap<String, String>,
    ) -> TensorMap {
        let mut merged = TensorMap::new(path, Vec::new(), Vec::new(), Metadata::new());
        for (file, part) in parts {
            merged.files.extend(part.files);
            merged.tensors.extend(
                part.tensors.into_iter().filter(|(name, _)| owner.get(&**name) == Some(&file)),
            );
            for (key, value) in part.metadata {
                merged.metadata.entry(key).or_insert(value);
            }
        }
        merged
    }

    fn similar_names(&self, name: &str) -> Vec<String> {
        let mut scored: Vec<(f64, &str)> = self
            .names()
            .map(|candidate| (strsim::normalized_levenshtein(name, candidate), candidate))
            .filter(|&(score, _)| score >= SIMILAR)
            .collect();
        scored.sort_by(|(left, _), (right, _)| right.total_cmp(left));
        scored.into_iter().take(SUGGESTIONS).map(|(_, name)| name.to_owned()).collect()
    }
}
