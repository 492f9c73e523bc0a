"""Added tokens: ids, flags, overlaps, and keeping them out of untrusted text."""

from __future__ import annotations

from typing import Any

import pytest
from files import added_token, bpe, byte_level, file

from pygpukit.tokenizer import Tokenizer, TokenizerLoadError


def tokenizer_with(*tokens: dict[str, Any], **parts: Any) -> Tokenizer:
    return Tokenizer.from_dict(file(added_tokens=list(tokens), **parts))


def pieces(tokenizer: Tokenizer, text: str, **arguments: Any) -> list[str]:
    """The parts of the text that the tokens cover."""
    offsets = tokenizer.encode(text, **arguments).offsets
    return [text[start:end] for start, end in offsets]


def test_ids_come_from_the_vocabulary_and_then_count_up() -> None:
    tokenizer = Tokenizer.from_dict(
        file(
            bpe({"a": 0, "b": 1, "c": 7}, []),
            added_tokens=[added_token(t, id=100) for t in ("<x>", "c", "<y>", "<x>")],
        )
    )
    assert [(t.content, t.id) for t in tokenizer.get_added_tokens()] == [
        ("<x>", 3),
        ("<y>", 4),
        ("c", 7),
    ]
    assert tokenizer.encode_ids("a<y>c<x>b") == [0, 4, 7, 3, 1]
    assert tokenizer.vocab_size == 5
    assert tokenizer.vocab == {"a": 0, "b": 1, "c": 7, "<x>": 3, "<y>": 4}


def test_the_longest_token_at_the_leftmost_place_wins() -> None:
    tokenizer = tokenizer_with(*(added_token(t) for t in ("<|", "<|end|>", "end|>!", "<|end|>?")))
    assert pieces(tokenizer, "<|end|>!") == ["<|end|>", "!"]
    assert pieces(tokenizer, "<|end|>?") == ["<|end|>?"]
    assert pieces(tokenizer, "<|end|") == ["<|", "e", "nd", "|"]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("single_word", ["x", " ", "<t>", " ", "y", "<t>"]),
        ("lstrip", ["x", " <t>", " ", "y", "<t>"]),
        ("rstrip", ["x", " ", "<t> ", "y", "<t>"]),
    ],
)
def test_flags(flag: str, expected: list[str]) -> None:
    parts = {"pre_tokenizer": byte_level(use_regex=False)}
    tokenizer = tokenizer_with(added_token("<t>", **{flag: True}), **parts)
    found = pieces(tokenizer, "x <t> y<t>")
    if flag == "single_word":
        assert found[:4] == expected[:4]
        assert "<t>" not in found[4:]
    else:
        assert found == expected


def test_normalized_tokens_match_normalized_text() -> None:
    tokenizer = tokenizer_with(
        added_token("\u00e9t\u00e9", normalized=True, special=False),
        added_token("e\u0301!", normalized=False),
        normalizer={"type": "NFC"},
    )
    ids = tokenizer.vocab
    assert tokenizer.encode_ids("e\u0301te\u0301") == [ids["\u00e9t\u00e9"]]
    # A composed character stands for the first of the characters that it was composed of.
    assert tokenizer.encode("e\u0301te\u0301").offsets == [(0, 4)]
    assert tokenizer.encode_ids("e\u0301!") == [ids["e\u0301!"]]
    assert tokenizer.encode_ids("\u00e9!") != [ids["e\u0301!"]]


def test_a_token_of_which_normalizing_leaves_nothing() -> None:
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    tokens = [added_token("<s>"), added_token(" ", normalized=True)]
    with pytest.raises(TokenizerLoadError, match=r"added_tokens\[1\].* leaves nothing of ' '"):
        tokenizer_with(*tokens, normalizer=strip)


def test_parse_special_false_makes_plain_text_of_every_added_token() -> None:
    tokenizer = tokenizer_with(added_token("<|end|>"), added_token("<think>", special=False))
    text = "<think>a<|end|>"
    added = {token.id for token in tokenizer.get_added_tokens()}
    assert added == set(tokenizer.encode_ids(text)) - set(tokenizer.encode_ids("a"))
    for ids in (
        tokenizer.encode_ids(text, parse_special=False),
        tokenizer.encode(text, parse_special=False).ids,
        tokenizer.encode_batch([text], parse_special=False)[0].ids,
    ):
        assert not added & set(ids)
        assert tokenizer.decode(ids) == text


def test_skip_special_tokens_leaves_ordinary_added_tokens_in() -> None:
    tokenizer = tokenizer_with(added_token("<|end|>"), added_token("<think>", special=False))
    ids = tokenizer.encode_ids("<think>a<|end|>")
    assert tokenizer.decode(ids) == "<think>a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<think>a<|end|>"


def test_thousands_of_tokens_are_found_in_linear_time() -> None:
    tokens = [f"<unused{i}>" for i in range(5000)]
    tokenizer = tokenizer_with(*map(added_token, tokens))
    text = "".join(tokens) + "<unused" * 20_000
    assert tokenizer.encode_ids(text)[:5000] == [tokenizer.vocab[token] for token in tokens]
