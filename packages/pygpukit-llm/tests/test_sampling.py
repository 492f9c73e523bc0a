"""How the next token is chosen, on models whose logits are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pygpukit.llm import LLM, ConfigError, SamplingError, SamplingParams
from pygpukit.llm.sampling import read_generation_config

POSITIONS = 256
LOGITS = np.array([1.0, 3.0, 0.0, 2.0, -1.0, 2.5, -30.0, 0.5])
"""The same at each position."""


@pytest.fixture
def constant(logits_model: Callable[..., Path]) -> LLM:
    return LLM.from_pretrained(logits_model(np.tile(LOGITS, (POSITIONS, 1))), device="cpu")


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def draws(llm: LLM, seeds: int = 8, **options: Any) -> Counter[int]:
    ids = (llm.generate([0], seed=seed, **options) for seed in range(seeds))
    return Counter(id_ for generation in ids for id_ in generation)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_distribution_is_the_softmax(constant: LLM, temperature: float) -> None:
    expected = softmax(LOGITS / temperature)
    counts = draws(constant, temperature=temperature)
    total = counts.total()
    assert total == 8 * (POSITIONS - 1)
    for id_, probability in enumerate(expected):
        deviation = math.sqrt(total * probability * (1 - probability))
        assert abs(counts[id_] - total * probability) <= 4.5 * deviation + 1


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 3}, {1, 5, 3}),
        ({"top_k": 1000}, {0, 1, 2, 3, 4, 5, 7}),
        ({"top_k": 0}, {0, 1, 2, 3, 4, 5, 7}),
        ({"top_p": 0.4}, {1}),
        ({"top_p": 0.7}, {1, 5}),
        ({"top_p": 0.9}, {1, 5, 3, 0}),
        ({"min_p": 0.3}, {1, 5, 3}),
        ({"min_p": 0.5}, {1, 5}),
        ({"top_k": 3, "top_p": 0.9, "min_p": 0.5}, {1, 5}),
    ],
    ids=str,
)
def test_what_is_kept(constant: LLM, options: dict[str, Any], kept: set[int]) -> None:
    counts = draws(constant, temperature=1.0, **options)
    assert set(counts) == kept
    ids = sorted(kept)
    expected = softmax(LOGITS[ids])
    for id_, probability in zip(ids, expected, strict=True):
        deviation = math.sqrt(counts.total() * probability * (1 - probability))
        assert abs(counts[id_] - counts.total() * probability) <= 4.5 * deviation + 1


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0}]
    + [{"temperature": 5.0, **only} for only in ({"top_k": 1}, {"top_p": 0}, {"min_p": 1})],
    ids=str,
)
def test_the_likeliest_token(constant: LLM, options: dict[str, Any]) -> None:
    assert set(constant.generate([0], max_new_tokens=20, **options)) == {1}


def test_the_first_of_equal_logits_wins(logits_model: Callable[..., Path]) -> None:
    llm = LLM.from_pretrained(logits_model([[0, 2, 1, 2]] * 4), device="cpu")
    assert list(llm.generate([0])) == [1, 1, 1]


def test_seeds(constant: LLM) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 50}
    first = constant.generate([0], **options)
    assert constant.generate([0], **options) == first
    assert constant.generate([0], **options, seed=0) == first
    others = {constant.generate([0], **options, seed=seed).ids for seed in (1, 2, 2**63 - 1)}
    assert len(others - {first.ids}) == 3


def test_the_same_draws_alone_and_in_a_batch(constant: LLM) -> None:
    prompts = [[0], [1, 2, 3], [4] * 70]
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 40, "seed": 5}
    assert constant.generate(prompts, **options) == [
        constant.generate(prompt, **options) for prompt in prompts
    ]


def penalized_greedy(
    prompt: list[int], count: int, *, repetition: float, presence: float, frequency: float
) -> list[int]:
    """The definition, step by step."""
    output: list[int] = []
    for _ in range(count):
        logits = LOGITS.copy()
        for id_ in {*prompt, *output}:
            logits[id_] = logits[id_] / repetition if logits[id_] > 0 else logits[id_] * repetition
        for id_, times in Counter(output).items():
            logits[id_] -= presence + frequency * times
        output.append(int(np.argmax(logits)))
    return output


@pytest.mark.parametrize(
    ("repetition", "presence", "frequency"),
    [
        (1.7, 0.0, 0.0),
        (0.9, 0.0, 0.0),
        (1.0, 0.8, 0.0),
        (1.0, 0.0, 0.37),
        (1.0, -0.5, 0.0),
        (1.2, 0.3, 0.1),
    ],
)
def test_penalties(constant: LLM, repetition: float, presence: float, frequency: float) -> None:
    prompt = [1, 1, 3]
    generation = constant.generate(
        prompt,
        max_new_tokens=40,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    assert list(generation) == penalized_greedy(
        prompt, 40, repetition=repetition, presence=presence, frequency=frequency
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"presence_penalty": 1.0}], ids=str)
def test_logprobs_are_those_of_the_logits(constant: LLM, options: dict[str, Any]) -> None:
    expected = np.log(softmax(LOGITS))
    generation = constant.generate([0], max_new_tokens=6, logprobs=3, **options)
    assert generation.logprobs is not None
    assert len(generation.logprobs) == 6
    for id_, entry in zip(generation, generation.logprobs, strict=True):
        assert entry.logprob == pytest.approx(expected[id_], abs=1e-5)
        assert list(entry.top) == [1, 5, 3]
        assert list(entry.top.values()) == pytest.approx(expected[[1, 5, 3]], abs=1e-5)


def test_logprobs_of_the_chosen_token_alone(constant: LLM) -> None:
    generation = constant.generate([0], max_new_tokens=2, logprobs=0)
    assert generation.logprobs is not None
    assert [entry.top for entry in generation.logprobs] == [{}, {}]


def test_logprobs_of_the_whole_vocabulary(constant: LLM) -> None:
    generation = constant.generate([0], max_new_tokens=1, logprobs=100)
    assert generation.logprobs is not None
    assert list(generation.logprobs[0].top) == np.argsort(-LOGITS).tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("max_new_tokens", 2**31),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.0),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("min_p", 2),
        ("min_p", math.nan),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.0),
        ("presence_penalty", math.inf),
        ("frequency_penalty", "much"),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ""),
        ("stop", ["x", ""]),
        ("stop", 5),
        ("stop", [b"x"]),
        ("stop_token_ids", -1),
        ("stop_token_ids", "2"),
        ("stop_token_ids", [1, None]),
        ("ignore_eos", 1),
        ("logprobs", -1),
        ("logprobs", 101),
        ("max_tokens", 5),
    ],
)
def test_a_bad_value_is_refused_by_name(constant: LLM, name: str, value: object) -> None:
    with pytest.raises(SamplingError, match=name):
        constant.generate([0], **{name: value})


def test_numbers_of_numpy_are_numbers(constant: LLM) -> None:
    generation = constant.generate(
        [0],
        max_new_tokens=np.int64(3),
        temperature=np.float32(1.0),
        stop_token_ids=np.array([4], np.int32),
        seed=np.uint8(7),
    )
    assert generation == constant.generate(
        [0], max_new_tokens=3, temperature=1.0, stop_token_ids=[4], seed=7
    )


def test_generation_config_gives_the_defaults(logits_model: Callable[..., Path]) -> None:
    config = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5}
    folder = logits_model([LOGITS] * 16, generation_config=config)
    llm = LLM.from_pretrained(folder, device="cpu")
    assert llm.defaults == SamplingParams(temperature=0.7, top_k=50, top_p=0.9, max_new_tokens=5)
    assert len(llm.generate([0])) == 5
    assert len(llm.generate([0], max_new_tokens=2)) == 2


def test_without_do_sample_the_defaults_are_greedy() -> None:
    values = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2], "pad_token_id": 0}
    assert read_generation_config(values, "f") == (SamplingParams(), (1, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"sequence_bias": [[[1], 2.0]]}, "'sequence_bias': .*the only supported value is null"),
        ({"suppress_tokens": "1"}, "suppress_tokens"),
        ({"bad_words_ids": [1]}, "bad_words_ids"),
        ({"stop_strings": [""]}, "stop"),
        ({"penalty_alpha": 0.6}, "penalty_alpha"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size"),
        ({"temperature": "warm"}, "temperature"),
        ({"do_sample": True, "top_p": 7}, "top_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"a_new_way_to_choose": 1}, "a_new_way_to_choose"),
    ],
    ids=str,
)
def test_generation_config_is_read_strictly(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"f: .*{message}"):
        read_generation_config(values, "f")
