"""Tokenizers from the metadata of GGUF files."""

from __future__ import annotations

from typing import Any

import pytest
from files import added_token, byte_level, byte_level_merges, byte_level_vocab, file

from pygpukit.tokenizer import Tokenizer, TokenizerLoadError
from pygpukit.tokenizer.gguf import tokenizer_data
from pygpukit.tokenizer.gguf.families import FAMILIES

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def metadata(**changes: Any) -> dict[str, Any]:
    """The metadata of the small byte-level tokenizer, with two added tokens."""
    tokens = [*byte_level_vocab(), "<s>", "<think>"]
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [NORMAL] * (len(tokens) - 2) + [CONTROL, USER_DEFINED],
        "merges": [" ".join(pair) for pair in byte_level_merges()],
        "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 2,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def test_it_is_the_same_as_the_tokenizer_json() -> None:
    same = Tokenizer.from_dict(
        file(added_tokens=[added_token("<s>"), added_token("<think>", special=False)])
    )
    tokenizer = Tokenizer.from_gguf(metadata())
    for text in ("The quick brown fox", "<s>a<think>", "don't\n\n  über 123"):
        assert tokenizer.encode_ids(text) == same.encode_ids(text)
        ids = same.encode_ids(text)
        assert tokenizer.decode(ids) == same.decode(ids)
    assert [token.special for token in tokenizer.get_added_tokens()] == [True, False]
    assert tokenizer.vocab == same.vocab


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", "a 1234 B!?", ["a", " 1234", " B", "!?"]),
        ("smollm", "a 1234", ["a", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "It'S 1234\n\n x", ["It", "'S", " ", "123", "4", "\n\n", " x"]),
        ("qwen2", "It'S 123\n x", ["It", "'S", " ", "1", "2", "3", "\n", " x"]),
        ("gpt-4o", "helloWorld's 12345", ["hello", "World's", " ", "123", "45"]),
        ("tekken", "helloWorld's 12", ["hello", "World", "'s", " ", "1", "2"]),
        ("deepseek-v3", "12345漢字かな!x", ["123", "45", "漢字かな", "!x"]),
        ("falcon", "a, 12345", ["a", ",", " ", "123", "45"]),
    ],
)
def test_pre_tokenizer_names(name: str, text: str, pieces: list[str]) -> None:
    tokenizer = Tokenizer.from_gguf(metadata(pre=name, merges=[]))
    encoding = tokenizer.encode(text, add_special_tokens=False)
    found: dict[int | None, list[int]] = {}
    for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        found.setdefault(word, [start, end])[1] = end
    assert [text[start:end] for start, end in found.values()] == pieces


def test_every_pre_tokenizer_loads() -> None:
    for name in FAMILIES:
        tokenizer = Tokenizer.from_gguf(metadata(pre=name))
        text = "Hello, naïve Wörld 1234!\n\n"
        assert tokenizer.decode(tokenizer.encode_ids(text)) == text


@pytest.mark.parametrize(
    ("changes", "around"),
    [
        ({"add_bos_token": True}, (1, 0)),
        ({"add_bos_token": True, "add_eos_token": True}, (1, 1)),
        ({"add_bos_token": False, "pre": "llama-bpe"}, (0, 0)),
        ({"pre": "llama-bpe"}, (1, 0)),
        ({}, (0, 0)),
    ],
)
def test_tokens_around_a_text(changes: dict[str, Any], around: tuple[int, int]) -> None:
    tokenizer = Tokenizer.from_gguf(metadata(**changes))
    special = tokenizer.vocab["<s>"]
    inner = tokenizer.encode_ids("a", add_special_tokens=False)
    assert tokenizer.encode_ids("a") == [special] * around[0] + inner + [special] * around[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "tokenizer.ggml.model: missing"),
        ({"model": "rwkv"}, 'tokenizer.ggml.model: unsupported tokenizer model "rwkv"'),
        ({"pre": "nobody-knows"}, 'tokenizer.ggml.pre: unknown pre-tokenizer "nobody-knows"'),
        ({"tokens": None}, "tokenizer.ggml.tokens: missing"),
        ({"merges": None}, "tokenizer.ggml.merges: missing"),
        ({"token_type": [1]}, "tokenizer.ggml.token_type: 1 types for 558 tokens"),
        ({"add_bos_token": True, "bos_token_id": None}, "tokenizer.ggml.bos_token_id: missing"),
        ({"add_eos_token": True, "eos_token_id": 10**6}, "eos_token_id: 1000000 isn't the id"),
    ],
)
def test_wrong_metadata(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerLoadError) as caught:
        Tokenizer.from_gguf(metadata(**changes))
    assert message in str(caught.value)


def test_arrays_may_be_any_sequences() -> None:
    data = metadata()
    for key in ("tokens", "merges", "token_type"):
        data[f"tokenizer.ggml.{key}"] = tuple(data[f"tokenizer.ggml.{key}"])
    assert tokenizer_data(data) == tokenizer_data(metadata())
    assert tokenizer_data(data)["decoder"] == byte_level()
