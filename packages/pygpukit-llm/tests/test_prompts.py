"""What may stand as a prompt, and what is refused by name."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pygpukit.core import PygpukitError, Tensor
from pygpukit.llm import LLM, ContextLengthError, PromptError

BEGIN = 256


@pytest.fixture
def llm(scripted: Callable[..., LLM]) -> LLM:
    return scripted("x" * 60)


@pytest.mark.parametrize(
    "prompt",
    [
        "abc",
        [97, 98, 99],
        (97, 98, 99),
        np.array([97, 98, 99]),
        np.array([97, 98, 99], np.uint8),
        array("i", [97, 98, 99]),
        [np.int64(97), 98, 99],
        range(97, 100),
        Tensor.from_numpy(np.array([97, 98, 99], np.int32)),
    ],
    ids=repr,
)
def test_one_prompt(llm: LLM, prompt: object) -> None:
    expected = llm.generate([97, 98, 99], max_new_tokens=2)
    assert llm.generate(prompt, max_new_tokens=2) == expected
    assert expected.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    "prompts",
    [
        ["a", "bc"],
        [[97], [98, 99]],
        ["a", [98, 99]],
        ([97], "bc"),
    ],
    ids=repr,
)
def test_several_prompts(llm: LLM, prompts: object) -> None:
    generations = llm.generate(prompts, max_new_tokens=2)
    assert isinstance(generations, list)
    assert [generation.usage.prompt_tokens for generation in generations] == [1, 2]


def test_rows_of_an_array_are_prompts(llm: LLM) -> None:
    generations = llm.generate(np.array([[97, 98], [99, 100]]), max_new_tokens=1)
    assert [generation.usage.prompt_tokens for generation in generations] == [2, 2]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        (["a", ""], r"prompt\[1\] is empty"),
        ("a\ud800", r"the prompt has '\\ud800', half of a character"),
        ([[1], []], r"prompt\[1\] is empty"),
        ([1, 260], "token id 260, which isn't in the vocabulary"),
        ([-1], "token id -1"),
        ([[1], [300]], r"prompt\[1\] has the token id 300"),
        ([1.0], "1.0 where a token id must be"),
        ([True], "True where a token id must be"),
        ([3, True], "True where a token id must be"),
        ([1, "a"], "'a' where a token id must be"),
        (["a", 1], r"prompt\[1\] must be a text or a sequence"),
        (b"abc", "must be a text or a sequence"),
        (5, "must be a text or a sequence"),
        (None, "must be a text or a sequence"),
        ({1: 2}, "must be a text or a sequence"),
        (iter([1, 2]), "must be a text or a sequence"),
        ({1, 2}, "must be a text or a sequence"),
    ],
    ids=repr,
)
def test_no_prompt(llm: LLM, prompt: object, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        llm.generate(prompt)


def test_longer_than_the_context(llm: LLM) -> None:
    with pytest.raises(ContextLengthError, match=r"65 tokens, more than the model's context of 64"):
        llm.generate("a" * 65)
    with pytest.raises(ContextLengthError, match=r"prompt\[1\]"):
        llm.generate(["a", "a" * 65])
    with pytest.raises(ContextLengthError):
        llm.stream([1] * 65)
    with pytest.raises(ContextLengthError):
        llm.logits([1] * 65)
    assert llm.logits([1] * 64).shape == (64, 260)
    assert issubclass(ContextLengthError, PromptError)
    assert issubclass(PromptError, PygpukitError)


def test_a_text_needs_a_tokenizer(reference_models: Path) -> None:
    llm = LLM.from_pretrained(reference_models / "llama2", device="cpu")
    with pytest.raises(PromptError, match="the model has no tokenizer; give token ids"):
        llm.generate("Hello")


def test_a_text_whose_ids_the_model_lacks(
    scripted: Callable[..., LLM], byte_tokenizer: Callable[..., dict[str, object]]
) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    far = {"id": 260, "content": "<|far|>", "special": True, **flags}
    added = byte_tokenizer()["added_tokens"]
    assert isinstance(added, list)
    llm = scripted("x", tokenizer=byte_tokenizer(added_tokens=[*added, far]))
    for run in (llm.generate, llm.stream, llm.logits, llm.score, llm.encode):
        with pytest.raises(PromptError, match="token id 260, which isn't in the vocabulary"):
            run("a<|far|>")


@pytest.fixture
def adds_begin(
    scripted: Callable[..., LLM], byte_tokenizer: Callable[..., dict[str, object]]
) -> LLM:
    """A model whose tokenizer and whose chat template both write the beginning of the text."""
    begin = {"id": "<|begin|>", "ids": [BEGIN], "tokens": ["<|begin|>"]}
    post_processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {"<|begin|>": begin},
    }
    return scripted(
        "x",
        tokenizer=byte_tokenizer(post_processor=post_processor),
        tokenizer_config={
            "bos_token": "<|begin|>",
            "chat_template": "{{ bos_token }}{{ messages[0].content }}",
        },
    )


def prompt_tokens(llm: LLM, prompt: str) -> int:
    return llm.generate(prompt, max_new_tokens=1).usage.prompt_tokens


def test_one_beginning_of_text(adds_begin: LLM) -> None:
    assert prompt_tokens(adds_begin, "ab") == 3
    assert prompt_tokens(adds_begin, "<|begin|>ab") == 3
    answer = adds_begin.chat([{"role": "user", "content": "ab"}], max_new_tokens=1)
    assert answer.usage.prompt_tokens == 3


def test_two_beginnings_where_they_are_asked_for(adds_begin: LLM) -> None:
    assert prompt_tokens(adds_begin, "<|begin|><|begin|>ab") == 5


def test_the_truncation_and_padding_of_the_file_are_not_for_prompts(
    scripted: Callable[..., LLM], byte_tokenizer: Callable[..., dict[str, object]]
) -> None:
    truncation = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    padding = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    llm = scripted("x", tokenizer=byte_tokenizer(truncation=truncation, padding=padding))
    assert prompt_tokens(llm, "ab") == 2
    assert prompt_tokens(llm, "a" * 20) == 20
