//! Checkpoints of several files.

use pygpukit_core::loader::{LoadError, load_safetensors, load_tensors};

use crate::files::{Folder, MMAP, assert_message, byte_tensors, safetensors};

const INDEX: &str = "model.safetensors.index.json";

/// A folder with two shards, both with a tensor "shared", and an index of that weight map.
fn checkpoint(weight_map: &str) -> Folder {
    let folder = Folder::new();
    folder.write("1.safetensors", byte_tensors(&[("a", b"one"), ("shared", b"from one")]));
    folder.write("2.safetensors", byte_tensors(&[("b", b"two"), ("shared", b"from two")]));
    folder.write(INDEX, format!(r#"{{"metadata":{{"total_size":14}},"weight_map":{weight_map}}}"#));
    folder
}

#[test]
fn the_index_decides_which_shard_a_tensor_is_from() {
    let folder =
        checkpoint(r#"{"b":"2.safetensors","a":"1.safetensors","shared":"2.safetensors"}"#);
    for path in [folder.path().to_path_buf(), folder.path().join(INDEX)] {
        let map = load_safetensors(&path, MMAP).unwrap();
        assert_eq!(map.names().collect::<Vec<_>>(), ["a", "b", "shared"]);
        assert_eq!(map.get("shared").unwrap().bytes().unwrap(), b"from two");
        assert_eq!(map.files().len(), 2);
        assert_eq!(map.path(), folder.path().join(INDEX));
        assert_eq!(load_tensors(&path, MMAP).unwrap().len(), 3);
    }
}

#[test]
fn only_what_the_index_names_is_loaded() {
    let folder = checkpoint(r#"{"a":"1.safetensors"}"#);
    folder.write("model.safetensors", b"a stray file, not even well-formed");
    folder.write("consolidated.safetensors", byte_tensors(&[("a", b"stray")]));
    let map = load_safetensors(folder.path(), MMAP).unwrap();
    assert_eq!(map.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(map.get("a").unwrap().bytes().unwrap(), b"one");
    assert_eq!(map.files().len(), 1);
}

#[test]
fn every_missing_shard_is_listed() {
    let folder = checkpoint(
        r#"{"a":"1.safetensors","b":"9.safetensors","c":"8.safetensors","d":"9.safetensors"}"#,
    );
    let error = load_safetensors(folder.path(), MMAP).unwrap_err();
    assert!(matches!(error, LoadError::MissingShards { .. }));
    assert_message(&error, &[INDEX, "missing shards: 8.safetensors, 9.safetensors"]);
}

#[test]
fn tensors_missing_from_their_shard_are_listed() {
    let folder = checkpoint(r#"{"a":"2.safetensors","b":"2.safetensors","z":"1.safetensors"}"#);
    let error = load_safetensors(folder.path(), MMAP).unwrap_err();
    assert!(matches!(error, LoadError::MissingTensors { .. }));
    assert_message(&error, &[INDEX, "a (2.safetensors), z (1.safetensors)"]);
}

#[test]
fn a_damaged_shard_is_named() {
    let folder = checkpoint(r#"{"a":"1.safetensors","b":"2.safetensors"}"#);
    folder.write("2.safetensors", b"version https://git-lfs.github.com/spec/v1\n");
    let error = load_safetensors(folder.path(), MMAP).unwrap_err();
    assert!(matches!(error, LoadError::LfsPointer { .. }));
    assert_message(&error, &["2.safetensors"]);
}

#[test]
fn malformed_indexes_are_refused() {
    for (weight_map, text) in [
        ("[]", "invalid type"),
        (r#"{"a":3}"#, "invalid type: integer"),
        (r#"{"a":"1.safetensors","a":"2.safetensors"}"#, "\"a\" appears twice"),
        (r#"{"a":"../1.safetensors"}"#, "file name in the index's folder"),
        (r#"{"a":"/etc/passwd"}"#, "file name in the index's folder"),
        (r#"{"a":""}"#, "file name in the index's folder"),
    ] {
        let error = load_safetensors(checkpoint(weight_map).path(), MMAP).unwrap_err();
        assert!(matches!(error, LoadError::BadIndex { .. }), "{weight_map}: {error:?}");
        assert_message(&error, &[INDEX, text]);
    }
}

#[test]
fn an_index_of_nothing_else_is_refused() {
    let folder = Folder::new();
    for content in ["", "{}", "{\"weight_map\"", "version https://git-lfs.github.com/spec/v1\n"] {
        let path = folder.write(INDEX, content);
        assert_message(&load_safetensors(&path, MMAP).unwrap_err(), &[INDEX]);
    }
}

#[test]
fn the_metadata_of_shards_is_merged() {
    let folder = checkpoint(r#"{"a":"1.safetensors","b":"2.safetensors"}"#);
    let shard = |name: &str, metadata: &str| {
        let entry = format!(
            r#"{{"__metadata__":{metadata},"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#
        );
        safetensors(&entry, b"x")
    };
    folder.write("1.safetensors", shard("a", r#"{"format":"pt","first":"1"}"#));
    folder.write("2.safetensors", shard("b", r#"{"format":"np","second":"2"}"#));
    let map = load_safetensors(folder.path(), MMAP).unwrap();
    let text = |key: &str| map.metadata()[key].as_str();
    assert_eq!((text("format"), text("first"), text("second")), (Some("pt"), Some("1"), Some("2")));
}
