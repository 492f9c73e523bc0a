"""Well-formed safetensors files, as the safetensors package writes them."""

from __future__ import annotations

import importlib.util
import sys
import tracemalloc
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pygpukit.core import (
    LoadError,
    MissingFileError,
    UnknownTensorError,
    load_safetensors,
    load_tensors,
)
from weight_files import byte_tensors, entry, safetensors_file

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="the oracle: safetensors")

NATIVE = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
EXTENDED = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
needs_ml_dtypes = pytest.mark.skipif(
    importlib.util.find_spec("ml_dtypes") is None, reason="ml_dtypes isn't installed"
)
text = st.text(max_size=6)
array = st.sampled_from(NATIVE).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=5))
)


@given(
    tensors=st.dictionaries(st.text(max_size=12), array, max_size=6),
    # With neither tensors nor metadata safetensors 0.8 writes a file that it can't read itself.
    metadata=st.none() | st.dictionaries(text, text, min_size=1, max_size=3),
    mmap=st.booleans(),
)
def test_any_file_comes_back(tmp_path: Path, tensors, metadata, mmap):
    tensors.pop("__metadata__", None)
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(tensors, path, metadata)
    loaded = load_safetensors(path, mmap=mmap)
    assert set(loaded) == set(tensors)
    assert dict(loaded.metadata) == (metadata or {})
    assert loaded.nbytes == sum(array.nbytes for array in tensors.values())
    content = path.read_bytes()
    for name, expected in tensors.items():
        view = loaded[name]
        found = view.numpy()
        assert (view.name, view.dtype, view.shape) == (name, expected.dtype.name, expected.shape)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes() == content[slice(*view.byte_range)]
        assert view.file == path


@needs_ml_dtypes
@pytest.mark.parametrize("dtype", EXTENDED)
def test_types_of_ml_dtypes_come_back(tmp_path: Path, dtype: str):
    import ml_dtypes

    width = np.dtype(getattr(ml_dtypes, dtype)).itemsize
    bits = np.arange(256**width, dtype=f"u{width}").reshape(16, -1)
    path = tmp_path / "model.safetensors"
    name = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}[dtype]
    header = {"x": entry(name, bits.shape, 0, bits.nbytes)}
    path.write_bytes(safetensors_file(header, bits.tobytes()))
    view = load_safetensors(path)["x"]
    assert view.dtype == dtype
    assert view.numpy().dtype == getattr(ml_dtypes, dtype)
    np.testing.assert_array_equal(view.numpy().view(bits.dtype), bits)
    # Each value, NaN included, as the library that defines the type converts it.
    np.testing.assert_array_equal(
        view.cast("float32").numpy(), bits.view(getattr(ml_dtypes, dtype)).astype(np.float32)
    )


@pytest.mark.parametrize("dtype", EXTENDED)
def test_without_ml_dtypes_the_error_says_what_to_do(load, monkeypatch, dtype: str):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    name = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}[dtype]
    width = 2 if dtype == "bfloat16" else 1
    content = bytes.fromhex("803f")[-width:] if dtype == "bfloat16" else b"\x38"
    view = load(safetensors_file({"x": entry(name, [1], 0, width)}, content))["x"]
    with pytest.raises(ImportError, match=f"NumPy has no {dtype}: install ml_dtypes, or convert"):
        view.numpy()
    assert view.cast(np.float32).numpy() == np.asarray(view, np.float32)
    assert np.asarray(view, np.float32) == (0.5 if dtype == "float8_e5m2" else 1.0)


def test_a_map_is_a_mapping(load):
    tensors = load(byte_tensors(b=b"12", a=b"3"))
    assert list(tensors) == list(tensors.keys()) == ["b", "a"]
    assert [view.name for view in tensors.values()] == ["b", "a"]
    assert [(name, view.nbytes) for name, view in tensors.items()] == [("b", 2), ("a", 1)]
    assert len(tensors) == 2
    assert "a" in tensors
    assert "c" not in tensors
    assert 1 not in tensors
    assert tensors.get("c") is None
    assert tensors.get("c", "nothing") == "nothing"
    assert "2 tensors, 3 bytes" in repr(tensors)
    assert 'TensorView("b", uint8, shape=[2])' in repr(tensors["b"])


def test_an_unknown_name_brings_the_close_ones(load):
    tensors = load(byte_tensors(**{"model.layers.0.weight": b"1", "lm_head": b"2"}))
    with pytest.raises(UnknownTensorError) as caught:
        tensors["model.layer.0.weight"]
    assert str(caught.value).endswith(
        'file.safetensors: no tensor named "model.layer.0.weight"; '
        "did you mean model.layers.0.weight?"
    )
    with pytest.raises(KeyError):
        tensors.metadata["format"]


def test_paths_of_any_kind_and_folders(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(byte_tensors(x=b"1"))
    for given_path in (path, str(path), tmp_path, str(tmp_path)):
        tensors = load_safetensors(given_path)
        assert (tensors.path, tensors.files) == (path, [path])
    (tmp_path / "other.safetensors").write_bytes(byte_tensors(y=b"1"))
    assert list(load_tensors(tmp_path)) == ["x"]
    path.unlink()
    assert list(load_tensors(tmp_path)) == ["y"]
    (tmp_path / "other.safetensors").unlink()
    with pytest.raises(LoadError, match="no weights in this folder"):
        load_tensors(tmp_path)
    with pytest.raises(MissingFileError, match=r"model\.safetensors: no such file or folder"):
        load_safetensors(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows fills a file that is extended")
def test_16_gigabytes_open_in_milliseconds_and_no_memory(tmp_path: Path):
    rows, columns = 1 << 20, 1 << 13
    header = {"x": entry("BF16", [rows, columns], 0, rows * columns * 2)}
    start = safetensors_file(header)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(start)
        try:
            file.truncate(len(start) + rows * columns * 2)
        except OSError as error:
            pytest.skip(f"no sparse files here: {error}")
    before = resident_bytes()
    tracemalloc.start()
    times = []
    for _ in range(3):
        began = perf_counter()
        tensors = load_safetensors(path)
        times.append(perf_counter() - began)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert min(times) < 0.02
    assert peak < 1 << 20
    assert tensors["x"].nbytes == 16 << 30
    last = tensors["x"][rows - 1 :].cast("float32").numpy()
    assert (last.shape, last.any()) == ((1, columns), np.False_)
    assert resident_bytes() - before < 16 << 20


def resident_bytes() -> int:
    """The memory that this process holds; 0 where the system doesn't say it in /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096
