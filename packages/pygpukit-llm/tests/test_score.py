"""Log-probabilities of given texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pygpukit.llm import LLM, ContextLengthError, LogitsError, PromptError


@pytest.fixture(scope="module")
def llm(reference_models: Path) -> LLM:
    return LLM.from_pretrained(reference_models / "llama2", device="cpu")


def ids_of(length: int) -> list[int]:
    return np.random.default_rng(length).integers(3, 320, length).tolist()


@pytest.mark.parametrize("length", [2, 64, 65, 150])
def test_each_token_after_those_before_it(llm: LLM, length: int) -> None:
    ids = ids_of(length)
    score = llm.score(ids)
    logits = llm.logits(ids).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = logprobs[np.arange(length - 1), ids[1:]]
    np.testing.assert_allclose(score.logprobs, expected, rtol=0, atol=1e-5)
    assert score.ids == tuple(ids)
    assert score.greedy == tuple(logits.argmax(-1)[:-1] == ids[1:])
    assert score.total == pytest.approx(expected.sum())
    assert score.perplexity == pytest.approx(np.exp(-expected.mean()))


def test_what_the_model_generates_is_what_it_finds_likeliest(llm: LLM) -> None:
    prompt = ids_of(10)
    answer = llm.generate(prompt, max_new_tokens=12, ignore_eos=True, logprobs=1)
    score = llm.score([*prompt, *answer])
    assert all(score.greedy[len(prompt) - 1 :])
    assert answer.logprobs is not None
    expected = [entry.logprob for entry in answer.logprobs]
    np.testing.assert_allclose(score.logprobs[len(prompt) - 1 :], expected, atol=1e-5)


def test_a_list_of_texts(llm: LLM) -> None:
    texts = [ids_of(5), ids_of(9)]
    assert llm.score(texts) == [llm.score(text) for text in texts]


@pytest.mark.parametrize("given", [2, 5])
def test_a_continuation(llm: LLM, given: int) -> None:
    ids = ids_of(9)
    whole, end = llm.score(ids), llm.score(ids, given=given)
    assert end.logprobs == whole.logprobs[given - 1 :]
    assert end.greedy == whole.greedy[given - 1 :]


def test_many_texts_at_once(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [ids_of(length) for length in (5, 130, 2, 64, 3)]
    given = [1, 100, 1, 63, 2]
    expected = [llm.score(text, given=count) for text, count in zip(texts, given, strict=True)]
    assert llm.score(texts, given=given) == expected
    monkeypatch.setattr("pygpukit.llm.llm.SCORED_TOGETHER", 70)
    assert llm.score(texts, given=given) == expected


def test_texts(scripted: Callable[..., LLM]) -> None:
    llm = scripted("bcd")
    score = llm.score("abc")
    assert score.ids == (97, 98, 99)
    assert score.greedy == (True, True)
    assert score.perplexity < 1.02


def test_what_has_no_score(llm: LLM, logits_model: Callable[..., Path]) -> None:
    with pytest.raises(PromptError, match=r"text\[1\] has 1 tokens, of which 1 can't be given"):
        llm.score([[1, 2], [3]])
    with pytest.raises(PromptError, match="the text has 2 tokens, of which 0 can't be given"):
        llm.score([1, 2], given=0)
    with pytest.raises(PromptError, match="given has 1 numbers for 2 texts"):
        llm.score([[1, 2], [3, 4]], given=[1])
    with pytest.raises(PromptError, match="the text is empty"):
        llm.score([])
    with pytest.raises(ContextLengthError, match="the text has 300 tokens"):
        llm.score(ids_of(300))
    broken = LLM.from_pretrained(logits_model([[0.0, np.nan], [0.0, 1.0]]), device="cpu")
    with pytest.raises(LogitsError, match="NaN or infinite"):
        broken.score([0, 1])
