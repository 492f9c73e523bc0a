"""The same models on a GPU, in the type of their weights, against float32 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device, DeviceError, Tensor
from pygpukit.llm import LLM
from pygpukit.llm.config import read_json
from pygpukit.llm.layers import (
    MLP,
    BlockWeights,
    LayerNorm,
    LinearWeights,
    MLPWeights,
    NormWeights,
    TransformerBlock,
)
from reference_names import HERE, NAMES

pytestmark = pytest.mark.gpu

TOLERANCE = 0.03
"""Of logits, root mean square, relative to their standard deviation, in bfloat16 arithmetic."""
DECISIVE_MARGIN = 0.2
"""Between the two likeliest logits: closer ones may swap places, and do so in transformers too."""
THEIRS: dict[str, float] = read_json(HERE / "bfloat16_errors.json")
"""The same error of transformers in bfloat16: some models enlarge whatever is rounded."""

Reference = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def gpu() -> Device:
    try:
        return Device("cuda")
    except DeviceError as error:
        pytest.skip(f"no GPU: {error}")


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


@pytest.mark.parametrize("name", NAMES)
def test_logits(load: Callable[[str], LLM], name: str, reference: Reference) -> None:
    expected = reference(name)
    llm = load(name)
    logits = llm.logits(expected["prompt_ids"])
    assert logits.dtype == np.float32
    squares = np.sort(((logits - expected["logits"]) ** 2).mean(axis=1))
    if llm.config.experts is not None:
        squares = squares[:-2]  # positions where rounding may choose another expert
    error = np.sqrt(squares.mean()) / expected["logits"].std()
    assert error <= max(TOLERANCE, THEIRS[name])


@pytest.mark.parametrize("name", NAMES)
def test_greedy_ids(load: Callable[[str], LLM], name: str, reference: Reference) -> None:
    expected = reference(name)
    wanted = expected["greedy_ids"].tolist()
    found = load(name).generate(expected["prompt_ids"], max_new_tokens=len(wanted), ignore_eos=True)
    swapped = [step for step in range(len(wanted)) if found[step] != wanted[step]]
    if swapped and "greedy_margins" in expected:
        assert expected["greedy_margins"][swapped[0]] <= DECISIVE_MARGIN


@pytest.mark.parametrize("name", ["llama2", "gemma2", "qwen3-moe"])
def test_prompts_at_once_are_the_same_as_alone(load: Callable[[str], LLM], name: str) -> None:
    llm = load(name)
    prompts = [[5, 6, 7, 8], list(range(3, 40)), [9]]
    options = {"max_new_tokens": 12, "logprobs": 3, "ignore_eos": True}
    together = llm.generate(prompts, **options)
    assert together == [llm.generate(ids, **options) for ids in prompts]


def test_a_prompt_is_the_same_in_chunks_of_any_size(load: Callable[[str], LLM]) -> None:
    llm = load("llama2")
    ids = [int(id_) for id_ in np.random.default_rng(1).integers(3, 200, 100)]
    llm._scorer._chunk = 512
    whole = llm.logits(ids)
    for size in (1, 7, 64):
        llm._scorer._chunk = size
        np.testing.assert_array_equal(llm.logits(ids), whole)


def test_runs_repeat_to_the_bit(load: Callable[[str], LLM]) -> None:
    llm = load("qwen2")
    assert llm._engine._decoder.dtype == "bfloat16"
    options = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 7, "logprobs": 2}
    first = llm.generate([5, 6, 7], ignore_eos=True, **options)
    assert all(llm.generate([5, 6, 7], ignore_eos=True, **options) == first for _ in range(3))


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
