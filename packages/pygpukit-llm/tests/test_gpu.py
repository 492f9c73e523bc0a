"""What only GPUs have: float32 that isn't the default, and counters of what they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device, Tensor
from pygpukit.llm import LLM
from pygpukit.llm.layers import (
    MLP,
    BlockWeights,
    LayerNorm,
    LinearWeights,
    MLPWeights,
    NormWeights,
    TransformerBlock,
)
from reference_names import NAMES

pytestmark = pytest.mark.gpu

Reference = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def load(gpu: Device, reference_models: Path) -> Callable[[str], LLM]:
    return lambda name: LLM.from_pretrained(reference_models / name, device=gpu.name)


@pytest.mark.parametrize("name", NAMES)
def test_in_float32_a_gpu_is_as_exact_as_the_cpu(
    gpu: Device, reference_models: Path, name: str, reference: Reference
) -> None:
    expected = reference(name)
    llm = LLM.from_pretrained(reference_models / name, device=gpu.name, dtype="float32")
    error = np.abs(llm.logits(expected["prompt_ids"]) - expected["logits"]).max()
    assert error <= 2e-3 * expected["logits"].std()
    wanted = expected["greedy_ids"].tolist()
    found = llm.generate(expected["prompt_ids"], max_new_tokens=len(wanted), ignore_eos=True)
    assert list(found) == wanted


def test_a_block_stands_alone(gpu: Device) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape, np.float32) for shape in ((5, 24), (48, 24), (24, 48))]
    x, up, down = arrays
    results = []
    for device in (Device("cpu"), gpu):
        put = lambda array, device=device: Tensor.from_numpy(array, device=device)  # noqa: E731
        mlp = MLPWeights(LinearWeights(put(up)), LinearWeights(put(down)))
        norm = NormWeights(put(np.ones(24, np.float32)), put(np.zeros(24, np.float32)))
        block = TransformerBlock(LayerNorm(), MLP("gelu"))
        results.append(block.forward(put(x), BlockWeights(norm, mlp)).numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_every_launch_byte_and_copy_is_counted(load: Callable[[str], LLM], gpu: Device) -> None:
    """The counters of controller, pool and engine agree with what a generation has to do."""
    pool, engine, controller = gpu.pool, gpu.engine, gpu.controller
    before = pool.stats().in_use, engine.stats().bytes_uploaded, controller.stats().launches
    llm = load("llama2")
    weights = sum(tensor.nbytes for tensor in _weights(llm))
    assert pool.stats().in_use - before[0] >= weights
    llm.generate([5, 6, 7], max_new_tokens=1)
    assert engine.stats().bytes_uploaded - before[1] >= weights
    first = controller.stats().launches - before[2]
    assert first >= 6 * llm.config.num_layers
    llm.generate([5, 6, 7], max_new_tokens=9, ignore_eos=True)
    assert controller.stats().replays >= 8
    free = gpu.info().available_memory
    big = Tensor.empty(1 << 30, "float32", device=gpu)
    assert free - gpu.info().available_memory >= big.nbytes
    del llm, big


def _weights(llm: LLM) -> list[Tensor]:
    weights = llm._engine._decoder.weights
    blocks = [block.mlp.up.weight for block in weights.blocks]
    return [weights.embedding, *blocks]
