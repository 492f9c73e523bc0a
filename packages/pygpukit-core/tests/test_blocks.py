"""Weights that stay in ggml's blocks in memory, against NumPy in float64 on dequantised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygpukit.core import KernelDispatchController, LaunchError, Tensor, load_gguf
from weight_files import gguf_file, gguf_tensor

gguf = pytest.importorskip("gguf", reason="the oracle: gguf")

KINDS = ["Q8_0", "Q4_0", "Q4_1"]
RELU = 5
"""The activation's number."""


def quantised(tmp_path: Path, kind: str, numbers: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The numbers in blocks, as a tensor of that type, and what they have become, in float64."""
    enum = gguf.GGMLQuantizationType[kind]
    stored = gguf.quants.quantize(numbers.reshape(-1, numbers.shape[-1]), enum)
    values = gguf.quants.dequantize(stored, enum).reshape(numbers.shape)
    return stored_tensor(tmp_path, kind, numbers.shape, stored.tobytes()), values.astype(np.float64)


def stored_tensor(tmp_path: Path, kind: str, shape: Sequence[int], stored: bytes) -> Tensor:
    described = gguf_tensor("w", shape[::-1], gguf.GGMLQuantizationType[kind], 0)
    file = tmp_path / "blocks.gguf"
    file.write_bytes(gguf_file([described], stored + bytes(-len(stored) % 32)))
    return Tensor.from_safetensor(load_gguf(file)["w"])


def linear(
    controller: KernelDispatchController, x: Tensor, weight: Tensor, outputs: int, gated: bool
) -> np.ndarray:
    out = Tensor.empty((x.shape[0], outputs), "float32")
    args = (x, weight, None, 0, None, None, 0.0, 0.0, None, out, RELU if gated else 0, gated, 1.0)
    controller.launch("linear", args)
    return out.numpy()


@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_linear_reads_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    controller: KernelDispatchController,
    kind: str,
    data: st.DataObject,
):
    tokens, outputs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    inputs, gated = 32 * data.draw(st.integers(1, 70)), data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    numbers = rng.standard_normal(((1 + gated) * outputs, inputs)).astype(np.float32)
    weight, w = quantised(tmp_path_factory.mktemp("blocks"), kind, numbers)
    x = rng.standard_normal((tokens, inputs)).astype(np.float32)
    found = linear(controller, Tensor.from_numpy(x), weight, outputs, gated)
    expected, size = x.astype(np.float64) @ w.T, np.abs(x).astype(np.float64) @ np.abs(w.T)
    if gated:
        gate, other = np.split(expected, 2, axis=1)
        expected, size = np.maximum(gate, 0) * other, np.multiply(*np.split(size, 2, axis=1))
    assert (np.abs(found - expected) <= 1e-6 * size).all()
    for rows in (1, 2, 3):  # as many at once as there may be in registers, and all of them
        some = linear(controller, Tensor.from_numpy(x[-rows:]), weight, outputs, gated)
        np.testing.assert_array_equal(some, found[-rows:])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_experts_and_slices(
    tmp_path: Path, controller: KernelDispatchController, rng: np.random.Generator, kind: str
):
    numbers = rng.standard_normal((3, 8, 96)).astype(np.float32)
    weight, w = quantised(tmp_path, kind, numbers)
    x = rng.standard_normal((4, 96)).astype(np.float32)
    chosen: Sequence[Sequence[int]] = [[0, 2], [1, 2], [2, 0], [1, 0]]
    out = Tensor.empty((8, 8), "float32")
    experts = Tensor.from_numpy(np.array(chosen, np.int32))
    args = (Tensor.from_numpy(x), weight, None, experts, out, 0, 0, 0.0, 0.0)
    controller.launch("expert_linear", args)
    expected = [w[expert] @ x[token] for token in range(4) for expert in chosen[token]]
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-4)

    table, ids = weight.reshape((24, 96)), Tensor.from_numpy(np.array([23, 0, 24], np.int32))
    rows = Tensor.empty((3, 96), "float32")
    controller.launch("embedding", (ids, table, None, None, rows, 1.0))
    np.testing.assert_array_equal(rows.numpy()[:2], w.reshape(24, 96)[[23, 0]].astype(np.float32))
    assert np.isnan(rows.numpy()[2]).all()

    part = linear(controller, Tensor.from_numpy(x), table[5:9], 4, gated=False)
    whole = linear(controller, Tensor.from_numpy(x), table, 24, gated=False)
    np.testing.assert_array_equal(part, whole[:, 5:9])


def test_other_blocks_are_refused(tmp_path: Path, controller: KernelDispatchController):
    weight = stored_tensor(tmp_path, "Q5_0", (4, 32), bytes(4 * 22))
    x = Tensor.zeros((1, 32), "float32")
    with pytest.raises(LaunchError, match=r"argument weight: expected dtype .*q4_1, found q5_0"):
        linear(controller, x, weight, 4, gated=False)
