"""Tokenizers from the metadata of GGUF files."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from files import added_token, byte_level, byte_level_merges, byte_level_vocab, file
from hypothesis import given
from hypothesis import strategies as st

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


UNKNOWN, BYTE = 2, 6
LETTERS = "▁abcé"


@st.composite
def sentencepiece(draw: st.DrawFn) -> dict[str, Any]:
    """Metadata of a SentencePiece BPE vocabulary: letters, what they can be merged to, bytes."""
    pieces = list(LETTERS)
    for _ in range(draw(st.integers(0, 12))):
        pieces.append(draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces)))
    pieces = list(dict.fromkeys(pieces))
    scores = draw(st.permutations(range(len(pieces))))
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 258 + [-float(score) for score in scores],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": draw(st.booleans()),
    }


def merged_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's way: of all pairs of neighbours that make a piece, that of the best score."""
    symbols = list(text)
    while True:
        pairs = [(scores.get(a + b, -1e9), -i) for i, (a, b) in enumerate(pairwise(symbols))]
        best, place = max(pairs, default=(-1e9, 0))
        if best == -1e9:
            return symbols
        symbols[-place : 2 - place] = ["".join(symbols[-place : 2 - place])]


@given(sentencepiece(), st.text("abcé d漢", max_size=12))
def test_sentencepiece_merges_by_score(data: dict[str, Any], text: str) -> None:
    tokenizer = Tokenizer.from_gguf(data)
    tokens = data["tokenizer.ggml.tokens"]
    scores = dict(zip(tokens[258:], data["tokenizer.ggml.scores"][258:], strict=True))
    marked = text.replace(" ", "▁")
    if data["tokenizer.ggml.add_space_prefix"] and text:
        marked = "▁" + marked
    expected = ["<s>"]
    for symbol in merged_by_score(marked, scores):
        spelled = [f"<0x{byte:02X}>" for byte in symbol.encode()]
        expected += [symbol] if symbol in scores else spelled
    assert tokenizer.encode(text).tokens == expected
    assert tokenizer.decode(tokenizer.encode_ids(text)) == text


def test_sentencepiece_needs_a_score_for_each_token() -> None:
    data = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(TokenizerLoadError, match=r"tokenizer.ggml.scores: missing"):
        Tokenizer.from_gguf(data)
    with pytest.raises(TokenizerLoadError, match=r"scores: 0 scores for 1 tokens"):
        Tokenizer.from_gguf({**data, "tokenizer.ggml.scores": []})


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
