"""Checkpoints of several files, put together by an index."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pygpukit.core import LoadError, MissingFileError, load_safetensors, load_tensors
from weight_files import LFS_POINTER, byte_tensors, entry, safetensors_file

INDEX = "model.safetensors.index.json"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with two shards, each with a tensor of its own and one called "both"."""
    (tmp_path / "1.safetensors").write_bytes(byte_tensors(a=b"one", both=b"first"))
    (tmp_path / "2.safetensors").write_bytes(byte_tensors(b=b"two", both=b"second"))
    return tmp_path


def write_index(folder: Path, weight_map: object) -> Path:
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 11}, "weight_map": weight_map}))
    return path


def test_the_index_says_which_shard_a_tensor_is_from(checkpoint: Path):
    weight_map = {"b": "2.safetensors", "both": "2.safetensors", "a": "1.safetensors"}
    index = write_index(checkpoint, weight_map)
    for path in (index, checkpoint):
        for load in (load_safetensors, load_tensors):
            tensors = load(path)
            assert tensors.path == index
            assert tensors.files == [checkpoint / "1.safetensors", checkpoint / "2.safetensors"]
            assert {name: view.numpy().tobytes() for name, view in tensors.items()} == {
                "a": b"one",
                "b": b"two",
                "both": b"second",
            }
            assert {n: view.file.name for n, view in tensors.items()} == weight_map


def test_only_what_the_index_names_is_opened(checkpoint: Path):
    write_index(checkpoint, {"a": "1.safetensors"})
    (checkpoint / "2.safetensors").write_bytes(b"a stray file that isn't well-formed")
    (checkpoint / "model.safetensors").write_bytes(byte_tensors(a=b"stray"))
    tensors = load_safetensors(checkpoint)
    assert {name: view.numpy().tobytes() for name, view in tensors.items()} == {"a": b"one"}


def test_shards_without_an_index_are_not_guessed_at(checkpoint: Path):
    with pytest.raises(LoadError, match=r"several weight files.*: 1\.safetensors, 2\.safetensors"):
        load_safetensors(checkpoint)


def test_every_missing_shard_is_named(checkpoint: Path):
    write_index(checkpoint, {"a": "1.safetensors", "c": "9.safetensors", "d": "8.safetensors"})
    with pytest.raises(MissingFileError, match=r"missing shards: 8\.safetensors, 9\.safetensors$"):
        load_safetensors(checkpoint)


def test_every_tensor_that_is_not_in_its_shard_is_named(checkpoint: Path):
    write_index(checkpoint, {"a": "2.safetensors", "b": "2.safetensors", "z": "1.safetensors"})
    expected = r"missing from their shards: a \(2\.safetensors\), z \(1\.safetensors\)$"
    with pytest.raises(LoadError, match=expected):
        load_safetensors(checkpoint)


@pytest.mark.parametrize("content", [LFS_POINTER, b"", byte_tensors(b=b"two")[:-1]])
def test_a_damaged_shard_is_named(checkpoint: Path, content: bytes):
    write_index(checkpoint, {"a": "1.safetensors", "b": "2.safetensors"})
    (checkpoint / "2.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match=r"2\.safetensors: "):
        load_safetensors(checkpoint)


@pytest.mark.parametrize(
    "shard", ["../1.safetensors", "sub/../../1.safetensors", "/etc/passwd", "..", ".", "", "a/b"]
)
def test_an_index_cannot_lead_out_of_its_folder(checkpoint: Path, shard: str):
    folder = checkpoint / "model"
    folder.mkdir()
    write_index(folder, {"a": shard})
    with pytest.raises(LoadError, match=r'"a" is said to be in .*file name in the index\'s folder'):
        load_safetensors(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links_into_another_folder_are_followed(checkpoint: Path):
    """As a hub's cache has them: the snapshot's files are links to blobs beside it."""
    snapshot = checkpoint / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    write_index(checkpoint, {"a": "1.safetensors", "b": "2.safetensors"})
    for name in ("1.safetensors", "2.safetensors", INDEX):
        (snapshot / name).symlink_to(Path("../..") / name)
    tensors = load_safetensors(snapshot)
    assert tensors["b"].numpy().tobytes() == b"two"
    (checkpoint / "2.safetensors").unlink()
    assert tensors["b"].numpy().tobytes() == b"two"
    with pytest.raises(MissingFileError, match=r"missing shards: 2\.safetensors"):
        load_safetensors(snapshot)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("", "EOF"),
        ("{}", "weight_map"),
        ('{"weight_map": []}', "invalid type"),
        ('{"weight_map": {"a": 1}}', "invalid type: integer"),
        ('{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', '"a" appears twice'),
        (LFS_POINTER.decode(), "Git LFS pointer"),
    ],
)
def test_a_malformed_index_is_refused(checkpoint: Path, index: str, reason: str):
    (checkpoint / INDEX).write_text(index)
    with pytest.raises(LoadError, match=f"{INDEX}: .*{reason}"):
        load_safetensors(checkpoint)


def test_metadata_is_merged_and_the_first_shard_is_heard(checkpoint: Path):
    for name, tensor, metadata in (
        ("1.safetensors", "a", {"format": "pt", "one": "1"}),
        ("2.safetensors", "b", {"format": "np", "two": "2"}),
    ):
        header = {"__metadata__": metadata, tensor: entry("U8", [1], 0, 1)}
        (checkpoint / name).write_bytes(safetensors_file(header, b"x"))
    write_index(checkpoint, {"b": "2.safetensors", "a": "1.safetensors"})
    metadata = load_safetensors(checkpoint).metadata
    assert dict(metadata) == {"format": "pt", "one": "1", "two": "2"}
