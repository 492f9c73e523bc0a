"""MXFP4 weights as safetensors checkpoints store them: blocks, and exponents beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pygpukit.core import LoadError, Tensor, TensorMap
from weight_files import entry, safetensors_file

ROWS, BLOCKS = 70, 33
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
Stored = Callable[..., TensorMap]


@pytest.fixture
def stored(load: Callable[..., TensorMap]) -> Stored:
    """Tensors of bytes in a file."""

    def stored(**arrays: np.ndarray) -> TensorMap:
        data, header = b"", {}
        for name, array in arrays.items():
            end = len(data) + array.nbytes
            kind = "U8" if array.dtype == np.uint8 else "I8"
            header[name] = entry(kind, array.shape, len(data), end)
            data += array.tobytes()
        return load(safetensors_file(header, data), "model.safetensors")

    return stored


def test_elements_are_those_of_the_format(stored: Stored, rng: np.random.Generator) -> None:
    blocks = rng.integers(0, 256, (ROWS, BLOCKS, 16), np.uint8)
    exponents = rng.integers(0, 256, (ROWS, BLOCKS), np.uint8)
    exponents[0, :4] = 0, 1, 2, 252
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(ROWS, BLOCKS, 32)
    values = np.where(codes & 8, -1, 1) * MAGNITUDES[codes & 7].astype(np.float64)
    with np.errstate(over="ignore"):
        scaled = np.ldexp(values, exponents[..., None].astype(int) - 127)
        expected = scaled.astype(np.float32).reshape(ROWS, -1)
    tensors = stored(b=blocks, s=exponents)
    view = tensors["b"].mxfp4(tensors["s"])
    assert (view.dtype, view.shape) == ("float32", (ROWS, 32 * BLOCKS))
    np.testing.assert_array_equal(view.numpy(), expected)
    np.testing.assert_array_equal(view[3:66].numpy(), expected[3:66])
    np.testing.assert_array_equal(view[3:66][2:5].numpy(), expected[5:8])
    np.testing.assert_array_equal(view.transpose().numpy(), expected.T)
    np.testing.assert_array_equal(view.permute_rows([5, 5, 0]).numpy(), expected[[5, 5, 0]])
    # They are exact in bfloat16, too, but for a few that are infinite in both.
    narrow = Tensor.from_safetensor(view.cast("bfloat16"))
    np.testing.assert_array_equal(narrow.numpy("float32"), expected)


def test_rows_are_taken_before_they_are_decoded(stored: Stored, rng: np.random.Generator) -> None:
    blocks = rng.integers(0, 256, (4, 6, 2, 16), np.uint8)
    exponents = rng.integers(100, 150, (4, 6, 2), np.uint8)
    tensors = stored(b=blocks, s=exponents)
    whole = tensors["b"].mxfp4(tensors["s"]).numpy()
    assert whole.shape == (4, 6, 64)
    part = tensors["b"][2:3].reshape(6, 2, 16).mxfp4(tensors["s"][2:3].reshape(6, 2))
    np.testing.assert_array_equal(part.numpy(), whole[2])


def test_what_is_not_mxfp4(stored: Stored) -> None:
    tensors = stored(
        b=np.zeros((3, 2, 16), np.uint8),
        flat=np.zeros((3, 32), np.uint8),
        few=np.zeros((3, 1), np.uint8),
        signed=np.zeros((3, 2), np.int8),
    )
    blocks = tensors["b"]
    with pytest.raises(LoadError, match="16 bytes in their last dimension"):
        tensors["flat"].mxfp4(tensors["few"])
    with pytest.raises(LoadError, match=r'"b".*need a scale each, found \[3, 1\] in "few"'):
        blocks.mxfp4(tensors["few"])
    with pytest.raises(LoadError, match="must be uint8, found uint8 and int8"):
        blocks.mxfp4(tensors["signed"])
