"""Tensors in a weight file, as arrays: what is shared, what is computed, how long it lives."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygpukit.core import LoadError, TensorMap, TensorView, load_safetensors
from weight_files import entry, safetensors_file

NUMPY = np.lib.NumpyVersion(np.__version__)


@pytest.fixture
def matrix() -> np.ndarray:
    return np.arange(-11, 13, dtype=np.float32).reshape(6, 4) / 3


@pytest.fixture
def view(load, matrix: np.ndarray) -> TensorView:
    return load(float32_file(matrix))["x"]


def float32_file(array: np.ndarray) -> bytes:
    return safetensors_file({"x": entry("F32", array.shape, 0, array.nbytes)}, array.tobytes())


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_arrays_share_the_file_and_are_read_only(view: TensorView, matrix: np.ndarray):
    arrays = [view.numpy(), np.asarray(view), view.raw()]
    if NUMPY >= "2.1.0":  # from which on it knows of read-only memory
        arrays.append(np.from_dlpack(view))
    for array in arrays:
        assert address(array) == address(arrays[0])
        assert not array.flags.writeable
        assert not array.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    np.testing.assert_array_equal(arrays[0], matrix)
    assert address(view[2:5].numpy()) == address(arrays[0]) + 2 * 16
    assert address(view.reshape(2, -1).numpy()) == address(arrays[0])


def test_arrays_outlive_the_map_and_the_file(tmp_path: Path, matrix: np.ndarray):
    path = tmp_path / "model.safetensors"
    path.write_bytes(float32_file(matrix))
    tensors = load_safetensors(path)
    arrays = [tensors["x"].numpy(), np.from_dlpack(tensors["x"]), tensors["x"][3:].numpy()]
    view = tensors["x"][1:].cast("float64")
    del tensors
    if sys.platform != "win32":  # which keeps the file of a mapping
        path.unlink()
    gc.collect()
    np.testing.assert_array_equal(arrays[0], matrix)
    np.testing.assert_array_equal(arrays[1], matrix)
    np.testing.assert_array_equal(arrays[2], matrix[3:])
    np.testing.assert_array_equal(view.numpy(), matrix[1:].astype(np.float64))


def test_copies_are_made_where_they_are_asked_for(view: TensorView, matrix: np.ndarray):
    for copy in (
        np.array(view),
        np.array(view, copy=True),
        view.cast("float64").numpy(),
        view.transpose().numpy().T,
        np.asarray(view, dtype=np.float64),
        np.asarray(view, dtype=np.complex64),
    ):
        assert copy.flags.writeable
        copy[0, 0] = 99
        np.testing.assert_array_equal(copy.flat[1:], matrix.flat[1:])
    assert view.numpy()[0, 0] == matrix[0, 0]
    np.testing.assert_array_equal(np.from_dlpack(view.permute_rows(range(6))), matrix)


@pytest.mark.skipif(NUMPY < "2.0.0", reason="copy=False means something else before NumPy 2")
def test_a_copy_that_was_ruled_out_is_an_error(view: TensorView):
    assert address(np.asarray(view, copy=False)) == address(view.numpy())
    for refused in (
        lambda: np.asarray(view.transpose(), copy=False),
        lambda: np.asarray(view, dtype=np.float64, copy=False),
        lambda: np.asarray(view, dtype=np.complex64, copy=False),
    ):
        with pytest.raises(ValueError, match="copy"):
            refused()
    with pytest.raises(BufferError, match="computed"):
        view.transpose().__dlpack__(max_version=(1, 0), copy=False)


def test_consumers_of_old_dlpack_get_a_copy(view: TensorView, matrix: np.ndarray):
    """Before version 1.0 a capsule couldn't say that it is read-only."""

    class Old:
        def __dlpack__(self, **_: object) -> object:
            return view.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return view.__dlpack_device__()

    array = np.from_dlpack(Old())
    np.testing.assert_array_equal(array, matrix)
    assert address(array) != address(view.numpy())
    with pytest.raises(BufferError, match="read-only"):
        view.__dlpack__(copy=False)
    with pytest.raises(BufferError, match=r"exported to \(2, 0\)"):
        view.__dlpack__(dl_device=(2, 0))


def test_elements_that_are_not_aligned_are_shared_with_numpy_and_copied_for_dlpack(load):
    values = np.float32([1.5, -2.0])
    header = {"pad": entry("U8", [1], 0, 1), "x": entry("F32", [2], 1, 9)}
    for padding in range(4):
        text = safetensors_file(header)[8:].decode() + " " * padding
        view = load(safetensors_file(text, b"p" + values.tobytes()))["x"]
        np.testing.assert_array_equal(view.numpy(), values)
        np.testing.assert_array_equal(np.from_dlpack(view), values)
        np.testing.assert_array_equal(view.cast("float64").numpy(), values)
        assert not view.numpy().flags.writeable
        assert np.from_dlpack(view).flags.aligned


def test_rows(view: TensorView, matrix: np.ndarray):
    for rows in (slice(2, 5), slice(-2, None), slice(None), slice(4, 2), slice(5, 99)):
        np.testing.assert_array_equal(view[rows].numpy(), matrix[rows])
    with pytest.raises(TypeError, match=r"view\[start:stop\]"):
        view[0]
    with pytest.raises(ValueError, match="step of 1, found 2"):
        view[::2]
    start, stop = view[2:3].byte_range
    assert (start - view.byte_range[0], stop - start) == (32, 16)


def test_what_a_tensor_does_not_allow_names_file_and_tensor(view: TensorView, load):
    named = r'file\.safetensors: tensor "x" of shape \[6, 4\]: '
    for refused, reason in (
        (lambda: view.reshape(5, 5), r"24 elements can't be reshaped to \[5, 5\]"),
        (lambda: view.permute_rows([0, 6]), "no row 6, the first dimension is 6"),
    ):
        with pytest.raises(LoadError, match=named + reason):
            refused()
    with pytest.raises(LoadError, match="only a matrix"):
        view.reshape(-1).transpose()
    with pytest.raises(ValueError, match="row numbers of 0 or more, found -1"):
        view.permute_rows([-1])
    with pytest.raises(ValueError, match=r"can't view 24 elements as shape \[-1, -1\]"):
        view.reshape(-1, -1)
    with pytest.raises(LoadError, match="no conversion from float32 to int32"):
        view.cast("int32")
    with pytest.raises(ValueError, match='unknown dtype "float33"; expected one of float64, '):
        view.cast("float33")
    integers = load(safetensors_file({"i": entry("I32", [1], 0, 4)}, bytes(4)))["i"]
    with pytest.raises(LoadError, match='tensor "i": no conversion from int32 to float32'):
        integers.cast(np.float32)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    steps=st.lists(st.sampled_from(["cast", "transpose", "permute", "rows", "flip"]), max_size=5),
    data=st.data(),
)
def test_chains_of_views_are_what_numpy_makes_of_them(load, rows, columns, steps, data):
    expected = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    view = load(float32_file(expected))["x"]
    for step in steps:
        length = len(expected)
        if step == "cast":
            dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))
            view, expected = view.cast(dtype), expected.astype(dtype)
        elif step == "transpose":
            view, expected = view.transpose(), expected.T
        elif step == "permute":
            order = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=50))
            view, expected = view.permute_rows(np.array(order)), expected[order]
        elif step == "rows":
            start = data.draw(st.integers(0, length - 1))
            stop = data.draw(st.integers(start + 1, length))
            view, expected = view[start:stop], expected[start:stop]
        else:
            view, expected = view.reshape(expected.shape[::-1]), expected.reshape(expected.T.shape)
    found = view.numpy()
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert (view.dtype, view.nbytes) == (expected.dtype.name, expected.nbytes)
    np.testing.assert_array_equal(found, expected)


def test_released_memory_is_read_again(view: TensorView, matrix: np.ndarray):
    array = view.numpy()
    view.release()
    np.testing.assert_array_equal(array, matrix)


def test_the_file_is_open_as_long_as_it_is_needed(tmp_path: Path):
    """Many maps one after the other: neither files nor mappings are left behind."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps here")
    path = tmp_path / "kept-open.safetensors"
    path.write_bytes(float32_file(np.zeros((4, 4), np.float32)))

    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(path.name)

    tensors: TensorMap | None = load_safetensors(path)
    view = tensors["x"]
    array = view[1:].numpy()
    assert mappings() == 1
    del tensors, view
    assert mappings() == 1
    del array
    assert mappings() == 0
    load_safetensors(path, mmap=False)
    assert mappings() == 0
