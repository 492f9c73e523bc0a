"""The families against transformers: shared weights, float32 arithmetic on both sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pygpukit.llm import LLM
from pygpukit.llm.config import read_json
from pygpukit.llm.models import FAMILIES
from reference_names import HERE, NAMES


def test_every_family_has_a_model() -> None:
    """Whatever is supported is compared."""
    made = {read_json(HERE / name / "config.json")["model_type"] for name in NAMES}
    within = {  # tests/test_with_images.py, and one that is another
        "gemma3": "gemma3_text",
        "mistral3": "mistral",
        "qwen2_vl": "qwen2",
        "qwen2_5_vl": "qwen2",
        "qwen3_vl": "qwen3",
        "qwen3_vl_moe": "qwen3_moe",
        "kimi_k2": "deepseek_v3",
    }
    assert made == {within.get(family, family) for family in FAMILIES}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def llm(name: str, reference_models: Path) -> LLM:
    return LLM.from_pretrained(reference_models / name, device="cpu")


def test_logits(llm: LLM, name: str, reference: Callable[[str], dict[str, np.ndarray]]) -> None:
    expected = reference(name)
    logits = llm.logits(expected["prompt_ids"])
    assert logits.dtype == np.float32
    assert logits.shape == expected["logits"].shape
    error = np.abs(logits - expected["logits"]).max()
    assert error <= 2e-3 * expected["logits"].std()


def test_greedy_ids(llm: LLM, name: str, reference: Callable[[str], dict[str, np.ndarray]]) -> None:
    expected = reference(name)
    generation = llm.generate(
        expected["prompt_ids"], max_new_tokens=len(expected["greedy_ids"]), ignore_eos=True
    )
    assert list(generation) == expected["greedy_ids"].tolist()
    assert generation.usage == (len(expected["prompt_ids"]), len(expected["greedy_ids"]))


def test_without_a_tokenizer_ids_are_all_there_is(llm: LLM) -> None:
    generation = llm.generate([1, 2, 3], max_new_tokens=2, ignore_eos=True)
    assert llm.tokenizer is None
    assert len(generation) == 2
    assert generation.text == ""
