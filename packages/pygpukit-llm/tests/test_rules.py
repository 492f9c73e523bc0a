"""Tokens that may not come, or have to: beside what transformers' generate gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pygpukit.llm import LLM, SamplingError, SamplingParams
from pygpukit.llm.engine import EngineConfig
from pygpukit.llm.sampling import read_generation_config

PROMPT = [262, 28, 289, 11, 12, 61]
FREE = [314, 294, 30, 229, 316, 216, 288, 28, 254, 176, 112, 28]
OTHERWISE = [86, 288, 218, 33, 150, 15, 306, 237, 307, 233, 190, 43]
LONGER = [314, 294, 184, 295, 204, 261, 68, 145, 204, 274, 308, 6]
AGAIN, NOT_AGAIN = [101, 116, 318, 212, 294, 15], [24, 37, 225, 48, 227, 295]

CASES: list[tuple[list[int], dict[str, Any], list[int]]] = [
    (PROMPT, {}, FREE),
    (PROMPT, {"suppress_tokens": [314, 229]}, OTHERWISE),
    (PROMPT, {"begin_suppress_tokens": [314]}, OTHERWISE),
    (PROMPT, {"bad_words_ids": [[294], [314, 294]]},
     [314, 92, 254, 246, 70, 254, 206, 26, 36, 250, 216, 286]),
    (PROMPT, {"bad_words_ids": [[314, 294], [12, 61, 314]]}, OTHERWISE),
    (PROMPT, {"bad_words_ids": [[314]], "eos_token_id": [314, 229]}, [314]),
    ([5], {"bad_words_ids": [[5, 294], [7, 5, 230], [7, 8]], "max_new_tokens": 4},
     [40, 230, 31, 118]),
    ([12, 61, 101, 12, 61], {"bad_words_ids": [[101, 12, 61, 101], [5, 12, 61, 101]],
                             "max_new_tokens": 6}, NOT_AGAIN),
    (PROMPT, {"no_repeat_ngram_size": 1}, [314, 294, 30, 229, 316, 216, 288, 26, 97, 36, 14, 189]),
    ([12, 61, 101, 12, 61], {"no_repeat_ngram_size": 2, "max_new_tokens": 6}, NOT_AGAIN),
    ([12, 61, 101, 12, 61], {"no_repeat_ngram_size": 3, "max_new_tokens": 6}, NOT_AGAIN),
    ([12, 61, 101, 12, 61], {"no_repeat_ngram_size": 4, "max_new_tokens": 6}, AGAIN),
    (PROMPT, {"eos_token_id": 30}, [314, 294, 30]),
    (PROMPT, {"eos_token_id": 30, "min_new_tokens": 5}, LONGER),
    (PROMPT, {"eos_token_id": 30, "min_length": 10}, LONGER),
    (PROMPT, {"eos_token_id": 30, "min_length": 3}, [314, 294, 30]),
    (PROMPT, {"forced_eos_token_id": 7, "max_new_tokens": 4}, [314, 294, 30, 7]),
    (PROMPT, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "suppress_tokens": [30],
              "eos_token_id": 216, "min_new_tokens": 7, "forced_eos_token_id": 9},
     [314, 294, 184, 295, 204, 261, 68, 145, 152, 225, 164, 9]),
]  # fmt: skip
"""Prompts, options, and what transformers generates with them, greedily, with llama2."""


@pytest.mark.parametrize(("prompt", "options", "expected"), CASES, ids=str)
def test_as_transformers(
    copied_model: Callable[..., Path], prompt: list[int], options: dict[str, Any],
    expected: list[int],
) -> None:  # fmt: skip
    """Whether the options are arguments or the model's own."""
    folder = copied_model("llama2", eos_token_id=options.get("eos_token_id"))
    arguments = {"max_new_tokens": 12, **options}
    arguments.pop("eos_token_id", None)
    assert list(LLM.from_pretrained(folder, device="cpu").generate(prompt, **arguments)) == expected
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 12, **options}))
    assert list(LLM.from_pretrained(folder, device="cpu").generate(prompt)) == expected


@pytest.fixture
def llm(reference_models: Path) -> LLM:
    return LLM.from_pretrained(reference_models / "llama2", device="cpu")


@pytest.mark.parametrize("config", [EngineConfig(), EngineConfig(steps_under_way=2, pages=8)])
def test_others_beside_them_are_as_they_are_alone(llm: LLM, config: EngineConfig) -> None:
    llm.configure(config)
    chosen: list[dict[str, Any]] = [
        {"no_repeat_ngram_size": 2},
        {},
        {"bad_words_ids": [[314, 294]], "temperature": 1.0},
        {"logit_bias": {7: 5.0}, "presence_penalty": 1.0},
    ]
    params = [llm.defaults.updated({"max_new_tokens": 30, **options}) for options in chosen]
    outputs = [llm.prepare(PROMPT, entry) for entry in params]
    for _ in llm.engine.run([output.request for output in outputs]):
        pass
    for output, options in zip(outputs, chosen, strict=True):
        assert output.result() == llm.generate(PROMPT, max_new_tokens=30, **options)


def test_what_stays_as_it_is_need_not_be_copied(llm: LLM) -> None:
    params = llm.defaults.updated({"suppress_tokens": [3], "min_new_tokens": 1})
    request = llm.prepare(PROMPT, params).request
    assert request.constraint is not None
    first = request.constraint.bias()
    request.ids.append(7)
    then = request.constraint.bias()
    request.ids.append(8)
    assert request.constraint.bias() is then
    assert then != first


def test_logit_bias_is_added(logits_model: Callable[..., Path]) -> None:
    llm = LLM.from_pretrained(logits_model([[1.0, 3.0, 2.0, 2.5]] * 8), device="cpu")
    assert list(llm.generate([0], max_new_tokens=1, logit_bias={2: 0.9})) == [1]
    assert list(llm.generate([0], max_new_tokens=1, logit_bias={2: 1.1})) == [2]
    assert list(llm.generate([0], max_new_tokens=1, logit_bias={1: -100, np.int64(3): -1.0})) == [2]


def test_stop_strings_of_the_model_end_the_text(scripted: Callable[..., LLM]) -> None:
    llm = scripted("one two three", generation_config={"stop_strings": ["wo", "x"]})
    assert (llm.generate("a").text, llm.generate("a", stop="hr").text) == ("one t", "one two t")
    single = {"stop_strings": "###"}
    assert read_generation_config(single, "f")[0] == SamplingParams(stop=("###",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {320: 1.0}),
        ("logit_bias", {1: "x"}),
        ("logit_bias", {1: float("nan")}),
        ("logit_bias", 3),
        ("suppress_tokens", [320]),
        ("suppress_tokens", "3"),
        ("begin_suppress_tokens", [-1]),
        ("bad_words_ids", [[1, 320]]),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [3]),
        ("bad_words_ids", 3),
        ("forced_eos_token_id", 320),
        ("min_new_tokens", -1),
        ("min_length", 1.5),
        ("no_repeat_ngram_size", True),
    ],
)
def test_a_bad_value_is_refused_by_name(llm: LLM, name: str, value: object) -> None:
    with pytest.raises(SamplingError, match=name):
        llm.generate(PROMPT, max_new_tokens=1, **{name: value})
