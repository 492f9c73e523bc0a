//! Checkpoints of several files: an `*.index.json` says which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;

use super::super::error::LoadError;
use super::super::file::{LoadOptions, WeightFile};
use super::super::map::TensorMap;
use super::entries::Entries;
use super::open_file;

/// The part of an index that matters; its `metadata` (a total size) is informative only.
#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

/// Opens the shards that the index at `path` names, and nothing else in its folder.
pub(in super::super) fn open_index(
    path: &Path,
    options: LoadOptions,
) -> Result<TensorMap, LoadError> {
    let shard_of = read_index(path)?;
    let shards: BTreeSet<&String> = shard_of.values().collect();
    let folder = path.parent().unwrap_or(Path::new(""));
    let missing: Vec<String> = shards
        .iter()
        .filter(|shard| !fs::exists(folder.join(shard)).unwrap_or(true))
        .map(|&shard| shard.clone())
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::MissingShards { index: path.into(), missing });
    }
    let mut parts = Vec::with_capacity(shards.len());
    for shard in shards {
        parts.push((shard.clone(), open_file(&folder.join(shard), options)?));
    }
    let merged = TensorMap::merge(path, parts, &shard_of);
    let missing: Vec<String> = shard_of
        .iter()
        .filter(|(name, _)| merged.get(name).is_none())
        .map(|(name, shard)| format!("{name} ({shard})"))
        .collect();
    if !missing.is_empty() {
        return Err(LoadError::MissingTensors { index: path.into(), tensors: missing });
    }
    Ok(merged)
}

/// Each tensor's shard.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    let bad_index = |reason: String| LoadError::BadIndex { path: path.into(), reason };
    let file = WeightFile::open(path, LoadOptions { mmap: false })?;
    let index: Index =
        serde_json::from_slice(file.bytes()).map_err(|error| bad_index(error.to_string()))?;
    if let Some(name) = index.weight_map.repeated() {
        return Err(bad_index(format!("{name:?} appears twice in weight_map")));
    }
    if let Some((name, shard)) = index.weight_map.0.iter().find(|(_, shard)| !is_file_name(shard)) {
        return Err(bad_index(format!(
            "tensor {name:?} is said to be in {shard:?}; a shard must be a file name in the index's folder"
        )));
    }
    Ok(index.weight_map.0.into_iter().collect())
}

/// Whether `name` names something in a folder, and can't lead out of it.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}
