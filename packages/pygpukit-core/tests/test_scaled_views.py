"""FP8 matrices with the factors that their checkpoints store beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pygpukit.core import LoadError, Tensor, TensorMap
from weight_files import entry, safetensors_file

ml_dtypes = pytest.importorskip("ml_dtypes", reason="the oracle: ml_dtypes")

ROWS, COLUMNS = 70, 50


@pytest.fixture
def weight(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((ROWS, COLUMNS), np.float32).astype(ml_dtypes.float8_e4m3fn)


@pytest.fixture
def stored(load: Callable[..., TensorMap], weight: np.ndarray) -> Callable[..., TensorMap]:
    """The matrix `w` and its factors `s` in a file."""

    def stored(scales: np.ndarray) -> TensorMap:
        data = weight.tobytes() + scales.tobytes()
        header = {
            "w": entry("F8_E4M3", weight.shape, 0, weight.nbytes),
            "s": entry("F32", scales.shape, weight.nbytes, len(data)),
        }
        return load(safetensors_file(header, data), "model.safetensors")

    return stored


@pytest.mark.parametrize("block", [(32, 32), (128, 128), (1, COLUMNS), (ROWS, COLUMNS), (7, 3)])
def test_each_element_times_the_factor_of_its_block(
    stored: Callable[..., TensorMap],
    weight: np.ndarray,
    rng: np.random.Generator,
    block: tuple[int, int],
) -> None:
    counts = -(-ROWS // block[0]), -(-COLUMNS // block[1])
    scales = rng.uniform(0.5, 2, counts).astype(np.float32)
    tensors = stored(scales)
    spread = scales.repeat(block[0], 0)[:ROWS].repeat(block[1], 1)[:, :COLUMNS]
    expected = weight.astype(np.float32) * spread
    view = tensors["w"].scaled(tensors["s"], block)
    assert (view.dtype, view.shape) == ("float32", (ROWS, COLUMNS))
    np.testing.assert_array_equal(view.numpy(), expected)
    np.testing.assert_array_equal(view[3:66].numpy(), expected[3:66])
    np.testing.assert_array_equal(view.transpose().numpy(), expected.T)
    np.testing.assert_array_equal(view.permute_rows([5, 5, 0]).numpy(), expected[[5, 5, 0]])
    narrow = Tensor.from_safetensor(view.cast("bfloat16"))
    rounded = expected.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(narrow.numpy("float32"), rounded)


def test_what_cannot_be_scaled(stored: Callable[..., TensorMap]) -> None:
    tensors = stored(np.ones((3, 2), np.float32))
    weight, scales = tensors["w"], tensors["s"]
    with pytest.raises(LoadError, match=r'"w".*need as many scales, found \(3, 2\)|\[3, 2\]'):
        weight.scaled(scales, (64, 32))
    with pytest.raises(LoadError, match="have no scale"):
        weight.scaled(scales, (0, 32))
    with pytest.raises(LoadError, match="only a matrix"):
        weight.reshape(-1).scaled(scales, (32, 32))
