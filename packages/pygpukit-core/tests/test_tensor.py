"""Tensors: NumPy arrays in and out, views, conversions, what is refused."""

from __future__ import annotations

import array
import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pygpukit.core import Device, DeviceError, MemoryPool, Tensor
from weight_files import entry, safetensors_file

NATIVE = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
FLOATS = ["float64", "float32", "float16"]
needs_ml_dtypes = pytest.mark.skipif(
    importlib.util.find_spec("ml_dtypes") is None, reason="ml_dtypes isn't installed"
)
any_array = st.sampled_from(NATIVE).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=5))
)


def counting(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@given(array=any_array)
def test_arrays_come_back(array: np.ndarray):
    tensor = Tensor.from_numpy(array)
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype.name)
    assert (tensor.size, tensor.ndim, tensor.nbytes) == (array.size, array.ndim, array.nbytes)
    assert tensor.is_contiguous
    for found in (tensor.numpy(), tensor.numpy(copy=False), np.asarray(tensor), np.array(tensor)):
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
    if array.dtype.kind != "f" or np.isfinite(array).all():
        assert tensor.tolist() == array.tolist()


@given(array=any_array, dtype=st.sampled_from(NATIVE))
def test_conversions_are_those_of_numpy(array: np.ndarray, dtype: str):
    with np.errstate(all="ignore"):
        expected = array.astype(dtype)
        found = Tensor.from_numpy(array, dtype=np.dtype(dtype).name).numpy()
        back = Tensor.from_numpy(array).numpy(np.dtype(dtype))
        asked = np.asarray(Tensor.from_numpy(array), dtype=dtype)
    for result in (found, back, asked):
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1, ::2],
        lambda a: a.T,
        lambda a: a.astype(">f4"),
        lambda a: a.tolist(),
        lambda a: memoryview(a),
        lambda a: Tensor.from_numpy(a),
        lambda a: np.broadcast_to(a[0], (3, 4)),
    ],
    ids=[
        "fortran",
        "strided",
        "transposed",
        "big-endian",
        "lists",
        "buffer",
        "tensor",
        "broadcast",
    ],
)
def test_anything_that_numpy_makes_an_array_of(make):
    source = make(counting(6, 4))
    tensor = Tensor.from_numpy(source, "float32")
    np.testing.assert_array_equal(tensor.numpy(), np.asarray(source))


def test_buffers_need_no_numpy():
    assert Tensor.from_numpy(array.array("q", [1, -2])).tolist() == [1, -2]
    assert Tensor.from_numpy(array.array("f", [0.5])).dtype == "float32"
    assert Tensor.from_numpy(array.array("d", [0.1]), "bfloat16").tolist() == [0.10009765625]


def bits_to_float(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@given(values=arrays.arrays("f4", 16, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_needs_no_ml_dtypes(values: np.ndarray):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ml_dtypes", None)
        tensor = Tensor.from_numpy(values, "bfloat16")
        rounded = tensor.numpy("float32")
        with pytest.raises(ImportError, match="NumPy has no bfloat16: install ml_dtypes"):
            tensor.numpy()
    # To nearest, ties to even, in the arithmetic of the format's definition.
    bits = values.view(np.uint32)
    expected = bits_to_float((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    np.testing.assert_array_equal(rounded, expected)
    assert tensor.tolist() == expected.tolist()


@needs_ml_dtypes
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_types_of_ml_dtypes(dtype: str):
    import ml_dtypes

    kind = getattr(ml_dtypes, dtype)
    values = np.linspace(-3, 3, 24).reshape(4, 6).astype(kind)
    tensor = Tensor.from_numpy(values)
    assert tensor.dtype == dtype
    for found in (tensor.numpy(), np.asarray(tensor), tensor[:, 1:5:2].numpy(copy=False)):
        assert found.dtype == kind
    np.testing.assert_array_equal(tensor.numpy(), values)
    np.testing.assert_array_equal(tensor[1:, 2].numpy(), values[1:, 2])
    np.testing.assert_array_equal(tensor.numpy("float32"), values.astype(np.float32))
    assert tensor.tolist() == values.astype(float).tolist()
    assert Tensor.zeros(3, kind).dtype == dtype
    np.testing.assert_array_equal(
        Tensor.from_numpy(values.astype(np.float32), kind).numpy(), values
    )


index = st.integers(-4, 3) | st.slices(4).filter(lambda s: (s.step or 1) > 0) | st.just(...)


@given(indices=st.lists(index, max_size=3).filter(lambda i: i.count(...) < 2), single=st.booleans())
def test_indexing_is_that_of_numpy(indices, single):
    array = counting(4, 4, 4)
    tensor = Tensor.from_numpy(array)
    key = indices[0] if single and len(indices) == 1 else tuple(indices)
    view, expected = tensor[key], array[key]
    assert view.shape == expected.shape
    strides = tuple(stride // 4 for stride in np.asarray(expected).strides)
    lengths = zip(view.shape, view.strides, strides, strict=True)
    assert all(found == wanted for length, found, wanted in lengths if length > 1)
    assert view.is_contiguous == np.asarray(expected).flags.c_contiguous
    assert view.tolist() == expected.tolist()
    for found in (view.numpy(), view.numpy(copy=False), np.asarray(view)):
        np.testing.assert_array_equal(found, expected)


def test_views_see_what_is_written():
    tensor = Tensor.zeros((3, 4), "float32")
    column, row = tensor[:, 1], tensor.narrow(0, 2, 1).reshape(-1)
    column.copy_([1, 2, 3])
    row[2:].copy_(np.array([8, 9]))
    expected = [[0, 1, 0, 0], [0, 2, 0, 0], [0, 3, 8, 9]]
    assert tensor.tolist() == expected
    other = Tensor.zeros((4, 3), "float32")
    assert other[1:, :2].copy_(tensor[:, 2:]) is not other
    assert other.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [8, 9, 0]]
    assert row.data_ptr == tensor.data_ptr + 2 * 4 * 4
    assert (row.pool, row.device) == (tensor.pool, Device("cpu"))


def test_scalars_and_shapes():
    assert Tensor.from_numpy(2.5).item() == 2.5
    assert Tensor.from_numpy([[True]]).item() is True
    assert Tensor.zeros((), "int8").tolist() == 0
    assert len(Tensor.zeros((3, 0), "int8")) == 3
    assert list(map(Tensor.tolist, Tensor.from_numpy(counting(2, 2)))) == [[0, 1], [2, 3]]
    assert Tensor.empty(3, np.float16).shape == (3,)
    assert Tensor.zeros([2, 3], float).reshape((3, -1)).shape == (3, 2)
    assert repr(Tensor.zeros((2, 3), "float32")) == "<Tensor float32 [2, 3] on cpu>"
    with pytest.raises(ValueError, match=r"one element, found shape \[2\]"):
        Tensor.zeros(2, "float32").item()
    with pytest.raises(TypeError, match="without dimensions has no length"):
        len(Tensor.zeros((), "float32"))


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        (lambda t: t[3], IndexError, "index 3 is out of range for dimension 0 of length 3"),
        (lambda t: t[0, -5], IndexError, "index -5 is out of range for dimension 1 of length 4"),
        (lambda t: t[0, 0, 0], IndexError, r"at most 2 indices and one `...`, found \(0, 0, 0\)"),
        (lambda t: t[..., ...], IndexError, "at most 2 indices and one"),
        (lambda t: t[::-1], ValueError, "needs a positive step"),
        (lambda t: t[None], TypeError, "indexed by whole numbers, slices and `...`"),
        (lambda t: t["a"], TypeError, "indexed by whole numbers, slices and `...`"),
        (lambda t: t.narrow(2, 0, 1), IndexError, "dimension 2 is out of range for a tensor of 2"),
        (lambda t: t.narrow(1, 3, 2), ValueError, "elements 3 to 5 leave dimension 1 of length 4"),
        (lambda t: t.reshape(5), ValueError, r"\[3, 4\] can't be viewed as shape \[5\]"),
        (lambda t: t.reshape(-1, -1), ValueError, r"can't view 12 elements as shape \[-1, -1\]"),
        (lambda t: t[:, :2].reshape(6), ValueError, "isn't contiguous; copy it first"),
        (lambda t: t.copy_(np.zeros(3)), ValueError, r"of shape \[3, 4\], found \[3\]"),
        (
            lambda t: t.copy_(Tensor.zeros((3, 4), "float16")),
            ValueError,
            r"expected a float32 tensor of shape \[3, 4\] on cpu, found a float16 tensor",
        ),
        (lambda t: t.numpy("float64", copy=False), ValueError, "copy=False rules that out"),
        (lambda t: Tensor.zeros(2, "float33"), ValueError, 'unknown dtype "float33"; expected one'),
        (lambda t: Tensor.zeros(2, "<f4"), ValueError, "unknown dtype"),
        (lambda t: Tensor.zeros(2, None), TypeError, "expected a dtype, found None"),
        (lambda t: Tensor.zeros(-1, "int8"), ValueError, r"lengths of 0 or more, found \[-1\]"),
        (lambda t: Tensor.zeros("3", "int8"), TypeError, "expected a shape"),
        (lambda t: Tensor.from_numpy("text"), TypeError, "an array of dtype str"),
        (lambda t: Tensor.from_numpy([1j]), TypeError, "dtype complex128 can't be a tensor"),
        (lambda t: Tensor.zeros(1, "q4_0"), ValueError, "packs 32 consecutive elements"),
        (lambda t: Tensor.zeros(1, "int8", device="tpu"), DeviceError, 'unknown device "tpu"'),
        (lambda t: Tensor.zeros(1, "int8", device=0), TypeError, "a Device or its name"),
        (lambda t: Tensor(), TypeError, "cannot create"),
    ],
)
def test_what_is_refused(refused, error, message):
    tensor = Tensor.from_numpy(counting(3, 4))
    with pytest.raises(error, match=message):
        refused(tensor)
    np.testing.assert_array_equal(tensor.numpy(), counting(3, 4))


def test_from_safetensor_keeps_or_converts_the_type(load, pool: MemoryPool):
    values = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    content = safetensors_file({"x": entry("F32", [3, 4], 0, 48)}, values.tobytes())
    view = load(content)["x"]
    tensor = Tensor.from_safetensor(view, pool=pool)
    assert (tensor.dtype, tensor.shape, tensor.pool) == ("float32", (3, 4), pool)
    np.testing.assert_array_equal(tensor.numpy(), values)
    half = Tensor.from_safetensor(view, dtype="float16", device="cpu")
    np.testing.assert_array_equal(half.numpy(), values.astype(np.float16))
    transposed = Tensor.from_safetensor(view[1:].transpose(), pool=pool)
    np.testing.assert_array_equal(transposed.numpy(), values[1:].T)
    target = Tensor.zeros((2, 3, 4), "float64", pool=pool)
    target[1].copy_(view)
    target.wait()
    assert target.ready
    np.testing.assert_array_equal(target.numpy()[1], values.astype(np.float64))
    assert not target.numpy()[0].any()
    # A tensor's memory is its own: the file's is read-only.
    tensor.copy_(np.zeros((3, 4)))
    np.testing.assert_array_equal(view.numpy(), values)


def test_devices():
    cpu = Device("cpu")
    assert (cpu.name, str(cpu), repr(cpu)) == ("cpu", "cpu", "Device('cpu')")
    assert cpu == Device(cpu) == Device(name="cpu")
    assert len({cpu, Device("cpu")}) == 1
    info = cpu.info()
    assert info.name
    assert info.cores >= 1
    assert info.available_memory > 0
    assert info.total_memory > 0
    for name in ("", "CPU", "cuda:x", "tpu"):
        with pytest.raises(
            DeviceError, match=f'unknown device "{name}"; expected "auto", "cpu", "cuda"'
        ):
            Device(name)
    with pytest.raises(TypeError, match="expected a Device or its name, found <class 'int'>"):
        Device(0)


def test_what_is_fetched_is_what_was_there():
    tensor = Tensor.from_numpy(np.arange(6, dtype=np.int32).reshape(2, 3))
    whole, column = tensor.fetch(), tensor.narrow(1, 1, 1).fetch()
    tensor.copy_(np.zeros((2, 3), np.int32))
    assert whole.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert column.tolist() == [[1], [4]]
    with pytest.raises(ValueError, match="have been taken"):
        whole.tolist()
