"""Tensors that share memory with other libraries' arrays through DLPack."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pygpukit.core import MemoryPool, Tensor

# Before, NumPy took every array that it imported as read-only.
needs_numpy_2_1 = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy before 2.1 has DLPack 0.8"
)


class Old:
    """A producer of before DLPack 1.0, whose methods know no options."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self) -> object:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Array(np.ndarray):
    """One that can be referred to weakly."""


@needs_numpy_2_1
@given(
    array=st.sampled_from(
        ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"]
    ).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    old=st.booleans(),
)
def test_arrays_are_shared_both_ways(array: np.ndarray, old: bool):
    tensor = Tensor.from_dlpack(Old(array) if old else array)
    assert (tensor.dtype, tensor.shape) == (array.dtype.name, array.shape)
    back = np.from_dlpack(tensor)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    if array.size:
        assert tensor.data_ptr == array.__array_interface__["data"][0]
        back[...] = 1
        assert (array == 1).all()
        assert (tensor.numpy() == 1).all()


def test_strides_are_shared_too():
    array = np.arange(24.0).reshape(4, 6)
    tensor = Tensor.from_dlpack(array[1:, ::2])
    assert (tensor.shape, tensor.strides, tensor.is_contiguous) == ((3, 3), (6, 2), False)
    tensor[0].copy_([7, 8, 9])
    np.testing.assert_array_equal(array[1], [7, 7, 8, 9, 9, 11])
    transposed = Tensor.from_dlpack(array.T)
    assert transposed.strides == (1, 6)
    np.testing.assert_array_equal(np.from_dlpack(transposed[2:4]), array.T[2:4])
    assert Tensor.from_dlpack(tensor).data_ptr == tensor.data_ptr


@needs_numpy_2_1
def test_memory_lives_as_long_as_either_side_needs_it(pool: MemoryPool):
    array = np.zeros(100).view(Array)
    gone = weakref.ref(array)
    tensor = Tensor.from_dlpack(array, pool=pool)[10:]
    del array
    gc.collect()
    assert gone() is not None
    del tensor
    gc.collect()
    assert gone() is None

    tensor = Tensor.zeros(100, "float32", pool=pool)
    array = np.from_dlpack(tensor)
    del tensor
    array[:] = 1
    assert pool.stats().live_blocks == 1
    del array
    assert pool.stats().live_blocks == 0
    # A capsule that nobody takes frees what it holds.
    capsule = Tensor.zeros(100, "float32", pool=pool).__dlpack__()
    assert pool.stats().live_blocks == 1
    del capsule
    assert pool.stats().live_blocks == 0


def test_results_go_to_the_pool(pool: MemoryPool):
    tensor = Tensor.from_dlpack(np.zeros(3), pool=pool)
    assert tensor.pool == pool
    assert pool.stats().allocations == 0
    assert Tensor.from_dlpack(np.zeros(3)).pool == tensor.device.pool


@needs_numpy_2_1
def test_a_copy_is_made_where_it_is_asked_for():
    tensor = Tensor.zeros((2, 2), "float32")
    shared = np.from_dlpack(tensor)

    class Copied:
        def __dlpack__(self, **_: object) -> object:
            return tensor[:, 1].__dlpack__(max_version=(1, 0), copy=True)

        def __dlpack_device__(self) -> tuple[int, int]:
            return tensor.__dlpack_device__()

    copied = np.from_dlpack(Copied())
    shared[...] = 1
    assert copied.tolist() == [0, 0]
    assert tensor.tolist() == [[1, 1], [1, 1]]


def unaligned() -> np.ndarray:
    return np.zeros(9, np.uint8)[1:].view(np.float32)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3)[::-1], "can't have strides"),
        (np.zeros(3, complex), "a tensor can't have .* elements"),
        (unaligned(), "aligned"),
    ],
    ids=["negative stride", "complex", "unaligned"],
)
def test_arrays_that_no_tensor_can_be_made_of(array: np.ndarray, message: str):
    with pytest.raises(BufferError, match=message):
        Tensor.from_dlpack(array)


def test_read_only_arrays_and_other_objects_are_refused():
    array = np.zeros(3)
    array.flags.writeable = False
    with pytest.raises(BufferError, match=r"read-?only"):
        Tensor.from_dlpack(array)
    with pytest.raises(TypeError, match="does not support the DLPack protocol"):
        Tensor.from_dlpack([1, 2])
    with pytest.raises(BufferError, match=r"exported to \(2, 0\)"):
        Tensor.zeros(1, "int8").__dlpack__(dl_device=(2, 0))
